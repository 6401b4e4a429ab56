"""Ledgers of every released schema, brought to this version's."""

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, derived
from lingshu_tools.ledger.migrate import VERSIONS, Migrated, migrate
from lingshu_tools.ledger.migrations import HEAD, REVISIONS

FIXTURES = sorted(Path(__file__).with_name("fixtures").glob("schema-*.db"))
EVERY = pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
STATUSES = ("succeeded", "failed", "cancelled", "queued", "interrupted", "running")


def copied(fixture: Path, home: Path) -> Path:
    home.mkdir()
    return Path(shutil.copy(fixture, home / "experiments.db"))


def ask(database: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def schema(database: Path) -> set[tuple[object, ...]]:
    rows = ask(database, "SELECT type, name, sql FROM sqlite_master")
    # Who wrote a statement sets its line breaks.
    return {
        (kind, name, tuple(re.sub(r"([(),])", r" \1 ", str(sql)).split()))
        for kind, name, sql in rows
    }


def listed(ledger: Ledger) -> dict[str, list[str]]:
    return {
        status: [item.experiment.id for item in ledger.find(status=status).items]  # type: ignore[arg-type]
        for status in STATUSES
    }


def rows(database: Path) -> list[tuple[object, ...]]:
    return ask(database, "SELECT * FROM chain") + ask(database, "SELECT * FROM experiment")


def test_there_is_a_fixture_of_the_first_schema() -> None:
    assert FIXTURES[0].stem == f"schema-{REVISIONS[0]}"


@EVERY
def test_an_old_ledger_works_unchanged_without_migration(
    fixture: Path, home: Path, new: Callable[..., NewExperiment]
) -> None:
    database = copied(fixture, home)
    before = schema(database)
    assert Ledger.open_read_only(fixture).verify().ok
    ledger = Ledger.open(home)
    experiment = ledger.begin(new(seed=99))
    with ledger.attempt(experiment.id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="failed", error="no"))
    assert ledger.find(status="failed").items[0].experiment.id == experiment.id
    assert schema(database) == before


@EVERY
def test_a_migrated_ledger_has_the_schema_of_a_new_one_and_all_its_rows(
    fixture: Path, home: Path, tmp_path: Path, new: Callable[..., NewExperiment]
) -> None:
    database = copied(fixture, home)
    ledger = Ledger.open_read_only(database)
    result, kept = listed(ledger), rows(database)
    finished = migrate(database)
    assert (finished.before, finished.after) == (fixture.stem.removeprefix("schema-"), HEAD)
    fresh = Ledger.open(tmp_path / "fresh")
    assert schema(database) == schema(fresh.database)
    ledger = Ledger.open(home)
    ledger.put_object(b"1")  # the fixture's one artifact
    assert rows(database) == kept
    assert listed(ledger) == result
    assert len(ask(database, "SELECT name FROM sqlite_master WHERE type = 'trigger'")) > 30
    experiment = ledger.begin(new(seed=99))
    assert listed(ledger)["queued"][0] == experiment.id
    report = ledger.verify()
    assert report.ok, report.problems


@EVERY
def test_the_ledger_as_it_was_is_kept_beside_it(fixture: Path, home: Path) -> None:
    database = copied(fixture, home)
    was = rows(database), schema(database)
    first = migrate(database)
    assert first.backup is not None
    assert (rows(first.backup), schema(first.backup)) == was
    assert Ledger.open_read_only(first.backup).verify().ok
    shutil.copy(fixture, database)
    second = migrate(database)
    assert second.backup not in (None, first.backup)


@EVERY
def test_of_two_that_migrate_at_once_the_second_has_nothing_left_to_do(
    fixture: Path, home: Path
) -> None:
    database = copied(fixture, home)
    both = Barrier(2)

    def bring(_: int) -> Migrated:
        both.wait()
        return migrate(database)

    # Threads, as processes would be: a lock on a file is between descriptors.
    with ThreadPoolExecutor(2) as pool:
        finished = sorted(pool.map(bring, range(2)), key=lambda each: each.before)
    assert [each.before for each in finished] == [fixture.stem.removeprefix("schema-"), HEAD]
    assert [each.backup is None for each in finished] == [False, True]
    assert len(list(home.glob("experiments.schema-*.db"))) == 1
    ledger = Ledger.open(home)
    ledger.put_object(b"1")  # the fixture's one artifact
    assert ledger.verify().problems == ()


def test_the_revisions_that_code_knows_are_those_that_are_written() -> None:
    result = sorted(path.stem[1:5] for path in (VERSIONS / "versions").glob("r*.py"))
    assert tuple(result) == REVISIONS


def test_a_second_migration_makes_what_is_derived_anew(
    ledger: Ledger, new: Callable[..., NewExperiment]
) -> None:
    experiment = ledger.begin(new())
    ledger._database.write(lambda c: c.exec_driver_sql("UPDATE standing SET status = 'failed'"))
    assert ledger.find(status="queued").items == ()
    # What is wrongly kept hides a row; it never makes a status up.
    assert ledger.find(status="failed").items == ()
    (problem,) = ledger.verify().problems
    assert problem.seq == experiment.seq
    assert "ledger migrate" in str(problem)
    finished = migrate(ledger.database)
    assert (finished.before, finished.after, finished.backup) == (HEAD, HEAD, None)
    assert ledger.find(status="queued").items[0].experiment.id == experiment.id
    assert ledger.verify().ok


@EVERY
def test_a_migration_that_fails_leaves_the_ledger_as_it_was(
    fixture: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = copied(fixture, home)
    was = rows(database), schema(database)

    def fail(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO nothing VALUES (1)")

    monkeypatch.setattr(derived, "rebuild", fail)
    with pytest.raises(LedgerError, match="nothing was recorded") as error:
        migrate(database)
    assert isinstance(error.value.__cause__, OperationalError)
    assert (rows(database), schema(database)) == was


@EVERY
def test_without_a_copy_nothing_is_changed(
    fixture: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = copied(fixture, home)
    was = schema(database)
    monkeypatch.setattr(
        "lingshu_tools.ledger.migrate._unused", lambda *_: home / "no such folder" / "copy.db"
    )
    with pytest.raises(LedgerError, match="nothing was changed"):
        migrate(database)
    assert schema(database) == was


def test_a_newer_schema_is_refused_by_every_way_in(ledger: Ledger, home: Path) -> None:
    connection = sqlite3.connect(ledger.database)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    operations: list[Callable[[], object]] = [
        lambda: Ledger.open(home),
        lambda: Ledger.open_read_only(ledger.database),
        lambda: migrate(ledger.database),
    ]
    for path in operations:
        with pytest.raises(LedgerError, match=r"the schema '9999'.*newer lingshu-tools"):
            path()


def test_no_file_is_made_by_migrating_one_that_is_missing(home: Path) -> None:
    with pytest.raises(LedgerError, match="is no file"):
        migrate(home / "experiments.db")
    assert not home.exists()


def test_opening_a_ledger_loads_no_alembic(home: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lingshu_tools.ledger import Ledger;"
        f"Ledger.open(Path({str(home)!r})).verify(); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_views_say_in_plain_words_what_there_is(
    ledger: Ledger, new: Callable[..., NewExperiment]
) -> None:
    screen = ledger.record_screen({})
    ledger.record_measurements(screen.id, {"STAT1": 0.5})
    created = ledger.begin_many([new(seed=s, parent=screen.id, position=s) for s in range(4)])
    with ledger.attempt(created[0].id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="succeeded", seconds=2.0))
    ledger.cancel(created[1].id)
    ledger.attempt(created[2].id).close()
    result = ask(ledger.database, "SELECT status, seed, seconds FROM experiments ORDER BY seed")
    assert result == [
        ("succeeded", 0, 2.0),
        ("cancelled", 1, None),
        ("running or interrupted", 2, None),
        ("queued", 3, None),
    ]
    counts = "experiments, succeeded, failed, cancelled, unfinished, measurements"
    assert ask(ledger.database, f"SELECT {counts} FROM screens") == [(4, 1, 0, 1, 2, 1)]
