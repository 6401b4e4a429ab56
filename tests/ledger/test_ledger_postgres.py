"""What is PostgreSQL's own: rewrites, lost connections, schemas, and archives from a server."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lingshu_tools.archive import export_ledger, import_ledger
from lingshu_tools.errors import LedgerError, SealedError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome
from lingshu_tools.ledger.migrate import migrate_server
from lingshu_tools.ledger.migrations import HEAD

New = Callable[..., NewExperiment]
pytestmark = [
    pytest.mark.usefixtures("database"),
    pytest.mark.parametrize("database", ["postgresql"], indirect=True),
]
FINISHED = NewOutcome(kind="succeeded", environment={"cpu": "x"}, artifacts={"cells": b"cells"})


@pytest.fixture
def built(ledger: Ledger, new: New) -> Ledger:
    """A ledger on a server with something in most tables."""
    screen = ledger.record_screen({"objective": {"lower": ["STAT1"]}})
    ledger.record_measurements(screen.id, {"STAT1": 0.5})
    rows = [new(seed=s, parent=screen.id, position=s) for s in range(3)]
    sealed, cancelled, _ = ledger.begin_many(rows)
    with ledger.attempt(sealed.id) as attempt:
        ledger.seal(attempt, FINISHED)
    ledger.cancel(cancelled.id)
    ledger.record_verification(sealed.id, "exact")
    return ledger


def run(ledger: Ledger, *statements: str) -> None:
    """Do what a person with psql could do."""
    for statement in statements:
        ledger._database.write(lambda c, text=statement: c.exec_driver_sql(text))


def lingshu(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lingshu_tools.cli", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE experiment SET seed = 9",
        "DELETE FROM outcome",
        "TRUNCATE chain CASCADE",
        "INSERT INTO chain SELECT * FROM chain ON CONFLICT (seq) DO UPDATE SET hash = 'x'",
    ],
)
def test_a_row_cannot_be_rewritten(built: Ledger, statement: str) -> None:
    with pytest.raises(LedgerError, match="is insert-only"):
        run(built, statement)
    assert built.verify().ok


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("UPDATE experiment SET seed = 99 WHERE seed = 1", "experiment row hashes to"),
        ("DELETE FROM verification", "verification row is missing"),
        ("INSERT INTO screen VALUES (99, 'scr_x', '{}', 'd', 'p', 't')", "not in the chain"),
        ("UPDATE chain SET hash = 'sha256:0' WHERE seq = 3", "the chain breaks here"),
        ("UPDATE standing SET status = 'failed'", "but `standing` says"),
    ],
)
def test_a_row_rewritten_with_its_trigger_off_is_named(
    built: Ledger, change: str, finding: str
) -> None:
    off, on = (f"SET session_replication_role = {role}" for role in ("replica", "origin"))
    built._database.write(
        lambda c: [c.exec_driver_sql(text) for text in (off, change, on)] and None
    )
    result = [str(problem) for problem in built.verify().problems]
    assert [problem for problem in result if finding in problem], result


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("ALTER TABLE chain DISABLE TRIGGER chain_insert_only", "chain_insert_only is changed"),
        ("DROP TRIGGER chain_insert_only ON chain", "chain_insert_only is missing"),
        (
            "CREATE OR REPLACE FUNCTION ledger_insert_only() RETURNS trigger LANGUAGE plpgsql"
            " AS $$BEGIN RETURN NULL; END$$",
            "chain_insert_only is changed",
        ),
        (
            "CREATE TRIGGER mine AFTER INSERT ON chain"
            " FOR EACH ROW EXECUTE FUNCTION ledger_insert_only()",
            "trigger mine is none of the ledger's",
        ),
    ],
)
def test_a_trigger_off_changed_or_added_is_named(built: Ledger, change: str, finding: str) -> None:
    run(built, change)
    result = [str(problem) for problem in built.verify().problems]
    assert [problem for problem in result if finding in problem], result


def test_a_lost_connection_ends_the_sign_of_life_but_not_the_work(
    built: Ledger, home: Path, new: New
) -> None:
    experiment = built.begin(new(seed=7))
    attempt = built.attempt(experiment.id)
    assert built.status(experiment.id) == "running"
    run(
        built,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'"
        " AND objsubid = 1 AND pid <> pg_backend_pid()",
    )
    assert built.status(experiment.id) == "interrupted"
    other = Ledger.open(home).attempt(experiment.id)
    built.seal(attempt, FINISHED)
    with pytest.raises(SealedError):
        built.seal(other, NewOutcome(kind="failed", error="too late"))
    assert built.status(experiment.id) == "succeeded"
    assert built.verify().ok


def test_a_newer_schema_is_refused_by_every_way_in(built: Ledger, home: Path) -> None:
    run(built, "UPDATE alembic_version SET version_num = '9999'")
    for path in (lambda: Ledger.open(home), lambda: migrate_server(os.environ["LINGSHU_LEDGER"])):
        with pytest.raises(LedgerError, match=r"the schema '9999'.*newer lingshu-tools"):
            path()


def test_a_schema_that_no_server_ever_had_is_refused_with_what_to_do(built: Ledger) -> None:
    run(built, "UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(LedgerError, match=rf"'?0001'?, and ledgers .* begin with {HEAD}.*pg_dump"):
        migrate_server(os.environ["LINGSHU_LEDGER"])
    assert built.verify().rows == built.head().seq


def test_a_migration_makes_what_is_derived_anew(built: Ledger) -> None:
    run(built, "UPDATE standing SET status = 'failed'")
    assert not built.verify().ok
    messages = lingshu("ledger", "migrate")
    assert f"schema {HEAD} already" in messages.stdout, messages.stderr
    assert built.verify().ok


def test_its_archive_is_a_ledger_in_a_file_and_the_same_bytes_again(
    built: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = export_ledger(built, tmp_path / "a.zip")
    assert left.metadata.head == str(built.head())
    arrived_at = import_ledger(left.path, tmp_path / "new").home
    server = os.environ["LINGSHU_LEDGER"]
    monkeypatch.delenv("LINGSHU_LEDGER")
    arrived = Ledger.open(arrived_at)
    report = arrived.verify(anchors=[built.head()])
    assert (report.problems, report.objects) == ((), 1)
    assert [i.experiment for i in arrived.find().items] == [
        i.experiment for i in built.find().items
    ]
    assert export_ledger(arrived, tmp_path / "b.zip").digest == left.digest
    monkeypatch.setenv("LINGSHU_LEDGER", server)
    messages = lingshu("--home", tmp_path / "other", "ledger", "import", left.path)
    assert messages.returncode == 1
    assert "unset it" in messages.stderr
    assert not (tmp_path / "other").exists()


def test_other_tables_beside_the_ledger_are_nobody_s_business(ledger: Ledger, home: Path) -> None:
    run(ledger, "CREATE TABLE mine (x TEXT)", "INSERT INTO mine VALUES ('1')")
    assert Ledger.open(home).verify().ok
