"""Held-out prediction errors: how far the checkpoint's predictions were from cells it never saw.

Read from `evidence["tiers"][tier]["residuals"]`, predicted - observed change (log1p_cp10k) of every
held-out perturbation, fold and gene. The observed side has its own sampling noise, so these errors
are an upper bound of the model's. Errors grow with what is predicted: with r the residual of a
score and f the predicted score, r^2 = a + c |f| with a, c >= 0 by weighted least squares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_tools.analysis.effects import Floats
from lingshu_tools.analysis.error_by_size import FEWEST
from lingshu_tools.analysis.scores import Objective


@dataclass(frozen=True)
class PredictionError:
    """A held-out error, log1p_cp10k.

    Attributes:
        rms: root mean square; for a score of the size that was asked about.
        n_perturbations: contrasts that it rests on.
        n_folds: ways in which they were held out.
    """

    rms: float
    n_perturbations: int
    n_folds: int = 1


@dataclass(frozen=True)
class Residuals:
    """Held-out residuals of one support tier.

    Attributes:
        values: float64 [rows, genes], predicted - observed change; NaN where not measured. A row is
            a perturbation in a context and a fold.
        genes: panel symbols.
        perturbations: targets of each row; a combination joins them with `+`.
        names: contrast of each row.
        folds: of each row.
        predicted: predicted changes, the shape of `values`; None where not recorded.
    """

    values: Floats
    genes: tuple[str, ...]
    perturbations: tuple[str, ...]
    names: tuple[str, ...]
    folds: tuple[str, ...]
    predicted: Floats | None = None

    @classmethod
    def from_evidence(cls, evidence: Mapping[str, Any], tier: str) -> "Residuals | None":
        """Return the residuals of a support tier; None where none were measured."""
        residuals = ((evidence.get("tiers") or {}).get(tier) or {}).get("residuals")
        if not residuals:
            return None
        perturbations = tuple(residuals["perturbations"])
        predicted = residuals.get("predicted")
        return cls(
            np.array(residuals["values"], np.float64),
            tuple(residuals["genes"]),
            perturbations,
            tuple(residuals.get("names") or perturbations),
            tuple(residuals.get("folds") or [""] * len(perturbations)),
            None if predicted is None else np.array(predicted, np.float64),
        )

    @property
    def n_contrasts(self) -> int:
        """How many contrasts they are of, whatever the number of folds."""
        return len(set(self.names))

    def of_genes(self, panel: Sequence[str]) -> Floats:
        """Return each gene's root mean square residual in panel order, NaN where unknown."""
        known = np.isfinite(self.values)
        sums = np.where(known, self.values, 0.0) ** 2
        with np.errstate(invalid="ignore"):
            rms = np.sqrt(sums.sum(axis=0) / known.sum(axis=0)).tolist()
        by_gene = dict(zip(self.genes, rms, strict=True))
        return np.array([by_gene.get(g, np.nan) for g in panel])

    def of_objective(
        self,
        objective: Objective,
        left_out: Sequence[str] = (),
        predicted: float | None = None,
    ) -> PredictionError | None:
        """Return the error of an objective's score; None of fewer than three contrasts.

        Every held-out perturbation's own targets are left out of its residual, as in a score.

        Args:
            objective: what is scored.
            left_out: genes that do not count.
            predicted: the score that is asked about; None: the error over all scores.
        """
        rows = [
            (i, weights)
            for i, targets in enumerate(self.perturbations)
            if (weights := self._weights(objective, {*left_out, *targets.split("+")})) is not None
            and np.isfinite(self.values[i, weights != 0]).all()
        ]
        contrasts = {self.names[i] for i, _ in rows}
        if len(contrasts) < FEWEST:
            return None
        squares = np.array([_score(self.values[i], w) ** 2 for i, w in rows])
        mean = float(squares.mean())
        if predicted is not None and self.predicted is not None:
            sizes = np.array([abs(_score(self.predicted[i], w)) for i, w in rows])
            mean = _at(abs(predicted), sizes, squares)
        folds = {self.folds[i] for i, _ in rows}
        return PredictionError(float(np.sqrt(mean)), len(contrasts), len(folds))

    def _weights(self, objective: Objective, left_out: set[str]) -> Floats | None:
        if not set(objective.genes) - left_out <= set(self.genes):
            return None
        return objective.weights(self.genes, left_out)


def _score(change: Floats, weights: Floats) -> float:
    return float(change[weights != 0] @ weights[weights != 0])


def _at(size: float, sizes: Floats, squares: Floats) -> float:
    """Return a + c `size`, the line of least weighted squares through `squares`; a, c >= 0."""
    # An error's spread grows as the error does: its ratio to the size says about how fast.
    ratio = squares.sum() / max(float(sizes.sum()), 1e-12)
    weight = 1.0 / (np.median(squares) + ratio * sizes + 1e-12)
    design = np.stack([weight, sizes * weight], axis=1)
    y = squares * weight
    solved = np.linalg.lstsq(design, y, rcond=None)[0]
    if (solved < 0).any():
        alone = (design.T @ y) / np.maximum((design**2).sum(axis=0), 1e-300)
        rests = [((y - alone[k] * design[:, k]) ** 2).sum() for k in (0, 1)]
        best = int(np.argmin(rests))
        solved = np.where(np.arange(2) == best, alone, 0.0)
    # No smaller than the errors of the smallest scores: a line through 0 would promise none.
    return max(float(solved[0] + solved[1] * size), float(np.quantile(squares, 0.25)))
