"""Training as plain expressions, as it was before `lingshu_model.network.fused`: for comparison.

Logits of every gene up to its largest token, masked or not; gradients by autograd.
"""

from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from lingshu_model.network import diffusion, fused
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions
from lingshu_model.network.readout import Bucket


@contextmanager
def plain_training() -> Generator[None]:
    """Train with the plain expressions meanwhile."""
    with (
        patch.object(diffusion, "loss", loss),
        patch.object(fused, "heads", _heads),
        patch.object(fused, "swiglu", _swiglu),
        patch.object(fused, "norm", _norm),
    ):
        yield


def loss(
    network: Network,
    tokens: Tensor,
    measured: Tensor,
    conditions: Conditions,
    times: Tensor,
    uniform: Tensor,
) -> Tensor:
    """Return what `diffusion.loss` does, from all logits."""
    masked, hidden = diffusion.hide(tokens, measured, times, uniform)
    rows = network(masked, conditions)
    # 1 / p for hidden genes, 0 for others, [batch, genes].
    weight = hidden / ((1 - diffusion.EPS) * times + diffusion.EPS)[:, None]
    nats = sum(_bucket_nats(network, bucket, rows, tokens, weight) for bucket in network.readout)
    return nats / measured.expand_as(tokens).sum()


def _bucket_nats(
    network: Network, bucket: Bucket, rows: Tensor, tokens: Tensor, weight: Tensor
) -> Tensor:
    if bucket.width == 1:
        return weight.new_zeros(())
    logits = network.readout.of_bucket(bucket, rows[:, bucket.genes])
    target = tokens[:, bucket.genes].minimum(network.ceiling[bucket.genes])
    of_target = logits.gather(-1, target[..., None])[..., 0]
    return ((logits.logsumexp(dim=-1) - of_target) * weight[:, bucket.genes]).sum()


def _heads(qkv: Tensor, rope: tuple[Tensor, Tensor], _dtype: torch.dtype) -> tuple[Tensor, ...]:
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return rotate(q, rope), rotate(k, rope), v


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Return `x` [batch, heads, length, head] rotated by its positions."""
    cos, sin = rope
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def _swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)
