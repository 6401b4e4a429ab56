"""Scores of an objective: how far a perturbation moves chosen genes the wanted way.

score = mean over the objective's genes of sign x change (log1p_cp10k); sign is +1 for a gene to
raise and -1 for one to lower, so a larger score is always better. A perturbation's own target genes
are left out: lowering the gene one knocks out is no finding.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Cells, row_blocks
from lingshu_tools.analysis.effects import expression_levels, interval

CELL_DIGITS = 5
"""Decimals of the score of one pair of cells in an outcome."""


@dataclass(frozen=True)
class Objective:
    """Genes to raise and genes to lower, as panel symbols."""

    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()

    @property
    def genes(self) -> tuple[str, ...]:
        """Every gene of it, those to raise first."""
        return self.up + self.down

    def weights(
        self, panel: Sequence[str], left_out: Collection[str] = ()
    ) -> NDArray[np.float64] | None:
        """Return float64 [genes], sign / number of genes kept; None when nothing is left."""
        kept = [g for g in self.genes if g not in left_out]
        if not kept:
            return None
        weights = np.zeros(len(panel))
        for gene in kept:
            weights[panel.index(gene)] = (1.0 if gene in self.up else -1.0) / len(kept)
        return weights

    def left_out(self, targets: Collection[str]) -> list[str]:
        """Return the objective's genes that are targets themselves, in its order."""
        return [g for g in self.genes if g in targets]


@dataclass(frozen=True)
class Score:
    """A perturbation's score on an objective, log1p_cp10k.

    Attributes:
        value: the mean over cells; None when no gene of the objective is left or measured.
        se: its Monte Carlo standard error over paired cells; None of one pair.
        n_cells: pairs of cells.
        left_out: genes not counted because they are what the perturbation targets.
        weights: float64 [genes], what each gene counted; None without a value.
        per_cell: score of each pair, in cell order; None where it is not kept.
    """

    value: float | None
    se: float | None
    n_cells: int
    left_out: tuple[str, ...]
    weights: NDArray[np.float64] | None
    per_cell: NDArray[np.float64] | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What an outcome keeps of it: JSON values."""
        kept = {k: getattr(self, k) for k in ("value", "se", "n_cells")}
        result = {**kept, "left_out": list(self.left_out)}
        if self.per_cell is not None:
            result["per_cell"] = [round(value, CELL_DIGITS) for value in self.per_cell.tolist()]
        return result

    @classmethod
    def of_record(
        cls, record: Mapping[str, Any], objective: Objective, panel: Sequence[str]
    ) -> "Score":
        """Return the score that `record` kept of an outcome's cells."""
        left_out = tuple(record["left_out"])
        weights = None if record["value"] is None else objective.weights(panel, left_out)
        return cls(record["value"], record["se"], record["n_cells"], left_out, weights)

    @property
    def mc_interval(self) -> list[float] | None:
        """The 95 % Monte Carlo interval; None of one pair or without a value."""
        return None if self.value is None else interval(self.value, self.se, self.n_cells)


def paired_score(
    control: Cells,
    perturbed: Cells,
    objective: Objective,
    panel: Sequence[str],
    targets: Collection[str] = (),
    *,
    keep_cells: bool = False,
) -> Score:
    """Return the score of `perturbed` against `control`, paired cell by cell.

    Args:
        control: cells without the perturbation.
        perturbed: as many with it, from the same seed and cell indices.
        objective: what counts.
        panel: gene symbols in the order of the cells' columns.
        targets: what the perturbation acts on; left out where the objective names it.
        keep_cells: whether the score of every pair is kept too.
    """
    left_out = tuple(objective.left_out(targets))
    weights = objective.weights(panel, left_out)
    measured = control.measured & perturbed.measured
    if weights is None or not measured[weights != 0].all():
        return Score(None, None, len(control), left_out, None)
    kept = weights[measured]
    used = np.flatnonzero(kept)
    per_cell = np.empty(len(control))
    for rows in row_blocks(*control.shape):
        before, after = (expression_levels(arm[rows], measured) for arm in (control, perturbed))
        per_cell[rows] = (after[:, used] - before[:, used]) @ kept[used]
    n = len(per_cell)
    se = None if n == 1 else float(per_cell.std(ddof=1)) / math.sqrt(n)
    kept_cells = per_cell if keep_cells else None
    return Score(float(per_cell.mean()), se, n, left_out, weights, kept_cells)
