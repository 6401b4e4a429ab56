"""Forks: nothing is shared that would let parent and child disturb each other."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lingshu_model.system import forks
from lingshu_model.system.file_locks import is_held, try_lock
from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome

New = Callable[..., NewExperiment]
Worker = Callable[..., subprocess.Popen[str]]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def in_child(work: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Return the JSON value of `work()` in a forked child, or the name and text of its error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    timer = threading.Timer(timeout_s, os.kill, (child, signal.SIGKILL))
    timer.start()
    with os.fdopen(reader) as answers:
        text = answers.read()
    timer.cancel()
    os.waitpid(child, 0)
    assert text, f"the child did not answer in {timeout_s} s"
    return json.loads(text)


@contextmanager
def another_thread(work: Callable[[threading.Event, threading.Event], None]) -> Iterator[Any]:
    """Run `work(inside, done)` beside; `inside` is set when this begins."""
    inside, finished = threading.Event(), threading.Event()
    thread = threading.Thread(target=work, args=(inside, finished))
    thread.start()
    assert inside.wait(30)
    try:
        yield finished
    finally:
        finished.set()
        thread.join(30)


@pytest.mark.usefixtures("database")
def test_the_lock_of_an_attempt_ends_with_the_parent_however_long_its_child_lives(
    worker: Worker, ledger: Ledger, home: Path, new: New
) -> None:
    experiment = ledger.begin(new())
    process = worker("hold_and_fork", home, experiment.id)
    assert process.stdout is not None
    _, child, alive = process.stdout.readline().split()
    try:
        assert alive == "False"
        assert ledger.status(experiment.id) == "running"
        process.kill()
        process.wait()
        os.kill(int(child), 0)  # it still lives
        # A server notices a closed connection a moment later.
        pause = threading.Event()
        for _ in range(200):
            if ledger.status(experiment.id) == "interrupted":
                break
            pause.wait(0.05)
        with ledger.attempt(experiment.id) as attempt:
            ledger.seal(attempt, NewOutcome(kind="succeeded"))
        assert ledger.status(experiment.id) == "succeeded"
    finally:
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.usefixtures("database")
def test_a_child_forked_while_another_thread_writes_can_write(ledger: Ledger, new: New) -> None:
    def keep_writing(inside: threading.Event, done: threading.Event) -> None:
        while not done.is_set():
            ledger.begin(new())
            inside.set()

    with another_thread(keep_writing):
        ids = [in_child(lambda: ledger.begin(new()).id) for _ in range(5)]
    assert [ledger.experiment(name).id for name in ids] == ids
    assert ledger.verify().ok


def test_a_fork_waits_until_no_other_thread_has_a_file_open(ledger: Ledger, new: New) -> None:
    order: list[str] = []

    def read(inside: threading.Event, done: threading.Event) -> None:
        with ledger.read():
            inside.set()
            # Set when the fork has waited for a moment, which is all that can be seen of it.
            done.wait(0.5)
            order.append("closed")

    with another_thread(read):
        assert in_child(lambda: [*order, ledger.begin(new()).id])[0] == "closed"


def test_a_thread_that_has_a_file_open_may_fork_itself(ledger: Ledger) -> None:
    with ledger.read():
        assert in_child(lambda: "went on") == "went on"
    assert ledger.head().seq == 1


def test_threads_that_would_begin_wait_while_a_fork_waits(ledger: Ledger) -> None:
    steps: list[str] = []
    forking, begun = threading.Event(), threading.Event()

    def read(inside: threading.Event, done: threading.Event) -> None:
        with ledger.read():
            inside.set()
            assert begun.wait(30)
            steps.append("first ends")

    def begin() -> None:
        forking.wait(30)
        begun.set()
        ledger.head()
        steps.append("second ends")

    class Waiting:
        """Tells when a fork waits: its hook runs before the gate's, which was registered first."""

        def __call__(self) -> None:
            forking.set()

    os.register_at_fork(before=Waiting())
    second = threading.Thread(target=begin)
    with another_thread(read):
        second.start()
        assert in_child(lambda: list(steps))[:1] == ["first ends"]
    second.join(30)
    assert sorted(steps) == ["first ends", "second ends"]


def test_a_child_that_could_not_wait_refuses_the_ledger_and_says_what_to_do(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "LONGEST_S", 0.05)

    def read(inside: threading.Event, done: threading.Event) -> None:
        with ledger.read():
            inside.set()
            done.wait(30)

    with another_thread(read):
        said = in_child(lambda: ledger.head().seq)
    assert said.startswith("LedgerError: this process was forked while")
    assert "spawn" in said
    assert ledger.head().seq == 1
    assert in_child(lambda: ledger.head().seq) == 1


def test_a_file_that_cannot_be_opened_lets_forks_happen(ledger: Ledger, home: Path) -> None:
    def fail(inside: threading.Event, done: threading.Event) -> None:
        (home / "experiments.db").rename(home / "away.db")
        with pytest.raises(LedgerError):
            ledger.head()
        (home / "away.db").rename(home / "experiments.db")
        inside.set()
        done.wait(30)

    with another_thread(fail):
        assert in_child(lambda: ledger.head().seq) == 1


def test_a_lock_that_is_only_looked_at_is_not_kept_by_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.lock"
    path.touch(0o600)
    looking, go_on = threading.Event(), threading.Event()
    from lingshu_model.system import file_locks

    flock = file_locks._flock

    def slow(*arguments: Any) -> bool | None:
        locked = flock(*arguments)
        looking.set()
        go_on.wait(0.5)
        return locked

    def inspect(inside: threading.Event, done: threading.Event) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(file_locks, "_flock", slow)
            threading.Thread(target=lambda: (looking.wait(), inside.set())).start()
            is_held(path)

    reader, writer = os.pipe()
    with another_thread(inspect):
        child = os.fork()
        if child == 0:
            os.read(reader, 1)
            os._exit(0)
    try:
        lock = try_lock(path)
        assert lock is not None
        lock.release()
    finally:
        os.write(writer, b"x")
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
