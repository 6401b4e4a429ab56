"""An engine's life: take the lock, join the ranks, serve, compute until told to leave.

The main thread loads checkpoints and computes; others compute beside it, and one serves. Knows
nothing of the requests themselves.
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

from lingshu_model.engine import tcp
from lingshu_model.engine.board import Board
from lingshu_model.engine.compute import RankLostError, compute, sample_here
from lingshu_model.engine.house import locked, unix_socket
from lingshu_model.engine.results import Results
from lingshu_model.engine.samplers import Samplers, find_factory
from lingshu_model.engine.service import Remote, Service
from lingshu_model.wire.places import EnginePlaces

RANK_LOST = 4
_log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Return the exit status of one engine's whole life on this rank."""
    places = EnginePlaces(options.home, options.socket)
    if int(os.environ.get("RANK", "0")) > 0:
        return _run_rank(options)
    with locked(places):
        samplers = _samplers(options)
        if options.ranks in (None, 1) and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return _alone(options, places, samplers)
        return _lead(options, places, samplers)


def _samplers(options: argparse.Namespace) -> Samplers:
    factory = find_factory(options.sampler)
    return Samplers(factory, dtype=options.dtype, threads=options.threads)


def _alone(options: argparse.Namespace, places: EnginePlaces, samplers: Samplers) -> int:
    board = Board(Results(places.results, options.results_limit))
    service = Service(board, samplers, ranks=1, idle_exit_s=options.idle_exit)
    _until_told(options, places, service, board, samplers)
    return 0


def _lead(options: argparse.Namespace, places: EnginePlaces, samplers: Samplers) -> int:
    from lingshu_model.engine import crew as crews  # torch, needed by several ranks alone

    crew = crews.join(options.ranks)
    board = Board(Results(places.results, options.results_limit), crew.stop)
    service = Service(board, samplers, ranks=crew.ranks, idle_exit_s=options.idle_exit)
    lost: list[RankLostError] = []

    def lead(rank: int) -> None:
        try:
            sample = partial(crews.sample_there, crew, rank, samplers)
            compute(board, samplers, sample, calls=False)
        except RankLostError as error:
            lost.append(error)
            service.leave()

    threads = [threading.Thread(target=lead, args=(r,)) for r in range(1, crew.ranks)]
    for thread in threads:
        thread.start()
    _until_told(options, places, service, board, samplers)
    for thread in threads:
        thread.join()
    crews.dismiss(crew)
    if lost:
        _log.error("the engine ends: %s", lost[0])
        return RANK_LOST
    return 0


def _run_rank(options: argparse.Namespace) -> int:
    from lingshu_model.engine import crew as crews

    crew = crews.join(options.ranks)
    try:
        crews.serve_rank(crew, _samplers(options))
    except RankLostError as error:
        _log.error("rank %d ends: %s", crew.rank, error)
        return RANK_LOST
    return 0


def serve_and_compute(
    places: EnginePlaces,
    service: Service,
    board: Board,
    samplers: Samplers,
    remote: Remote | None = None,
    workers: int = 1,
) -> None:
    """Serve on the home's socket; compute on this thread and others until the service leaves."""
    with unix_socket(places.socket) as unix, _helpers(board, samplers, workers - 1):
        service.start(unix, remote)
        _log.info("engine %d serves %s", os.getpid(), places.socket)
        try:
            compute(board, samplers, partial(sample_here, samplers), calls=True)
        finally:
            service.leave()
            service.join()
    _log.info("engine %d leaves", os.getpid())


@contextmanager
def _helpers(board: Board, samplers: Samplers, count: int) -> Generator[None]:
    """Compute tiles on `count` more threads for as long as the board is open."""
    sample = partial(sample_here, samplers)
    work = partial(compute, board, samplers, sample, calls=False)
    threads = [threading.Thread(target=work, name=f"engine-tiles-{i}") for i in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        board.close()
        for thread in threads:
            thread.join()


def _until_told(
    options: argparse.Namespace,
    places: EnginePlaces,
    service: Service,
    board: Board,
    samplers: Samplers,
) -> None:
    def leave(_number: int, _frame: FrameType | None) -> None:
        service.leave()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    with tcp.remote(options) as remote:
        serve_and_compute(places, service, board, samplers, remote, options.workers)
