"""The sham null: what the model makes of a label that means nothing.

Paired controls are the same cells, so a control against a control is identically zero and no null.
A checkpoint is therefore trained with sham interventions (random control subsets labelled as if
perturbed); an effect is called significant when it is unlike theirs. Knows nothing of how the shams
were sampled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_tools.analysis.effects import Effect, Floats
from lingshu_tools.analysis.student import benjamini_hochberg, t_two_sided

PRIOR_DF = 4.0


@dataclass(frozen=True)
class ShamNull:
    """Effects of the sham interventions of one checkpoint.

    Attributes:
        changes: float64 [shams, genes], log1p_cp10k in panel order; NaN where unmeasured.
        steps: sampling steps they were made with; None where not recorded.
    """

    changes: Floats
    steps: int | None = None

    @classmethod
    def from_evidence(cls, evidence: Mapping[str, Any], panel: Sequence[str]) -> "ShamNull | None":
        """Return the null written in a checkpoint's evidence, in panel order; None without one.

        Fewer than three shams make no null.
        """
        sham = evidence.get("sham")
        if not sham or len(sham["changes"]) < 3:
            return None
        by_gene = {g: i for i, g in enumerate(sham["genes"])}
        wide = np.full((len(sham["changes"]), len(panel)), np.nan)
        kept = [i for i, gene in enumerate(panel) if gene in by_gene]
        values = np.array(sham["changes"], np.float64)
        wide[:, kept] = values[:, [by_gene[panel[i]] for i in kept]]
        return cls(wide, sham.get("steps"))

    @property
    def n_shams(self) -> int:
        """How many sham effects there are."""
        return len(self.changes)

    @property
    def magnitudes(self) -> Floats:
        """L2 norm of each sham effect, log1p_cp10k."""
        return np.sqrt(np.nansum(self.changes**2, axis=1))

    def gene_q(self, effect: Effect) -> Floats:
        """Return the false discovery rate of each gene's change, NaN where there is no test."""
        return benjamini_hochberg(self.gene_p(effect))

    def gene_p(self, effect: Effect) -> Floats:
        """Return the two-sided p of each gene's change against the shams' changes of that gene."""
        return self._p(self.changes, effect.change, effect.change_se)

    def score_p(self, weights: NDArray[np.float64], score: float, se: float | None) -> float | None:
        """Return the two-sided p of an objective's score against the shams' scores.

        Args:
            weights: float64 [genes], what each gene's change counts in the score.
            score: the score, log1p_cp10k.
            se: its Monte Carlo standard error.
        """
        shams = self._scores(weights)
        if shams is None:
            return None
        errors = None if se is None else np.array([se])
        return float(self._p(shams[:, None], np.array([score]), errors)[0])

    def score_spread(self, weights: NDArray[np.float64]) -> float | None:
        """Return the standard deviation of a new sham's score, or None where a gene is missing."""
        shams = self._scores(weights)
        return None if shams is None else float(_spread(shams.var(ddof=1), len(shams)))

    def magnitude_p(self, effect: Effect) -> float:
        """Return the rank p of the magnitude: at least 1 / (n_shams + 1), however large it is."""
        larger = int((self.magnitudes >= effect.magnitude).sum())
        return (1 + larger) / (1 + self.n_shams)

    def _scores(self, weights: NDArray[np.float64]) -> Floats | None:
        used = weights != 0
        scores = self.changes[:, used] @ weights[used]
        return scores if np.isfinite(scores).all() else None

    def _p(self, shams: Floats, value: Floats, se: Floats | None) -> Floats:
        spread = _spread(_floored(shams.var(axis=0, ddof=1), self.n_shams - 1), self.n_shams)
        if se is not None:
            # The shams' spread holds their own Monte Carlo error, but the weaker an effect the
            # smaller that of paired cells: the tested effect's comes on top, whole.
            spread = np.hypot(spread, se)
        distance = value - shams.mean(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = distance / spread
        return np.where(distance == 0, 1.0, t_two_sided(t, self.n_shams - 1))


def _spread(variance: Floats, n: int) -> Floats:
    # Of the distance of one more draw from the mean of n.
    return np.sqrt(variance * (1 + 1 / n))


def _floored(variance: Floats, df: int) -> Floats:
    """Return variances, none smaller than itself shrunk towards the pooled one.

    Sixteen shams can agree by accident; shrinking keeps such a gene from being called. It only ever
    widens: shrinking a variable gene downwards would make its p too small.
    """
    finite = variance[np.isfinite(variance)]
    if len(finite) < 2:
        return variance
    pooled = math.fsum(finite) / len(finite)
    return np.maximum(variance, (df * variance + PRIOR_DF * pooled) / (df + PRIOR_DF))
