"""Held-out prediction errors: how far the checkpoint's predictions were from cells it never saw.

Read from `evidence["tiers"][tier]["residuals"]`, predicted - observed change (log1p_cp10k) of every
held-out perturbation, fold and gene. The observed side has its own sampling noise, so these errors
are an upper bound of the model's. Errors grow with what is predicted: with r the residual of a
score and f the predicted score, r^2 = a + c |f| with a, c >= 0 by weighted least squares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lingshu_tools.analysis.effects import Floats
from lingshu_tools.analysis.error_by_size import FEWEST
from lingshu_tools.analysis.scores import Objective, Tangent

COVERED = 0.9
"""Share of a score's squared weights that must be on held-out genes for its error to be known."""


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
        # A gene that no row measures has 0 / 0, which is NaN as promised.
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
        scored = [
            (i, pair)
            for i, targets in enumerate(self.perturbations)
            if (pair := self._pair(i, objective, {*left_out, *targets.split("+")})) is not None
        ]
        contrasts = {self.names[i] for i, _ in scored}
        if len(contrasts) < FEWEST:
            return None
        # [rows]: squared residual of the score in each contrast and fold.
        squares = np.array([error**2 for _, (error, _) in scored])
        mean = float(squares.mean())
        if predicted is not None and self.predicted is not None:
            sizes = np.array([abs(score) for _, (_, score) in scored])
            mean = _at(abs(predicted), sizes, squares)
        folds = {self.folds[i] for i, _ in scored}
        return PredictionError(float(np.sqrt(mean)), len(contrasts), len(folds))

    def over(self, panel: Sequence[str]) -> "Residuals":
        """Return the same with all genes of a panel in its order; NaN where not held out."""
        if self.genes == tuple(panel):
            return self
        place = {gene: i for i, gene in enumerate(self.genes)}
        kept = [i for i, gene in enumerate(panel) if gene in place]
        columns = [place[panel[i]] for i in kept]

        def wide(values: Floats) -> Floats:
            result = np.full((len(values), len(panel)), np.nan)
            result[:, kept] = values[:, columns]
            return result

        predicted = None if self.predicted is None else wide(self.predicted)
        return replace(self, values=wide(self.values), genes=tuple(panel), predicted=predicted)

    def sd_near(self, tangent: Tangent) -> float | None:
        """Return the RMS of what residuals are in a score near an effect.

        None of fewer than three contrasts, and where less than `COVERED` of the squared weights is
        on genes that were held out.

        Args:
            tangent: the score, over `genes`.
        """
        known = np.isfinite(self.values)
        squares = tangent.weights**2
        # [rows]: share of the squared weights that is on genes of each held-out contrast.
        covered = known @ squares / max(float(squares.sum()), 1e-300)
        rows = np.flatnonzero(covered >= COVERED)
        if len({self.names[i] for i in rows}) < FEWEST:
            return None
        errors = np.where(known[rows], self.values[rows], 0.0) @ tangent.weights
        # Divided by the share, as if the other genes had errors of the same size.
        return float(np.sqrt((errors**2 / covered[rows]).mean()))

    def _pair(
        self, row: int, objective: Objective, left_out: set[str]
    ) -> tuple[float, float] | None:
        """Return the error of a contrast's score, and its predicted score (NaN: not recorded)."""
        residual = self.values[row]
        # Otherwise the score would be over fewer genes than that which it is to be the error of.
        if not set(objective.genes) - left_out <= set(self.genes):
            return None
        if objective.aims:
            # Not linear: the observed effect is scored itself, over the genes that are known.
            weights = objective.weights(self.genes, left_out)
            known = weights is None or np.isfinite(residual[weights != 0]).all()
            if self.predicted is None or not known:
                return None
            predicted = np.where(np.isfinite(residual), self.predicted[row], np.nan)
            score = objective.value(self.genes, predicted, left_out)
            observed = objective.value(self.genes, predicted - residual, left_out)
            return None if score is None or observed is None else (score - observed, score)
        weights = objective.weights(self.genes, left_out)
        if weights is None or not np.isfinite(residual[weights != 0]).all():
            return None
        score = np.nan if self.predicted is None else _score(self.predicted[row], weights)
        return _score(residual, weights), score


def _score(change: Floats, weights: Floats) -> float:
    return float(change[weights != 0] @ weights[weights != 0])


def _at(size: float, sizes: Floats, squares: Floats) -> float:
    """Return a + c `size`, the line of least weighted squares through `squares`; a, c >= 0."""
    # An error's spread grows as the error does: its ratio to the size says about how fast.
    ratio = squares.sum() / max(float(sizes.sum()), 1e-12)
    # Rows are divided by the expected square: weights of the squares are its inverse square.
    weight = 1.0 / (np.median(squares) + ratio * sizes + 1e-12)
    design = np.stack([weight, sizes * weight], axis=1)
    y = squares * weight
    solved = np.linalg.lstsq(design, y, rcond=None)[0]
    # Constrained to a, c >= 0 with two unknowns: the better of the two fits with one of them 0.
    # Each of these is non-negative, as nothing in `design` or `y` is below 0.
    if (solved < 0).any():
        alone = (design.T @ y) / np.maximum((design**2).sum(axis=0), 1e-300)
        rests = [((y - alone[k] * design[:, k]) ** 2).sum() for k in (0, 1)]
        best = int(np.argmin(rests))
        solved = np.where(np.arange(2) == best, alone, 0.0)
    # No smaller than the errors of the smallest scores: a line through 0 would promise none.
    return max(float(solved[0] + solved[1] * size), float(np.quantile(squares, 0.25)))
