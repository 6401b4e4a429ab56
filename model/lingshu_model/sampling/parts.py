"""What each part of a checkpoint contributes: cells of the same conditions with a part left out.

    effects only   control cells of training, moved by the effect: no network
    network only   the network's cells under its perturbation tokens: no effect is delivered
    both           the network's control cells, moved by the effect
    pinned         genes whose change is certain moved and held, all others drawn given them

The one that the checkpoint delivers by default is the model itself and is not repeated. Where the
model is `moved`, it is the row *both*. Checkpoints of the first format have their effects inside
the network, and no parts to leave out.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy import sparse

from lingshu_model.contracts import Checkpoint
from lingshu_model.contracts.effects import StoredEffect
from lingshu_model.effects.moments import Rows
from lingshu_model.effects.moved import Mover
from lingshu_model.sampling.delivery import (
    MOVED,
    PINNED,
    TRAINING_CELLS,
    DeliveringSampler,
    Movers,
)
from lingshu_model.sampling.pool import Pool, PoolSampler
from lingshu_model.sampling.sampler import Sampler

EFFECTS_ONLY, NETWORK_ONLY = "effects only", "network only"
NAMES = {TRAINING_CELLS: EFFECTS_ONLY, MOVED: "both", PINNED: PINNED}
AnySampler = Sampler | DeliveringSampler


def part_samplers(
    checkpoint: Checkpoint, controls: Callable[[Mapping[str, str]], Rows]
) -> dict[str, AnySampler]:
    """Return samplers of the parts of a checkpoint of format 2, by name.

    Args:
        checkpoint: its effects, and its network where it has one.
        controls: returns the training control cells of a context, UMI [cells, panel], which
            *effects only* moves.
    """
    samplers: dict[str, AnySampler] = {}
    if checkpoint.delivery != TRAINING_CELLS:
        pool = _pool(checkpoint, controls)
        samplers[EFFECTS_ONLY] = _delivering(
            checkpoint, TRAINING_CELLS, PoolSampler(checkpoint, pool)
        )
    if checkpoint.config.get("recipe") == "effects":
        return samplers
    bare = {k: v for k, v in checkpoint.config.items() if k != "delivery"}
    network = Sampler.load(replace(checkpoint, config=bare), threads=1)
    samplers[NETWORK_ONLY] = network
    for delivery in (MOVED, PINNED):
        if delivery != checkpoint.delivery:
            samplers[NAMES[delivery]] = _delivering(checkpoint, delivery, network)
    return samplers


class _Solving(Movers):
    """Movers that are solved when first used: stored ones belong to other control cells."""

    def stored(self, effect: StoredEffect, context: int) -> tuple[Mover, ...] | None:
        """Return None."""
        del effect, context
        return None


def _delivering(
    checkpoint: Checkpoint, delivery: str, base: Sampler | PoolSampler
) -> DeliveringSampler:
    changed = replace(checkpoint, config={**checkpoint.config, "delivery": delivery})
    return DeliveringSampler(changed, base, _Solving.of(checkpoint))


def _pool(checkpoint: Checkpoint, controls: Callable[[Mapping[str, str]], Rows]) -> Pool:
    """Return the training control cells of every context with effects, over the panel."""
    contexts: list[dict[str, str]] = [
        c["context"] for c in checkpoint.config["effects"]["contexts"]
    ]
    blocks = [controls(context) for context in contexts]
    first = np.concatenate([[0], np.cumsum([block.shape[0] for block in blocks])])
    return Pool(sparse.csr_matrix(sparse.vstack(blocks, "csr")), first.astype(np.int64))
