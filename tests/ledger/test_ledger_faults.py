"""A disk that fails at its k-th write, sync, rename, truncation, deletion or opening; or is full.

Each story is told to a fresh ledger whose disk fails at one place, once or from there on. Whatever
the ledger acknowledged must be there when the disk works again, and nothing that it denied.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Pool, event

from benchmarks.ledger.trips import DISK, Trips, killed, wired
from lingshu_tools.errors import LedgerError, LingshuError, SealedError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome
from lingshu_tools.ledger.heads import Heads

PLACES = (*DISK, "commit")
BLOB = bytes(range(256)) * 8
OUTCOME = NewOutcome(
    kind="succeeded", result={"score": 1.5}, environment={"cpu": "x"}, artifacts={"cells": BLOB}
)
WHAT_TO_DO = (
    "free some space",
    "set LINGSHU_HOME",
    "nothing was recorded",
    "recorded at the next start",
    "verify",
)
Visits = Callable[[int], list[int]]
MAYBE = "may or may not have been recorded"


def request(key: str) -> NewExperiment:
    return NewExperiment(
        tool="perturb_cells",
        request={"key": key},
        checkpoint="tiny",
        checkpoint_digest="sha256:" + "1" * 64,
        panel_digest="sha256:" + "2" * 64,
        seed=7,
        client_key=key,
    )


@dataclass
class Reported:
    """What a ledger said to its user."""

    begun: dict[str, str] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def begin(self, ledger: Ledger, key: str) -> str:
        try:
            self.begun[key] = ledger.begin(request(key)).id
        except LedgerError as error:
            if MAYBE not in str(error):
                self.denied.add(key)
            raise
        return self.begun[key]

    def seal(self, ledger: Ledger, experiment_id: str) -> None:
        try:
            with ledger.attempt(experiment_id) as attempt:
                ledger.seal(attempt, OUTCOME)
        except SealedError:
            self.sealed.add(experiment_id)
        except LedgerError as error:
            if "The outcome is safe in" in str(error):
                self.sealed.add(experiment_id)
            raise
        else:
            self.sealed.add(experiment_id)

    def cancel(self, ledger: Ledger, experiment_id: str) -> None:
        if ledger.cancel(experiment_id) == "cancelled":
            self.cancelled.add(experiment_id)


def day(home: Path, said: Reported) -> None:
    """Three things that a user does, none waiting for the success of the one before."""

    def first(ledger: Ledger) -> None:
        said.seal(ledger, said.begin(ledger, "sealed"))

    def second(ledger: Ledger) -> None:
        said.cancel(ledger, said.begin(ledger, "cancelled"))

    for act in (first, second):
        try:
            act(Ledger.open(home))
        except LingshuError as error:
            said.errors.append(str(error))


def check(home: Path, said: Reported) -> None:
    """Open the ledger on a disk that works again and hold it to its words."""
    assert [e for e in said.errors if not any(word in e for word in (*WHAT_TO_DO, MAYBE))] == []
    ledger = Ledger.open(home)
    there = {i.experiment.client_key: i.experiment.id for i in ledger.find().items}
    assert said.begun.items() <= there.items()
    assert said.denied.isdisjoint(there)
    for experiment_id in said.sealed:
        outcome = ledger.outcome(experiment_id)
        assert outcome is not None
        assert outcome.result == OUTCOME.result
        assert ledger.get_object(outcome.artifacts["cells"]) == BLOB
    assert {ledger.status(i) for i in said.cancelled} <= {"cancelled"}
    assert ledger.verify().problems == ()


@pytest.fixture(scope="module")
def trips() -> Iterator[Trips]:
    created = Trips()
    with ExitStack() as stack:
        try:
            stack.enter_context(wired(created))
        except OSError as error:
            pytest.skip(str(error))
        yield created


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """The home of a ledger with nothing in it."""
    Ledger.open(tmp_path / "made")
    return tmp_path / "made"


def clean_visits(trips: Trips, start: Path) -> Counter[str]:
    """Count the visits of a day on which nothing fails."""
    home = start.with_name("fine")
    if start.exists():
        shutil.copytree(start, home)
    trips.arm("nowhere", 1)
    day(home, Reported())
    return trips.visits.copy()


def some(visits: int) -> list[int]:
    """The first visit, ever fewer of those after it, and the last."""
    return sorted({*(5**n for n in range(6) if 5**n < visits), visits})


def every(visits: int) -> list[int]:
    return list(range(1, visits + 1))


def fail_at(
    trips: Trips, start: Path, home: Path, place: str, k: int, *, forever: bool
) -> tuple[Reported, int]:
    """Return a day in `home` whose `k`-th visit failed, or its last one, and which one that was.

    Two days may differ in the number of visits, so the last of one may not come in another.
    """
    while True:
        messages = Reported()
        if start.exists():
            shutil.copytree(start, home)
        trips.arm(place, k, forever=forever)
        try:
            day(home, messages)
        finally:
            trips.disarm()
        if trips.sprung:
            return messages, k
        assert 0 < trips.visits[place] < k
        k = trips.visits[place]
        shutil.rmtree(home)


def story(trips: Trips, start: Path, place: str, visits: Visits, *, forever: bool) -> int:
    """Fail at each of these visits; `start` is the home before the first, or nothing yet."""
    chosen = visits(clean_visits(trips, start)[place])
    for k in chosen:
        home = start.with_name(f"home{k}")
        messages, k = fail_at(trips, start, home, place, k, forever=forever)
        try:
            check(home, messages)
        except BaseException as error:
            error.add_note(f"{place} {k}, forever={forever}: {messages.errors}")
            raise
        shutil.rmtree(home)
    return len(chosen)


@pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
@pytest.mark.parametrize("place", PLACES)
def test_a_disk_that_fails_here_or_there_loses_nothing_and_says_so(
    trips: Trips, built: Path, place: str, forever: bool
) -> None:
    assert story(trips, built, place, some, forever=forever)


@pytest.mark.slow
@pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
@pytest.mark.parametrize("place", PLACES)
def test_a_disk_that_fails_anywhere_loses_nothing_and_says_so(
    trips: Trips, tmp_path: Path, place: str, forever: bool
) -> None:
    assert story(trips, tmp_path / "none", place, every, forever=forever)


@pytest.fixture
def wounded(tmp_path: Path) -> tuple[Path, str]:
    """A home with an outcome in its spool and the journal of a writer killed inside a commit."""
    home = tmp_path / "wounded"
    ledger = Ledger.open(home)
    experiment = ledger.begin(request("sealed"))
    with ledger.attempt(experiment.id) as attempt:
        document = ledger._ending(attempt, OUTCOME)
        ledger._spool.put(experiment.id, document)
    assert killed(lambda: ledger.begin(request("unheard")), "truncate", 1)
    assert (home / "experiments.db-journal").stat().st_size
    return home, experiment.id


@pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
@pytest.mark.parametrize("place", PLACES)
def test_a_disk_that_fails_during_recovery_loses_nothing(
    trips: Trips, wounded: tuple[Path, str], tmp_path: Path, place: str, forever: bool
) -> None:
    first, experiment_id = wounded
    for k in count(1):
        home = tmp_path / f"home{k}"
        shutil.copytree(first, home)
        trips.arm(place, 4 ** (k - 1), forever=forever)
        try:
            Ledger.open(home)
        except LedgerError:
            assert trips.sprung
        finally:
            trips.disarm()
        ledger = Ledger.open(home)
        assert [i.experiment.id for i in ledger.find().items] == [experiment_id]
        assert ledger.status(experiment_id) == "succeeded"
        assert ledger.verify().problems == ()
        if not trips.sprung:
            return


def fill(ledger: Ledger, begun: dict[str, str]) -> None:
    for n in count():
        begun[f"key {n}"] = ledger.begin(request(f"key {n}")).id


def test_a_full_database_keeps_what_was_finished_in_the_spool(home: Path) -> None:
    ledger = Ledger.open(home)
    first = ledger.begin(request("first"))
    attempt = ledger.attempt(first.id)
    pages = 1 + ledger.database.stat().st_size // 4096

    def limit(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    begun = {"first": first.id}
    event.listen(Pool, "connect", limit)
    try:
        with pytest.raises(LedgerError, match="full; nothing was recorded"):
            fill(ledger, begun)
        big = NewOutcome(kind="succeeded", result={"text": "x" * 20_000})
        with pytest.raises(LedgerError, match=r"full.*The outcome is safe in"):
            ledger.seal(attempt, big)
    finally:
        event.remove(Pool, "connect", limit)
    again = Ledger.open(home)
    there = {i.experiment.client_key: i.experiment.id for i in again.find(limit=500).items}
    assert there == begun
    assert again.status(first.id) == "succeeded"
    assert again.verify().ok


def test_a_commit_that_fails_at_its_end_is_not_denied(home: Path, trips: Trips) -> None:
    ledger = Ledger.open(home)
    trips.arm("nowhere", 1)
    ledger.begin(request("first"))
    trips.arm("sync", trips.visits["sync"])
    try:
        # The rows are in the file and the journal is empty; only its last sync fails.
        with pytest.raises(LedgerError, match=MAYBE):
            ledger.begin(request("second"))
    finally:
        trips.disarm()
    keys = [i.experiment.client_key for i in ledger.find().items]
    assert keys == ["second", "first"]
    # Asking again with the same key is safe either way.
    ledger.begin(request("second"))
    assert len(ledger.find().items) == 2


def test_a_head_cut_by_a_crash_does_not_accuse_the_ledger(home: Path) -> None:
    ledger = Ledger.open(home)
    ledger.begin(request("first"))
    path = home / "heads.txt"
    for cut in (1, 5, 20, 60):
        line = path.read_bytes().splitlines()[-1]
        path.write_bytes(path.read_bytes() + line[:cut])
        ledger.begin(request(f"after {cut}"))
        assert Ledger.open(home).verify().problems == ()
        assert Heads(path).all()[-1] == ledger.head()


def test_an_object_found_there_is_forced_to_the_disk_too(home: Path, trips: Trips) -> None:
    ledger = Ledger.open(home)
    # The process that stored it may have been killed before its name was on the disk.
    ledger.put_object(BLOB)
    trips.arm("sync", 1)
    try:
        with pytest.raises(LedgerError, match="free some space"):
            ledger.put_object(BLOB)
    finally:
        trips.disarm()
    assert ledger.put_object(BLOB)
