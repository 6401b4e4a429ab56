"""The schema as a part of the record: what is missing, changed or foreign is named and refused."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from lingshu_tools.errors import SchemaError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, sqlite_schema
from lingshu_tools.ledger.migrate import migrate, migrate_server
from lingshu_tools.ledger.migrations import HEAD, REVISIONS
from lingshu_tools.ledger.sqlite import read_only

New = Callable[..., NewExperiment]
FIXTURE = Path(__file__).with_name("fixtures") / "schema-0001.db"


@pytest.fixture
def sealed(ledger: Ledger, new: New) -> Ledger:
    experiment = ledger.begin(new(), tags=["pilot"])
    with ledger.attempt(experiment.id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="succeeded", result={"score": 1.5}))
    return ledger


def edit(name: str, old: str, new: str) -> tuple[str, ...]:
    """Return the statements that change a part's text, as a flipped byte or a person does."""
    before, after = (text.replace("'", "''") for text in (old, new))
    update = f"UPDATE sqlite_master SET sql = replace(sql, '{before}', '{after}')"
    update += f" WHERE name = '{name}'"
    return "PRAGMA writable_schema = 1", update


def run(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def named(ledger: Ledger) -> list[str]:
    return [str(problem).split(":")[0] for problem in ledger.verify().problems]


def lingshu(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "lingshu_tools.cli", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )


# What changes an answer, a refusal or a row that is written; the last two change nothing.
REFUSED = {
    "view experiments is changed": edit("experiments", "queued", "qUeued"),
    "view screens is changed": edit("screens", "'failed'", "'fbiled'"),
    "view screens is missing": ("DROP VIEW screens",),
    "trigger outcome_no_update is changed": edit(
        "outcome_no_update", "RAISE(ABORT, 'outcome is insert-only')", "RAISE(IGNORE)"
    ),
    "trigger standing_ends is changed": edit("standing_ends", "NEW.kind", "'failed'"),
    "trigger chain_no_delete is missing": ("DROP TRIGGER chain_no_delete",),
    "trigger mine is none of the ledger's": (
        "CREATE TRIGGER mine AFTER INSERT ON outcome BEGIN DELETE FROM standing; END",
    ),
    "table outcome is changed": edit("outcome", "'cancelled'", "'cbncelled'"),
    "table experiment is changed": edit("experiment", "NOT NULL", "        "),
    "table tag is changed": edit("tag", " STRICT", " "),
    "table server is changed": edit("server", "versions TEXT", "versions TEXT AS (id) VIRTUAL"),
    "index ix_experiment_tool_seq is missing": ("DROP INDEX ix_experiment_tool_seq",),
    "index ix_attempt_experiment_id is changed": (
        "DROP INDEX ix_attempt_experiment_id",
        "CREATE INDEX ix_attempt_experiment_id ON attempt (experiment_id) WHERE seq > 99",
    ),
    "table alembic_version is changed": edit("alembic_version", "NOT NULL", "DEFAULT 1"),
}
FOREIGN = {
    "table mine is none of the ledger's": ("CREATE TABLE mine (x)",),
    "view mine is none of the ledger's": ("CREATE VIEW mine AS SELECT 1",),
    "index mine is none of the ledger's": ("CREATE INDEX mine ON outcome (seconds)",),
    "table sqlite_sequence is none of the ledger's": (
        "CREATE TABLE mine (x INTEGER PRIMARY KEY AUTOINCREMENT)",
        "DROP TABLE mine",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_differs_is_named_by_verify_and_refused_before_it_is_used(
    sealed: Ledger, home: Path, what: str
) -> None:
    run(sealed.database, *REFUSED[what])
    assert what in named(sealed)
    for opened in (
        lambda: Ledger.open(home),
        lambda: Ledger.open_read_only(sealed.database),
    ):
        with pytest.raises(SchemaError, match=f"was not used: .*{what}.*ledger verify"):
            opened()


@pytest.mark.parametrize("what", FOREIGN)
def test_what_somebody_added_and_changes_nothing_does_not_stop_the_work(
    sealed: Ledger, home: Path, new: New, what: str
) -> None:
    run(sealed.database, *FOREIGN[what])
    assert what in named(sealed)
    assert Ledger.open(home).begin(new(seed=8)).seed == 8


def test_statistics_and_white_space_change_nothing(sealed: Ledger, home: Path) -> None:
    run(sealed.database, "ANALYZE", *edit("experiments", " AS SELECT ", "\n\tAS\r\nSELECT  "))
    assert Ledger.open(home).verify().ok


def test_white_space_inside_a_literal_is_a_change(sealed: Ledger) -> None:
    run(sealed.database, *edit("experiments", "running or", "running  or"))
    assert named(sealed) == ["view experiments is changed"]


def test_a_long_list_of_differences_is_cut(sealed: Ledger, home: Path) -> None:
    for table in ("chain", "outcome", "experiment", "attempt"):
        for path in ("update", "delete", "replace"):
            run(sealed.database, f"DROP TRIGGER {table}_no_{path}")
    with pytest.raises(SchemaError, match=r"is missing and 2 more\. "):
        Ledger.open(home)
    assert len(named(sealed)) == 12


def test_the_command_line_verifies_the_rows_of_a_refused_ledger(sealed: Ledger, home: Path) -> None:
    run(sealed.database, "DROP TRIGGER outcome_no_update", "UPDATE outcome SET seconds = 9")
    for said in (
        lingshu("--home", home, "ledger", "verify"),
        lingshu("ledger", "verify", "--ledger", sealed.database),
    ):
        assert said.returncode == 1, said.stderr
        assert f"{sealed.head().seq} rows" in said.stdout
        assert "outcome row hashes to" in said.stdout
        assert "trigger outcome_no_update is missing: rows were not protected" in said.stdout


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_digest_of_a_revision_is_that_of_its_schema(revision: str) -> None:
    schema = sqlite_schema.expected(revision)
    assert sqlite_schema.digest_of(schema) == sqlite_schema.DIGESTS[revision]


def test_without_the_digest_the_schema_itself_is_compared(
    sealed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with a SQLAlchemy that writes the same statements otherwise.
    monkeypatch.setattr(sqlite_schema, "DIGESTS", dict.fromkeys(REVISIONS, ""))
    assert sealed.verify().ok
    with read_only(FIXTURE).begin() as connection:
        assert sqlite_schema.differences(connection, "0001") == []
        assert sqlite_schema.differences(connection, HEAD) != []


def test_a_ledger_migrated_by_somebody_else_is_verified_as_what_it_is_now(home: Path) -> None:
    home.mkdir()
    database = home / "experiments.db"
    database.write_bytes(FIXTURE.read_bytes())
    ledger = Ledger.open(home)
    ledger.put_object(b"1")  # the fixture's one artifact
    migrate(database)
    assert ledger.verify().problems == ()


RESTORED = {
    what: statements for what, statements in REFUSED.items() if not what.startswith("table")
}


@pytest.mark.parametrize("what", RESTORED)
def test_migrate_restores_what_holds_no_rows_after_a_copy(
    sealed: Ledger, home: Path, what: str
) -> None:
    run(sealed.database, *RESTORED[what])
    finished = migrate(sealed.database)
    assert finished.restored == (what,)
    assert Ledger.open(home).verify().ok
    assert finished.backup is not None
    with pytest.raises(SchemaError, match=what):
        Ledger.open_read_only(finished.backup)


def test_an_old_ledger_is_restored_and_brought_up_at_once(home: Path) -> None:
    home.mkdir()
    database = home / "experiments.db"
    database.write_bytes(FIXTURE.read_bytes())
    run(database, "DROP TRIGGER experiment_no_update")
    said = lingshu("--home", home, "ledger", "migrate")
    assert "restored: trigger experiment_no_update is missing" in said.stdout, said.stderr
    assert f"schema 0001 is now {HEAD}" in said.stdout
    Ledger.open(home).put_object(b"1")
    assert Ledger.open(home).verify().ok


def test_a_table_that_differs_is_not_mended_and_nothing_is_changed(sealed: Ledger) -> None:
    run(sealed.database, *REFUSED["table outcome is changed"], "DROP VIEW screens")
    before = sealed.database.read_bytes()
    with pytest.raises(SchemaError, match=r"table outcome is changed.*go back to a copy"):
        migrate(sealed.database)
    assert sealed.database.read_bytes() == before


# PostgreSQL

SERVED = {
    "view experiments is changed": (
        "DO $$BEGIN EXECUTE replace('CREATE OR REPLACE VIEW experiments AS ' ||"
        " pg_get_viewdef('experiments'::regclass), '''queued''', '''gone'''); END$$",
    ),
    "view screens is missing": ("DROP VIEW screens",),
    "constraint outcome.ck_outcome_kind is changed": (
        "ALTER TABLE outcome DROP CONSTRAINT ck_outcome_kind",
        "ALTER TABLE outcome ADD CONSTRAINT ck_outcome_kind CHECK (kind <> 'x')",
    ),
    "constraint outcome.ck_outcome_kind is missing": (
        "ALTER TABLE outcome DROP CONSTRAINT ck_outcome_kind",
    ),
    "constraint attempt.fk_attempt_experiment_id is changed": (
        "ALTER TABLE attempt DISABLE TRIGGER ALL",
        "ALTER TABLE attempt ENABLE TRIGGER attempt_insert_only",
    ),
    "table experiment is changed": ("ALTER TABLE experiment ALTER COLUMN door DROP NOT NULL",),
    "table outcome is changed": ("ALTER TABLE outcome ADD COLUMN mine text DEFAULT 'x'",),
    "table server is changed": ("ALTER TABLE server ENABLE ROW LEVEL SECURITY",),
    "policy server.mine is none of the ledger's": ("CREATE POLICY mine ON server USING (false)",),
    "rule outcome.mine is none of the ledger's": (
        "CREATE RULE mine AS ON INSERT TO outcome DO INSTEAD NOTHING",
    ),
    "index ix_experiment_tool_seq is missing": ("DROP INDEX ix_experiment_tool_seq",),
    "index mine is none of the ledger's": ("CREATE UNIQUE INDEX mine ON experiment (seed)",),
    "child table mine is none of the ledger's": ("CREATE TABLE mine () INHERITS (screen)",),
    "trigger chain_insert_only is changed": ("ALTER TABLE chain DISABLE TRIGGER ALL",),
    "trigger standing_ends is missing": ("DROP TRIGGER standing_ends ON outcome",),
}
served = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@served
@pytest.mark.parametrize("what", SERVED)
def test_what_differs_on_a_server_is_named(
    database: str, sealed: Ledger, home: Path, what: str
) -> None:
    assert sealed.verify().ok
    on_server(sealed, *SERVED[what])
    assert what in named(sealed)
    if what.startswith("trigger"):
        with pytest.raises(SchemaError, match=what):
            Ledger.open(home)


@served
def test_migrate_restores_triggers_functions_and_views_of_a_server(
    database: str, sealed: Ledger, home: Path
) -> None:
    on_server(
        sealed,
        *SERVED["view experiments is changed"],
        "ALTER TABLE chain DISABLE TRIGGER chain_insert_only",
        "CREATE OR REPLACE FUNCTION ledger_standing_ends() RETURNS trigger LANGUAGE plpgsql"
        " AS $$BEGIN RETURN NULL; END$$",
        "CREATE TRIGGER mine AFTER INSERT ON chain"
        " FOR EACH ROW EXECUTE FUNCTION ledger_standing_ends()",
        "DROP VIEW screens",
    )
    assert len(named(sealed)) == 5
    finished = migrate_server(os.environ["LINGSHU_LEDGER"])
    assert finished.backup is None
    assert "trigger standing_ends is changed" in finished.restored
    assert Ledger.open(home).verify().problems == ()


@served
def test_a_schema_that_the_server_will_not_show_is_a_problem(
    database: str, sealed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise DBAPIError("CREATE", {}, Exception("permission denied to create temporary tables"))

    monkeypatch.setattr("lingshu_tools.ledger.postgres_schema.create", refused)
    (problem,) = sealed.verify().problems
    assert "could not be compared (permission denied" in str(problem)


def on_server(ledger: Ledger, *statements: str) -> None:
    for statement in statements:
        ledger._database.write(lambda c, text=statement: c.exec_driver_sql(text))
