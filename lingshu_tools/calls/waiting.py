"""What a call waits for, and the thread that looks for it.

A tool that waits returns a `Pending`: the experiments, the time, and the function that makes its
result afterwards. How the time passes is the caller's choice: the command line and the Python
interface block, the MCP server awaits an event. One `Watcher` thread serves all waits of a process.
"""

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lingshu_tools.calls.progress import report
from lingshu_tools.calls.results import Progress, Result
from lingshu_tools.errors import LingshuError
from lingshu_tools.system.deadline import time_limit

R = TypeVar("R", bound=Result, covariant=True)
SHORT_WAIT_S = 4
"""Seconds that every client lets a call take; the strictest cuts it off after 5."""
_wait_s: ContextVar[float] = ContextVar("lingshu_wait_s", default=0)
POLL_S = 0.5
"""How late an outcome that another process sealed is noticed; those of this process are announced.
"""
_PAUSE_S = 0.01
"""The least time between two looks, so that many announcements share one."""
_CHECK_S = 2.0
"""How long one look may wait for a locked ledger."""


@contextmanager
def waiting(wait_s: float) -> Generator[None]:
    """Remember how long the call in this context may wait."""
    token = _wait_s.set(wait_s)
    try:
        yield
    finally:
        _wait_s.reset(token)


def next_wait_s() -> float:
    """Return the `wait_s` that a next step advises.

    A client that asked for a longer wait gets the answer of it, so it may wait as long again.
    """
    wait_s = max(_wait_s.get(), SHORT_WAIT_S)
    return int(wait_s) if wait_s == int(wait_s) else wait_s


@dataclass(frozen=True)
class Pending(Generic[R]):
    """A call whose experiments are recorded and at work.

    Attributes:
        name: the experiment or screen that a client goes on with.
        ids: the experiments waited for.
        wait_s: seconds from the begin of the call.
        finish: makes the result from the ledger, whether or not the experiments have ended.
        watched: gives a watch on something else that is waited for instead of experiments.
    """

    name: str
    ids: Sequence[str]
    wait_s: float
    finish: Callable[[], R]
    watched: "Callable[[Callable[[], None]], AbstractContextManager[Watch]] | None" = None


class Experiments(Protocol):
    """What a watcher asks about experiments."""

    def sealed(self, ids: Sequence[str], *, ledger: bool) -> set[str]:
        """Return those that have ended: as known in memory, or as the ledger has it."""
        ...

    def stopped(self, ids: Sequence[str]) -> bool:
        """Return whether this process cannot go on with any of these."""
        ...

    def progress_of(self, ids: Sequence[str], sealed: set[str]) -> Progress:
        """Return how many cells of these experiments there are."""
        ...


class Watch:
    """What one call waits for. `wake` is called in the watcher's thread when something changed."""

    def __init__(self, ids: Sequence[str], wake: Callable[[], None]) -> None:
        self.ids = tuple(ids)
        self.pending = set(ids)
        self.over = not ids
        self.progress = Progress(done=0, total=0)
        self.wake = wake


class Ending:
    """The end of some work, which any number of calls wait for."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._watches: list[Watch] = []

    @contextmanager
    def watch(self, wake: Callable[[], None]) -> Generator[Watch]:
        """Give a watch that is over when the work has ended."""
        watch = Watch((), wake)
        with self._lock:
            # Under the lock of `end`, so that an end between the two steps is not missed.
            watch.over = self.ended.is_set()
            self._watches.append(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.remove(watch)

    def end(self) -> None:
        """Let all who watch know that there is nothing more to wait for."""
        with self._lock:
            self.ended.set()
            watches = list(self._watches)
        # Outside the lock: what is woken may end its watch at once.
        for watch in watches:
            watch.over = True
            watch.wake()


def wait_until_over(
    watched: Callable[[Callable[[], None]], AbstractContextManager[Watch]], wait_s: float
) -> Watch:
    """Return a watch when it is over, or after `wait_s` seconds; block meanwhile."""
    end, changed = time.monotonic() + wait_s, threading.Event()
    with watched(changed.set) as watch:
        # An end of the wait without a change reports nothing new.
        while not watch.over and (left := end - time.monotonic()) > 0:
            if changed.wait(left):
                changed.clear()
                report(watch.progress.done, watch.progress.total)
    return watch


class Watcher:
    """One thread that looks for outcomes on behalf of every waiting call.

    All pending experiments are looked up in one query, however many calls wait for them. The thread
    lives while there are watches.
    """

    def __init__(self, experiments: Experiments) -> None:
        self._experiments = experiments
        self._changed = threading.Condition()
        self._watches: set[Watch] = set()
        self._thread: threading.Thread | None = None
        self._nudged = False
        # When the ledger is to be read again, on the monotonic clock; 0: at once.
        self._ledger_due_at = 0.0

    @contextmanager
    def watch(self, ids: Sequence[str], wake: Callable[[], None]) -> Generator[Watch]:
        """Give a watch on experiments, kept up to date until the context ends."""
        watch = Watch(ids, wake)
        with self._changed:
            self._watches.add(watch)
            # A new watch is looked up at once, whatever was read a moment ago.
            self._nudged, self._ledger_due_at = True, 0.0
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="lingshu watcher", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
        try:
            yield watch
        finally:
            with self._changed:
                self._watches.discard(watch)

    def nudge(self) -> None:
        """Look again soon: an experiment of this process has moved."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                # Under the lock: a watch that is added now sees that there is no thread, and starts
                # one.
                if not self._watches:
                    self._thread = None
                    return
                # A nudge during the check is kept for the next round.
                watches, self._nudged = list(self._watches), False
                ledger = time.monotonic() >= self._ledger_due_at
                if ledger:
                    self._ledger_due_at = time.monotonic() + POLL_S
            # A ledger that cannot be read now is read again; what finishes a call reports it.
            with suppress(LingshuError), time_limit(_CHECK_S):
                self._check(watches, ledger=ledger)
            time.sleep(_PAUSE_S)
            with self._changed:
                self._changed.wait_for(
                    lambda: self._nudged, max(self._ledger_due_at - time.monotonic(), 0)
                )

    def _check(self, watches: list[Watch], *, ledger: bool) -> None:
        pending = sorted(set[str]().union(*(w.pending for w in watches)))
        sealed = self._experiments.sealed(pending, ledger=ledger)
        for watch in watches:
            watch.pending -= sealed
            # What has once ended stays so, however the ledger is read.
            ended = set(watch.ids) - watch.pending
            progress = self._experiments.progress_of(watch.ids, ended)
            over = not watch.pending or self._experiments.stopped(sorted(watch.pending))
            if over != watch.over or progress != watch.progress:
                watch.over, watch.progress = over, progress
                watch.wake()
