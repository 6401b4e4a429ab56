"""The job queue: which arms are wanted by whom, and what became of them.

A *work* is one distinct arm under one numerics profile; a *job* is one principal's wish for it.
Several jobs share a work. `TileScheduler` decides whose tile is next.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from lingshu_model.contracts import ArmRequest, QueuedJob, Requester, digest_json
from lingshu_model.contracts.messages import JobState
from lingshu_model.engine.results import Results
from lingshu_model.engine.scheduler import TileScheduler
from lingshu_model.engine.work import Job, Task, Work

MAX_WAITING = 10_000
# Jobs that are remembered, so that a client can ask for one after it has ended.
_REMEMBERED = 10_000
_WITHDRAWN = 20_000
"""Withdrawn experiments that are remembered, which a screen has at most 2,000 of."""
_T = TypeVar("_T")


class FullError(Exception):
    """Too many arms are waiting."""


class ClosedError(Exception):
    """The engine is leaving."""


class JobQueue:
    """Jobs, works and the queue between them; every method may be called from any thread."""

    def __init__(self, results: Results, on_stop: Callable[[int], None] = lambda _: None) -> None:
        """Start empty. `on_stop` is told the serial of each work that is given up."""
        self.results = results
        self._on_stop = on_stop
        # One lock for all state below, the scheduler's too. Files are deleted without it.
        self._changed = threading.Condition()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._live: dict[str, Work] = {}
        self._scheduler = TileScheduler()
        self._calls: deque[Callable[[], None]] = deque()
        self._withdrawn: dict[str, None] = {}
        # Numbers works across ranks; 0 is that of a work that is never queued.
        self._serial = 0
        self._closed = False
        self._used = time.monotonic()

    def submit(
        self, requester: Requester, arm: ArmRequest, profile_digest: str, tile: int, fresh: str = ""
    ) -> Job:
        """Return the principal's job for `arm`: the one there is, one on disk, or a new one.

        `fresh` names one recomputation of the arm: it shares nothing with any other name's. For an
        experiment that was withdrawn nothing is queued: its job comes back cancelled.

        Raises:
            FullError, ClosedError: it cannot be taken on.
        """
        again = [fresh] if fresh else []
        # Of the bytes on disk: principals share them. The job's name has the principal in it
        # instead.
        key = _name([arm.digest, profile_digest, *again])
        job_id = _name([requester.principal, arm.digest, *again])
        with self._changed:
            self._touch()
            if requester.experiment in self._withdrawn:
                # A job to answer with, whose work is in no queue.
                work = Work(0, key, arm, tile, deque(), profile_digest)
                refused = Job(job_id, requester.principal, work, fresh)
                refused.cancelled = True
                refused.ended.set_result(None)
                self._jobs.setdefault(job_id, refused)
                return refused
            job = self._jobs.get(job_id)
            # A job whose result was pruned since is computed anew under the same id.
            if job is None or job.cancelled or not (job.work.live or self._kept(job)):
                work = self._live.get(key) or self._start(key, arm, profile_digest, tile)
                job = self._jobs[job_id] = Job(job_id, requester.principal, work, fresh)
                if work.live:
                    work.jobs.append(job)
                else:
                    job.ended.set_result(None)
            if job.work.live:
                self._want(job, requester)
            self._forget()
            return job

    def job(self, job_id: str, principal: str) -> Job | None:
        """Return a principal's job; None where it has none of that id."""
        with self._changed:
            self._touch()
            job = self._jobs.get(job_id)
            return job if job and job.principal == principal else None

    def unfinished(self, principal: str) -> list[QueuedJob]:
        """Return a principal's jobs that are queued or running, in the order they came."""
        with self._changed:
            jobs = [job for work in self._live.values() for job in work.jobs]
            return [
                QueuedJob(job=job.view(), principal=principal, experiments=tuple(job.experiments))
                for job in jobs
                if job.principal == principal
            ]

    def cancel(self, job: Job) -> None:
        """End a job; its work goes on if another principal wants it too."""
        with self._changed:
            self._cancel(job)
        # Outside the lock: thousands of files take seconds to delete.
        self.results.tiles.sweep()

    def withdraw(self, experiments: Iterable[str]) -> int:
        """Forget that experiments want anything, for good; return how many jobs ended by it.

        A job ends when no experiment wants it any more. An experiment that was withdrawn gets
        nothing queued later: its worker may not have heard of it.
        """
        ended = 0
        with self._changed:
            self._touch()
            names = {name for name in experiments if name}
            self._withdrawn.update(dict.fromkeys(names))
            while len(self._withdrawn) > _WITHDRAWN:
                del self._withdrawn[next(iter(self._withdrawn))]
            # A copy, since cancelling changes the lists.
            for job in [job for work in self._live.values() for job in work.jobs]:
                for name in names & job.experiments.keys():
                    self._unwant(job, name)
                    ended += not job.experiments
                if not job.experiments:
                    self._cancel(job)
        self.results.tiles.sweep()
        return ended

    def call(self, function: Callable[[], _T]) -> Future[_T]:
        """Return the result to come of `function`, run by the computing thread between tiles."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - the waiting caller gets it
                future.set_exception(error)

        with self._changed:
            self._refuse_if_closed()
            self._calls.append(run)
            self._changed.notify_all()
        return future

    def take(self, *, calls: bool) -> Task | None:
        """Return the next tile, after waiting for one; None when the queue is closed.

        The caller with `calls` runs what `call` was given meanwhile.
        """
        with self._changed:
            while not self._closed:
                if calls and self._calls:
                    run = self._calls.popleft()
                    # The call may load a checkpoint for seconds; others take tiles meanwhile.
                    self._changed.release()
                    try:
                        run()
                    finally:
                        self._changed.acquire()
                elif task := self._scheduler.take():
                    task.work.state = "running"
                    return task
                else:
                    self._changed.wait()
        return None

    def give(self, task: Task, seconds: float) -> bool:
        """Count a tile that is on the disk; return whether it was the last of its work."""
        work = task.work
        with self._changed:
            # Cancelled while this tile was computed.
            if not work.live:
                return False
            work.done += work.cells_of(task.tile_index)
            work.seconds += seconds
            return work.done == work.arm.n_cells

    def finish(self, work: Work, error: str | None = None) -> None:
        """End a work for all its jobs: its result is on disk, or `error` says what went wrong."""
        with self._changed:
            self._touch()
            # Jobs may have been cancelled between the last tile and this call.
            if work.live:
                work.error = error
                self._end(work, "failed" if error else "succeeded")
        self.results.tiles.sweep()

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
            # Tested under the lock, so that no request comes between the test and the closing.
            if idle_s and (self._live or time.monotonic() - self._used < idle_s):
                return False
            self._closed = True
            for work in self._live.values():
                self._stop(work)
            self._changed.notify_all()
            return True

    def _want(self, job: Job, requester: Requester) -> None:
        job.experiments[requester.experiment] = group = requester.group or job.id
        self._scheduler.add(job.principal, group, job.work)
        self._changed.notify_all()

    def _unwant(self, job: Job, experiment: str) -> None:
        group = job.experiments.pop(experiment)
        # Two experiments of one screen are one group: the arm stays while either wants it.
        if group not in job.experiments.values():
            self._scheduler.discard(job.principal, group, job.work)

    def _cancel(self, job: Job) -> None:
        if job.ended.done():
            return
        for experiment in list(job.experiments):
            self._unwant(job, experiment)
        job.cancelled = True
        job.work.jobs.remove(job)
        if not job.work.jobs:
            self._end(job.work, "cancelled")
        job.ended.set_result(None)

    def _start(self, key: str, arm: ArmRequest, profile_digest: str, tile: int) -> Work:
        self._refuse_if_closed()
        self._serial += 1
        work = Work(self._serial, key, arm, tile, deque(), profile_digest)
        if self.results.touch(key, work.origin):
            work.state, work.done = "succeeded", arm.n_cells
            return work
        # Each choice of a tile examines every waiting arm: about 2 ms at this number.
        if len(self._live) >= MAX_WAITING:
            message = f"{len(self._live)} arms are waiting: let some end before asking for more"
            raise FullError(message)
        self._enlist(work)
        self._live[key] = work
        return work

    def _enlist(self, work: Work) -> None:
        """Let all tiles of a work wait, but for those that an engine before this one finished."""
        # The rank with the last tile puts the arm together, so there is always one to compute.
        there = self.results.tiles.begin(work.key) - {work.tiles[-1]}
        for index in work.tiles:
            if index in there:
                work.done += work.cells_of(index)
            else:
                work.waiting.append(index)

    def _end(self, work: Work, state: JobState) -> None:
        work.state = state
        work.waiting.clear()
        self.results.tiles.drop(work.key)
        # Forgotten before jobs are woken: a new request for the arm starts a new work.
        self._live.pop(work.key, None)
        if state != "succeeded":
            # A tile that runs ends between two sampling steps.
            self._stop(work)
        for job in work.jobs:
            job.ended.set_result(None)

    def _stop(self, work: Work) -> None:
        work.stop.set()
        self._on_stop(work.serial)

    def _kept(self, job: Job) -> bool:
        return job.work.state == "succeeded" and self.results.touch(job.work.key, job.work.origin)

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
