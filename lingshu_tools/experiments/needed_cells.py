"""How many real cells would show what a checkpoint predicts (`lingshu_tools.analysis.power`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from lingshu_model.contracts import Checkpoint
from lingshu_tools.analysis.power import Floats, arm_variances, real_cells

CONTEXTS = "effects-contexts"
"""Files with the count distributions of a context's control cells."""
NEVER: Final = "never"
"""Stands for a number of cells where no number is enough; a 0 is read as "none are needed"."""
RealCells = list[int | Literal["never"]]
"""Cells as predicted, and with the doubt about it."""


def shown_cells(cells: tuple[int, int] | None) -> RealCells | None:
    """Return what `real_cells` gives as results show it."""
    if cells is None:
        return None
    return [count or NEVER for count in cells]


@dataclass(frozen=True)
class CountModel:
    """Count distributions of the control cells of a context.

    Attributes:
        rates: share of a cell's UMI, [genes].
        sizes: of the negative binomial distributions, [genes].
        depths: UMI per cell at five quantiles.
    """

    rates: Floats
    sizes: Floats
    depths: Floats

    @classmethod
    def of(cls, checkpoint: Checkpoint, context: Mapping[str, str]) -> CountModel | None:
        """Return that of a trained context; None where the checkpoint stores none."""
        effects = checkpoint.effects
        number = None if effects is None else effects.context(context)
        depths = _depths(checkpoint, context)
        if number is None or depths is None:
            return None
        tables = checkpoint.tables(CONTEXTS)
        if not {"log_rate", "log_size"} <= tables.keys():
            return None
        # Stored as logarithms; `number` is the row of the context, so both are [genes].
        rates, sizes = (
            np.exp(tables[name][number].astype(np.float64)) for name in ("log_rate", "log_size")
        )
        return cls(rates, sizes, depths)

    def cells_for(self, gene: int, change: float, sd: float) -> tuple[int, int] | None:
        """Return the real cells of an arm that show the change of a gene, as `real_cells` does."""
        return real_cells(change, sd, self._variances(gene, change)) if change else None

    def cells_for_score(
        self, weights: Floats, changes: Floats, score: float, sd: float
    ) -> tuple[int, int] | None:
        """Return the same of a score; the genes vary together, so that it is no less than enough.

        Args:
            weights: of the score, [genes].
            changes: predicted, [genes].
            score: predicted.
            sd: of a new experiment's score about it.
        """
        genes = np.flatnonzero(weights).tolist()
        # Standard deviations, [genes of the score, arms].
        spread = np.array([self._variances(g, float(changes[g])) for g in genes]) ** 0.5
        # Added up, not their squares: the largest that the sd of a weighted sum can be.
        both = np.abs(weights[genes]) @ spread
        return real_cells(score, sd, (float(both[0] ** 2), float(both[1] ** 2)))

    def _variances(self, gene: int, change: float) -> tuple[float, float]:
        return arm_variances(float(self.rates[gene]), float(self.sizes[gene]), self.depths, change)


def _depths(checkpoint: Checkpoint, context: Mapping[str, str]) -> Floats | None:
    """Return the depth quantiles of a context's control cells."""
    quantiles = checkpoint.reference.get("library_quantiles")
    for row, entry in enumerate(checkpoint.config["seen"]):
        # Only control cells: depth may change under a perturbation.
        if not entry["interventions"] and entry["context"] == dict(context):
            if quantiles is None or row >= len(quantiles):
                return None
            # UMI per cell; at least 1, as it is a divisor.
            return np.maximum(quantiles[row], 1.0)
    return None
