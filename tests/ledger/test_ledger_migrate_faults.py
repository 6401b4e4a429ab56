"""A migration on a failing disk, or killed on its way: the ledger is as it was, or as it will be.

No row is touched either way, and what has the name of a copy is a whole copy.
"""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.ledger.trips import DISK, PLACES, Trips, killed, wired
from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger import Ledger
from lingshu_tools.ledger.migrate import migrate
from lingshu_tools.ledger.migrations import BASELINE, HEAD

FIRST = Path(__file__).with_name("fixtures") / f"schema-{BASELINE}.db"
Visits = Callable[[int], list[int]]


def rows(database: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT * FROM chain ORDER BY seq").fetchall()


def begun(home: Path) -> Path:
    home.mkdir()
    return Path(shutil.copy(FIRST, home / "experiments.db"))


def held(database: Path) -> str:
    """Return the schema's revision, once everything else has been found in order."""
    for copy in database.parent.glob("experiments.schema-*.db"):
        ledger = Ledger.open_read_only(copy)
        assert (ledger.schema, ledger.verify().problems) == (BASELINE, ())
        assert rows(copy) == rows(FIRST)
    ledger = Ledger.open(database.parent)
    ledger.put_object(b"1")  # the fixture's one artifact
    assert ledger.verify().problems == ()
    assert rows(database) == rows(FIRST)
    assert ledger.schema == BASELINE or any(database.parent.glob("experiments.schema-*.db"))
    return ledger.schema


@pytest.fixture(scope="module")
def trips() -> Iterator[Trips]:
    result = Trips()
    try:
        with wired(result):
            yield result
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture
def visited(trips: Trips, tmp_path: Path) -> Counter[str]:
    database = begun(tmp_path / "fine")
    trips.arm("nowhere", 1)
    migrate(database)
    return trips.visits.copy()


def few(visits: int) -> list[int]:
    return sorted({1, (visits + 1) // 2, visits})


def every(visits: int) -> list[int]:
    return list(range(1, visits + 1))


def fail(trips: Trips, visited: Counter[str], folder: Path, which: Visits) -> Counter[str]:
    result: Counter[str] = Counter()
    for place, last in ((p, last) for p in (*DISK, "commit") for last in (False, True)):
        for k in which(visited[place]) if visited[place] else ():
            database = begun(folder / f"{place}{k}{last}")
            said = ""
            trips.arm(place, k, forever=last)
            try:
                migrate(database)
            except LedgerError as error:
                said = str(error)
            finally:
                trips.disarm()
            revision = held(database)
            result[revision] += 1
            assert said or revision == HEAD, (place, k, last)
            assert revision == BASELINE or not said or "may or may not" in said, (place, k, said)
            assert migrate(database).after == HEAD == held(database)
            shutil.rmtree(database.parent)
    return result


def test_a_disk_that_fails_here_or_there_leaves_the_ledger_as_it_was(
    trips: Trips, visited: Counter[str], tmp_path: Path
) -> None:
    assert fail(trips, visited, tmp_path, few)[BASELINE] > 10


@pytest.mark.slow
def test_a_disk_that_fails_anywhere_leaves_the_ledger_as_it_was(
    trips: Trips, visited: Counter[str], tmp_path: Path
) -> None:
    assert fail(trips, visited, tmp_path, every)[BASELINE] > 100


def die(visited: Counter[str], folder: Path, which: Visits) -> Counter[str]:
    result: Counter[str] = Counter()
    for place in PLACES:
        for k in which(visited[place]) if visited[place] else ():
            database = begun(folder / f"{place}{k}")
            if killed(lambda database=database: migrate(database), place, k):
                result[held(database)] += 1
                assert migrate(database).after == HEAD == held(database)
            shutil.rmtree(database.parent)
    return result


def test_a_kill_here_or_there_leaves_one_schema_or_the_other(
    visited: Counter[str], tmp_path: Path
) -> None:
    assert set(die(visited, tmp_path, few)) == {BASELINE, HEAD}


@pytest.mark.slow
def test_a_kill_anywhere_leaves_one_schema_or_the_other(
    visited: Counter[str], tmp_path: Path
) -> None:
    assert set(die(visited, tmp_path, every)) == {BASELINE, HEAD}
