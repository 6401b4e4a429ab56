"""The board: which arms are wanted by whom, and which tile is to be computed next.

A *work* is one distinct arm under one numerics profile; a *job* is one principal's wish for it.
Several jobs share a work. Principals take turns tile by tile; the arms of one principal are done in
the order they came, so that finished ones come out early. Knows nothing of HTTP or samplers.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from lingshu_model.engine.results import Results
from lingshu_model.wire import ArmRequest, JobView, digest_json
from lingshu_model.wire.messages import JobState

MAX_WAITING = 10_000
_REMEMBERED = 10_000
_T = TypeVar("_T")


class FullError(Exception):
    """Too many arms are waiting."""


class ClosedError(Exception):
    """The engine is leaving."""


@dataclass(eq=False)
class Work:
    """One arm being computed; `stop` is set when nobody wants it any more."""

    serial: int
    key: str
    arm: ArmRequest
    tile: int
    waiting: deque[int]
    jobs: "list[Job]" = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    state: JobState = "queued"
    done: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def live(self) -> bool:
        """Whether it may still give cells."""
        return self.state in ("queued", "running")

    @property
    def tiles(self) -> range:
        """The tiles that hold its cells."""
        first, end = self.arm.first_cell, self.arm.first_cell + self.arm.n_cells
        return range(first // self.tile, (end - 1) // self.tile + 1)

    def rows(self, tile_index: int) -> slice:
        """Return which rows of a tile are asked for."""
        start = tile_index * self.tile
        end = self.arm.first_cell + self.arm.n_cells
        return slice(max(self.arm.first_cell - start, 0), min(end - start, self.tile))

    def cells_of(self, tile_index: int) -> int:
        """Return how many cells of a tile are asked for."""
        rows = self.rows(tile_index)
        return rows.stop - rows.start


@dataclass(eq=False)
class Job:
    """One principal's wish for a work; `ended` is done when there is nothing left to wait for."""

    id: str
    principal: str
    work: Work
    cancelled: bool = False
    ended: Future[None] = field(default_factory=Future[None])

    def view(self) -> JobView:
        """Return where it stands."""
        work = self.work
        state = "cancelled" if self.cancelled else work.state
        return JobView(
            job_id=self.id,
            state=state,
            done=work.done,
            total=work.arm.n_cells,
            error=work.error,
            seconds=None if state in ("queued", "running") else work.seconds,
        )


@dataclass(frozen=True)
class Task:
    """One tile to compute."""

    work: Work
    tile_index: int


class Board:
    """Jobs, works and the queue between them; every method may be called from any thread."""

    def __init__(self, results: Results, on_stop: Callable[[int], None] = lambda _: None) -> None:
        """Start empty. `on_stop` is told the serial of each work that is given up."""
        self.results = results
        self._on_stop = on_stop
        self._changed = threading.Condition()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._live: dict[str, Work] = {}
        self._queues: OrderedDict[str, deque[Work]] = OrderedDict()
        self._calls: deque[Callable[[], None]] = deque()
        self._serial = 0
        self._closed = False
        self._used = time.monotonic()

    def submit(
        self, principal: str, arm: ArmRequest, profile_digest: str, tile: int, fresh: str = ""
    ) -> Job:
        """Return the principal's job for `arm`: the one there is, one on disk, or a new one.

        `fresh` names one recomputation of the arm: it shares nothing with any other name's.

        Raises:
            FullError, ClosedError: it cannot be taken on.
        """
        again = [fresh] if fresh else []
        key = _name([arm.digest, profile_digest, *again])
        job_id = _name([principal, arm.digest, *again])
        with self._changed:
            self._touch()
            old = self._jobs.get(job_id)
            if old and (old.work.live or self._kept(old)) and not old.cancelled:
                return old
            work = self._live.get(key) or self._start(principal, key, arm, tile)
            job = self._jobs[job_id] = Job(job_id, principal, work)
            if work.live:
                work.jobs.append(job)
            else:
                job.ended.set_result(None)
            self._forget()
            return job

    def job(self, job_id: str, principal: str) -> Job | None:
        """Return a principal's job; None where it has none of that id."""
        with self._changed:
            self._touch()
            job = self._jobs.get(job_id)
            return job if job and job.principal == principal else None

    def cancel(self, job: Job) -> None:
        """End a job; its work goes on if another principal wants it too."""
        with self._changed:
            if job.ended.done():
                return
            job.cancelled = True
            job.work.jobs.remove(job)
            if not job.work.jobs:
                self._end(job.work, "cancelled")
            job.ended.set_result(None)

    def call(self, function: Callable[[], _T]) -> Future[_T]:
        """Return the result to come of `function`, run by the computing thread between tiles."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                future.set_exception(error)

        with self._changed:
            self._refuse_if_closed()
            self._calls.append(run)
            self._changed.notify_all()
        return future

    def take(self, *, calls: bool) -> Task | None:
        """Return the next tile, after waiting for one; None when the board is closed.

        The caller with `calls` runs what `call` was given meanwhile.
        """
        with self._changed:
            while not self._closed:
                if calls and self._calls:
                    run = self._calls.popleft()
                    self._changed.release()
                    try:
                        run()
                    finally:
                        self._changed.acquire()
                elif task := self._pick():
                    return task
                else:
                    self._changed.wait()
        return None

    def give(self, task: Task, seconds: float) -> bool:
        """Count a tile that is on the disk; return whether it was the last of its work."""
        work = task.work
        with self._changed:
            if not work.live:
                return False
            work.done += work.cells_of(task.tile_index)
            work.seconds += seconds
            return work.done == work.arm.n_cells

    def finish(self, work: Work, error: str | None = None) -> None:
        """End a work for all its jobs: its result is on disk, or `error` says what went wrong."""
        with self._changed:
            self._touch()
            if work.live:
                work.error = error
                self._end(work, "failed" if error else "succeeded")

    def counts(self) -> tuple[int, int]:
        """Return how many works are queued and running."""
        with self._changed:
            states = [work.state for work in self._live.values()]
        return states.count("queued"), states.count("running")

    def idle_s(self) -> float:
        """Return for how many seconds nothing was wanted; 0 while there is work."""
        with self._changed:
            return 0.0 if self._live else time.monotonic() - self._used

    def close(self, *, idle_s: float = 0.0) -> bool:
        """Take nothing more on and stop what runs, unless it was used within `idle_s` seconds."""
        with self._changed:
            if idle_s and (self._live or time.monotonic() - self._used < idle_s):
                return False
            self._closed = True
            for work in self._live.values():
                self._stop(work)
            self._changed.notify_all()
            return True

    def _start(self, principal: str, key: str, arm: ArmRequest, tile: int) -> Work:
        self._refuse_if_closed()
        self._serial += 1
        work = Work(self._serial, key, arm, tile, deque())
        if self.results.touch(key):
            work.state, work.done = "succeeded", arm.n_cells
            return work
        if len(self._live) >= MAX_WAITING:
            message = f"{len(self._live)} arms are waiting: let some end before asking for more"
            raise FullError(message)
        self._enlist(work)
        self._live[key] = work
        self._queues.setdefault(principal, deque()).append(work)
        self._changed.notify_all()
        return work

    def _enlist(self, work: Work) -> None:
        """Let all tiles of a work wait, but for those that an engine before this one finished."""
        # Whoever gives the last tile puts the arm together, so there is always one to compute.
        there = self.results.tiles.begin(work.key) - {work.tiles[-1]}
        for index in work.tiles:
            if index in there:
                work.done += work.cells_of(index)
            else:
                work.waiting.append(index)

    def _pick(self) -> Task | None:
        for principal, queue in list(self._queues.items()):
            while queue and not (queue[0].live and queue[0].waiting):
                queue.popleft()
            if queue:
                self._queues.move_to_end(principal)
                queue[0].state = "running"
                return Task(queue[0], queue[0].waiting.popleft())
            del self._queues[principal]
        return None

    def _end(self, work: Work, state: JobState) -> None:
        work.state = state
        self.results.tiles.drop(work.key)
        self._live.pop(work.key, None)
        if state != "succeeded":
            self._stop(work)
        for job in work.jobs:
            job.ended.set_result(None)

    def _stop(self, work: Work) -> None:
        work.stop.set()
        self._on_stop(work.serial)

    def _kept(self, job: Job) -> bool:
        return job.work.state == "succeeded" and self.results.touch(job.work.key)

    def _forget(self) -> None:
        ended = (id_ for id_, job in list(self._jobs.items()) if job.ended.done())
        while len(self._jobs) > _REMEMBERED and (oldest := next(ended, None)):
            del self._jobs[oldest]

    def _refuse_if_closed(self) -> None:
        if self._closed:
            message = "the engine is leaving: start another and ask again"
            raise ClosedError(message)

    def _touch(self) -> None:
        self._used = time.monotonic()


def _name(value: list[str]) -> str:
    return digest_json(value).removeprefix("sha256:")
