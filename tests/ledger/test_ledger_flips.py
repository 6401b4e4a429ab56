"""Every byte of a small ledger and of its objects, flipped one at a time: found, or without effect.

A flip is found by `verify`, or by an error of the library; or else every answer is what it was.
"""

import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ledger.compiled import compiled_once
from lingshu_tools.errors import LingshuError, TamperError
from lingshu_tools.ledger import Head, Ledger, NewExperiment, NewOutcome
from lingshu_tools.ledger.reading import Reading
from lingshu_tools.ledger.sqlite import SqliteBackend

New = Callable[..., NewExperiment]
SMALL_PAGES = 512
# All bytes together take minutes: so a run that was stopped shows how far it got.
PARTS = 8
FULL = NewOutcome(
    kind="succeeded",
    result={"score": 1.5, "genes": ["STAT1", "Ä"]},
    environment={"cpu": "x"},
    artifacts={"cells": b"counts of cells", "effects": b"effects"},
    # One flipped bit from infinity.
    seconds=1.0,
)


@pytest.fixture
def small(ledger: Ledger, new: New) -> Path:
    """A database with a row of every kind, in small pages to have less empty space."""
    screen = ledger.record_screen({"objective": {"raise": ["CD274"], "lower": []}})
    rows = [new(seed=s, parent=screen.id, position=s, context="THP-1") for s in range(4)]
    sealed, failed, cancelled, _ = ledger.begin_many(rows)
    ledger.seal(ledger.attempt(sealed.id), FULL)
    ledger.seal(ledger.attempt(failed.id), NewOutcome(kind="failed", error="no such gene"))
    ledger.cancel(cancelled.id)
    ledger.record_measurements(screen.id, {"STAT1": -1.25})
    ledger.record_verification(sealed.id, "exact", replay_id=failed.id)
    path = ledger.database.with_name("small.db")
    with closing(sqlite3.connect(ledger.database)) as connection:
        connection.execute(f"PRAGMA page_size = {SMALL_PAGES}")
        connection.execute(f"VACUUM INTO '{path}'")
    return path


def shown(database: Path) -> list[Any]:
    """Return the schema, white space apart, and what its views show to a person with a prompt."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
        parts = sorted([kind, name, table, str(sql).split()] for kind, name, table, sql in schema)
        views = [name for kind, name, *_ in parts if kind == "view"]
        return [parts, *(connection.execute(f"SELECT * FROM {v}").fetchall() for v in views)]


def answers(ledger: Reading) -> list[Any]:
    """Return what the ledger says to every question."""
    page = ledger.find(limit=500)
    given: list[Any] = [
        shown(ledger.database),
        page,
        ledger.head(),
        screens := ledger.find_screens(),
    ]
    for screen in screens:
        given += [ledger.children(screen.id), ledger.measurements(screen.id)]
    for experiment_id in [item.experiment.id for item in page.items]:
        given += [ledger.experiment(experiment_id), ledger.status(experiment_id)]
        given += [outcome := ledger.outcome(experiment_id), ledger.verifications(experiment_id)]
        given.append(ledger.cancel_requested(experiment_id))
        if outcome and outcome.environment_digest:
            given.append(ledger.environment(outcome.environment_digest))
        given += [ledger.get_object(d) for d in (outcome.artifacts.values() if outcome else ())]
    return given


def is_wrong(database: Path, expected: list[Any], head: Head) -> bool:
    """Return whether a damaged ledger passes for a good one and answers otherwise."""
    try:
        # Not `open_read_only`, which refuses what `verify` is to find by itself.
        backend = SqliteBackend(database, writable=False)
        ledger = Reading.open_for_audit(backend, database.parent)
        return ledger.verify(anchors=[head]).ok and answers(ledger) != expected
    except LingshuError:
        return False


def flips(data: bytes, places: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the data with one byte at a time changed, in one bit or several."""
    rng = random.Random(0)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= rng.choice((1, 1 << rng.randrange(8), rng.randrange(1, 256)))
        yield place, bytes(damaged)


def all_rows(data: bytes) -> list[Any] | None:
    """Return the schema and every row, each index agreeing with them; None for a bad database."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.deserialize(data)
            schema = connection.execute("SELECT * FROM sqlite_master").fetchall()
            tables = [name for kind, name, *_ in schema if kind == "table"]
            rows = [connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables]
            sound = connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
        except (sqlite3.Error, UnicodeDecodeError):
            return None
    return [schema, rows] if sound else None


def wrong_flips(database: Path, flipped: Iterable[tuple[int, bytes]]) -> list[int]:
    ledger = Ledger.open_read_only(database)
    head, expected = ledger.head(), answers(ledger)
    wrong: list[int] = []
    for place, damaged in flipped:
        database.write_bytes(damaged)
        if is_wrong(database, expected, head):
            wrong.append(place)
    return wrong


def test_a_flipped_byte_never_gives_a_wrong_answer(small: Path) -> None:
    data = small.read_bytes()
    places = random.Random(1).sample(range(len(data)), 24)
    assert wrong_flips(small, flips(data, places)) == []


def test_a_flipped_byte_of_the_schema_never_gives_a_wrong_answer(small: Path) -> None:
    data = small.read_bytes()
    with closing(sqlite3.connect(f"file:{small}?mode=ro", uri=True)) as connection:
        texts = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL").fetchall()
    # A text is spread over pages where it does not fit: pieces of it are not.
    pieces = [text[at : at + 32].encode() for (text,) in texts for at in range(0, len(text), 32)]
    starts = [(start, len(piece)) for piece in pieces if (start := data.find(piece)) >= 0]
    assert len(starts) > 0.8 * len(pieces)
    places = [start + at for start, length in starts for at in range(length)]
    with compiled_once():
        assert wrong_flips(small, flips(data, random.Random(3).sample(places, 60))) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_flipped_byte_gives_a_wrong_answer(small: Path, part: int) -> None:
    data = small.read_bytes()
    before = all_rows(data)
    assert before is not None
    # A database that SQLite finds sound and whose every row is as it was answers as it did.
    places = range(part, len(data), PARTS)
    suspects = ((p, d) for p, d in flips(data, places) if all_rows(d) != before)
    with compiled_once():
        assert wrong_flips(small, suspects) == []


def test_a_flipped_header_is_refused_or_opens_the_same_ledger(small: Path) -> None:
    home = small.parent
    ledger, data = Ledger.open_read_only(small), small.read_bytes()
    expected = [item.experiment for item in ledger.find(limit=500).items]
    # The header's own hundred bytes and those of the schema's first page.
    for place, damaged in flips(data, range(16, 112, 6)):
        (home / "experiments.db").write_bytes(damaged)
        try:
            opened = Ledger.open(home)
            result = [item.experiment for item in opened.find(limit=500).items]
            assert result == expected or not opened.verify(anchors=[ledger.head()]).ok, place
        except LingshuError:
            continue


def test_a_shortened_file_shows_against_an_earlier_head(small: Path) -> None:
    data = small.read_bytes()
    lengths = random.Random(2).sample(range(len(data)), 12)
    assert wrong_flips(small, ((n, data[:n]) for n in [0, SMALL_PAGES, *lengths])) == []


def test_every_flipped_byte_of_an_object_is_found(small: Path) -> None:
    ledger = Ledger.open_read_only(small)
    digests = [d for i in ledger.find().items if (o := ledger.outcome(i.experiment.id))
               for d in o.artifacts.values()]  # fmt: skip
    assert len(digests) == 2
    for digest in digests:
        path = ledger._objects.path(digest)
        data = path.read_bytes()
        for _, damaged in flips(data, range(len(data))):
            path.write_bytes(damaged)
            with pytest.raises(TamperError, match="damaged"):
                ledger.get_object(digest)
        assert [p for p in ledger.verify().problems if str(path) in p.what]
        path.write_bytes(data)
    assert ledger.verify().ok


def test_every_flipped_byte_of_a_waiting_outcome_is_found(ledger: Ledger, new: New) -> None:
    experiment = ledger.begin(new())
    with ledger.attempt(experiment.id) as attempt:
        path = ledger._spool.put(experiment.id, ledger._ending(attempt, FULL))
    data = path.read_bytes()
    for _, damaged in flips(data, range(len(data))):
        path.write_bytes(damaged)
        assert ledger._spool.get(experiment.id) is None
    # It is not recorded, not thrown away, and not kept quiet about.
    again = Ledger.open(ledger.database.parent)
    assert again.outcome(experiment.id) is None
    assert [p for p in again.verify().problems if experiment.id in p.what]
    path.write_bytes(data)
    assert Ledger.open(ledger.database.parent).status(experiment.id) == "succeeded"
