"""The file itself: settings, journal, and what cannot be done to a row."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, sqlite
from lingshu_tools.ledger.schema import metadata

TABLES = sorted(metadata.tables)


@pytest.fixture
def full(ledger: Ledger, new: Callable[..., NewExperiment]) -> Ledger:
    """A ledger with a row in every table."""
    screen = ledger.record_screen({"objective": {"lower": ["STAT1"]}})
    ledger.record_measurements(screen.id, {"STAT1": 0.5})
    experiment = ledger.begin(new(parent=screen.id, position=0, client_key="k"))
    with ledger.attempt(experiment.id) as attempt:
        ledger.cancel(experiment.id)
        outcome = NewOutcome(kind="succeeded", environment={"cpu": "x"}, artifacts={"a": b"1"})
        ledger.seal(attempt, outcome)
    ledger.record_verification(experiment.id, "exact")
    ledger.tag(experiment.id, ["pilot"])
    return ledger


def raw(ledger: Ledger) -> sqlite3.Connection:
    return sqlite3.connect(ledger.database)


def test_every_table_has_a_row_in_the_full_ledger(full: Ledger) -> None:
    connection = raw(full)
    counts = {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in TABLES}
    connection.close()
    assert [t for t, n in counts.items() if not n] == []


def test_every_column_says_what_it_means_and_when_it_is_null() -> None:
    columns = [c for t in metadata.tables.values() for c in t.c if c.name != "seq"]
    assert [str(c) for c in columns if not c.comment] == []
    assert [str(c) for c in columns if c.nullable and "NULL" not in str(c.comment)] == []


def test_every_constraint_has_a_name() -> None:
    unnamed = [c for t in metadata.tables.values() for c in t.constraints if c.name is None]
    assert unnamed == []


def test_tables_are_strict(ledger: Ledger) -> None:
    connection = raw(ledger)
    result = dict(connection.execute("SELECT name, strict FROM pragma_table_list").fetchall())
    connection.close()
    assert [t for t in TABLES if not result[t]] == []


REWRITES = [
    "UPDATE {} SET seq = seq",
    "UPDATE OR REPLACE {} SET seq = seq + 1000",
    "DELETE FROM {}",
    "INSERT OR REPLACE INTO {0} SELECT * FROM {0} LIMIT 1",
    "REPLACE INTO {0} SELECT * FROM {0} LIMIT 1",
    "INSERT INTO {0} SELECT * FROM {0} WHERE true ON CONFLICT DO UPDATE SET seq = 0",
]


@pytest.mark.parametrize("statement", REWRITES)
def test_no_connection_rewrites_a_row(statement: str, full: Ledger) -> None:
    def separate(connection: Connection) -> None:
        connection.execute(text(statement.format(table)))

    connection = raw(full)
    for table in TABLES:
        with pytest.raises(sqlite3.IntegrityError, match=f"{table} is insert-only"):
            connection.execute(statement.format(table))
        connection.rollback()
        with pytest.raises(LedgerError, match=f"{table} is insert-only"):
            full._database.write(separate)
    connection.close()
    assert full.verify().ok


def test_replacing_by_another_unique_key_is_stopped_too(full: Ledger) -> None:
    connection = raw(full)
    with pytest.raises(sqlite3.IntegrityError, match="insert-only"):
        connection.execute(
            "INSERT OR REPLACE INTO outcome SELECT seq + 1000, experiment_id, attempt_id, 'failed',"
            " result, error, environment_digest, artifacts, seconds, created_at FROM outcome"
        )
    connection.close()


def test_settings_are_what_was_asked_for_on_every_connection(ledger: Ledger) -> None:
    def settings() -> dict[str, object]:
        return ledger._database.write(
            lambda c: {p: c.exec_driver_sql(f"PRAGMA {p}").scalar() for p in sqlite._PRAGMAS}
        )

    for result in (settings(), settings()):
        assert result | {"mmap_size": result["mmap_size"] or 0} == sqlite._PRAGMAS


def test_a_setting_that_does_not_take_is_an_error(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setitem(sqlite._PRAGMAS, "synchronous", 77)
    with pytest.raises(LedgerError, match="synchronous"):
        ledger.head()


def test_the_reading_side_cannot_write(ledger: Ledger) -> None:
    with (
        pytest.raises(DBAPIError, match="readonly"),
        ledger._database.reader.begin() as connection,
    ):
        connection.execute(text("DELETE FROM chain"))


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 40, 1), "truncate"),
        ((3, 44, 5), "truncate"),
        ((3, 44, 6), "wal"),
        ((3, 45, 9), "truncate"),
        ((3, 50, 6), "truncate"),
        ((3, 50, 7), "wal"),
        ((3, 51, 2), "truncate"),
        ((3, 51, 3), "wal"),
        ((3, 52, 0), "wal"),
        ((4, 0, 0), "wal"),
    ],
)
def test_only_a_repaired_sqlite_gets_a_write_ahead_log(
    version: tuple[int, int, int], mode: str, tmp_path: Path
) -> None:
    assert sqlite.journal_for(tmp_path / "none.db", version).mode == mode


def test_a_ledger_keeps_the_journal_it_was_made_with(ledger: Ledger, tmp_path: Path) -> None:
    made_with_truncate = sqlite3.sqlite_version_info < (3, 44, 6)
    if made_with_truncate:
        assert sqlite.journal_for(ledger.database, (3, 52, 0)).mode == "truncate"
    other = tmp_path / "wal.db"
    connection = sqlite3.connect(other)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert sqlite.journal_for(other, (3, 52, 0)).mode == "wal"
    with pytest.raises(LedgerError, match=r"SQLite 3\.40\.1 can corrupt"):
        sqlite.journal_for(other, (3, 40, 1))


def test_a_ledger_with_a_write_ahead_log_works_and_can_be_read_in_peace(
    monkeypatch: pytest.MonkeyPatch, home: Path, new: Callable[..., NewExperiment]
) -> None:
    def wal(database: Path) -> sqlite.Journal:
        return sqlite.Journal("wal", "asked for by a test")

    monkeypatch.setattr(sqlite, "journal_for", wal)
    ledger = Ledger.open(home)
    experiment = ledger.begin(new())
    assert ledger.status(experiment.id) == "queued"
    before = sorted(home.rglob("*"))
    assert Ledger.open_read_only(ledger.database).experiment(experiment.id) == experiment
    assert sorted(home.rglob("*")) == before
    assert ledger.verify().ok
