"""The network: grouped genes, prefix tokens, a bidirectional LLaMA-style trunk, logits per gene.

arXiv 2603.25240, 4.3 (eqs 8-9) and supp. table 2. What is unusual: genes are permuted once at
random and packed S to a token, so gene identity lives in the slot; prefix tokens bypass the packing
and all stand at rotary position 0, so that their order means nothing; there is no time embedding,
since the number of masked genes tells the time. Knows nothing of schedules or samplers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingshu_model import numerics
from lingshu_model.config import NetworkConfig
from lingshu_model.tokens import LOWER_EDGES, MASK, VOCABULARY

ROPE_BASE = 10_000.0
NORM_EPS = 1e-5


@dataclass(frozen=True)
class VocabularySizes:
    """How many prefix values there are: over all context fields, targets, kinds, and features.

    Target 0 and kind 0 are the neutral control token's.
    """

    context_values: int
    targets: int
    kinds: int
    gene_features: int


@dataclass(frozen=True)
class Conditions:
    """Prefix tokens of a batch as indices, K intervention slots each.

    Attributes:
        context: int64 [batch, fields].
        target: int64 [batch, K], 0 = control or never seen.
        kind: int64 [batch, K], 0 = control.
        gene: int64 [batch, K], panel index of the target plus 1, 0 = not in the panel.
        dose: float32 [batch, K], natural log of the dose, 0 where there is none.
        present: bool [batch, K], or None when every slot is used.
    """

    context: Tensor
    target: Tensor
    kind: Tensor
    gene: Tensor
    dose: Tensor
    present: Tensor | None = None

    def to(self, device: torch.device) -> "Conditions":
        """Return the same conditions on `device`."""
        present = None if self.present is None else self.present.to(device)
        return Conditions(
            self.context.to(device),
            self.target.to(device),
            self.kind.to(device),
            self.gene.to(device),
            self.dose.to(device),
            present,
        )

    def expand(self, batch: int) -> "Conditions":
        """Return the one condition repeated `batch` times, without copying."""
        present = None if self.present is None else self.present.expand(batch, -1)
        return Conditions(
            self.context.expand(batch, -1),
            self.target.expand(batch, -1),
            self.kind.expand(batch, -1),
            self.gene.expand(batch, -1),
            self.dose.expand(batch, -1),
            present,
        )


class PrefixEncoder(nn.Module):
    """Conditions to prefix vectors [batch, fields + K, d_model]."""

    gene_features: Tensor

    def __init__(self, config: NetworkConfig, sizes: VocabularySizes, genes: int) -> None:
        super().__init__()
        self.context = nn.Embedding(sizes.context_values, config.d_model)
        self.target = nn.Embedding(sizes.targets, config.d_model)
        self.kind = nn.Embedding(sizes.kinds, config.d_model)
        self.dose = nn.Parameter(torch.zeros(config.d_model))
        self.register_buffer("gene_features", torch.zeros(genes + 1, sizes.gene_features))
        self.from_features = nn.Linear(sizes.gene_features, config.d_model, bias=False)

    def forward(self, conditions: Conditions) -> Tensor:
        """Return the prefix vectors of `conditions`, context fields first."""
        interventions = (
            self.target(conditions.target)
            + self.kind(conditions.kind)
            + self.from_features(self.gene_features[conditions.gene])
            + conditions.dose[..., None] * self.dose
        )
        return torch.cat([self.context(conditions.context), interventions], dim=1)


class Block(nn.Module):
    """One pre-norm block: rotary self-attention without a causal mask, then SwiGLU; no biases."""

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
        h = F.rms_norm(x, (d,), self.attention_norm.to(x.dtype), NORM_EPS)
        q, k, v = self.qkv(h).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        h = attend(rotate(q, rope), rotate(k, rope), v, mask)
        x = x + self.out(h.transpose(1, 2).reshape(batch, length, d))
        h = F.rms_norm(x, (d,), self.ff_norm.to(x.dtype), NORM_EPS)
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Tilt(nn.Module):
    """A path from the condition straight to each gene's logits: an exponential tilt of its counts.

    Logits move by theta x ln(1 + count): theta is the target's, from the training cells (see
    `lingshu_model.train.tilt`), summed over interventions, 0 for control and for targets never
    seen. A learned gate on the gene's hidden vector says how much of it the genes already revealed
    leave to be told.
    """

    theta: Tensor
    levels: Tensor

    def __init__(self, targets: int, genes: int, d_gene: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(d_gene))
        self.register_buffer("theta", torch.zeros(targets, genes))
        levels = torch.from_numpy(LOWER_EDGES).double().log1p().float()
        self.register_buffer("levels", levels)

    def forward(self, hidden: Tensor, theta: Tensor) -> Tensor:
        """Return how far one level moves its logit, [n, 1]; hidden [n, d_gene], theta [n, 1]."""
        return theta * (1 + hidden @ self.gate)[:, None]


class Network(nn.Module):
    """Tokens and conditions to one hidden vector per gene, and those to logits."""

    permutation: Tensor
    inverse: Tensor
    ceiling: Tensor
    """int64 [genes]: the largest token that training saw of each gene; nothing above is drawn."""

    def __init__(
        self, config: NetworkConfig, genes: int, sizes: VocabularySizes, seed: int = 0
    ) -> None:
        """Draw the gene permutation and the initial weights from `seed`."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config, self.genes = config, genes
        self.groups = math.ceil(genes / config.group)
        self.register_buffer("permutation", torch.randperm(genes, generator=generator))
        self.register_buffer("inverse", torch.argsort(self.permutation))
        self.register_buffer("ceiling", torch.full((genes,), VOCABULARY - 1))
        width = config.group * config.d_gene
        self.token = nn.Embedding(VOCABULARY + 1, config.d_gene)
        self.group_down = nn.Linear(width, config.d_model, bias=False)
        self.prefix = PrefixEncoder(config, sizes, genes)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.Parameter(torch.ones(config.d_model))
        self.group_up = nn.Linear(config.d_model, width, bias=False)
        self.head = nn.Linear(config.d_gene, VOCABULARY, bias=False)
        self.position = (
            nn.Parameter(torch.zeros(self.groups, config.d_model))
            if config.group_embedding
            else None
        )
        self.gene_bias = nn.Parameter(torch.zeros(genes, VOCABULARY)) if config.gene_bias else None
        self.tilt = Tilt(sizes.targets, genes, config.d_gene) if config.tilt else None
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator) -> None:
        d = self.config.d_model
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or name in ("gene_bias", "position"):
                continue
            shrink = name.endswith((".out.weight", ".down.weight"))
            std = 1 / math.sqrt(d) / self.config.n_layers if shrink else math.sqrt(2 / (5 * d))
            nn.init.normal_(parameter, 0.0, std, generator=generator)

    def forward(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return hidden vectors of `tokens` [batch, genes]: [batch, genes, d_gene].

        With a tilt, one channel more: the condition's theta.
        """
        prefix = self.prefix(conditions)
        x = torch.cat([prefix, self._pack(tokens)], dim=1)
        rope = rotary(self.groups, prefix.shape[1], self.config, x.device)
        mask = _key_mask(conditions, x.shape[1])
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rope = (rope[0].to(x.dtype), rope[1].to(x.dtype))
        for block in self.blocks:
            x = block(x, rope, mask)
        x = F.rms_norm(x[:, prefix.shape[1] :], (x.shape[-1],), self.norm.to(x.dtype), NORM_EPS)
        hidden = self._unpack(self.group_up(x))
        if self.tilt is None:
            return hidden
        theta = self.tilt.theta[conditions.target].sum(dim=1)
        return torch.cat([hidden, theta[..., None].to(hidden.dtype)], dim=-1)

    def logits(self, hidden: Tensor, gene: Tensor, values: int = VOCABULARY) -> Tensor:
        """Return float32 logits [n, values] of the first `values` tokens.

        `hidden` [n, ...] are rows of `forward`'s result, for the genes `gene` int64 [n].
        """
        hidden, theta = hidden.float().split([self.config.d_gene, int(self.config.tilt)], dim=-1)
        with torch.autocast(hidden.device.type, enabled=False):
            weight = self.head.weight[:values].float()
            if self.tilt is not None:
                # One product for both: a pass over [n, values] costs more than the product does.
                hidden = torch.cat([hidden, self.tilt(hidden, theta)], dim=-1)
                weight = torch.cat([weight, self.tilt.levels[:values, None]], dim=-1)
            if self.gene_bias is None:
                return hidden @ weight.T
            return torch.addmm(self.gene_bias[gene, :values], hidden, weight.T)

    def _pack(self, tokens: Tensor) -> Tensor:
        padding = self.groups * self.config.group - self.genes
        grouped = F.pad(tokens[:, self.permutation], (0, padding), value=MASK)
        embedded = self.token(grouped).view(tokens.shape[0], self.groups, -1)
        packed = self.group_down(embedded)
        return packed if self.position is None else packed + self.position

    def _unpack(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.config.d_gene)[:, self.inverse]

    def backbone_parameters(self) -> int:
        """Return the parameters of the blocks and the final norm, the paper's '85M'."""
        return sum(p.numel() for p in self.blocks.parameters()) + self.norm.numel()


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
    """Return attention [batch, heads, length, head]; on a CPU computed in float32.

    The CPU's fused kernel saves memory, not time: over 26 tokens it takes ten times as long as two
    products and a softmax. In bf16 it is no faster forwards and was fifteen times slower backwards;
    autocast would cast back to it.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask)
    with torch.autocast("cpu", enabled=False):
        q32, k32, v32 = q.float(), k.float(), v.float()
        if q.shape[-2] > numerics.SHORT:
            return F.scaled_dot_product_attention(q32, k32, v32, mask).to(v.dtype)
        scores = (q32 * q.shape[-1] ** -0.5) @ k32.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(dim=-1) @ v32).to(v.dtype)


def _key_mask(conditions: Conditions, length: int) -> Tensor | None:
    """Hide unused intervention slots from attention; None when there are none."""
    if conditions.present is None:
        return None
    batch, slots = conditions.present.shape
    fields = conditions.context.shape[1]
    keys = torch.ones(batch, length, dtype=torch.bool, device=conditions.present.device)
    keys[:, fields : fields + slots] = conditions.present
    return keys[:, None, None, :]
