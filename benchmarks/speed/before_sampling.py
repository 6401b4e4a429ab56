"""Sampling as plain expressions, as it was until 2026-11-30: for comparison. Cells are the same.

Rows of all genes are put in the order of the panel, genes of a step are looked up bucket by bucket,
W_up of a view is a product for every cell, and a rotation is eight products of half a head.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.before import rotate
from lingshu_model.contracts import ArmRequest
from lingshu_model.network import cell_network
from lingshu_model.network.blocks import NORM_EPS, Block, attend
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions
from lingshu_model.sampling import sampler as sampling
from lingshu_model.sampling.logits import Reading, Rows
from lingshu_model.sampling.sampler import Sampler, cumulative, inverse_cdf

Rope = tuple[Tensor, Tensor]


@contextmanager
def plain_sampling() -> Generator[None]:
    """Sample with the plain expressions meanwhile."""
    with (
        patch.object(Block, "forward", _forward),
        patch.object(cell_network, "norm", _norm),
        patch.object(Network, "packed", _packed),
        patch.object(Reading, "result", _result),
        patch.object(Sampler, "_reveal", _reveal),
    ):
        yield


def _forward(self: Block, x: Tensor, rope: Rope, mask: Tensor | None) -> Tensor:
    batch, length, d = x.shape
    qkv = self.qkv(_norm(x, self.attention_norm)).view(batch, length, 3, self.n_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    h = attend(rotate(q, rope), rotate(k, rope), v, mask)
    x = x + self.out(h.transpose(1, 2).reshape(batch, length, d))
    gate, up = self.gate_up(_norm(x, self.ff_norm)).chunk(2, dim=-1)
    return x + self.down(F.silu(gate) * up)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), NORM_EPS)


def _packed(self: Network, tokens: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor | None]:
    trunk, scores = self._trunk(tokens.contiguous(), conditions)
    packed = self.group_up(trunk[:, -self.groups :])
    if not self.config.levelled:
        return packed, None
    hidden = packed if self.tilt is None else self._unpack(packed)
    return packed, self._level(trunk, scores, hidden, conditions)


def _result(self: Reading, current: Tensor, conditions: Conditions) -> Rows:
    output = self.network if self.folded is None else self.network.states
    hidden = output(current.contiguous(), conditions)
    return lambda cell, place: hidden[cell, place]


def _reveal(
    self: Sampler,
    arm: ArmRequest,
    current: Tensor,
    noise: sampling._Noise,
    step: int,
    *,
    alike: bool,
) -> None:
    # Steps of the panel's genes: those of the noise are in the order of the readout's buckets.
    revealed = noise.step[:, np.argsort(self._order)] == step
    if not bool(revealed.any()):
        return
    shared = alike and self.network.state is None and not arm.mixture
    first = self._first_step(arm, current[:1]) if shared else []
    rows = None if shared else self._rows(arm, current, noise)
    for number, bucket in enumerate(self.network.readout):
        cell, member = revealed[:, bucket.genes].nonzero(as_tuple=True)
        gene = bucket.genes[member]
        if not len(cell):
            continue
        if bucket.width == 1:
            current[cell, gene] = 0
        elif rows is None:
            current[cell, gene] = inverse_cdf(first[number][member], noise.uniform[cell, gene])
        else:
            for logits, part in self.reading.logits(rows, bucket, cell, member):
                at = (cell[part], gene[part])
                current[at] = inverse_cdf(cumulative(logits), noise.uniform[at])


def alternately(work: Callable[[], object]) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return `work` with the plain expressions, and `work` itself."""

    def before() -> object:
        with plain_sampling():
            return work()

    return before, work
