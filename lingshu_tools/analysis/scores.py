"""Scores of an objective: how far a perturbation moves chosen genes the wanted way.

score = mean over the objective's genes of sign x change (log1p_cp10k); sign is +1 for a gene to
raise and -1 for one to lower, so a larger score is always better. A perturbation's own target genes
are left out: lowering the gene one knocks out is no finding. Genes may have weights, and there may
be aims beside them (`lingshu_tools.analysis.aims`), whose weighted values are added.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lingshu_model.contracts import Cells, row_blocks
from lingshu_model.contracts.posterior import Posterior
from lingshu_tools.analysis.aims import Aim
from lingshu_tools.analysis.effects import Floats, expression_levels, interval

# Rounded, as an outcome with `per_cell` holds a number for every pair of cells.
CELL_DIGITS = 5
"""Decimals of the score of one pair of cells in an outcome."""


@dataclass(frozen=True)
class Tangent:
    """A score near an effect d: `offset` + `weights` . d.

    Attributes:
        weights: float64 [genes], what each gene's change counts.
        offset: 0 for genes to raise and lower alone, which are linear.
    """

    weights: Floats
    offset: float = 0.0


@dataclass(frozen=True)
class Objective:
    """What is wanted: genes to raise and genes to lower, as panel symbols, and further aims.

    Attributes:
        up, down: genes to raise and to lower.
        gene_weights: of genes that count more or less than 1.
        aims: further ones.
        scale: spread of the genes' score over trained perturbations, by which it is divided where
            there are aims beside it.
    """

    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    gene_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    aims: tuple[Aim, ...] = ()
    scale: float = 1.0

    @property
    def genes(self) -> tuple[str, ...]:
        """Every gene of it, those to raise first."""
        return self.up + self.down

    @property
    def units(self) -> str:
        """Units of a score."""
        if not self.aims:
            return "log1p_cp10k"
        # Several aims, or aims beside genes, are added in units of their spread.
        (first, *others) = self.aims
        if self.genes or others:
            return "sd of trained perturbations"
        return {"magnitude": "log1p_cp10k", "toward": "share of distance"}.get(first.kind, "cosine")

    @property
    def limits(self) -> tuple[float, float]:
        """Between what a score lies: a cosine alone has limits."""
        if self.units == "cosine":
            return (-1.0, 1.0)
        return (-np.inf, 1.0) if self.units == "share of distance" else (-np.inf, np.inf)

    def weights(self, panel: Sequence[str], left_out: Collection[str] = ()) -> Floats | None:
        """Return float64 [genes], sign x weight / sum of weights kept; None when no gene is left.

        Further aims are not in it.
        """
        kept = [g for g in self.genes if g not in left_out]
        if not kept:
            return None
        weights = np.zeros(len(panel))
        # Sum of the weights that are left, so that the score stays a weighted mean.
        total = sum(self.gene_weights.get(gene, 1.0) for gene in kept)
        for gene in kept:
            sign = 1.0 if gene in self.up else -1.0
            weights[panel.index(gene)] = sign * self.gene_weights.get(gene, 1.0) / total
        return weights

    def tangent(
        self,
        panel: Sequence[str],
        left_out: Collection[str] = (),
        at: Floats | None = None,
        variance: Floats | None = None,
    ) -> Tangent | None:
        """Return the score near an effect; None when no gene to raise or lower is left.

        Args:
            panel: gene symbols.
            left_out: genes that do not count: the perturbation's targets.
            at: the effect, [genes]; needed where there are aims.
            variance: of its posterior, [genes].

        Raises:
            ValueError: there are aims, and no effect.
        """
        weights = self.weights(panel, left_out)
        if not self.aims:
            return None if weights is None else Tangent(weights)
        if at is None:
            message = "aims need the effect that a perturbation is taken near; give `at`"
            raise ValueError(message)
        if self.genes and weights is None:
            return None
        total = np.zeros(len(panel)) if weights is None else weights / self.scale
        # The effect at which the aims are taken, [genes]; unmeasured genes do not move.
        known = np.nan_to_num(at)
        value = float(total @ known)
        kept = np.array([gene not in left_out for gene in panel])
        noise = np.zeros(len(panel)) if variance is None else variance
        for aim in self.aims:
            value += aim.factor * float(aim.value(at, noise, kept))
            total = total + aim.factor * aim.gradient(at, noise, kept)
        # offset = value(at) - weights . at: the tangent has the value of the objective there.
        return Tangent(total, value - float(total @ known))

    def value(
        self,
        panel: Sequence[str],
        change: Floats,
        left_out: Collection[str] = (),
        variance: Floats | None = None,
    ) -> float | None:
        """Return the score of a change, [genes]; None when no gene to raise or lower is left."""
        tangent = self.tangent(panel, left_out, change, variance)
        if tangent is None:
            return None
        used = tangent.weights != 0
        return tangent.offset + float(change[used] @ tangent.weights[used])

    def left_out(self, targets: Collection[str]) -> list[str]:
        """Return the objective's genes that are targets themselves, in its order."""
        return [g for g in self.genes if g in targets]


@dataclass(frozen=True)
class Score:
    """A perturbation's score on an objective, in the objective's units.

    Attributes:
        value: the mean over cells; None when no gene of the objective is left or measured.
        se: its Monte Carlo standard error over paired cells; None of one pair.
        n_cells: pairs of cells.
        left_out: genes not counted because they are what the perturbation targets.
        tangent: what each gene counted; None without a value.
        per_cell: score of each pair, in cell order; None where it is not kept.
    """

    value: float | None
    se: float | None
    n_cells: int
    left_out: tuple[str, ...]
    tangent: Tangent | None
    per_cell: Floats | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What an outcome keeps of it: JSON values."""
        kept = {k: getattr(self, k) for k in ("value", "se", "n_cells")}
        result = {**kept, "left_out": list(self.left_out)}
        if self.per_cell is not None:
            result["per_cell"] = [round(value, CELL_DIGITS) for value in self.per_cell.tolist()]
        return result

    @classmethod
    def of_record(cls, record: Mapping[str, Any], tangent: Tangent | None) -> "Score":
        """Return the score that `record` kept of an outcome's cells.

        Args:
            record: what was kept.
            tangent: what each gene counted.
        """
        left_out = tuple(record["left_out"])
        tangent = None if record["value"] is None else tangent
        return cls(record["value"], record["se"], record["n_cells"], left_out, tangent)

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
    stored: Posterior | None = None,
    keep_cells: bool = False,
) -> Score:
    """Return the score of `perturbed` against `control`, paired cell by cell.

    Args:
        control: cells without the perturbation.
        perturbed: as many with it, from the same seed and cell indices.
        objective: what counts.
        panel: gene symbols in the order of the cells' columns.
        targets: what the perturbation acts on; left out where the objective names it.
        stored: the perturbation's stored effect, near which aims are taken.
        keep_cells: whether the score of every pair is kept too.
    """
    left_out = tuple(objective.left_out(targets))
    near = (None, None) if stored is None else (stored.mean, stored.sd**2)
    tangent = objective.tangent(panel, targets, *near)
    measured = control.measured & perturbed.measured
    if tangent is None or not measured[tangent.weights != 0].all():
        return Score(None, None, len(control), left_out, None)
    # `expression_levels` has columns of measured genes alone, [cells, measured genes].
    kept = tangent.weights[measured]
    used = np.flatnonzero(kept)
    per_cell = np.empty(len(control))
    for rows in row_blocks(*control.shape):
        before, after = (expression_levels(arm[rows], measured) for arm in (control, perturbed))
        per_cell[rows] = (after[:, used] - before[:, used]) @ kept[used]
    if tangent.offset:
        # The same for every pair, so the standard error is that of the linear part.
        per_cell += tangent.offset
    n = len(per_cell)
    # Over paired differences: what both arms share by their random streams cancels.
    se = None if n == 1 else float(per_cell.std(ddof=1)) / math.sqrt(n)
    kept_cells = per_cell if keep_cells else None
    return Score(float(per_cell.mean()), se, n, left_out, tangent, kept_cells)
