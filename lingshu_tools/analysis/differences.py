"""Differences of two effects, gene by gene: of their posteriors, and of their simulated cells.

A posterior is mass p0 at no change and N(m, s^2) for the rest (`certainty`). Two effects are taken
as independent. Those of one context share its control cells, which makes their difference less
uncertain than that: intervals are no narrower than they should be. The same effect of the same
checkpoint has no difference at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Cells, row_blocks
from lingshu_model.contracts.levels import cp10k
from lingshu_model.contracts.posterior import Posterior, normal_tail, parts
from lingshu_tools.analysis.effects import Floats
from lingshu_tools.analysis.student import t_quantile

# Smallest divisor; so small that z of a component without spread is as good as infinite.
_TINY = 1e-300
# Of an interval of some log1p_cp10k: to about 1e-14.
_HALVINGS = 50
# Nearer to 0 than this, log1p_cp10k, a quantile is at the mass there.
_ZERO = 1e-9
_FEWEST = 3
"""Genes below which a correlation is not computed."""


@dataclass(frozen=True)
class PosteriorDifference:
    """Posterior of second - first, a mixture of normal components and mass at 0.

    Attributes:
        mean: log1p_cp10k, [genes].
        lfsr: local false sign rate of `mean`, no difference counting as wrong, [genes].
        weights, centres, sds: of the components, [3, genes].
    """

    mean: Floats
    lfsr: Floats
    weights: Floats
    centres: Floats
    sds: Floats

    def intervals(self, genes: Sequence[int]) -> list[list[float]]:
        """Return the 2.5 and 97.5 % quantiles of each gene."""
        chosen = list(genes)
        w, c, s = self.weights[:, chosen], self.centres[:, chosen], self.sds[:, chosen]
        low, high = (_quantiles(w, c, s, p) for p in (0.025, 0.975))
        return np.stack([low, high], axis=1).tolist()


def posterior_difference(first: Posterior, second: Posterior) -> PosteriorDifference:
    """Return the posterior of `second` - `first`, both [genes]."""
    zero_1, m_1, s_1 = parts(first)
    zero_2, m_2, s_2 = parts(second)
    # Components of second - first: only the second has a change, only the first, both.
    # The rest, zero_1 zero_2, is mass at no difference.
    weights = np.stack([zero_1 * (1 - zero_2), (1 - zero_1) * zero_2, (1 - zero_1) * (1 - zero_2)])
    centres = np.stack([m_2, -m_1, m_2 - m_1])
    sds = np.stack([s_2, s_1, np.hypot(s_1, s_2)])
    z = centres / np.maximum(sds, _TINY)
    # A component of sd 0 at 0 lies on neither side, where a normal tail would give half of it.
    above = (weights * normal_tail(-z) * ((sds > 0) | (centres > 0))).sum(0)
    below = (weights * normal_tail(z) * ((sds > 0) | (centres < 0))).sum(0)
    lfsr = 1 - np.maximum(above, below)
    return PosteriorDifference(second.mean - first.mean, lfsr, weights, centres, sds)


def no_difference(genes: int) -> PosteriorDifference:
    """Return the difference of an effect from itself."""
    # Weights of 0: all mass is at no difference.
    nothing = np.zeros((3, genes))
    return PosteriorDifference(np.zeros(genes), np.ones(genes), nothing, nothing, nothing)


def _quantiles(weights: Floats, centres: Floats, sds: Floats, p: float) -> Floats:
    """Return the `p` quantiles of mixtures of normals whose rest is mass at 0.

    Args:
        weights: of the components, [components, genes].
        centres: their means, the same shape.
        sds: their standard deviations, the same shape.
        p: from 0 to 1.

    Returns:
        Quantiles, [genes].
    """
    rest = 1 - weights.sum(0)
    # A normal component has 1e-19 of its mass farther away; 0 is included for the mass there.
    width = 9 * sds
    low = np.minimum((centres - width).min(0), 0.0) - _TINY
    high = np.maximum((centres + width).max(0), 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        z = (middle - centres) / np.maximum(sds, _TINY)
        cumulative = (weights * normal_tail(-z)).sum(0) + np.where(middle >= 0, rest, 0.0)
        enough = cumulative >= p
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    # Bisection ends just beside the jump at 0.
    return np.where(np.abs(high) > _ZERO, high, 0.0)


def gene_levels(
    cells: Cells,
    genes: Sequence[int],
    counted: NDArray[np.bool_] | None = None,
    *,
    scale: float = 1.0,
) -> Floats:
    """Return log1p_cp10k of some genes, float64 [cells, genes], without making the rest dense.

    Args:
        cells: the cells.
        genes: panel positions.
        counted: the genes whose counts are a cell's total, by default those it measures.
        scale: factor of counts per 10,000.
    """
    chosen = cells.measured if counted is None else counted
    # Panel position to column of the result; -1: not wanted.
    place = np.full(len(chosen), -1)
    place[list(genes)] = np.arange(len(genes))
    levels = np.zeros((len(cells), len(genes)))
    for rows in row_blocks(*cells.shape):
        block = cells[rows]
        gene, row = block.indices[:], block.row_of_each
        counts = block.values[:].astype(np.float64)
        totals = np.bincount(row, weights=counts * chosen[gene], minlength=len(block))
        # Totals are of all counted genes, levels only of the wanted ones.
        kept = place[gene] >= 0
        scaled = scale * cp10k(counts[kept], totals[row[kept]])
        levels[rows.start + row[kept], place[gene[kept]]] = np.log1p(scaled)
    return levels


def paired_differences(first: Floats, second: Floats) -> tuple[Floats, Floats | None]:
    """Return the mean of `second` - `first` and half the width of its 95 % Monte Carlo interval.

    Args:
        first: changes of cell pairs, [pairs, genes].
        second: the same, row i from the stream of row i of `first`.

    Returns:
        The half width is None of one pair.
    """
    # Rows share their random streams, so the error is that of the paired differences.
    gaps, n = second - first, len(first)
    if n < 2:
        return gaps.mean(0), None
    return gaps.mean(0), t_quantile(0.975, n - 1) * gaps.std(0, ddof=1) / np.sqrt(n)


@dataclass(frozen=True)
class Agreement:
    """How far two effects agree.

    Attributes:
        n_genes: genes that are certain in one of the two at least, over which correlations are.
        pearson, spearman: of the changes; None where they are undefined.
        n_both: genes that are certain in both.
        n_same_sign: of these.
    """

    n_genes: int
    pearson: float | None
    spearman: float | None
    n_both: int
    n_same_sign: int


def agreement(
    first: Floats,
    second: Floats,
    certain_first: NDArray[np.bool_],
    certain_second: NDArray[np.bool_],
) -> Agreement:
    """Return how two vectors of changes agree, [genes]; NaN counts as not certain."""
    finite = np.isfinite(first) & np.isfinite(second)
    either, both = (
        (certain_first | certain_second) & finite,
        certain_first & certain_second & finite,
    )
    a, b = first[either], second[either]
    return Agreement(
        n_genes=int(either.sum()),
        pearson=_pearson(a, b),
        spearman=_pearson(_ranks(a), _ranks(b)),
        n_both=int(both.sum()),
        n_same_sign=int((np.sign(first[both]) == np.sign(second[both])).sum()),
    )


def _pearson(a: Floats, b: Floats) -> float | None:
    # A constant vector has no correlation; np.corrcoef would warn and return NaN.
    if len(a) < _FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Floats) -> Floats:
    """Return ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Ranks from 1: equal values have the ranks last - count + 1 to last, whose mean this is.
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
