"""Held-out prediction errors: how far the checkpoint's predictions were from cells it never saw.

Read from `evidence["tiers"][tier]["residuals"]`, predicted - observed change (log1p_cp10k) of every
held-out perturbation and gene. The observed side has its own sampling noise, so these errors are an
upper bound of the model's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_tools.analysis.effects import Floats
from lingshu_tools.analysis.scores import Objective


@dataclass(frozen=True)
class PredictionError:
    """A held-out error: the root mean square over `n_perturbations`, log1p_cp10k."""

    rms: float
    n_perturbations: int


@dataclass(frozen=True)
class Residuals:
    """Held-out residuals of one support tier.

    Attributes:
        values: float64 [perturbations, genes], predicted - observed change; NaN where not measured.
        genes: panel symbols.
        perturbations: names; a combination joins its targets with `+`.
    """

    values: Floats
    genes: tuple[str, ...]
    perturbations: tuple[str, ...]

    @classmethod
    def from_evidence(cls, evidence: Mapping[str, Any], tier: str) -> "Residuals | None":
        """Return the residuals of a support tier; None where none were measured."""
        residuals = ((evidence.get("tiers") or {}).get(tier) or {}).get("residuals")
        if not residuals:
            return None
        values = np.array(residuals["values"], np.float64)
        return cls(values, tuple(residuals["genes"]), tuple(residuals["perturbations"]))

    def of_genes(self, panel: Sequence[str]) -> Floats:
        """Return each gene's root mean square residual in panel order, NaN where unknown."""
        known = np.isfinite(self.values)
        sums = np.where(known, self.values, 0.0) ** 2
        with np.errstate(invalid="ignore"):
            rms = np.sqrt(sums.sum(axis=0) / known.sum(axis=0)).tolist()
        by_gene = dict(zip(self.genes, rms, strict=True))
        return np.array([by_gene.get(g, np.nan) for g in panel])

    def of_objective(
        self, objective: Objective, left_out: Sequence[str] = ()
    ) -> PredictionError | None:
        """Return the error of an objective's score, `left_out` genes not counting.

        Every held-out perturbation's own targets are left out of its residual, as in a score.
        """
        errors = [
            float(row[weights != 0] @ weights[weights != 0])
            for row, name in zip(self.values, self.perturbations, strict=True)
            if (weights := self._weights(objective, {*left_out, *name.split("+")})) is not None
        ]
        errors = [e for e in errors if np.isfinite(e)]
        if not errors:
            return None
        return PredictionError(float(np.sqrt(np.mean(np.square(errors)))), len(errors))

    def _weights(self, objective: Objective, left_out: set[str]) -> Floats | None:
        if not set(objective.genes) - left_out <= set(self.genes):
            return None
        return objective.weights(self.genes, left_out)
