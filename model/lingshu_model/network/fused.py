"""Steps of training as single functions with gradients written out: fewer passes over memory.

Sampling does not use them: its results are replayed to the bit, and stay those of the plain
expressions. Values here are those of the plain expressions but for rounding.
"""

# The wrapper `once_differentiable` has no types.
# pyright: reportIncompatibleMethodOverride=false
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lingshu_model.network import numerics

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, [batch, heads, length, head] each."""


class _Heads(Function):
    """Queries, keys and values of heads, queries and keys rotated by their positions."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v, contiguous [batch, heads, length, head] each."""
        cos, sin = _whole(cos, qkv), _whole(sin, qkv)
        ctx.save_for_backward(cos, sin)
        ctx.dtype = qkv.dtype
        turned = _turned(qkv[:, :, :2], cos, sin, dtype)
        # [batch, length, 2, heads, head] to [2, batch, heads, length, head].
        q, k = turned.permute(2, 0, 3, 1, 4).contiguous()
        return q, k, qkv[:, :, 2].transpose(1, 2).to(dtype).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of `qkv`: queries' and keys' are rotated back."""
        cos, sin = ctx.saved_tensors
        batch, heads, length, width = gradients[0].shape
        whole = cos.new_empty((batch, length, 3, heads, width), dtype=ctx.dtype)
        both = torch.stack([g.transpose(1, 2) for g in gradients[:2]], dim=2)
        whole[:, :, :2] = _turned(both, cos, -sin, both.dtype)
        whole[:, :, 2] = gradients[2].transpose(1, 2)
        return whole, None, None, None


def _whole(angles: Tensor, qkv: Tensor) -> Tensor:
    """Return cos or sin [length, head / 2] for every channel, [length, 2, heads, 2, head / 2].

    Multiplying by it is one loop over memory; a broadcast over heads is a loop over head / 2.
    """
    length, half = angles.shape
    return angles[:, None, None, None].expand(length, 2, qkv.shape[3], 2, half).contiguous()


def _turned(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` [batch, length, 2, heads, head] rotated, contiguous."""
    halves = x.to(dtype).reshape(len(x), *cos.shape)
    a, b = halves.unbind(dim=-2)
    # (a cos - b sin, b cos + a sin).
    other = torch.stack([-b, a], dim=-2)
    return (halves * cos).addcmul_(other, sin).view(x.shape)


def heads(qkv: Tensor, rope: tuple[Tensor, Tensor], dtype: torch.dtype) -> Heads:
    """Return rotated queries, rotated keys, and values, [batch, heads, length, head] each.

    Args:
        qkv: [batch, length, 3, heads, head].
        rope: cos and sin [length, head / 2].
        dtype: of the result.
    """
    return _Heads.apply(qkv, *rope, dtype)  # pyright: ignore[reportReturnType]


class _SwiGLU(Function):
    """silu(gate) * up of [.., gate and up]; the gradient is one tensor, without a concatenation."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up, [.., width / 2]."""
        gate, up = gate_up.chunk(2, dim=-1)
        gated = F.silu(gate)
        ctx.save_for_backward(gate_up, gated)
        return gated * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of `gate_up`."""
        gate_up, gated = ctx.saved_tensors
        (gradient,) = gradients
        gate, up = gate_up.chunk(2, dim=-1)
        whole = torch.empty_like(gate_up)
        of_gate, of_up = whole.chunk(2, dim=-1)
        torch.mul(gradient, gated, out=of_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=of_gate)
        return whole


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up of `gate_up` [.., 2 width], [.., width]."""
    return _SwiGLU.apply(gate_up)  # pyright: ignore[reportReturnType]


class _Norm(Function):
    """RMSNorm with a gradient in float32 that recomputes what it needs from the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return RMSNorm of `x` over its last axis."""
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of `x` and `weight`."""
        x, weight = ctx.saved_tensors
        width = x.shape[-1]
        # y = w n, n = r x, r = 1 / rms(x):  dx = r (w dy - n mean(w dy n)),  dw = sum dy n.
        gradient, normal = gradients[0].float(), x.float()
        scale = torch.linalg.vecdot(normal, normal).div_(width).add_(ctx.eps).rsqrt_()[..., None]
        normal = normal * scale
        of_weight = (gradient * normal).view(-1, width).sum(dim=0)
        gradient = gradient * weight.float()
        mean = torch.linalg.vecdot(gradient, normal).div_(width)[..., None]
        of_x = gradient.addcmul_(normal, mean, value=-1).mul_(scale)
        return of_x.to(x.dtype), of_weight.to(weight.dtype), None


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return RMSNorm of `x` over its last axis."""
    return _Norm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Entries:
    """The masked (gene, cell) pairs of one bucket, in ascending order of genes.

    Attributes:
        place: row of the packed output, int64 [n].
        number: cell * genes + gene, int64 [n].
        member: the gene's place in the bucket, int64 [n].
        target: the token, at most the gene's largest, int64 [n].
        weight: of its nats in the loss, float32 [n].
        logits: what every logit of a gene has added, float32 [genes of the bucket, width]: its
            bias, -inf above its largest token; None = nothing.
    """

    place: Tensor
    number: Tensor
    member: Tensor
    target: Tensor
    weight: Tensor
    logits: Tensor | None


FIELDS = len(fields(Entries))


class _WeightedNats(Function):
    """The weighted cross-entropy of masked genes, with its gradients, a chunk of pairs at a time.

    Gradients are computed together with the loss, while a chunk's logits are in the cache. Logits
    of all pairs are never in memory at the same time: at 18,080 genes of 281 tokens they would take
    20 MB a cell, four times over.
    """

    @staticmethod
    def forward(
        ctx: Any,
        packed: Tensor,
        level: Tensor | None,
        head: Tensor,
        levels: Tensor,
        widths: list[int],
        *parts: Any,
    ) -> Tensor:
        """Return the sum over pairs of weight * -ln P(target), float32.

        Args:
            ctx: of autograd.
            packed: rows of genes in packed order, [rows, d_gene].
            level: coefficient of ln(1 + count) in the logits, float32 [batch * genes]; None = 0.
            head: float32 [281, d_gene].
            levels: ln(1 + count) of each token, float32 [281].
            widths: logits per gene of each bucket.
            parts: the fields of `Entries` of each bucket.
        """
        needed = any(ctx.needs_input_grad)
        channels = packed.shape[1]
        total = torch.zeros((), device=packed.device)
        of_packed, of_head = torch.zeros_like(packed), torch.zeros_like(head)
        of_level = None if level is None else torch.zeros_like(level)
        of_logits: list[Tensor | None] = []
        for width, first in zip(widths, range(0, len(parts), FIELDS), strict=True):
            entries = Entries(*parts[first : first + FIELDS])
            # The head, with a last column of levels if there is a level path: one product for both.
            weight = head[:width].float()
            if level is not None:
                weight = torch.cat([weight, levels[:width, None]], dim=1)
            of_logits.append(None if entries.logits is None else torch.zeros_like(entries.logits))
            for part in _chunks(len(entries.place), weight.numel() // width + width, packed.device):
                place, number = entries.place[part], entries.number[part]
                rows = packed.index_select(0, place).float()
                if level is not None:
                    rows = torch.cat([rows, level[number][:, None]], dim=1)
                logits = _logits(rows, weight, entries, part)
                total += _cross_entropy(logits, entries.target[part], entries.weight[part])
                if not needed:
                    continue
                # `logits` now holds d nats / d logits, [k, width].
                of_rows = logits @ weight
                # Every pair has a row of its own: rows are written, not added.
                of_packed.index_copy_(0, place, of_rows[:, :channels].to(packed.dtype))
                of_head[:width] += logits.T @ rows[:, :channels]
                if of_level is not None:
                    of_level[number] = of_rows[:, channels]
                if (of_bucket := of_logits[-1]) is not None:
                    _add_by_gene(of_bucket, logits, entries.member[part])
        gradients = [of_packed, of_level, of_head, *of_logits]
        ctx.save_for_backward(*gradients if needed else ())
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients that `forward` has computed, times that of the loss."""
        scale = gradients[0]
        scaled = [None if g is None else g * scale.to(g.dtype) for g in ctx.saved_tensors]
        of_packed, of_level, of_head, *of_logits = scaled
        # Of the fields of a bucket the last, `logits`, has a gradient.
        none = (None,) * (FIELDS - 1)
        of_parts = (each for last in of_logits for each in (*none, last))
        return of_packed, of_level, of_head, None, None, *of_parts


def _logits(rows: Tensor, weight: Tensor, entries: Entries, part: slice) -> Tensor:
    """Return the logits [k, width] of `rows` [k, channels], which are those of `part`."""
    if entries.logits is None:
        return rows @ weight.T
    return entries.logits.index_select(0, entries.member[part]).addmm_(rows, weight.T)


def _cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted nats of `target` [k]; `logits` [k, width] become their gradient."""
    logits.sub_(logits.amax(dim=1, keepdim=True))
    of_target = logits.gather(1, target[:, None])[:, 0]
    total = logits.exp_().sum(dim=1)
    nats = ((total.log() - of_target) * weight).sum()
    # d / d logit_k = weight (P(k) - [k is the target]).
    logits.mul_((weight / total)[:, None])
    rows = torch.arange(len(target), device=target.device)
    logits[rows, target] -= weight
    return nats


def _chunks(n: int, values: int, device: torch.device) -> list[slice]:
    """Return slices of `n` pairs of `values` numbers each: on a CPU what its cache holds."""
    most = numerics.LOGITS if device.type == "cpu" else numerics.LOGITS << 8
    step = max(1, most // values)
    return [slice(first, min(n, first + step)) for first in range(0, n, step)]


def _add_by_gene(total: Tensor, values: Tensor, member: Tensor) -> None:
    """Add rows of `values` [k, width] to the rows `member` of `total`; `member` ascends."""
    genes, counts = member.unique_consecutive(return_counts=True)
    # Sums of consecutive rows: an order of additions that is fixed, and no write per pair.
    total[genes] += torch.segment_reduce(values, "sum", lengths=counts)


def weighted_nats(
    packed: Tensor,
    level: Tensor | None,
    head: nn.Linear,
    levels: Tensor,
    buckets: Sequence[tuple[int, Entries]],
) -> Tensor:
    """Return the sum over masked genes of weight * -ln P(token), float32, with gradients.

    Args:
        packed: rows of genes in packed order, [batch * groups * S, d_gene].
        level: coefficient of ln(1 + count) in the logits, float32 [batch, genes]; None = 0.
        head: of the readout.
        levels: ln(1 + count) of each token, [281].
        buckets: logits per gene, and masked pairs, of each bucket with more than one logit.
    """
    parts = [getattr(entries, field.name) for _, entries in buckets for field in fields(Entries)]
    widths = [width for width, _ in buckets]
    flat = None if level is None else level.reshape(-1)
    # float32: bf16 rounds a logit of 10 by up to 0.03, which is 3 % of a probability.
    with torch.autocast(packed.device.type, enabled=False):
        return _WeightedNats.apply(packed, flat, head.weight, levels, widths, *parts)  # pyright: ignore[reportReturnType]
