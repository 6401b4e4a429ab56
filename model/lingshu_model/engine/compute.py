"""The computing loop: take a tile from the queue, sample it, lay it on the disk.

The rank that stores the last tile of an arm puts its result together.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from lingshu_model.contracts import Blob, Cells
from lingshu_model.engine.job_queue import JobQueue
from lingshu_model.engine.samplers import Counts, Samplers
from lingshu_model.engine.work import Task
from lingshu_model.system.places import LOG_VARIABLE

_log = logging.getLogger(__name__)
SampleTask = Callable[[Task], Counts]


class RankLostError(Exception):
    """Another rank is gone or computes with another numerics profile; the group must end."""


def compute(queue: JobQueue, samplers: Samplers, sample: SampleTask, *, calls: bool) -> None:
    """Compute tiles until the queue is closed; an arm that fails ends alone."""
    while (task := queue.take(calls=calls)) is not None:
        try:
            _compute_tile(queue, samplers, sample, task)
        # Not a failure of one arm: no later tile could be computed either.
        except RankLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the sampler raises ends its arm alone
            if queue.results.gone:
                # The engine is about to leave, and the next one computes the arm.
                _log.warning("%s was moved or deleted: %s", queue.results.folder, error)
            # An arm that nobody wants any more ends with `Stopped`, which is no failure.
            elif not task.work.stop.is_set():
                _log.exception("job of arm %s failed", task.work.arm.digest)
                queue.finish(task.work, error=_said(error, queue.results.folder))


def sample_here(samplers: Samplers, task: Task) -> Counts:
    """Return one tile's counts, sampled on this rank."""
    work = task.work
    sampler = samplers.of(work.arm).sampler
    return sampler.sample_tile(work.arm, task.tile_index, work.stop.is_set)


def _compute_tile(queue: JobQueue, samplers: Samplers, sample: SampleTask, task: Task) -> None:
    work, results, began = task.work, queue.results, time.perf_counter()
    counts = sample(task)
    seconds = time.perf_counter() - began
    measured = samplers.of(work.arm).sampler.measured(work.arm)
    # A tile is computed whole; the first and last of an arm may hold rows nobody asked for.
    cells = Cells(counts[work.rows(task.tile_index)], measured)
    results.tiles.write(work.key, task.tile_index, cells)
    # Only after the write: what counts as finished is on the disk.
    if queue.give(task, seconds):
        results.write(work.key, Blob(results.tiles.of(work.key, work.tiles), work.origin))
        queue.finish(work)


def _said(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {folder} is full: free some space and ask again"
    log = os.environ.get(LOG_VARIABLE)
    return f"{type(error).__name__}: {error}" + (f" (the engine's log: {log})" if log else "")
