"""What a model has to beat: combinations predicted from training cells alone.

`additive` sums the singles' changes. `scaled additive` shrinks that sum by the factor that fits the
trained doubles best, so that its interactions are all against the sum: the part of interactions
that is saturation. `mean interaction` adds the mean interaction of the trained doubles, gene by
gene. `pairwise` (three interventions and more) adds the interactions of those pairs that were
trained, and `true pairwise` of all pairs as they truly are, which nobody could know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import anndata
import numpy as np

from benchmarks.combinations.scoring import Changes
from benchmarks.combinations.truth import Floats, Targets, Truth, change, label
from lingshu_tools.analysis import expected


@dataclass(frozen=True)
class Predictor:
    """Changes of combinations, and the parts that interactions are beyond; None = it has none."""

    name: str
    changes: Changes
    parts: Changes | None = None


@dataclass(frozen=True)
class Trained:
    """Changes measured in the training cells."""

    changes: Changes

    @classmethod
    def of(cls, adata: anndata.AnnData, truth: Truth) -> "Trained":
        """Return the pooled changes of the conditions that may be trained on."""
        labels = adata.obs["perturbation"].to_numpy(dtype=str)
        known = [c for c, t in zip(truth.conditions, truth.trained, strict=True) if t]
        pooled = [
            np.asarray(adata.X[np.flatnonzero(labels == label(c))].sum(axis=0)).ravel()
            for c in known
        ]
        shares = [counts / counts.sum() for counts in pooled]
        return cls({c: change(s, shares[0]) for c, s in zip(known[1:], shares[1:], strict=True)})

    @cached_property
    def doubles(self) -> list[Targets]:
        """The trained doubles."""
        return [c for c in self.changes if len(c) == 2]

    @cached_property
    def factor(self) -> float:
        """What the sum of two singles is best multiplied with, over the trained doubles."""
        sums = np.stack([expected(self.changes, c, 1) for c in self.doubles])
        doubles = np.stack([self.changes[c] for c in self.doubles])
        return float((sums * doubles).sum() / (sums * sums).sum())

    @cached_property
    def mean_interaction(self) -> Floats:
        """Double less singles, the mean of the trained doubles, [genes]."""
        return np.mean(
            [self.changes[c] - expected(self.changes, c, 1) for c in self.doubles], axis=0
        )

    def predictors(self, conditions: Sequence[Targets], truth: Truth) -> list[Predictor]:
        """Return every baseline's changes of `conditions`."""
        additive = {c: expected(self.changes, c, 1) for c in conditions}
        pairs = {c: len(c) * (len(c) - 1) / 2 for c in conditions}
        predictors = [
            Predictor("additive", additive),
            Predictor(
                "scaled additive",
                {c: self.factor * a for c, a in additive.items()},
                self.changes,
            ),
            Predictor(
                "mean interaction",
                {c: a + pairs[c] * self.mean_interaction for c, a in additive.items()},
                self.changes,
            ),
        ]
        if max(len(c) for c in conditions) > 2:
            true = truth.changes()
            predictors += [
                Predictor(
                    "pairwise",
                    {c: expected(self.changes, c, 2, unmeasured_is_zero=True) for c in conditions},
                    self.changes,
                ),
                Predictor("true pairwise", {c: expected(true, c, 2) for c in conditions}, true),
            ]
        return predictors
