"""The trunk's block: rotary self-attention without a causal mask, then SwiGLU; no biases.

arXiv 2603.25240, supp. table 2.
"""

from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingshu_model.network import numerics
from lingshu_model.network.config import NetworkConfig

ROPE_BASE = 10_000.0
NORM_EPS = 1e-5


class Block(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads = config.n_heads
        self.attention_norm = nn.Parameter(torch.ones(d))
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.ff_norm = nn.Parameter(torch.ones(d))
        self.gate_up = nn.Linear(d, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, d, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Return `x` [batch, length, d_model] after attention and feed-forward."""
        batch, length, d = x.shape
        h = norm(x, self.attention_norm)
        q, k, v = self.qkv(h).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        h = attend(rotate(q, rope), rotate(k, rope), v, mask)
        x = x + self.out(h.transpose(1, 2).reshape(batch, length, d))
        gate, up = self.gate_up(norm(x, self.ff_norm)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """Return RMSNorm of `x` over its last axis."""
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), NORM_EPS)


def rotary(
    groups: int, prefix: int, config: NetworkConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cos and sin [prefix + groups, head / 2]; prefix tokens all at 0, groups from 1."""
    half = config.d_model // config.n_heads // 2
    frequency = ROPE_BASE ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    position = torch.cat([torch.zeros(prefix), torch.arange(1, groups + 1)]).to(device)
    angle = position[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Return `x` [batch, heads, length, head] rotated by its positions."""
    cos, sin = rope
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention [batch, heads, length, head].

    The CPU's fused kernel saves memory, not time: over 26 tokens it takes ten times as long as two
    products and a softmax, and in bf16 it is no faster than in float32. Up to `numerics.SHORT`
    tokens attention is therefore written out, in float32; beyond, its products run in the dtype of
    `q`, since from there on bf16 products pay, and from `numerics.MIDDLE` on a few heads at a time.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask)
    length = q.shape[-2]
    with torch.autocast("cpu", enabled=False):
        if length <= numerics.SHORT:
            return _written_out(q.float(), k.float(), v.float(), mask).to(v.dtype)
        if length <= numerics.MIDDLE:
            return _written_out(q, k, v, mask)
        if v.dtype == torch.bfloat16:
            return _in_parts(q, k, v, mask)
        return F.scaled_dot_product_attention(q, k, v, mask)


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ v


def _in_parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention written out, a few heads at a time: their scores stay in the cache."""
    batch, heads, length, width = q.shape
    at_once = max(1, numerics.SCORES // length**2)
    masks = repeat(None)
    if mask is not None:
        masks = mask.expand(batch, heads, 1, length).reshape(-1, 1, length).split(at_once)
    # Split, not sliced: the gradient of a slice is as large as what it was cut from.
    parts = [x.reshape(-1, length, width).split(at_once) for x in (q, k, v)]
    whole = torch.cat([_written_out(*part) for part in zip(*parts, masks, strict=False)])
    return whole.view(batch, heads, length, width)
