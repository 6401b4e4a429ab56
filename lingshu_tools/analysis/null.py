"""The null labels: what the model makes of a label that means nothing.

Paired controls are the same cells, so a control against a control is identically zero and no null.
A checkpoint is therefore trained with null labels (random control subsets labelled as if
perturbed), and an effect is ranked among theirs. Nothing is extrapolated: with n labels p is at
least 1 / (n + 1), however large the effect is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_tools.analysis.effects import Effect, Floats
from lingshu_tools.analysis.student import benjamini_hochberg

NORMAL = 1.959964
"""Half width of a 95 % interval, in standard deviations."""


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
        # The evidence may list genes in another order than the panel, and not all of them.
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
        # Each gene among its own changes: genes differ in how far null labels move them.
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

    def largest_score(self, weights: NDArray[np.float64]) -> float | None:
        """Return the largest |score| of a label; None where a gene of the objective is missing."""
        scores = self._scores(weights)
        return None if scores is None else float(np.abs(scores).max())

    def _scores(self, weights: NDArray[np.float64]) -> Floats | None:
        used = weights != 0
        # [null labels]. 0 x NaN is NaN, so genes of weight 0 are taken out first.
        scores = self.changes[:, used] @ weights[used]
        return scores if np.isfinite(scores).all() else None

    def _p(self, labels: Floats, value: Floats, se: Floats | None) -> Floats:
        """Return rank p-values; `labels` is [null labels, values]."""
        size = np.abs(value)
        if se is not None:
            # The nearer end of the Monte Carlo interval is ranked: few cells make no effect large.
            size = np.maximum(size - NORMAL * se, 0.0)
        with np.errstate(invalid="ignore"):
            larger = (np.abs(labels) >= size).sum(axis=0)
        known = np.isfinite(value) & np.isfinite(labels).all(axis=0)
        # The effect itself counts as one of n + 1 ranked values, so p is never 0.
        return np.where(known, (1.0 + larger) / (1.0 + self.n_shams), np.nan)
