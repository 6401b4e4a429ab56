"""Archives on a disk that fails at its k-th write, or under a process that is killed there.

What has the name of an archive or of a home is whole, and an error never says that nothing is left
where something is.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_ledgers import fill

from benchmarks.ledger.trips import DISK, PLACES, Trips, killed, wired
from lingshu_tools.archive import export_ledger, import_ledger
from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger import Ledger, digest_file

Visits = Callable[[int], list[int]]


@dataclass(frozen=True)
class Built:
    """A ledger and its archive, made on a disk that worked."""

    ledger: Ledger
    archive: Path

    def leave(self, folder: Path) -> object:
        return export_ledger(self.ledger, folder / "a.zip")

    def arrive(self, folder: Path) -> object:
        return import_ledger(self.archive, folder / "home")

    def do(self, operation: str, folder: Path) -> object:
        return (self.leave if operation == "out" else self.arrive)(folder)

    def is_there(self, operation: str, folder: Path) -> bool:
        """Whether what was to be made has its name; it is whole then."""
        if operation == "out":
            path = folder / "a.zip"
            assert not path.exists() or digest_file(path) == digest_file(self.archive)
            return path.exists()
        home = folder / "home"
        if not (home.exists() and any(home.iterdir())):
            return False
        report = Ledger.open_read_only(home / "experiments.db").verify()
        assert (report.problems, report.head, report.objects) == ((), self.ledger.head(), 2)
        return True


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("made")
    ledger = Ledger.open(folder / "home")
    fill(ledger)
    return Built(ledger, export_ledger(ledger, folder / "a.zip").path)


@pytest.fixture(scope="module")
def trips() -> Iterator[Trips]:
    result = Trips()
    try:
        with wired(result):
            yield result
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def visited(
    trips: Trips, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Counter[str]]:
    """How often each place is visited on a day on which nothing fails."""
    result: dict[str, Counter[str]] = {}
    for path in ("out", "in"):
        trips.arm("nowhere", 1)
        built.do(path, tmp_path_factory.mktemp("fine"))
        result[path] = trips.visits.copy()
    return result


def ends(visits: int) -> list[int]:
    return sorted({1, (visits + 1) // 2, visits})


def most(visits: int) -> list[int]:
    """The first thirty and the last thirty: in between are pages and objects like one another."""
    return sorted({*range(1, min(visits, 30) + 1), *range(max(1, visits - 30), visits + 1)})


def tell(
    built: Built, trips: Trips, operation: str, folder: Path, place: str, k: int, last: bool
) -> None:
    """Fail once or for ever at the k-th visit, and hold what is there against what was said."""
    folder.mkdir()
    trips.arm(place, k, forever=last)
    said = ""
    try:
        built.do(operation, folder)
    except LedgerError as error:
        said = str(error)
    finally:
        trips.disarm()
    there = built.is_there(operation, folder)
    assert there or said
    assert not (there and "nothing is left of it" in said), said
    if not there:
        built.do(operation, folder)
        assert built.is_there(operation, folder)


def loop(
    built: Built,
    trips: Trips,
    visits: dict[str, Counter[str]],
    operation: str,
    folder: Path,
    which: Visits,
) -> int:
    finished = 0
    for place in (*DISK, "commit"):
        for k in which(visits[operation][place]) if visits[operation][place] else ():
            for last in (False, True):
                finished += 1
                try:
                    tell(built, trips, operation, folder / f"{place}{k}{last}", place, k, last)
                except BaseException as error:
                    error.add_note(f"{operation}: {place} {k}, forever={last}")
                    raise
    return finished


@pytest.mark.parametrize("operation", ["out", "in"])
def test_a_disk_that_fails_here_or_there_leaves_a_whole_or_nothing(
    built: Built, trips: Trips, visited: dict[str, Counter[str]], tmp_path: Path, operation: str
):
    assert loop(built, trips, visited, operation, tmp_path, ends) > 10


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["out", "in"])
def test_a_disk_that_fails_anywhere_leaves_a_whole_or_nothing(
    built: Built, trips: Trips, visited: dict[str, Counter[str]], tmp_path: Path, operation: str
):
    assert loop(built, trips, visited, operation, tmp_path, most) > 100


def die(
    built: Built, visits: dict[str, Counter[str]], operation: str, folder: Path, which: Visits
) -> Counter[bool]:
    """Kill at these visits; return how often the thing was there and how often it was not."""
    result: Counter[bool] = Counter()
    for place in PLACES:
        for k in which(visits[operation][place]) if visits[operation][place] else ():
            here = folder / f"{place}{k}"
            here.mkdir()
            if killed(lambda here=here: built.do(operation, here), place, k):
                result[built.is_there(operation, here)] += 1
    return result


@pytest.mark.parametrize("operation", ["out", "in"])
def test_a_kill_here_or_there_leaves_a_whole_or_nothing(
    built: Built, visited: dict[str, Counter[str]], tmp_path: Path, operation: str
):
    assert set(die(built, visited, operation, tmp_path, ends)) == {False, True}


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["out", "in"])
def test_a_kill_anywhere_leaves_a_whole_or_nothing(
    built: Built, visited: dict[str, Counter[str]], tmp_path: Path, operation: str
):
    assert set(die(built, visited, operation, tmp_path, most)) == {False, True}
