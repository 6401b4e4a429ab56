"""The null labels: what the model makes of a label that means nothing.

Paired controls are the same cells, so a control against a control is identically zero and no null.
A checkpoint is therefore trained with null labels (random control subsets labelled as if
perturbed); an effect is called significant when it is unlike theirs.
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
class NullLabels:
    """Effects of the null labels of one checkpoint.

    Attributes:
        changes: float64 [null labels, genes], log1p_cp10k in panel order; NaN where unmeasured.
        steps: sampling steps they were made with; None where not recorded.
        n_cells: paired cells of each; None where not recorded.
    """

    changes: Floats
    steps: int | None = None
    n_cells: int | None = None

    @classmethod
    def from_evidence(
        cls, evidence: Mapping[str, Any], panel: Sequence[str]
    ) -> "NullLabels | None":
        """Return the null written in a checkpoint's evidence, in panel order; None without one.

        Fewer than three null labels make no null.
        """
        recorded = evidence.get("sham")
        if not recorded or len(recorded["changes"]) < 3:
            return None
        by_gene = {g: i for i, g in enumerate(recorded["genes"])}
        wide = np.full((len(recorded["changes"]), len(panel)), np.nan)
        kept = [i for i, gene in enumerate(panel) if gene in by_gene]
        values = np.array(recorded["changes"], np.float64)
        wide[:, kept] = values[:, [by_gene[panel[i]] for i in kept]]
        return cls(wide, recorded.get("steps"), recorded.get("n_cells"))

    @property
    def n_shams(self) -> int:
        """How many effects of null labels there are."""
        return len(self.changes)

    @property
    def magnitudes(self) -> Floats:
        """L2 norm of each null label effect, log1p_cp10k."""
        return np.sqrt(np.nansum(self.changes**2, axis=1))

    def gene_q(self, effect: Effect) -> Floats:
        """Return the false discovery rate of each gene's change, NaN where there is no test."""
        return benjamini_hochberg(self.gene_p(effect))

    def gene_p(self, effect: Effect) -> Floats:
        """Return the two-sided p of each gene's change against those of the null labels."""
        return self._p(self.changes, effect.change, effect.change_se)

    def score_p(self, weights: NDArray[np.float64], score: float, se: float | None) -> float | None:
        """Return the two-sided p of an objective's score against the null labels' scores.

        Args:
            weights: float64 [genes], what each gene's change counts in the score.
            score: the score, log1p_cp10k.
            se: its Monte Carlo standard error.
        """
        scores = self._scores(weights)
        if scores is None:
            return None
        errors = None if se is None else np.array([se])
        return float(self._p(scores[:, None], np.array([score]), errors)[0])

    def score_spread(self, weights: NDArray[np.float64]) -> float | None:
        """Return the standard deviation of a new label's score; None where a gene is missing."""
        scores = self._scores(weights)
        return None if scores is None else float(_spread(scores.var(ddof=1), len(scores)))

    def _scores(self, weights: NDArray[np.float64]) -> Floats | None:
        used = weights != 0
        scores = self.changes[:, used] @ weights[used]
        return scores if np.isfinite(scores).all() else None

    def _p(self, labels: Floats, value: Floats, se: Floats | None) -> Floats:
        spread = _spread(_floored(labels.var(axis=0, ddof=1), self.n_shams - 1), self.n_shams)
        if se is not None:
            # The spread of null labels includes their Monte Carlo error. That of paired cells is
            # smaller the weaker an effect is, so the tested effect's is added in full.
            spread = np.hypot(spread, se)
        distance = value - labels.mean(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = distance / spread
        return np.where(distance == 0, 1.0, t_two_sided(t, self.n_shams - 1))


def _spread(variance: Floats, n: int) -> Floats:
    # Of the distance of one more draw from the mean of n.
    return np.sqrt(variance * (1 + 1 / n))


def _floored(variance: Floats, df: int) -> Floats:
    """Return variances, none smaller than itself shrunk towards the pooled one.

    Sixteen null labels can agree by chance; shrinking keeps such a gene from being called. It only
    ever widens: shrinking a variable gene downwards would make its p too small.
    """
    finite = variance[np.isfinite(variance)]
    if len(finite) < 2:
        return variance
    pooled = math.fsum(finite) / len(finite)
    return np.maximum(variance, (df * variance + PRIOR_DF * pooled) / (df + PRIOR_DF))
