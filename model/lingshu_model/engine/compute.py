"""The computing loop: take a tile from the board, sample it, give it back.

Knows nothing of HTTP, nor of whether the sampling happens here or on another rank.
"""

import logging
import time
from collections.abc import Callable

import numpy as np

from lingshu_model.engine.board import Board, Task, Work
from lingshu_model.engine.samplers import Counts, Samplers
from lingshu_model.wire import Cells, encode_cells

_log = logging.getLogger(__name__)
SampleTask = Callable[[Task], Counts]


class RankLostError(Exception):
    """Another rank is gone or computes with another numerics profile; the group must end."""


def compute(board: Board, samplers: Samplers, sample: SampleTask, *, calls: bool) -> None:
    """Compute tiles until the board is closed; an arm that fails ends alone."""
    while (task := board.take(calls=calls)) is not None:
        try:
            _compute_tile(board, samplers, sample, task)
        except RankLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the sampler raises ends its arm alone
            if not task.work.stop.is_set():
                _log.exception("job of arm %s failed", task.work.arm.digest)
                board.finish(task.work, error=f"{type(error).__name__}: {error}")


def sample_here(samplers: Samplers, task: Task) -> Counts:
    """Return one tile's counts, sampled on this rank."""
    work = task.work
    sampler = samplers.load(work.arm.checkpoint).sampler
    return sampler.sample_tile(work.arm, task.tile_index, work.stop.is_set)


def _compute_tile(board: Board, samplers: Samplers, sample: SampleTask, task: Task) -> None:
    began = time.perf_counter()
    counts = sample(task)
    blocks = board.give(task, counts, time.perf_counter() - began)
    if blocks is not None:
        _store(board, samplers, task.work, blocks)


def _store(board: Board, samplers: Samplers, work: Work, blocks: list[Counts]) -> None:
    measured = samplers.load(work.arm.checkpoint).sampler.measured(work.arm)
    board.results.write(work.key, encode_cells(Cells(np.concatenate(blocks), measured)))
    board.finish(work)
