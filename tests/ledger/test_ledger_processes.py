"""Several processes on one ledger, some of them killed."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lingshu_model.system.file_locks import boot_id
from lingshu_tools.errors import BusyError, SealedError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome
from lingshu_tools.ledger.liveness import FileLocks

New = Callable[..., NewExperiment]
pytestmark = pytest.mark.usefixtures("database")
Worker = Callable[..., subprocess.Popen[str]]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_eight_processes_make_one_new_ledger(worker: Worker, home: Path) -> None:
    processes = [worker("open_at_once", home) for _ in range(8)]
    assert {line(p) for p in processes} == {"ready"}
    for process in processes:
        go(process)
    created = {line(p) for p in processes}
    ledger = Ledger.open(home)
    assert created == {item.experiment.id for item in ledger.find().items}
    report = ledger.verify()
    assert report.problems == ()
    assert report.head.seq == 1 + 8


def test_four_writers_lose_nothing_and_leave_one_chain(worker: Worker, home: Path) -> None:
    processes = [worker("write", home, 15) for _ in range(4)]
    said = [process.communicate()[0].split() for process in processes]
    assert [(p.returncode, len(s)) for p, s in zip(processes, said, strict=True)] == [(0, 15)] * 4
    ledger = Ledger.open(home)
    result = ledger.find(status="succeeded", limit=500).items
    assert {item.experiment.id for item in result} == {i for s in said for i in s}
    report = ledger.verify()
    assert report.problems == ()
    # The ledger's own row, four servers, and three rows for each experiment.
    assert report.rows == 1 + 4 + 3 * 60


def test_an_attempt_is_seen_and_told_across_processes(
    worker: Worker, ledger: Ledger, home: Path, new: New
) -> None:
    experiment = ledger.begin(new())
    process = worker("hold", home, experiment.id)
    assert line(process) == "holding"
    assert ledger.status(experiment.id) == "running"
    with pytest.raises(BusyError):
        ledger.attempt(experiment.id)
    assert ledger.cancel(experiment.id) == "running"
    go(process)
    assert line(process) == "told to stop"
    process.wait()
    assert ledger.status(experiment.id) == "cancelled"


def test_a_killed_attempt_is_interrupted_and_another_may_finish(
    worker: Worker, ledger: Ledger, home: Path, new: New
) -> None:
    experiment = ledger.begin(new())
    process = worker("hold", home, experiment.id)
    assert line(process) == "holding"
    process.kill()
    process.wait()
    assert ledger.status(experiment.id) == "interrupted"
    assert [i.status for i in ledger.find(status="interrupted").items] == ["interrupted"]
    with ledger.attempt(experiment.id) as attempt:
        assert ledger.status(experiment.id) == "running"
        ledger.seal(attempt, NewOutcome(kind="succeeded"))
    assert ledger.status(experiment.id) == "succeeded"
    assert ledger.verify().ok


@pytest.mark.of_files
def test_a_second_seal_is_impossible_even_without_a_lock(
    ledger: Ledger, home: Path, new: New
) -> None:
    experiment = ledger.begin(new())
    first = ledger.attempt(experiment.id)
    # Somebody removes the lock file of living work: the worst that can be done from outside.
    (home / "locks" / f"{experiment.id}.lock").unlink()
    second = Ledger.open(home).attempt(experiment.id)
    ledger.seal(first, NewOutcome(kind="succeeded", result={"by": "first"}))
    with pytest.raises(SealedError):
        ledger.seal(second, NewOutcome(kind="failed"))
    outcome = ledger.outcome(experiment.id)
    assert outcome is not None
    assert outcome.result == {"by": "first"}


@pytest.mark.of_files
def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path / "locks")
    assert not locks.held(["a"])
    lock = locks.acquire("a")
    assert lock is not None
    assert (locks.held(["a"]), FileLocks(tmp_path / "locks").acquire("a")) == ({"a"}, None)
    lock.release()
    lock.release()
    assert not lock.held
    assert not locks.held(["a"])
    assert list((tmp_path / "locks").iterdir()) == []


@pytest.mark.of_files
def test_a_lock_file_of_another_machine_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = FileLocks(tmp_path)
    (tmp_path / "a.lock").write_text("another-host another-boot")
    assert locks.held(["a"])
    assert locks.acquire("a") is None
    # A container has a new name at each start, but its kernel is still the one that holds locks.
    (tmp_path / "a.lock").write_text(f"another-host {boot_id()}")
    if boot_id():
        assert not locks.held(["a"])
    # The same machine after a restart.
    (tmp_path / "a.lock").write_text(f"{os.uname().nodename} another-boot")
    assert not locks.held(["a"])


@pytest.mark.slow
def test_random_kills_lose_nothing_that_was_acknowledged(worker: Worker, home: Path) -> None:
    kills = int(os.environ.get("KILLS", "30"))
    begun: set[str] = set()
    sealed: set[str] = set()
    for round_ in range(kills):
        pair = [worker("write_until_killed", home, 1000 * round_) for _ in range(2)]
        for process in pair:
            for _ in range(1 + (7 * round_) % 23):
                line_ = line(process).split()
                (begun if line_[0] == "begun" else sealed).add(line_[1])
        for process in pair:
            process.kill()
            for rest in process.communicate()[0].splitlines():
                if len(words := rest.split()) == 2:
                    (begun if words[0] == "begun" else sealed).add(words[1])
        ledger = Ledger.open(home)
        report = ledger.verify()
        assert report.problems == ()
    assert {e for e in begun if ledger.status(e) == "running"} == set()
    assert {e for e in sealed if ledger.status(e) != "succeeded"} == set()
