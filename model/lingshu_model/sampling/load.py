"""The sampler of a checkpoint of either format and recipe."""

from lingshu_model.contracts import Checkpoint
from lingshu_model.sampling.delivery import TRAINING_CELLS, DeliveringSampler
from lingshu_model.sampling.pool import PoolSampler
from lingshu_model.sampling.sampler import Sampler


def load_sampler(
    checkpoint: Checkpoint,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    device: str | None = None,
    compiled: str | None = None,
) -> Sampler | DeliveringSampler:
    """Return the sampler of a checkpoint; arguments are those of `Sampler.load`.

    A checkpoint of format 1 has its effects in the network and needs no delivery.

    Raises:
        CheckpointError: a file is missing or does not have its pinned digest.
    """
    if checkpoint.delivery == TRAINING_CELLS:
        return DeliveringSampler(checkpoint, PoolSampler.load(checkpoint))
    sampler = Sampler.load(
        checkpoint, dtype=dtype, threads=threads, device=device, compiled=compiled
    )
    return sampler if checkpoint.delivery is None else DeliveringSampler(checkpoint, sampler)
