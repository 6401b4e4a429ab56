"""The network: grouped genes, prefix tokens, a bidirectional LLaMA-style trunk, logits per gene.

arXiv 2603.25240, 4.3 (eqs 8-9) and supp. table 2. What is unusual: genes are permuted once at
random and packed S to a token, so gene identity lives in the slot; prefix tokens bypass the packing
and all stand at rotary position 0, so that their order means nothing; there is no time embedding,
since the number of masked genes tells the time.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingshu_model.network.blocks import Block, norm, rotary
from lingshu_model.network.conditions import Conditions, VocabularySizes
from lingshu_model.network.config import NetworkConfig
from lingshu_model.network.prefix import CellState, PrefixEncoder
from lingshu_model.network.readout import Readout
from lingshu_model.network.tokens import MASK, VOCABULARY


class Tilt(nn.Module):
    """Effect offsets of checkpoints of format 1: a path from the condition to each gene's logits.

    Logits move by theta x ln(1 + count): theta is stored for each condition, summed over
    interventions, 0 for control and where nothing is known. With a pair rank the sum saturates and
    every pair adds its own, but on a target's own gene. With reach a target never perturbed has
    the offset that its gene's features say. A learned gate on the gene's hidden vector says how
    much of it the genes already revealed leave open. Nothing of it is trained any more.
    """

    theta: Tensor
    saturation: Tensor
    scores: Tensor
    effects: Tensor
    unseen: Tensor
    own: Tensor

    def __init__(self, config: NetworkConfig, sizes: VocabularySizes, genes: int) -> None:
        super().__init__()
        rows, rank = sizes.tilts, config.pair_rank
        self.gate = nn.Parameter(torch.zeros(config.d_gene))
        self.register_buffer("theta", torch.zeros(rows, genes))
        self.paired, self.reaches = rank > 0, config.reach
        if self.paired:
            self.register_buffer("saturation", torch.zeros(()))
            self.register_buffer("scores", torch.zeros(rows, 1 + rank))
            self.register_buffer("effects", torch.zeros((1 + rank) ** 2, genes))
        if self.reaches:
            self.register_buffer("unseen", torch.zeros(1 + sizes.gene_features, genes))
            self.register_buffer("own", torch.zeros(()))

    def forward(self, hidden: Tensor, conditions: Conditions, features: Tensor) -> Tensor:
        """Return float32 [batch, genes]; hidden [batch, genes, d_gene]."""
        theta = self.of(conditions, features)
        return theta * (1 + (hidden @ self.gate.to(hidden.dtype)).float())

    def of(self, conditions: Conditions, features: Tensor) -> Tensor:
        """Return theta of each condition, float32 [batch, genes].

        `features` [1 + genes, features] are the prefix's, row 0 of no gene.
        """
        with torch.autocast(features.device.type, enabled=False):
            theta = self.theta[conditions.tilt].sum(dim=1)
            if self.reaches:
                theta = theta + self._of_unseen(conditions, features)
            return self._together(theta, conditions) if self.paired else theta

    def _of_unseen(self, conditions: Conditions, features: Tensor) -> Tensor:
        """Return the tilts of targets in the panel that none was measured of, summed."""
        new = ((conditions.tilt == 0) & (conditions.gene > 0)).float()[..., None]
        shared = (features[conditions.gene] * new).sum(dim=1)
        theta = torch.cat([new.sum(dim=1), shared], dim=1) @ self.unseen
        at_home = self._own_genes(torch.where(new[..., 0] > 0, conditions.gene, 0))
        return torch.where(at_home, self.own, theta)

    def _together(self, theta: Tensor, conditions: Conditions) -> Tensor:
        """Return the sum `theta` saturated, every pair's own added, but on the targets' genes."""
        scores = self.scores[conditions.tilt]
        whole = scores.sum(dim=1)
        squares = scores.transpose(1, 2) @ scores
        products = (whole[:, :, None] * whole[:, None] - squares) / 2
        many = ((conditions.tilt > 0) | (conditions.gene > 0)).sum(dim=1, keepdim=True)
        saturated = theta / (1 + self.saturation * (many - 1).clamp_min(0))
        together = saturated + products.flatten(1) @ self.effects
        return torch.where(self._own_genes(conditions.gene), theta, together)

    def _own_genes(self, gene: Tensor) -> Tensor:
        """Return bool [batch, genes], true at the panel indices plus 1 of `gene` [batch, K]."""
        features_sum = torch.zeros(len(gene), 1 + self.theta.shape[1], device=gene.device)
        return features_sum.scatter(1, gene, 1.0)[:, 1:] > 0


class Network(nn.Module):
    """Tokens and conditions to one hidden vector per gene, and those to logits."""

    permutation: Tensor
    inverse: Tensor
    table: Tensor | None
    ceiling: Tensor
    """int64 [genes]: the largest token that training saw of each gene; nothing above is drawn."""

    def __init__(
        self,
        config: NetworkConfig,
        genes: int,
        sizes: VocabularySizes,
        seed: int = 0,
        ceiling: Tensor | None = None,
    ) -> None:
        """Draw the gene permutation and the initial weights from `seed`."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config, self.genes = config, genes
        self.groups = math.ceil(genes / config.group)
        self.register_buffer("permutation", torch.randperm(genes, generator=generator))
        self.register_buffer("inverse", torch.argsort(self.permutation))
        largest = torch.full((genes,), VOCABULARY - 1) if ceiling is None else ceiling
        self.register_buffer("ceiling", largest.clone())
        width = config.group * config.d_gene
        self.register_buffer("table", None, persistent=False)
        self.token = nn.Embedding(VOCABULARY + 1, config.d_gene)
        self.group_down = nn.Linear(width, config.d_model, bias=False)
        self.prefix = PrefixEncoder(config, sizes, genes)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.Parameter(torch.ones(config.d_model))
        self.group_up = nn.Linear(config.d_model, width, bias=False)
        self.readout = Readout(config, largest)
        self.position = (
            nn.Parameter(torch.zeros(self.groups, config.d_model))
            if config.group_embedding
            else None
        )
        self.tilt = Tilt(config, sizes, genes) if config.tilt else None
        self.state = CellState(config, genes) if config.state_rank else None
        self.write = nn.Parameter(torch.zeros(config.state_rank, genes)) if self.state else None
        self.carry = nn.Linear(config.state_rank, config.state_rank) if self.state else None
        self.to_state = (
            nn.Linear(config.d_model, config.state_rank, bias=False) if self.state else None
        )
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator) -> None:
        d = self.config.d_model
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or name.endswith((".bias", "position", "state.read", "write")):
                continue
            shrink = name.endswith((".out.weight", ".down.weight", "to_state.weight"))
            std = 1 / math.sqrt(d) / self.config.n_layers if shrink else math.sqrt(2 / (5 * d))
            nn.init.normal_(parameter, 0.0, std, generator=generator)
        if self.carry is not None:
            nn.init.eye_(self.carry.weight)
            nn.init.zeros_(self.carry.bias)

    def forward(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return rows for `readout`, of `tokens` [batch, genes]: [batch, genes, d_gene (+ 1)].

        The last channel, where there is one, is the level: how far ln(1 + count) tilts the gene.
        """
        trunk, scores = self._trunk(tokens, conditions)
        hidden = self._unpack(self.group_up(trunk[:, -self.groups :]))
        if not self.config.levelled:
            return hidden
        level = self._level(trunk, scores, hidden, conditions)
        return torch.cat([hidden, level[..., None].to(hidden.dtype)], dim=-1)

    def embed(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return one vector per cell, float32 [batch, d_model]: the mean of the trunk's tokens."""
        return self.states(tokens, conditions).float().mean(dim=1)

    def states(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return the trunk's vector of each group of genes, [batch, groups, d_model]."""
        trunk, _ = self._trunk(tokens, conditions)
        return trunk[:, -self.groups :]

    def _trunk(self, tokens: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor | None]:
        prefix, scores = self.prefix(conditions), None
        if self.state is not None:
            shared, scores = self.state(tokens, conditions.depth)
            prefix = torch.cat([prefix, shared], dim=1)
        x = torch.cat([prefix, self._pack(tokens)], dim=1)
        rope = rotary(self.groups, prefix.shape[1], self.config, x.device)
        mask = _key_mask(conditions, x.shape[1])
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rope = (rope[0].to(x.dtype), rope[1].to(x.dtype))
        for block in self.blocks:
            x = block(x, rope, mask)
        return norm(x, self.norm), scores

    def _level(
        self, trunk: Tensor, scores: Tensor | None, hidden: Tensor, conditions: Conditions
    ) -> Tensor:
        level = torch.zeros((), device=hidden.device)
        if self.tilt is not None:
            level = level + self.tilt(hidden, conditions, self.prefix.gene_features)
        if self.to_state is not None and self.carry is not None and self.write is not None:
            # The cell-state token is the last of the prefix.
            state = self.to_state(trunk[:, -self.groups - 1]) + self.carry(scores)
            level = level + (state @ self.write).float()
        return level.expand(hidden.shape[:2])

    def _pack(self, tokens: Tensor) -> Tensor:
        padding = self.groups * self.config.group - self.genes
        grouped = F.pad(tokens[:, self.permutation], (0, padding), value=MASK)
        if self.table is None:
            packed = self.group_down(self.token(grouped).view(tokens.shape[0], self.groups, -1))
        else:
            slots = torch.arange(self.config.group, device=tokens.device) * (VOCABULARY + 1)
            index = grouped.view(-1, self.config.group) + slots
            packed = F.embedding_bag(index, self.table, mode="sum")
            packed = packed.view(tokens.shape[0], self.groups, -1)
        return packed if self.position is None else packed + self.position

    def _unpack(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.config.d_gene)[:, self.inverse]

    @torch.no_grad()
    def tabulate(self) -> None:
        """Hold what each token adds to its group's vector in each slot, [S * 282, d_model].

        Adding S rows of it takes a fraction of the product with W_down; it is not trained.
        """
        by_slot = self.group_down.weight.float().view(-1, self.config.group, self.config.d_gene)
        table = torch.einsum("dsg,tg->std", by_slot, self.token.weight.float())
        self.table = table.reshape(-1, table.shape[-1]).contiguous()


def _key_mask(conditions: Conditions, length: int) -> Tensor | None:
    """Hide unused intervention slots from attention; None when there are none."""
    if conditions.present is None:
        return None
    batch, slots = conditions.present.shape
    fields = conditions.context.shape[1]
    keys = torch.ones(batch, length, dtype=torch.bool, device=conditions.present.device)
    keys[:, fields : fields + slots] = conditions.present
    return keys[:, None, None, :]
