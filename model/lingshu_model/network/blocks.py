"""The trunk's block: rotary self-attention without a causal mask, then SwiGLU; no biases.

arXiv 2603.25240, supp. table 2. Pre-norm with RMSNorm (Zhang and Sennrich 2019), rotary positions
(Su et al., arXiv 2104.09864), SwiGLU (Shazeer, arXiv 2002.05202), as in LLaMA.
"""

from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingshu_model.network import fused, numerics
from lingshu_model.network.config import NetworkConfig

ROPE_BASE = 10_000.0
"""Base of the wavelengths of rotary positions, LLaMA's."""
NORM_EPS = 1e-5
"""Added to the mean square in RMSNorm, LLaMA's."""


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
        """Return `x` after attention and feed-forward, each added to its input.

        Args:
            x: [batch, length, d_model].
            rope: cos and sin of `rotary`, [length, head / 2] each.
            mask: bool, broadcastable to [batch, heads, length, length], false where a token is not
                attended to; None = all are.
        """
        batch, length, d = x.shape
        h = norm(x, self.attention_norm)
        h = attend(*self._heads(h, rope), mask)
        h = self.out(h.transpose(1, 2).reshape(batch, length, d))
        if h.requires_grad:
            x = x + h
            return x + self.down(fused.swiglu(self.gate_up(norm(x, self.ff_norm))))
        # In place where nothing is kept for gradients: fresh memory is not in the cache.
        x = h.add_(x)
        gate, up = self.gate_up(norm(x, self.ff_norm)).chunk(2, dim=-1)
        return self.down(F.silu(gate, inplace=True).mul_(up)).add_(x)

    def _heads(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> fused.Heads:
        """Return rotated queries, rotated keys, and values, [batch, heads, length, head] each."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_heads, -1)
        if qkv.requires_grad:
            return fused.heads(qkv, rope, _attention_dtype(qkv))
        q, k = rotated(qkv[:, :, :2], rope).permute(2, 0, 3, 1, 4)
        return q, k, qkv[:, :, 2].transpose(1, 2)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """Return RMSNorm of `x` over its last axis."""
    if x.requires_grad:
        return fused.norm(x, weight, NORM_EPS)
    if x.device.type != "cpu":
        return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), NORM_EPS)
    # torch's steps and rounding on a CPU, in place: fresh memory costs more than the arithmetic.
    whole = x.to(torch.float32, copy=True)
    scale = whole.square().mean(dim=-1, keepdim=True).add_(NORM_EPS).rsqrt_()
    return whole.mul_(scale).mul_(weight.to(x.dtype)).to(x.dtype)


def rotary(
    groups: int, prefix: int, config: NetworkConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cos and sin [prefix + groups, head / 2]; prefix tokens all at 0, groups from 1."""
    half = config.d_model // config.n_heads // 2
    frequency = ROPE_BASE ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    position = torch.cat([torch.zeros(prefix), torch.arange(1, groups + 1)]).to(device)
    angle = position[:, None] * frequency
    return angle.cos(), angle.sin()


def rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Return `x` [batch, length, 2, heads, head] rotated by its positions, contiguous."""
    # Channel i of the first half and of the second form a pair (LLaMA's layout, not interleaved):
    # (a, b) becomes (a cos - b sin, b cos + a sin). Factors are written out for every channel:
    # loops over head / 2 channels take longer than the products.
    batch, length, both, heads, head = x.shape
    cos, sin = (torch.cat([f, g], dim=-1) for f, g in ((rope[0], rope[0]), (-rope[1], rope[1])))
    other = torch.empty((batch, length, both * heads, 2, head // 2), dtype=x.dtype, device=x.device)
    halves = x.reshape(batch, length, both * heads, 2, head // 2)
    other[..., 0, :] = halves[..., 1, :]
    other[..., 1, :] = halves[..., 0, :]
    other = other.view(batch, length, -1).mul_(sin.repeat(1, both * heads))
    return (x.flatten(2) * cos.repeat(1, both * heads)).add_(other).view(x.shape)


def _attention_dtype(qkv: Tensor) -> torch.dtype:
    """Return the dtype in which `attend` computes for `qkv` [batch, length, 3, heads, head]."""
    short = qkv.device.type == "cpu" and qkv.shape[1] <= numerics.SHORT
    return torch.float32 if short else qkv.dtype


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention [batch, heads, length, head] of queries, keys and values of that shape.

    torch's fused kernel for CPUs saves memory, not time: for 26 tokens it takes ten times as long
    as two products and a softmax, and in bf16 it is no faster than in float32. So attention on a
    CPU is written out: up to `numerics.SHORT` tokens in float32, above that in the dtype of `q`,
    where bf16 products are faster, and above `numerics.MIDDLE` tokens in bf16 a few heads at a
    time.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask)
    length = q.shape[-2]
    # Autocast would cast the float32 products back to bf16.
    with torch.autocast("cpu", enabled=False):
        if length <= numerics.SHORT:
            q, k, whole = (_contiguous(x) for x in (q, k, v))
            return _written_out(q, k, whole, mask).to(v.dtype)
        if length <= numerics.MIDDLE:
            return _written_out(q, k, v, mask)
        if v.dtype == torch.bfloat16:
            return _in_parts(q, k, v, mask)
        return F.scaled_dot_product_attention(q, k, v, mask)


def _contiguous(x: Tensor) -> Tensor:
    """Return `x` in float32, contiguous, in one pass."""
    return x.to(torch.float32, memory_format=torch.contiguous_format)


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k' / sqrt(head)) v, of any leading axes."""
    # Scaling q is cheaper than scaling the scores, which are length / head times as many.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ v


def _in_parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention written out, a few heads at a time: their scores stay in the cache."""
    # Heads of all cells are one axis: [batch * heads, length, head].
    batch, heads, length, width = q.shape
    at_once = max(1, numerics.SCORES // length**2)
    masks = repeat(None)
    if mask is not None:
        masks = mask.expand(batch, heads, 1, length).reshape(-1, 1, length).split(at_once)
    # Split, not sliced: the gradient of a slice is as large as the whole tensor.
    parts = [x.reshape(-1, length, width).split(at_once) for x in (q, k, v)]
    whole = torch.cat([_written_out(*part) for part in zip(*parts, masks, strict=False)])
    return whole.view(batch, heads, length, width)
