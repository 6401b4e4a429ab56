"""Training by several ranks: as many as were asked for, equal shares, one line when one is gone.

Knows nothing of what is trained, or of how the ranks were started.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch.distributed as dist
from accelerate import Accelerator

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
    found = accelerator.num_processes
    if expected is not None and found != expected:
        launch = f"accelerate launch --multi_gpu --num_processes {expected} -m lingshu_model.train"
        message = (
            f"--ranks {expected}, but there are {found} processes. GPUs: `{launch} … --ranks "
            f"{expected}`; CPU: the same with ACCELERATE_USE_CPU=true in the environment"
        )
        raise RanksError(message)


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
    """Turn what gloo or NCCL says when a rank dies into one line.

    Raises:
        RankLostError: another rank is gone.
    """
    try:
        yield
    except RuntimeError as error:
        words = str(error).strip().splitlines()[0]
        lost = isinstance(error, dist.DistError) or "gloo" in words or "NCCL" in words
        if accelerator.num_processes == 1 or not lost:
            raise
        message = (
            f"rank {accelerator.process_index} ends: another rank is gone ({words}). Run the same "
            "command again: it goes on from the last save"
        )
        raise RankLostError(message) from error
