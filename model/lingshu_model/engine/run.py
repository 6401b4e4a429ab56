"""An engine's life: take the lock, join the ranks, serve, compute until told to leave.

The main thread loads checkpoints and computes; others compute beside it, and one serves.
"""

import argparse
import logging
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from lingshu_model.engine.compute import RankLostError, compute, sample_here
from lingshu_model.engine.http import tcp
from lingshu_model.engine.http.listening import local_listener
from lingshu_model.engine.http.service import Remote, Service
from lingshu_model.engine.job_queue import JobQueue
from lingshu_model.engine.lock import engine_lock
from lingshu_model.engine.results import Results
from lingshu_model.engine.samplers import Samplers, find_factory
from lingshu_model.system.places import EnginePlaces

RANK_LOST = 4
_log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Return the exit status of one engine's whole life on this rank."""
    places = EnginePlaces(options.home, options.socket)
    if options.several and os.environ["RANK"] != "0":
        return _run_rank(options)
    # Before checkpoints and ranks: a second engine of the home ends at once.
    with engine_lock(places):
        samplers = _samplers(options)
        if options.ranks in (None, 1):
            return _alone(options, places, samplers)
        return _lead(options, places, samplers)


def _samplers(options: argparse.Namespace) -> Samplers:
    factory = find_factory(options.sampler)
    return Samplers(factory, dtype=options.dtype, threads=options.threads, home=options.home)


def _alone(options: argparse.Namespace, places: EnginePlaces, samplers: Samplers) -> int:
    queue = JobQueue(Results(places.results, options.results_limit))
    service = Service(queue, samplers, ranks=1, idle_exit_s=options.idle_exit)
    _until_told(options, places, service, queue, samplers)
    return 0


def _lead(options: argparse.Namespace, places: EnginePlaces, samplers: Samplers) -> int:
    from lingshu_model.engine import ranks  # torch, needed by several ranks alone

    group = ranks.join(options.ranks)
    queue = JobQueue(Results(places.results, options.results_limit), group.stop)
    service = Service(queue, samplers, ranks=group.ranks, idle_exit_s=options.idle_exit)
    lost: list[RankLostError] = []

    def lead(rank: int) -> None:
        try:
            sample = partial(ranks.sample_there, group, rank, samplers)
            compute(queue, samplers, sample, calls=False)
        except RankLostError as error:
            lost.append(error)
            # A tile given to the lost rank never comes back; the next engine computes what is left.
            service.leave()

    threads = [threading.Thread(target=lead, args=(r,)) for r in range(1, group.ranks)]
    for thread in threads:
        thread.start()
    _until_told(options, places, service, queue, samplers)
    for thread in threads:
        thread.join()
    # After the threads: each sends to its rank until it ends, and messages must not mix.
    ranks.dismiss(group)
    if lost:
        _log.error("the engine ends: %s", lost[0])
        return RANK_LOST
    return 0


def _run_rank(options: argparse.Namespace) -> int:
    from lingshu_model.engine import ranks

    group = ranks.join(options.ranks)
    try:
        ranks.serve_rank(group, _samplers(options))
    except RankLostError as error:
        _log.error("rank %d ends: %s", group.rank, error)
        return RANK_LOST
    return 0


def serve_and_compute(
    places: EnginePlaces,
    service: Service,
    queue: JobQueue,
    samplers: Samplers,
    remote: Remote | None = None,
    workers: int = 1,
) -> None:
    """Serve the home's clients; compute on this thread and others until the service leaves."""
    # Left in reverse order: helpers are joined before the socket goes.
    with local_listener(places) as local, _helpers(queue, samplers, workers - 1):
        service.start(local, remote)
        _log.info("engine %d serves %s", os.getpid(), local.endpoint)
        try:
            compute(queue, samplers, partial(sample_here, samplers), calls=True)
        finally:
            # Also when computing fails: the serving thread would keep the process alive.
            service.leave()
            service.join()
    _log.info("engine %d leaves", os.getpid())


@contextmanager
def _helpers(queue: JobQueue, samplers: Samplers, count: int) -> Generator[None]:
    """Compute tiles on `count` more threads for as long as the queue is open."""
    sample = partial(sample_here, samplers)
    work = partial(compute, queue, samplers, sample, calls=False)
    threads = [threading.Thread(target=work, name=f"engine-tiles-{i}") for i in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        # Helpers wait in `take` until the queue is closed.
        queue.close()
        for thread in threads:
            thread.join()


def _until_told(
    options: argparse.Namespace,
    places: EnginePlaces,
    service: Service,
    queue: JobQueue,
    samplers: Samplers,
) -> None:
    def leave(_number: int, _frame: FrameType | None) -> None:
        service.leave()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    with tcp.remote(options) as remote:
        serve_and_compute(places, service, queue, samplers, remote, options.workers)
