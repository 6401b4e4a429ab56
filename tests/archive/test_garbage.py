"""Only what nobody refers to is ever taken, and only when it is old and when it is asked for."""

import os
import time
from pathlib import Path

import pytest
from made_ledgers import request

from benchmarks.ledger.trips import killed
from lingshu_model.system.durable import UNFINISHED
from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import Ledger, NewOutcome
from lingshu_tools.ledger.garbage import DAY_S, collect_garbage
from lingshu_tools.ledger.objects import ObjectStore
from lingshu_tools.ledger.spool import Spool

OLD = time.time() - 30 * DAY_S


def put(ledger: Ledger, data: bytes, *, old: bool = True) -> Path:
    path = ledger.objects.path(ledger.put_object(data))
    if old:
        os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def orphan(ledger: Ledger) -> Path:
    """An object without a row, a month old; the objects in use are as old."""
    for path in ledger.objects.root.glob("*/*"):
        os.utime(path, (OLD, OLD))
    return put(ledger, b"orphan")


def test_nothing_is_deleted_unless_asked(ledger: Ledger, orphan: Path):
    result = collect_garbage(ledger)
    assert result.paths == (orphan,)
    assert (result.bytes, result.deleted, result.kept) == (6, 0, 2)
    assert orphan.exists()


def test_what_is_deleted_is_only_what_no_row_refers_to(ledger: Ledger, orphan: Path):
    half = orphan.with_name(".tmp-half")
    half.write_bytes(b"half written when its writer was killed")
    os.utime(half, (OLD, OLD))
    result = collect_garbage(ledger, delete=True)
    assert set(result.paths) == {orphan, half}
    assert result.deleted == 2
    assert not orphan.exists()
    assert not half.exists()
    assert ledger.verify().ok
    assert collect_garbage(ledger).paths == ()


def test_what_is_young_is_left_for_its_row_to_arrive(ledger: Ledger, orphan: Path):
    young = put(ledger, b"young", old=False)
    result = collect_garbage(ledger, delete=True)
    assert result.young == 1
    assert young.exists()


def test_storing_an_old_orphan_again_makes_it_young(ledger: Ledger, orphan: Path):
    ledger.put_object(b"orphan")
    result = collect_garbage(ledger, delete=True)
    assert (result.young, result.deleted) == (1, 0)
    assert ledger.get_object(ledger.put_object(b"orphan")) == b"orphan"


def test_a_writer_that_comes_while_it_is_taken_keeps_its_object(
    ledger: Ledger, orphan: Path, monkeypatch: pytest.MonkeyPatch
):
    rename = Path.rename

    def stored_first(path: Path, target: Path) -> Path:
        ledger.put_object(b"orphan")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stored_first)
    assert collect_garbage(ledger, delete=True).deleted == 0
    assert orphan.read_bytes() == b"orphan"
    assert [p.name for p in orphan.parent.iterdir()] == [orphan.name]


def test_a_writer_that_finds_it_gone_writes_it_anew(
    ledger: Ledger, orphan: Path, monkeypatch: pytest.MonkeyPatch
):
    unlink = Path.unlink

    def stored_meanwhile(path: Path, missing_ok: bool = False) -> None:
        if "gc-" in path.name:
            ledger.put_object(b"orphan")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stored_meanwhile)
    assert collect_garbage(ledger, delete=True).deleted == 1
    assert orphan.read_bytes() == b"orphan"


def test_what_a_killed_collector_had_in_its_hands_is_put_back_by_the_next(
    ledger: Ledger, orphan: Path, monkeypatch: pytest.MonkeyPatch
):
    rename = Path.rename

    def stored_first(path: Path, target: Path) -> Path:
        ledger.put_object(b"orphan")
        rename(path, target)
        raise KeyboardInterrupt  # as good as a kill: nothing of the collector runs after it

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stored_first)
        with pytest.raises(KeyboardInterrupt):
            collect_garbage(ledger, delete=True)
    # It was young: a writer counts on it.
    assert not orphan.exists()
    assert collect_garbage(ledger).paths == ()
    assert not orphan.exists()
    result = collect_garbage(ledger, delete=True)
    assert (result.young, result.deleted) == (1, 0)
    assert orphan.read_bytes() == b"orphan"
    assert [path.name for path in orphan.parent.iterdir()] == [orphan.name]


def test_what_a_killed_collector_had_rightly_taken_is_taken_by_the_next(
    ledger: Ledger, orphan: Path
):
    assert killed(lambda: collect_garbage(ledger, delete=True), "delete", 1)
    assert not orphan.exists()
    assert collect_garbage(ledger, delete=True).deleted == 1
    assert list(orphan.parent.iterdir()) == []
    assert ledger.verify().ok


def test_what_was_never_finished_is_not_put_back(ledger: Ledger, orphan: Path):
    unfinished = orphan.rename(orphan.with_name(f"{UNFINISHED}of-a-killed-writer"))
    assert killed(lambda: collect_garbage(ledger, delete=True), "delete", 1)
    assert not unfinished.exists()
    assert collect_garbage(ledger, delete=True).paths == ()
    assert list(orphan.parent.iterdir()) == []


def test_two_collectors_take_it_once(ledger: Ledger, orphan: Path, monkeypatch: pytest.MonkeyPatch):
    rename = Path.rename

    def gone(path: Path, target: Path) -> Path:
        path.unlink()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", gone)
    assert collect_garbage(ledger, delete=True).deleted == 0


def test_an_object_of_an_outcome_in_the_spool_is_in_use(
    ledger: Ledger, orphan: Path, tmp_path: Path
):
    waiting = next(i.experiment for i in ledger.find(status="succeeded").items)
    digest = ledger.put_object(b"orphan")
    os.utime(orphan, (OLD, OLD))
    spool = Spool(tmp_path / "home" / "spool").put(waiting.id, {"sizes": {digest: 6}})
    assert collect_garbage(ledger, delete=True).kept == 3
    assert orphan.exists()
    spool.write_text("{")
    with pytest.raises(LedgerError, match="unreadable"):
        collect_garbage(ledger, delete=True)
    assert orphan.exists()


def test_an_age_that_protects_nobody_is_refused(ledger: Ledger):
    with pytest.raises(InputError, match="an hour"):
        collect_garbage(ledger, min_age_s=3599)


def test_objects_that_serve_another_database_too_are_left_alone(
    ledger: Ledger, orphan: Path, tmp_path: Path
):
    other = Ledger.open(tmp_path / "home", url=f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(InputError, match="serves"):
        collect_garbage(other, delete=True)


def test_files_that_are_no_objects_are_not_looked_at(ledger: Ledger, orphan: Path):
    stray = orphan.with_name("notes.txt")
    stray.write_text("mine")
    os.utime(stray, (OLD, OLD))
    assert collect_garbage(ledger, delete=True).paths == (orphan,)
    assert stray.exists()


def test_a_damaged_object_is_still_replaced_by_the_right_bytes(tmp_path: Path):
    store = ObjectStore(tmp_path)
    digest = store.put(b"right")
    store.path(digest).write_bytes(b"wrong")
    store.put(b"right")
    assert store.get(digest) == b"right"


def test_an_outcome_sealed_with_an_old_orphan_keeps_it(ledger: Ledger, orphan: Path):
    running = next(i.experiment for i in ledger.find().items)
    again = ledger.begin(request(seed=running.seed + 1))
    with ledger.attempt(again.id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="succeeded", artifacts={"cells": b"orphan"}))
    assert collect_garbage(ledger, delete=True).paths == ()
    assert ledger.verify().ok
