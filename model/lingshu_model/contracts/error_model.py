"""How far the effect in a new experiment may be from a prediction: the variance of the difference.

A posterior sd describes the mean over the replicates and cells that were trained on. A new
experiment differs from it by more: replicates differ, and the larger a predicted change is, the
larger is its error. With f the posterior mean of a change, sd its posterior sd and v the gene's
variance between cells,

    variance = posterior sd^2 + between v + square f^2,   0 <= posterior <= 1, between, square >= 0.

The three numbers are fitted to held-out contrasts (`lingshu_model.finishing.error_model`) for each
support tier. `between` is an intra-class correlation: replicates (or contexts) differ by more in
genes that vary more. A sign is as certain as the wider distribution makes it,

    lfsr = max(stored lfsr, p0 + (1 - p0) Phi(-|f| / sqrt(variance))),   p0 = mass at no change.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lingshu_model.contracts.posterior import Floats, Posterior, normal_tail, parts

DOUBTFUL = 0.2
"""lfsr above which mass at 0 is not worked out: such a sign is not called in any case."""
GENE_VARIANCE = "gene_variance"
"""Key of the evidence: each gene's variance between cells, in the order of the panel."""


@dataclass(frozen=True)
class ErrorModel:
    """The three numbers of a tier, and what they were fitted to.

    Attributes:
        posterior: factor of the squared posterior sd.
        between: factor of a gene's variance between cells.
        square: factor of the squared prediction.
        n_contrasts: held-out contrasts; 0 of `DEFAULT`.
        n_folds: ways in which they were held out.
    """

    posterior: float
    between: float
    square: float
    n_contrasts: int = 0
    n_folds: int = 0

    @property
    def is_default(self) -> bool:
        """Whether it was fitted to other data."""
        return not self.n_contrasts

    @property
    def record(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def sd(self, posterior: Posterior, variance: Floats) -> Floats:
        """Return the sd of a new experiment's change about the mean; 0 where sd and mean are 0.

        Args:
            posterior: of changes, [..., genes].
            variance: between cells, broadcast to it.
        """
        wider = self.posterior * posterior.sd**2 + self.square * posterior.mean**2
        # A gene that is not measured has neither mean nor sd.
        known = (posterior.sd > 0) | (posterior.mean != 0)
        return np.sqrt(np.where(known, wider + self.between * variance, 0.0))

    def widened(self, posterior: Posterior, variance: Floats) -> Posterior:
        """Return a posterior with the sd of a new experiment, and the lfsr that follows from it."""
        sd = self.sd(posterior, variance)
        tail = normal_tail(np.abs(posterior.mean) / np.maximum(sd, 1e-300))
        # The bisection of p0 is slow, and a sign with a high lfsr stays uncalled whatever p0 is.
        near = posterior.lfsr < DOUBTFUL
        p0 = np.zeros_like(tail)
        chosen = Posterior(posterior.mean[near], posterior.sd[near], posterior.lfsr[near])
        p0[near] = parts(chosen)[0]
        # Where mean and sd are 0 there is no tail to speak of, and the stored rate stays.
        wrong = np.where(sd > 0, p0 + (1 - p0) * tail, 0.0)
        # Never more certain than stored: the factor `posterior` may be below 1.
        return Posterior(posterior.mean, sd, np.maximum(posterior.lfsr, np.minimum(wrong, 1.0)))

    @classmethod
    def from_evidence(cls, evidence: Mapping[str, Any], tier: str) -> "ErrorModel":
        """Return the model of a support tier, or `DEFAULT` where fewer than three contrasts say."""
        measured = (evidence.get("tiers") or {}).get(tier) or {}
        record = (measured.get("certainty") or {}).get("error_model")
        return cls(**record) if record else DEFAULT


DEFAULT = ErrorModel(posterior=1.0, between=0.0017, square=0.09)
"""Where a tier has fewer than three held-out contrasts: what three replicates of 25 knock-outs in
one cell line gave (docs/log.md, 2026-11-29)."""


def gene_variance(evidence: Mapping[str, Any], genes: int) -> Floats:
    """Return each gene's variance between cells, [genes]; 0 where the evidence has none."""
    values = evidence.get(GENE_VARIANCE)
    # Variances of another panel belong to other genes.
    if not values or len(values) != genes:
        return np.zeros(genes)
    return np.array([0.0 if v is None else v for v in values], np.float64)
