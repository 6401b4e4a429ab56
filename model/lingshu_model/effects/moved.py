"""Moved control cells: an effect delivered to single cells by quantile mapping of their counts.

Gene g of a control cell with N counts in all has about a negative binomial count of mean N p_g and
size r_g (variance m + m^2 / r). Exponentially shifted, that is weighted by exp(theta count), it is
a negative binomial of the same size and mean N p_g phi_g: of all distributions with that mean the
nearest in Kullback-Leibler divergence (Csiszar 1975). A cell's count c goes through its quantile,

    u = F(c - 1) + v f(c),   c' = F_phi^{-1}(u),   v uniform,

v from the counter-based stream of (seed, cell, gene), so any cell can be moved alone and replayed.
Counts stay whole, cells keep their ranks, and nothing feeds back from gene to gene. What a gene
that goes up gains scatters as the counts of an ordinary gene do, not as its own few: the size is

    r_phi = phi^2 / (1 / r + (phi - 1)^2 / r_common),   phi > 1.

ln phi is solved for each gene such that the mean change of log1p_cp10k over control cells is the
target, whatever their counts really look like. Library sizes become `library` times what they
were, or stay, whichever the target agrees with. No count exceeds the largest share of a cell that
any training cell gave the gene.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts.streams import Purpose, uniforms
from lingshu_model.effects.moments import (
    CP10K,
    Floats,
    Ints,
    Rows,
    canonical,
    cell_totals,
    expression_levels,
)
from lingshu_model.effects.quantiles import Quantiles, stray
from lingshu_model.effects.roots import roots

SEED = (1 << 62) + 15
"""Of the cells that ln phi is solved on; users begin at small numbers."""
FIT_CELLS = 512
NEGLIGIBLE = 1e-4
"""Change of mean log1p_cp10k below which a gene is left alone."""
CLOSE = 1e-3
"""Distance of the delivered mean change from its target at which a gene is solved."""
MAX_SHIFT = 14.0
"""Of |ln phi|."""
SLACK = 0.07
"""Of the logarithm of the library size, within which it is left as it comes."""
ROUNDS = 4
"""Of finding stray counts and what is left."""
PRIOR = 2.0
"""Sum of squared means at which a gene's own dispersion counts as much as that of all genes."""
SMALLEST, GREATEST = 0.05, 1e4
"""Of sizes."""
GENES = 512
"""Genes worked on at a time."""


@dataclass(frozen=True)
class Mover:
    """Moves control cells of one context by the effect of one condition.

    Attributes:
        rate: p, mean share of a control cell's counts, [genes].
        size: r, [genes].
        common: r_common.
        log_fold: ln phi, [genes].
        library: library size over that of the control cell.
        largest: largest share of a cell's counts that the gene may have, [genes].
    """

    rate: Floats
    size: Floats
    common: float
    log_fold: Floats
    library: float
    largest: Floats

    def move(self, counts: Rows, seed: int, first_cell: int = 0) -> Rows:
        """Return control cells [cells, genes] with the effect, whole counts in compressed rows.

        Args:
            counts: control cells, whole counts.
            seed: of the streams.
            first_cell: number of the first cell in its stream.

        Raises:
            ValueError: counts are negative, not finite or not whole.
        """
        cells = np.arange(first_cell, first_cell + counts.shape[0])
        return _moved(_whole(counts), self, _draws(seed, cells, len(self.rate)))

    def shifted(self, genes: Ints, log_fold: Floats) -> tuple[Floats, Floats]:
        """Return the factor of the means of `genes` and their sizes at ln phi = `log_fold`."""
        phi = np.exp(log_fold)
        up = np.maximum(phi, 1.0)
        size = up**2 / (1.0 / self.size[genes] + (up - 1.0) ** 2 / self.common)
        return self.library * phi, size


def largest_share(counts: Rows) -> Floats:
    """Return the largest share that each gene has of a cell at least as deep as the median."""
    rows = canonical(counts)
    umi = cell_totals(rows)
    deep = np.flatnonzero(umi >= max(float(np.median(umi)), 1.0))
    share = rows[deep]
    share.data = share.data / np.repeat(umi[deep], np.diff(share.indptr))
    return np.asarray(share.max(axis=0).todense(), np.float64).ravel()


def fit_mover(
    control: Rows,
    change: Floats,
    largest: Floats | None = None,
    library: float = 1.0,
    seed: int = SEED,
) -> Mover:
    """Return what moves control cells so that their mean log1p_cp10k changes by `change`.

    Args:
        control: control cells of the context, whole counts [cells, genes].
        change: target, [genes]; NaN is no change.
        largest: largest share of any training cell, [genes]; that of the control cells by default.
        library: library size to come over that of the control cells.
        seed: of the streams of the cells that are solved on.

    Raises:
        ValueError: there is not one count, or counts are negative, not finite or not whole.
    """
    rows = _whole(control)
    if not rows.nnz:
        message = "there is not one count in the control cells; give cells that can be moved"
        raise ValueError(message)
    top = largest_share(rows)
    top = top if largest is None else np.maximum(largest, top)
    mover = Mover(*_distribution(rows), np.zeros(rows.shape[1]), library, top)
    chosen = _fit_rows(rows.shape[0])
    draws = _draws(seed, np.arange(len(chosen)), rows.shape[1])
    return _Fit(rows[chosen], draws, np.nan_to_num(change)).run(mover)


class _Fit:
    """Solves ln phi on a fixed set of control cells and uniforms."""

    def __init__(self, cells: Rows, draws: Floats, change: Floats) -> None:
        self.cells, self.draws = cells, draws
        self.umi = np.maximum(cell_totals(cells), 1.0)
        self.before = np.asarray(expression_levels(cells).mean(axis=0), np.float64).ravel()
        self.target = np.where(np.abs(change) >= NEGLIGIBLE, change, 0.0)

    def run(self, mover: Mover) -> Mover:
        """Return the mover that delivers the target.

        Levels are shares of the library that comes, which is known after a first pass. A target
        shrunk to nothing and a smaller library may contradict each other, rare genes keeping their
        mean level only with as many counts as before: of the library asked for and the old, the
        nearer to what comes is taken.
        """
        wanted = mover.library
        options = [wanted] if abs(np.log(wanted)) <= SLACK else [1.0, wanted]
        passes = [self._pass(replace(mover, library=each), self.umi * each) for each in options]
        mover, totals = min(passes, key=lambda result: abs(self._excess(*result)))
        excess = self._excess(mover, totals)
        mover, totals = self._pass(mover, totals * np.exp(-_beyond(excess, SLACK)))
        beyond = _beyond(self._excess(mover, totals), SLACK)
        return replace(mover, log_fold=mover.log_fold - beyond) if beyond else mover

    def _pass(self, mover: Mover, totals: Floats) -> tuple[Mover, Floats]:
        """Return the mover solved for libraries of `totals` [cells], and those that come."""
        mover = replace(mover, log_fold=self._solve(mover, totals))
        return mover, cell_totals(_moved(self.cells, mover, self.draws))

    def _excess(self, mover: Mover, totals: Floats) -> float:
        """Return the logarithm of the library that comes over that asked for."""
        return float(np.log(max(totals.sum(), 1.0) / (self.umi.sum() * mover.library)))

    def _solve(self, mover: Mover, totals: Floats) -> Floats:
        """Return ln phi at which the mean level in libraries of `totals` changes by the target."""
        out = np.zeros(len(self.target))
        genes = np.flatnonzero(self.target if mover.library == 1.0 else np.ones(len(out)))
        # Counts to counts per 10,000 of the library that comes, [cells, 1].
        scale = CP10K / np.maximum(totals, 1.0)[:, None]
        for first in range(0, len(genes), GENES):
            part = genes[first : first + GENES]
            quantiles = _quantiles(self.cells, mover, part, self.draws)
            wanted = np.maximum(self.before[part] + self.target[part], 0.0)

            def miss(
                some: Ints,
                log_fold: Floats,
                part: Ints = part,
                quantiles: Quantiles = quantiles,
                wanted: Floats = wanted,
            ) -> Floats:
                counts = quantiles.at(some, *mover.shifted(part[some], log_fold))
                return np.log1p(counts * scale).mean(axis=0) - wanted[some]

            guess = _guess(self.before[part], wanted)
            out[part] = roots(miss, guess, MAX_SHIFT, CLOSE)
        return out


def _beyond(value: float, slack: float) -> float:
    """Return what of a value lies beyond plus or minus `slack`."""
    return value - float(np.clip(value, -slack, slack))


def _guess(before: Floats, wanted: Floats) -> Floats:
    """Return ln phi as it would be if every cell had the mean level."""
    least = 1e-3
    guess = np.log(np.expm1(np.maximum(wanted, 0.02 * before)) + least)
    return guess - np.log(np.expm1(before) + least)


def _fit_rows(cells: int) -> Ints:
    """Return rows to solve on: spread evenly over many cells, several times each of few."""
    if cells >= FIT_CELLS:
        return np.linspace(0, cells - 1, FIT_CELLS).astype(np.int64)
    return np.tile(np.arange(cells), -(-FIT_CELLS // cells))


def _draws(seed: int, cells: Ints, genes: int) -> Floats:
    result = [uniforms(seed, int(cell), Purpose.MOVE, genes) for cell in cells]
    return np.stack(result) if result else np.zeros((0, genes))


def _whole(counts: Rows) -> Rows:
    rows = canonical(counts)
    fractional = rows.data[rows.data != np.rint(rows.data)]
    if len(fractional):
        message = f"counts hold {fractional[0]}: quantiles are of whole counts; give raw counts"
        raise ValueError(message)
    return rows


def _distribution(rows: Rows) -> tuple[Floats, Floats, float]:
    """Return rate and size of each gene, and the size of all, by moments without stray counts.

    With means m = N p the sum of (c - m)^2 - m expects the sum of m^2, over r. What is stray
    depends on rate and size; both are found in turn, from r = 1 on.
    """
    umi = cell_totals(rows)
    deep = float((umi**2).sum())
    of_cell = np.repeat(umi, np.diff(rows.indptr))
    genes = rows.shape[1]
    kept = np.ones(rows.nnz, bool)
    rate, size, common = np.zeros(genes), np.ones(genes), 1.0
    for _ in range(ROUNDS):
        gene, c, n = rows.indices[kept], rows.data[kept], of_cell[kept]
        total = np.bincount(gene, c, genes)
        # Half a count for a gene that no control cell shows: it can still go up.
        rate = (total + 0.5 / len(umi)) / umi.sum()
        stays: NDArray[np.bool_] = stray(
            rows.data, of_cell * rate[rows.indices], size[rows.indices]
        )
        kept = ~stays
        information = rate**2 * deep
        excess = np.bincount(gene, c * c - 2 * rate[gene] * n * c, genes) + information - total
        # The median gene that says anything: few stray genes would have the say in a mean.
        said = information > PRIOR
        each = excess[said] / information[said] if said.any() else excess.sum() / information.sum()
        common = float(np.clip(np.median(each), 1.0 / GREATEST, 1.0 / SMALLEST))
        # 1 / r of each gene, moderated by that of the median gene.
        dispersion = (excess + PRIOR * common) / (information + PRIOR)
        size = 1.0 / np.clip(dispersion, 1.0 / GREATEST, 1.0 / SMALLEST)
    return rate, size, 1.0 / common


def _quantiles(cells: Rows, mover: Mover, genes: Ints, draws: Floats) -> Quantiles:
    umi = cell_totals(cells)[:, None]
    most = np.ceil(umi * mover.library * mover.largest[genes])
    return Quantiles.of(
        cells[:, genes].toarray(), umi * mover.rate[genes], mover.size[genes], most, draws[:, genes]
    )


def _moved(cells: Rows, mover: Mover, draws: Floats) -> Rows:
    """Return the cells with every gene moved that has a factor other than 1."""
    staying = (mover.log_fold == 0) & (mover.library == 1.0)
    moving = np.flatnonzero(~staying)
    coo = cells.tocoo()
    kept = staying[coo.col]
    parts = [(coo.row[kept], coo.col[kept], coo.data[kept])]
    for first in range(0, len(moving), GENES):
        genes = moving[first : first + GENES]
        shifted = mover.shifted(genes, mover.log_fold[genes])
        counts = _quantiles(cells, mover, genes, draws).at(np.arange(len(genes)), *shifted)
        row, place = np.nonzero(counts)
        parts.append((row, genes[place], counts[row, place]))
    row, column, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    return sparse.csr_matrix((value, (row, column)), cells.shape)
