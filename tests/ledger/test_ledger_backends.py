"""What each database does in its own way: addresses, what stops a rewrite, what an audit sees."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from lingshu_tools.archive import export_ledger, import_ledger
from lingshu_tools.errors import InputError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome
from lingshu_tools.ledger.backend import backend_of
from lingshu_tools.ledger.sqlite import SqliteBackend

New = Callable[..., NewExperiment]


@pytest.mark.parametrize("name", ["plain.db", "50%?mode=ro#1.db", "a b/µ&.db", "://.db"])
def test_a_file_is_found_again_by_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    created = SqliteBackend(Path(name), writable=True)
    result = backend_of(created.address, writable=False)
    assert (result.path, result.writable) == (tmp_path / name, False)


def test_a_password_is_in_no_message() -> None:
    backend = backend_of("postgresql://ann:secret@host/db")
    assert "secret" not in backend.name
    assert make_url(backend.address).password == "secret"
    with pytest.raises(InputError) as caught:
        backend_of("mysql://ann:secret@host/db")
    assert "secret" not in str(caught.value)


@pytest.fixture
def served(database: str, home: Path, new: New) -> Ledger:
    """A ledger on a server, with one experiment sealed."""
    assert database == "postgresql"
    ledger = Ledger.open(home)
    experiment = ledger.begin(new(seed=1))
    with ledger.attempt(experiment.id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="succeeded", artifacts={"cells": b"1"}))
    return ledger


def run(statement: str) -> None:
    """Run a statement on the server as its owner would, past the ledger."""
    with create_engine(os.environ["LINGSHU_LEDGER"], poolclass=NullPool).begin() as connection:
        connection.execute(text(statement))


on_a_server = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@on_a_server
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE experiment SET seed = 2",
        "DELETE FROM outcome",
        "TRUNCATE measurement",
        "INSERT INTO artifact SELECT * FROM artifact ON CONFLICT (seq) DO UPDATE SET size = 0",
    ],
)
def test_a_server_refuses_to_rewrite_rows(served: Ledger, statement: str) -> None:
    with pytest.raises(DBAPIError, match="insert-only"):
        run(statement)
    assert served.verify().problems == ()


@on_a_server
@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE experiment SET seed = 2"], "it was changed"),
        (["DELETE FROM outcome"], "outcome row is missing"),
        (["UPDATE standing SET status = 'failed'"], "`standing` says 'failed'"),
    ],
)
def test_an_audit_of_a_server_sees_what_its_owner_did(
    served: Ledger, statements: list[str], said: str
) -> None:
    for statement in ["SET LOCAL session_replication_role = replica; " + s for s in statements]:
        run(statement)
    assert [p for p in served.verify().problems if said in p.what]


@on_a_server
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE outcome DISABLE TRIGGER outcome_insert_only", "outcome_insert_only is ch"),
        ("DROP TRIGGER standing_ends ON outcome", "standing_ends is missing"),
        (
            "CREATE OR REPLACE FUNCTION ledger_insert_only() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN RETURN NEW; END'",
            "experiment_insert_only is changed",
        ),
        (
            "CREATE TRIGGER another BEFORE INSERT ON chain FOR EACH STATEMENT EXECUTE FUNCTION "
            "ledger_standing_ends()",
            "another is none of the ledger's",
        ),
    ],
)
def test_an_audit_of_a_server_sees_what_protects_no_longer(
    served: Ledger, statement: str, said: str
) -> None:
    run(statement)
    assert [p for p in served.verify().problems if said in p.what]


@on_a_server
def test_a_ledger_travels_from_a_server_to_a_file(
    served: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_ledger(served, tmp_path / "out.zip")
    import_ledger(tmp_path / "out.zip", tmp_path / "arrived")
    monkeypatch.delenv("LINGSHU_LEDGER")
    arrived = Ledger.open(tmp_path / "arrived")
    assert arrived.head() == served.head()
    assert arrived.verify(anchors=[served.head()]).problems == ()
    assert arrived.find().items == served.find().items
