"""Checks for training by several ranks: their number, equal shares, a rank that has ended."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import torch.distributed as dist
from accelerate import Accelerator

from lingshu_model.system.launcher import too_few

RANK_LOST = 4
"""The exit status of a rank that lost another."""


class RanksError(ValueError):
    """The number of ranks is not the requested one, or they cannot share a batch evenly."""


class RankLostError(Exception):
    """Another rank has ended; the last saved state is kept."""


def check(accelerator: Accelerator, expected: int | None) -> None:
    """Refuse to train with another number of processes than `expected`.

    Raises:
        RanksError: `accelerate launch --cpu --num_processes 2`, for one, starts one process.
    """
    present = accelerator.num_processes
    if expected is not None and present != expected:
        raise RanksError(too_few(expected, present))


def check_share(cells: int, ranks: int) -> None:
    """Refuse a step whose cells the ranks cannot share evenly.

    One rank would otherwise reach a gradient exchange more often than another, and wait for ever.

    Raises:
        RanksError: `cells` is no multiple of `ranks`.
    """
    if cells % ranks:
        message = (
            f"a step's {cells} cells cannot be shared evenly by {ranks} ranks: choose a batch that "
            f"is a multiple of {ranks}, or another number of ranks"
        )
        raise RanksError(message)


@contextmanager
def together(accelerator: Accelerator) -> Generator[None]:
    """Raise one error, with one line of text, when another rank ends.

    Its end shows as an error of gloo or NCCL at the next exchange, or as a SIGTERM: the launcher
    also notices, often earlier, and sends one to the other ranks.

    Raises:
        RankLostError: another rank is gone.
    """
    rank = accelerator.process_index
    if accelerator.num_processes == 1:
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise _lost(rank, "or its launcher asked it to end: SIGTERM")

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except RuntimeError as error:
        words = str(error).strip().splitlines()[0]
        if isinstance(error, dist.DistError) or "gloo" in words or "NCCL" in words:
            raise _lost(rank, words) from error
        raise
    if signal.getsignal(signal.SIGTERM) is end:
        signal.signal(signal.SIGTERM, previous)


def _lost(rank: int, words: str) -> RankLostError:
    # This rank ends by itself now; the launcher's SIGTERM must not cut its message short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return RankLostError(
        f"rank {rank} ends: another rank is gone ({words}). Run the same command again: it goes on "
        "from the last save"
    )
