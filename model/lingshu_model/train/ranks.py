"""Training by several ranks: as many as were asked for, equal shares, one line when one is gone."""

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
    """There are more or fewer ranks than asked for, or a step cannot be shared among them."""


class RankLostError(Exception):
    """Another rank is gone; what was saved last is kept."""


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

    One rank would otherwise come to a gradient exchange more often than another, and wait for ever.

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
    """Turn what comes of another rank's death into one line: gloo's or NCCL's words, or SIGTERM.

    The launcher, too, notices that a rank is gone and tells the others to end, often first.

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
    # It ends by itself now; nothing may cut its last words short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return RankLostError(
        f"rank {rank} ends: another rank is gone ({words}). Run the same command again: it goes on "
        "from the last save"
    )
