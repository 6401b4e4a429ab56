"""Paired effects: what a perturbation changes, cell by cell against its own control.

Control and perturbed cells of one experiment share their random streams, so cell i of one arm is
paired with cell i of the other and every standard error is over the paired differences. It is a
Monte Carlo error: it says how far these n cells are from infinitely many cells of the same model,
not how far the model is from nature.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Cells, row_blocks
from lingshu_model.contracts.levels import cp10k
from lingshu_tools.analysis.student import t_quantile

# Blocks of cells (a block per cell of fewer); more where a block would exceed 512 cells.
JACKKNIFE_BLOCKS = 20
_LARGEST_BLOCK = 512

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """A paired effect; every array is float64 [genes] and NaN where a gene is unmeasured.

    Attributes:
        n_cells: pairs of cells.
        control_mean: mean of log1p_cp10k over control cells.
        perturbed_mean: the same over perturbed cells.
        change: perturbed - control, log1p_cp10k.
        change_se: its Monte Carlo standard error; None of one pair.
        log2_fold_change: log2((m1 + 1) / (m0 + 1)), m being mean counts per 10,000.
        log2_fold_change_se: its Monte Carlo standard error by the delta method; None of one pair.
        magnitude: L2 norm of `change` over measured genes, log1p_cp10k.
        magnitude_se: its standard error by a jackknife over blocks of cells; None of one pair.
    """

    n_cells: int
    control_mean: Floats
    perturbed_mean: Floats
    change: Floats
    change_se: Floats | None
    log2_fold_change: Floats
    log2_fold_change_se: Floats | None
    magnitude: float
    magnitude_se: float | None

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Genes with a number."""
        return np.isfinite(self.change)

    def arrays(self) -> dict[str, Floats]:
        """The arrays by name, as they are stored beside an outcome."""
        named = {
            "control_mean": self.control_mean,
            "perturbed_mean": self.perturbed_mean,
            "change": self.change,
            "change_se": self.change_se,
            "log2_fold_change": self.log2_fold_change,
            "log2_fold_change_se": self.log2_fold_change_se,
        }
        return {name: array for name, array in named.items() if array is not None}


def paired_effect(control: Cells, perturbed: Cells) -> Effect:
    """Return the effect of `perturbed` against `control`, paired by position.

    Args:
        control: cells without the perturbation.
        perturbed: as many cells with it, drawn from the same seed and cell indices.

    Raises:
        ValueError: the arms differ in shape or hold no cell.
    """
    _check(control, perturbed)
    # A cell's total is over the genes that both arms measure, so that CP10K has one meaning.
    measured = control.measured & perturbed.measured
    sums = _sums(control, perturbed, measured)
    n = len(control)
    means = sums.total / n
    change = means[_P] - means[_C]
    # Mean counts per 10,000 plus 1, [measured genes]; the 1 keeps the ratio of silent genes finite.
    m0, m1 = means[_CP0] + 1, means[_CP1] + 1
    change_var = _variance(sums.squares[0], change, n)
    # The delta method: how one pair moves log((m1 + 1) / (m0 + 1)), its mean being the fraction
    # by which the pair's expected ratio differs, which the variance takes off.
    # Sum over pairs of (x1 / m1 - x0 / m0)^2, from the sums of its three terms.
    lfc_squares = (
        sums.squares[2] / m1**2 - 2 * sums.squares[3] / (m0 * m1) + sums.squares[1] / m0**2
    )
    lfc_var = _variance(lfc_squares, means[_CP1] / m1 - means[_CP0] / m0, n)
    wide = partial(_widen, measured=measured)
    return Effect(
        n_cells=n,
        control_mean=wide(means[_C]),
        perturbed_mean=wide(means[_P]),
        change=wide(change),
        change_se=None if n == 1 else wide(np.sqrt(change_var / n)),
        log2_fold_change=wide(np.log2(m1 / m0)),
        log2_fold_change_se=None if n == 1 else wide(np.sqrt(lfc_var / n) / math.log(2)),
        magnitude=float(np.linalg.norm(change)),
        magnitude_se=_jackknife_norm(sums.blocks, sums.block_sizes),
    )


def expression_levels(cells: Cells, measured: NDArray[np.bool_] | None = None) -> Floats:
    """Return log1p_cp10k of the measured genes, float64 [cells, measured genes].

    A cell without a single count is zero everywhere.
    """
    return normalised(cells, measured)[1]


def normalised(cells: Cells, measured: NDArray[np.bool_] | None = None) -> tuple[Floats, Floats]:
    """Return cp10k and log1p_cp10k of cells that are few enough to be dense."""
    chosen = cells.measured if measured is None else measured
    within = cells[:]
    kept = chosen[within.indices[:]]
    row = within.row_of_each[kept]
    # Position of a gene among the chosen ones, at that of its column.
    column = (np.cumsum(chosen) - 1)[within.indices[:][kept]]
    counts = within.values[:][kept].astype(np.float64)
    scaled = cp10k(counts, np.bincount(row, weights=counts, minlength=len(cells))[row])
    # By columns in memory: numpy then sums over cells pairwise, which loses fewer digits.
    y, x = (np.zeros((len(cells), int(chosen.sum())), order="F") for _ in range(2))
    x[row, column], y[row, column] = scaled, np.log1p(scaled)
    return x, y


def interval(value: float, se: float | None, n_cells: int) -> list[float] | None:
    """Return the 95 % Monte Carlo interval of a mean over `n_cells` pairs; None of one pair."""
    if se is None or n_cells < 2 or not math.isfinite(se):
        return None
    # Student's t: the variance is estimated from the same pairs.
    half = t_quantile(0.975, n_cells - 1) * se
    return [value - half, value + half]


# Rows of `_Sums.total`.
_C, _P, _CP0, _CP1 = range(4)


@dataclass(frozen=True)
class _Sums:
    total: Floats  # [4, measured]: log1p control, log1p perturbed, cp10k control, cp10k perturbed
    squares: Floats  # [4, measured]: change^2, cp10k control^2, perturbed^2, their product
    blocks: Floats  # [blocks, measured]: sum of the change over each block of cells
    block_sizes: Floats  # [blocks]


def _sums(control: Cells, perturbed: Cells, measured: NDArray[np.bool_]) -> _Sums:
    genes = int(measured.sum())
    total, squares = np.zeros((4, genes)), np.zeros((4, genes))
    parts = [*_blocks(len(control))]
    # All that grows with the cells: a row per block, 8 bytes x genes for each 512 cells.
    blocks = np.zeros((len(parts), genes))
    for block, rows in zip(blocks, parts, strict=True):
        sums = np.zeros((9, genes))
        # Dense [cells, genes] arrays exist for one part at a time.
        for part in row_blocks(rows.stop - rows.start, len(measured), rows.start):
            terms = _terms(control[part], perturbed[part], measured)
            sums += [term.sum(0) for term in terms]
        total += sums[:4]
        squares += sums[4:8]
        block[:] = sums[8]
    sizes = np.array([rows.stop - rows.start for rows in parts], np.float64)
    return _Sums(total, squares, blocks, sizes)


def _terms(control: Cells, perturbed: Cells, measured: NDArray[np.bool_]) -> Iterator[Floats]:
    """Yield what is summed over cells, in the order of `_Sums`, each made when asked for."""
    x0, y0 = normalised(control, measured)
    x1, y1 = normalised(perturbed, measured)
    change = y1 - y0
    yield from (y0, y1, x0, x1)
    yield change**2
    yield x0**2
    yield x1**2
    yield x0 * x1
    yield change


def _blocks(n: int) -> Iterator[slice]:
    # Sizes differ by one cell at most, so that the jackknife may weight all blocks alike.
    edges = np.linspace(0, n, max(min(n, JACKKNIFE_BLOCKS), -(-n // _LARGEST_BLOCK)) + 1)
    for start, stop in zip(edges[:-1].astype(int), edges[1:].astype(int), strict=True):
        yield slice(int(start), int(stop))


def _variance(sum_of_squares: Floats, mean: Floats, n: int) -> Floats:
    if n == 1:
        return np.zeros_like(mean)
    # Rounding can leave a constant gene just below zero.
    return np.maximum(sum_of_squares - n * mean**2, 0) / (n - 1)


def _jackknife_norm(blocks: Floats, sizes: Floats) -> float | None:
    if len(blocks) < 2:
        return None
    # The mean change without each block in turn, [genes]; then the spread of its norms, by the
    # jackknife (g - 1) / g sum (norm - mean norm)^2.
    whole, rest = blocks.sum(0), sizes.sum() - sizes
    without = ((whole - block) / n for block, n in zip(blocks, rest, strict=True))
    # By rows of a matrix, as earlier versions had it: the norm of a vector rounds differently.
    norms = np.array([np.linalg.norm(record[None], axis=1)[0] for record in without])
    g = len(blocks)
    return float(np.sqrt((g - 1) / g * ((norms - norms.mean()) ** 2).sum()))


def _widen(values: Floats, measured: NDArray[np.bool_]) -> Floats:
    # Panel positions again; NaN is not measured, which 0 would not say.
    full = np.full(len(measured), np.nan)
    full[measured] = values
    return full


def _check(control: Cells, perturbed: Cells) -> None:
    if control.shape != perturbed.shape or len(control) == 0:
        message = (
            f"arms of {control.shape} and {perturbed.shape} cannot be paired: "
            "both need the same number of cells, at least one, over the same panel"
        )
        raise ValueError(message)
