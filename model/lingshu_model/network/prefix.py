"""Conditions to prefix tokens: context fields, interventions and, where there is one, cell state.

arXiv 2603.25240, 4.3-4.4, for the tokens that are not packed. The cell-state token is an addition:
it gives the trunk an estimate of the cell's principal-component scores from all revealed genes, and
the cell's depth (docs/decisions/cell-state.md).
"""

import torch
from torch import Tensor, nn

from lingshu_model.network.conditions import Conditions, VocabularySizes
from lingshu_model.network.config import NetworkConfig
from lingshu_model.network.tokens import LOWER_EDGES, MASK

INFORMATION_FLOOR = 0.05
"""Added to the share of information revealed, by which scores are divided: at the first steps a
division by nearly 0 would turn noise into large scores."""


class PrefixEncoder(nn.Module):
    """Conditions to prefix vectors [batch, fields + K, d_model].

    Attributes:
        gene_features: [1 + genes, features]; row 0, of zeros, is for targets outside the panel.
    """

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
        # A target that was never perturbed has target embedding 0, which is control's. Its kind and
        # its features distinguish it.
        interventions = (
            self.target(conditions.target)
            + self.kind(conditions.kind)
            + self.from_features(self.gene_features[conditions.gene])
            + conditions.dose[..., None] * self.dose
        )
        return torch.cat([self.context(conditions.context), interventions], dim=1)


class CellState(nn.Module):
    """The cell state: one prefix token and principal-component scores from the revealed genes.

        z = scale * sum_(revealed g) read_g (ln(1 + c_g m / N) - centre_g) / (share + floor)

    with m the median UMI, N the cell's UMI, and share the information of the revealed genes over
    that of all. `read`, `scale` and `centre` start from the principal components of the training
    cells; `read` is trained further.

    Attributes:
        read: [genes, rank].
        centre: mean level of each gene, [genes].
        scale: [rank]; read * scale gives scores of about unit variance.
        depth_scale: median and standard deviation of ln UMI, [2].
        level_counts: count of each token, [282].
    """

    centre: Tensor
    scale: Tensor
    depth_scale: Tensor
    level_counts: Tensor

    def __init__(self, config: NetworkConfig, genes: int) -> None:
        super().__init__()
        rank, d = config.state_rank, config.d_model
        self.read = nn.Parameter(torch.zeros(genes, rank))
        # Two more inputs: the share revealed and the depth.
        self.inner = nn.Linear(rank + 2, d, bias=False)
        self.outer = nn.Linear(d, d, bias=False)
        self.register_buffer("centre", torch.zeros(genes))
        self.register_buffer("scale", torch.ones(rank))
        self.register_buffer("depth_scale", torch.tensor([0.0, 1.0]))
        counts = torch.from_numpy(LOWER_EDGES).float()
        # MASK has no count; the 0 is overwritten in `forward`.
        self.register_buffer("level_counts", torch.cat([counts, torch.zeros(1)]))

    @torch.no_grad()
    def information(self) -> Tensor:
        """Return the information of each gene about the scores, float32 [genes], above 0.

        The squared weight of the gene in the scores times its mean level. For rare genes, whose
        counts are about Poisson, the mean level is about the variance of the level.
        """
        read = (self.read.float() * self.scale).square().sum(dim=1)
        values = read * self.centre.clamp_min(0)
        # Above 0: the `information` schedule divides by these weights.
        return values + 1e-6 * values.mean() + 1e-12

    def forward(self, tokens: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token [batch, 1, d_model] and the scores [batch, rank], about unit variance.

        Args:
            tokens: int64 [batch, genes].
            depth: ln UMI of each cell, [batch].
        """
        visible = tokens != MASK
        median, spread = self.depth_scale
        # m / N of each cell: levels are those at the median depth, as in the initialisation.
        to_median = (median - depth).exp()[:, None]
        level = (self.level_counts[tokens] * to_median).log1p_() - self.centre
        # Detached: the share is a divisor, not a path through which `read` should learn.
        information = self.read.detach().float().square().sum(dim=1)
        information = information / information.sum().clamp_min(1e-6)
        shown = visible.to(information.dtype) @ information
        scores = (level.masked_fill_(~visible, 0.0) @ self.read).float() * self.scale
        scores = scores / (shown + INFORMATION_FLOOR)[:, None]
        values = torch.stack([shown, (depth - median) / spread], dim=1)
        hidden = nn.functional.silu(self.inner(torch.cat([scores, values], dim=1)))
        return self.outer(hidden)[:, None], scores
