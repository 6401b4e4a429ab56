"""Conditions to prefix tokens: context fields, interventions and, where there is one, cell state.

arXiv 2603.25240, 4.3-4.4, for the tokens that bypass the packing. The cell-state token is ours: it
gives the trunk what the revealed genes together say of the cell, and how deep it was sequenced.
"""

import torch
from torch import Tensor, nn

from lingshu_model.network.conditions import Conditions, VocabularySizes
from lingshu_model.network.config import NetworkConfig
from lingshu_model.network.tokens import LOWER_EDGES, MASK

INFORMATION_FLOOR = 0.05
"""Share of the information that a cell with nothing revealed is taken to show."""


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


class CellState(nn.Module):
    """What the revealed genes say of the cell, as one prefix token and as scores.

    The scores are those of the training cells' principal components, estimated from the genes
    revealed so far at the cell's depth, and learned from there on.
    """

    centre: Tensor
    scale: Tensor
    depth_scale: Tensor
    level_counts: Tensor

    def __init__(self, config: NetworkConfig, genes: int) -> None:
        super().__init__()
        rank, d = config.state_rank, config.d_model
        self.read = nn.Parameter(torch.zeros(genes, rank))
        self.inner = nn.Linear(rank + 2, d, bias=False)
        self.outer = nn.Linear(d, d, bias=False)
        self.register_buffer("centre", torch.zeros(genes))
        self.register_buffer("scale", torch.ones(rank))
        # Median and spread of ln UMI; the median is also what counts are brought to.
        self.register_buffer("depth_scale", torch.tensor([0.0, 1.0]))
        counts = torch.from_numpy(LOWER_EDGES).float()
        # MASK stands for nothing: its count is never used.
        self.register_buffer("level_counts", torch.cat([counts, torch.zeros(1)]))

    @torch.no_grad()
    def information(self) -> Tensor:
        """Return what each gene tells of the scores, float32 [genes], above 0.

        The squared weight with which they read it, times its mean level, which for rare genes is
        about the level's variance.
        """
        read = (self.read.float() * self.scale).square().sum(dim=1)
        values = read * self.centre.clamp_min(0)
        return values + 1e-6 * values.mean() + 1e-12

    def forward(self, tokens: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token [batch, 1, d_model] and the scores [batch, rank], about unit variance.

        tokens: int64 [batch, genes]; depth: ln UMI [batch].
        """
        visible = tokens != MASK
        median, spread = self.depth_scale
        # Its own dtype: a network in float32 stays in float32, autocast casts the product.
        to_median = (median - depth).exp()[:, None]
        level = (self.level_counts[tokens] * to_median).log1p_() - self.centre
        information = self.read.detach().float().square().sum(dim=1)
        information = information / information.sum().clamp_min(1e-6)
        shown = visible.to(information.dtype) @ information
        scores = (level.masked_fill_(~visible, 0.0) @ self.read).float() * self.scale
        scores = scores / (shown + INFORMATION_FLOOR)[:, None]
        values = torch.stack([shown, (depth - median) / spread], dim=1)
        hidden = nn.functional.silu(self.inner(torch.cat([scores, values], dim=1)))
        return self.outer(hidden)[:, None], scores
