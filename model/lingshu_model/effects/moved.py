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

import threading
from collections.abc import Iterator
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
    return FitCells(control, largest, seed).mover(change, library)


class FitCells:
    """Control cells that effects of one context are solved on; safe for several threads.

    What no effect changes (distributions, uniforms, quantiles) is computed once.
    """

    def __init__(self, control: Rows, largest: Floats | None = None, seed: int = SEED) -> None:
        """Take control cells; the arguments are those of `fit_mover`.

        Raises:
            ValueError: there is not one count, or counts are negative, not finite or not whole.
        """
        rows = _whole(control)
        if not rows.nnz:
            message = "there is not one count in the control cells; give cells that can be moved"
            raise ValueError(message)
        top = largest_share(rows)
        self.largest = top if largest is None else np.maximum(largest, top)
        self.distribution = _distribution(rows)
        self.cells = rows[_fit_rows(rows.shape[0])]
        self.umi = np.maximum(cell_totals(self.cells), 1.0)
        self.before = np.asarray(expression_levels(self.cells).mean(axis=0), np.float64).ravel()
        self._draws = _draws(seed, np.arange(self.cells.shape[0]), rows.shape[1])
        self._by_gene = self.cells.tocsc()
        self._parts: dict[int, Quantiles] = {}
        self._lock = threading.Lock()

    def mover(self, change: Floats, library: float = 1.0) -> Mover:
        """Return what changes the mean levels of these cells by `change` [genes]."""
        rate, size, common = self.distribution
        start = Mover(rate, size, common, np.zeros(len(rate)), library, self.largest)
        return _Fit(self, np.nan_to_num(change)).run(start)

    def quantiles(self, part: int, mover: Mover) -> Quantiles:
        """Return the quantiles of genes `part` * GENES and on, capped as `mover` says."""
        genes = self.genes(part)
        most = _most(self.umi, mover, genes)
        with self._lock:
            known = self._parts.get(part)
        if known is None:
            counts = self._by_gene[:, genes].T.toarray()
            mean = mover.rate[genes][:, None] * self.umi
            known = Quantiles.of(counts, mean, mover.size[genes], most, self._draws.T[genes])
            with self._lock:
                self._parts[part] = known
        return known.capped(most)

    def genes(self, part: int) -> Ints:
        """Return the numbers of the genes of a part."""
        return np.arange(part * GENES, min((part + 1) * GENES, len(self.largest)))

    def chosen(self, genes: Ints) -> Iterator[tuple[int, Ints]]:
        """Yield the parts that hold these genes, with their places in the part."""
        for part in np.unique(genes // GENES).tolist():
            yield part, genes[genes // GENES == part] - part * GENES


class _Fit:
    """Solves ln phi of one effect."""

    def __init__(self, fit: FitCells, change: Floats) -> None:
        self.fit, self.umi, self.before = fit, fit.umi, fit.before
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
        return mover, self._totals(mover)

    def _totals(self, mover: Mover) -> Floats:
        """Return the library sizes that come, [cells]."""
        staying, moving = _moving(mover)
        cells = len(self.umi)
        totals = self.fit.cells @ staying.astype(np.float64)
        for part, some in self.fit.chosen(moving):
            genes = self.fit.genes(part)[some]
            shifted = mover.shifted(genes, mover.log_fold[genes])
            _, cell, count = self.fit.quantiles(part, mover).shifted(some, *shifted)
            totals += np.bincount(cell, count, cells)
        return totals

    def _excess(self, mover: Mover, totals: Floats) -> float:
        """Return the logarithm of the library that comes over that asked for."""
        return float(np.log(max(totals.sum(), 1.0) / (self.umi.sum() * mover.library)))

    def _solve(self, mover: Mover, totals: Floats) -> Floats:
        """Return ln phi at which the mean level in libraries of `totals` changes by the target."""
        out = np.zeros(len(self.target))
        genes = np.flatnonzero(self.target if mover.library == 1.0 else np.ones(len(out)))
        # Counts to counts per 10,000 of the library that comes, [cells].
        scale = CP10K / np.maximum(totals, 1.0)
        for part, rows in self.fit.chosen(genes):
            chosen = self.fit.genes(part)[rows]
            quantiles = self.fit.quantiles(part, mover)
            wanted = np.maximum(self.before[chosen] + self.target[chosen], 0.0)

            def miss(
                some: Ints,
                log_fold: Floats,
                chosen: Ints = chosen,
                rows: Ints = rows,
                quantiles: Quantiles = quantiles,
                wanted: Floats = wanted,
            ) -> Floats:
                shifted = mover.shifted(chosen[some], log_fold)
                gene, cell, count = quantiles.shifted(rows[some], *shifted)
                levels = np.bincount(gene, np.log1p(count * scale[cell]), len(some))
                return levels / len(scale) - wanted[some]

            guess = _guess(self.before[chosen], wanted)
            out[chosen] = roots(miss, guess, MAX_SHIFT, CLOSE)
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


def _most(umi: Floats, mover: Mover, genes: Ints) -> Floats:
    """Return the largest counts of `genes` in moved cells of `umi` [cells], [genes, cells]."""
    return np.ceil(umi * mover.library * mover.largest[genes][:, None])


def _moving(mover: Mover) -> tuple[NDArray[np.bool_], Ints]:
    """Return which genes keep their counts, bool [genes], and the numbers of the others."""
    staying = (mover.log_fold == 0) & (mover.library == 1.0)
    return staying, np.flatnonzero(~staying)


def _moved(cells: Rows, mover: Mover, draws: Floats) -> Rows:
    """Return the cells with every gene moved that has a factor other than 1."""
    staying, moving = _moving(mover)
    coo, by_gene, umi = cells.tocoo(), cells.tocsc(), cell_totals(cells)
    kept = staying[coo.col]
    parts = [(coo.row[kept], coo.col[kept], coo.data[kept])]
    for first in range(0, len(moving), GENES):
        genes = moving[first : first + GENES]
        counts, most = by_gene[:, genes].T.toarray(), _most(umi, mover, genes)
        mean = mover.rate[genes][:, None] * umi
        quantiles = Quantiles.of(counts, mean, mover.size[genes], most, draws.T[genes])
        shifted = mover.shifted(genes, mover.log_fold[genes])
        place, row, value = quantiles.shifted(np.arange(len(genes)), *shifted)
        parts.append((row, genes[place], value))
    row, column, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    return sparse.csr_matrix((value, (row, column)), cells.shape)
