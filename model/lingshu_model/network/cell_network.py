"""The network: grouped genes, prefix tokens, a bidirectional LLaMA-style trunk, logits per gene.

arXiv 2603.25240, 4.3 (eqs 8-9) and supp. table 2. Unusual in it:

- Genes are permuted once at random and packed S to a token; a gene's identity is its slot.
- Prefix tokens are not packed and all have rotary position 0, so their order has no meaning.
- There is no time embedding: the number of masked genes tells the time.

Additions of the small presets: a narrower gene width, a learned vector per group position, a bias
per gene and token, and a level path. The level of a gene multiplies ln(1 + count) in its logits: an
exponential tilt of its count distribution (docs/decisions/effect-offset.md).
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

    The logits of a gene change by theta ln(1 + count). theta is stored for each condition and
    summed over interventions; it is 0 for control and for unknown conditions. A learned gate on the
    gene's hidden vector scales it, because revealed genes already carry part of the effect. New
    checkpoints store effects apart (format 2), and nothing of this is trained any more.

    With `pair_rank` the sum saturates and every pair of interventions adds an interaction, except
    on the targets' own genes:

        theta / (1 + saturation (k - 1)) + sum_(i<j) s_i' E s_j,   k = number of interventions.

    With `reach` a target that was never perturbed has an offset that is linear in its features.

    Attributes:
        theta: [conditions, genes], row 0 of zeros.
        saturation: scalar.
        scores: s of each condition, [conditions, 1 + rank].
        effects: E of each gene, [(1 + rank)^2, genes].
        unseen: intercept and slopes of unseen targets, [1 + features, genes].
        own: offset of an unseen target on its own gene, scalar.
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
        """Return the gated offsets, float32 [batch, genes].

        Args:
            hidden: [batch, genes, d_gene].
            conditions: of the batch.
            features: as in `of`.
        """
        theta = self.of(conditions, features)
        # The gate starts at 0: without training the offset is theta itself.
        return theta * (1 + (hidden @ self.gate.to(hidden.dtype)).float())

    def of(self, conditions: Conditions, features: Tensor) -> Tensor:
        """Return theta of each condition, float32 [batch, genes].

        Args:
            conditions: of the batch.
            features: gene features [1 + genes, features]; row 0 is for targets outside the panel.
        """
        # Closed-form estimates: bf16 would round them to three digits.
        with torch.autocast(features.device.type, enabled=False):
            theta = self.theta[conditions.tilt].sum(dim=1)
            if self.reaches:
                theta = theta + self._of_unseen(conditions, features)
            return self._together(theta, conditions) if self.paired else theta

    def _of_unseen(self, conditions: Conditions, features: Tensor) -> Tensor:
        """Return the summed offsets of targets in the panel without a row in `theta`."""
        # 1 for an intervention on such a target, [batch, K, 1].
        unseen = ((conditions.tilt == 0) & (conditions.gene > 0)).float()[..., None]
        shared = (features[conditions.gene] * unseen).sum(dim=1)
        # The sum over interventions of (1, features) @ unseen, in one product.
        theta = torch.cat([unseen.sum(dim=1), shared], dim=1) @ self.unseen
        own = self._own_genes(torch.where(unseen[..., 0] > 0, conditions.gene, 0))
        return torch.where(own, self.own, theta)

    def _together(self, theta: Tensor, conditions: Conditions) -> Tensor:
        """Return the saturated sum with interactions; `theta` itself on the targets' own genes."""
        # [batch, K, 1 + rank].
        scores = self.scores[conditions.tilt]
        whole = scores.sum(dim=1)
        squares = scores.transpose(1, 2) @ scores
        # Sum over pairs i < j of s_i s_j', symmetrised: (s s' - sum_i s_i s_i') / 2, s = sum_i s_i.
        products = (whole[:, :, None] * whole[:, None] - squares) / 2
        number = ((conditions.tilt > 0) | (conditions.gene > 0)).sum(dim=1, keepdim=True)
        saturated = theta / (1 + self.saturation * (number - 1).clamp_min(0))
        together = saturated + products.flatten(1) @ self.effects
        return torch.where(self._own_genes(conditions.gene), theta, together)

    def _own_genes(self, gene: Tensor) -> Tensor:
        """Return which genes are targets, bool [batch, genes].

        Args:
            gene: panel index plus 1 of each target, 0 = none, [batch, K].
        """
        # Column 0 takes what is no target and is cut off.
        targets = torch.zeros(len(gene), 1 + self.theta.shape[1], device=gene.device)
        return targets.scatter(1, gene, 1.0)[:, 1:] > 0


class Network(nn.Module):
    """Tokens and conditions to one hidden vector per gene, from which `readout` computes logits.

    Attributes:
        permutation: gene at each place of the packed order, int64 [genes].
        inverse: place of each gene, int64 [genes].
        table: token embeddings times W_down by slot (`tabulate`), or None.
        ceiling: largest token that training saw of each gene, int64 [genes]; nothing above it is
            drawn.
    """

    permutation: Tensor
    inverse: Tensor
    table: Tensor | None
    ceiling: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        genes: int,
        sizes: VocabularySizes,
        seed: int = 0,
        ceiling: Tensor | None = None,
    ) -> None:
        """Draw the gene permutation and the initial weights from `seed`.

        Args:
            config: shape of the network.
            genes: number of genes of the panel.
            sizes: of the embedding tables.
            seed: of permutation and weights.
            ceiling: largest observed token of each gene, int64 [genes]; None = the largest token.
        """
        super().__init__()
        # A generator of the network alone: its weights do not depend on what was drawn before.
        generator = torch.Generator().manual_seed(seed)
        self.config, self.genes = config, genes
        self.groups = math.ceil(genes / config.group)
        self.register_buffer("permutation", torch.randperm(genes, generator=generator))
        self.register_buffer("inverse", torch.argsort(self.permutation))
        largest = torch.full((genes,), VOCABULARY - 1) if ceiling is None else ceiling
        self.register_buffer("ceiling", largest.clone())
        width = config.group * config.d_gene
        # Computed from other weights, so it is not stored.
        self.register_buffer("table", None, persistent=False)
        # One more for MASK.
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
        """Draw matrices from N(0, 2 / (5 d_model)), output projections from a narrower normal."""
        d = self.config.d_model
        for name, parameter in self.named_parameters():
            # Vectors stay 1 or 0. The named matrices start at 0 or from the training cells.
            if parameter.dim() < 2 or name.endswith((".bias", "position", "state.read", "write")):
                continue
            # Projections into the residual stream: 1 / layers keeps its variance over the depth.
            residual = name.endswith((".out.weight", ".down.weight", "to_state.weight"))
            std = 1 / math.sqrt(d) / self.config.n_layers if residual else math.sqrt(2 / (5 * d))
            nn.init.normal_(parameter, 0.0, std, generator=generator)
        # Levels start as the linear prediction from the scores, which training then corrects.
        if self.carry is not None:
            nn.init.eye_(self.carry.weight)
            nn.init.zeros_(self.carry.bias)

    def forward(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return rows for `readout`, [batch, genes, d_gene], or d_gene + 1 with a level path.

        The last channel is then the level, the coefficient of ln(1 + count) in the logits.

        Args:
            tokens: int64 [batch, genes], MASK where masked or not measured.
            conditions: of the batch.
        """
        packed, level = self.packed(tokens, conditions)
        hidden = self._unpack(packed)
        if level is None:
            return hidden
        return torch.cat([hidden, level[..., None].to(hidden.dtype)], dim=-1)

    def packed(self, tokens: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor | None]:
        """Return rows in packed order, and the level of each gene where there is a level path.

        Row `inverse[g]` is that of gene g: [batch, groups, S * d_gene] holds groups * S rows of
        d_gene per cell. Levels are float32 [batch, genes].
        """
        trunk, scores = self._trunk(tokens, conditions)
        packed = self.group_up(trunk[:, -self.groups :].contiguous())
        if not self.config.levelled:
            return packed, None
        hidden = packed if self.tilt is None else self._unpack(packed)
        return packed, self._level(trunk, scores, hidden, conditions)

    def embed(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return one vector per cell, float32 [batch, d_model]: the groups' mean."""
        return self.states(tokens, conditions).float().mean(dim=1)

    def states(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return the trunk's vector of each group of genes, [batch, groups, d_model]."""
        trunk, _ = self._trunk(tokens, conditions)
        return trunk[:, -self.groups :]

    def _trunk(self, tokens: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor | None]:
        """Return the trunk's output and the scores of the cell state, if there is one.

        The sequence is context fields, interventions, cell state, groups of genes:
        [batch, fields + K (+ 1) + groups, d_model]; scores are [batch, rank].
        """
        prefix, scores = self.prefix(conditions), None
        if self.state is not None:
            shared, scores = self.state(tokens, conditions.depth)
            prefix = torch.cat([prefix, shared], dim=1)
        x = torch.cat([prefix, self._pack(tokens)], dim=1)
        rope = rotary(self.groups, prefix.shape[1], self.config, x.device)
        mask = _key_mask(conditions, x.shape[1])
        # Embeddings are float32 under autocast. A residual stream in bf16 avoids a cast in front of
        # every product.
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rope = (rope[0].to(x.dtype), rope[1].to(x.dtype))
        for block in self.blocks:
            x = block(x, rope, mask)
        return norm(x, self.norm), scores

    def _level(
        self, trunk: Tensor, scores: Tensor | None, hidden: Tensor, conditions: Conditions
    ) -> Tensor:
        """Return the level of each gene, float32 [batch, genes]: effect offset plus cell state.

        `hidden`, [batch, genes, d_gene], is used by effect offsets only.
        """
        level = torch.zeros((), device=hidden.device)
        if self.tilt is not None:
            level = level + self.tilt(hidden, conditions, self.prefix.gene_features)
        if self.to_state is not None and self.carry is not None and self.write is not None:
            # The cell-state token is the last of the prefix.
            state = self.to_state(trunk[:, -self.groups - 1]) + self.carry(scores)
            level = level + (state @ self.write).float()
        return level.expand(len(trunk), self.genes)

    def _pack(self, tokens: Tensor) -> Tensor:
        """Return one vector per group of genes, [batch, groups, d_model] (paper eq 8)."""
        if len(tokens) > 1 and tokens.stride(0) == 0:
            # One row of tokens, expanded: all cells have the same groups.
            return self._pack(tokens[:1]).expand(len(tokens), -1, -1)
        padding = self.groups * self.config.group - self.genes
        # Slots of the last group without a gene are MASK, like genes that are not measured.
        grouped = F.pad(tokens[:, self.permutation], (0, padding), value=MASK)
        if self.table is None:
            packed = self.group_down(self.token(grouped).view(tokens.shape[0], self.groups, -1))
        else:
            # Row slot * 282 + token of the table, summed over the slots of each group.
            slots = torch.arange(self.config.group, device=tokens.device) * (VOCABULARY + 1)
            index = grouped.view(-1, self.config.group) + slots
            packed = F.embedding_bag(index, self.table, mode="sum")
            packed = packed.view(tokens.shape[0], self.groups, -1)
        return packed if self.position is None else packed + self.position

    def _unpack(self, x: Tensor) -> Tensor:
        """Return vectors of genes in panel order, [batch, genes, d_gene] (paper eq 9).

        Args:
            x: [batch, groups, S * d_gene].
        """
        return x.view(x.shape[0], -1, self.config.d_gene)[:, self.inverse]

    @torch.no_grad()
    def tabulate(self) -> None:
        """Compute `table`: what each token adds to its group's vector by slot, [S * 282, d_model].

        W_down of concatenated embeddings is a sum over slots of W_slot embedding(token). Adding S
        rows of the table takes a fraction of that product. The table does not follow later changes
        of the weights.
        """
        # W_down [d_model, S * d_gene] as [d_model, S, d_gene]; d_gene is summed over.
        by_slot = self.group_down.weight.float().view(-1, self.config.group, self.config.d_gene)
        table = torch.einsum("dsg,tg->std", by_slot, self.token.weight.float())
        self.table = table.reshape(-1, table.shape[-1]).contiguous()


def _key_mask(conditions: Conditions, length: int) -> Tensor | None:
    """Return the tokens that may be attended to, bool [batch, 1, 1, length]; None = all.

    Conditions of a batch may have different numbers of interventions; unused slots are hidden.
    """
    if conditions.present is None:
        return None
    batch, slots = conditions.present.shape
    fields = conditions.context.shape[1]
    keys = torch.ones(batch, length, dtype=torch.bool, device=conditions.present.device)
    keys[:, fields : fields + slots] = conditions.present
    return keys[:, None, None, :]
