"""Moved control cells: an effect delivered to single cells by quantile mapping of their counts.

The count of gene g in a control cell with N counts in all is modelled as negative binomial with
mean N p_g and size r_g (variance m + m^2 / r). Weighting it by exp(theta count) gives a negative
binomial of the same size and mean N p_g phi_g: of all distributions with that mean the nearest in
Kullback-Leibler divergence (Csiszar 1975). A cell's count c is mapped to the count c' at the same
quantile u,

    u = F(c - 1) + v f(c),   c' = F_phi^{-1}(u),   v uniform,

with v from the counter-based stream of (seed, cell, gene), so that any cell can be moved alone and
replayed. v is stratified over cells: where most counts are 0 a small effect changes few cells, and
independent numbers would leave their number to chance. Counts stay whole, cells keep their ranks,
and genes do not influence each other. The additional counts of an up-regulated gene have the
dispersion of a typical gene where the gene's few counts in control cells have a larger one, and all
moved counts may have an additional dispersion eta:

    1 / r_phi = (1 / r + (phi - 1)^2 / r_added) / phi^2 + eta,   phi > 1,
    r_added = max(r, r_common).

ln phi is solved for each gene so that the mean change of log1p_cp10k over control cells is the
target. This holds for the counts as they are, also where they are not negative binomial. Perturbed
cells differ more than control cells, since they respond differently. At the same mean level a more
dispersed count has a larger mean, so target levels of all genes fill the library only at the
dispersion of the perturbed cells: eta is solved so that they do. Library sizes are multiplied by
`library`. Where levels shrunk to 0 contradict it, they stay the same or are multiplied by a factor
between. No count exceeds the largest share of a cell that the gene had in any training cell.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts.streams import Purpose, stratified
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

SOLVER = 3
"""Raised when the same cells and target give another mover; part of the numerics profile."""
SEED = (1 << 62) + 15
"""Seed of the cells that ln phi is solved on; far from the small seeds that users choose."""
FIT_CELLS = 512
"""Number of cells that ln phi is solved on."""
NEGLIGIBLE = 1e-4
"""Change of mean log1p_cp10k below which a target is 0."""
CLOSE = 1e-3
"""Distance of the delivered mean change from its target at which a gene is solved."""
MAX_SHIFT = 18.0
"""Largest |ln phi|: a gene without a count in 1,000 control cells may reach several a cell."""
SLACK = 0.07
"""ln of a library size up to which that of the control cells is kept."""
FILLED = 0.01
"""Deviation of ln library at which eta is solved. A deviation changes all levels by as much."""
ACCEPTED = 0.02
"""Deviation of ln library that is left as it is."""
MOST_DISPERSED = 3.0
"""Largest eta, a squared coefficient of variation of 3."""
FILLING = 2.0
"""Eta per ln library that fills a library of which the levels say nothing, at least.

By a second-order expansion of ln(1 + x), the mean of a count rises by about eta / 2.
"""
PASSES = 5
"""Largest number of eta that are tried."""
ROUNDS = 4
"""Iterations of the fit of the count distributions without stray counts."""
PRIOR = 2.0
"""Sum of squared means at which a gene's own dispersion has as much weight as the common one."""
SMALLEST, GREATEST = 0.05, 1e4
"""Limits of sizes; at 10,000 a count of ordinary size is about Poisson."""
GENES = 512
"""Genes processed at a time: [512 cells, 512 genes] of float64 are 2 MiB."""


@dataclass(frozen=True)
class Mover:
    """Moves control cells of one context by the effect of one condition.

    Attributes:
        rate: p, mean share of a control cell's counts, [genes].
        size: r, [genes].
        added: r_added, the size of a gene's additional counts, [genes].
        log_fold: ln phi, [genes].
        library: library size of the moved cell over that of the control cell.
        largest: largest share of a cell's counts that the gene may have, [genes].
        dispersion: eta, additional dispersion of all moved counts.
    """

    rate: Floats
    size: Floats
    added: Floats
    log_fold: Floats
    library: float
    largest: Floats
    dispersion: float = 0.0

    def move(self, counts: Rows, seed: int, first_cell: int = 0) -> Rows:
        """Return control cells with the effect, whole counts in compressed rows, [cells, genes].

        Args:
            counts: control cells, whole counts, [cells, genes].
            seed: of the random streams.
            first_cell: number of the first cell; cell i has stream (seed, first_cell + i).

        Raises:
            ValueError: counts are negative, not finite or not whole.
        """
        cells = np.arange(first_cell, first_cell + counts.shape[0])
        return self.move_by(counts, uniforms_of(seed, cells, len(self.rate)))

    def move_by(self, counts: Rows, draws: Floats) -> Rows:
        """Return the same by given uniforms in (0, 1), [cells, genes].

        Raises:
            ValueError: counts are negative, not finite or not whole.
        """
        return _moved(_whole(counts), self, draws)

    def shifted(self, genes: Ints, log_fold: Floats) -> tuple[Floats, Floats]:
        """Return the factor of the means of `genes` and their sizes at ln phi = `log_fold`.

        A gene that goes down keeps its size: thinned counts have the same relative dispersion.
        """
        phi = np.exp(log_fold)
        up = np.maximum(phi, 1.0)
        dispersion = (1.0 / self.size[genes] + (up - 1.0) ** 2 / self.added[genes]) / up**2
        return self.library * phi, 1.0 / (dispersion + self.dispersion)

    @property
    def staying(self) -> NDArray[np.bool_]:
        """Which genes keep their counts, bool [genes]."""
        return (self.log_fold == 0) & (self.library == 1.0 and self.dispersion == 0.0)


Solved = tuple[Mover, Floats]
"""A mover and the libraries of the cells it moves, [cells]."""


def largest_share(counts: Rows) -> Floats:
    """Return the largest share of a cell that each gene has, over cells of median depth or more.

    In shallow cells few counts are a large share by chance.

    Args:
        counts: [cells, genes].
    """
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
    """Return the mover that changes the mean log1p_cp10k of control cells by `change`.

    Args:
        control: control cells of the context, whole counts [cells, genes].
        change: target, [genes]; NaN = no change.
        largest: largest share of any training cell, [genes]; that of the control cells by default.
        library: target library size over that of the control cells.
        seed: of the streams of the cells that are solved on.

    Raises:
        ValueError: there is not one count, counts are negative, not finite or not whole, or
            `library` is not a positive number.
    """
    return FitCells(control, largest, seed).mover(change, library)


class FitCells:
    """Control cells that effects of one context are solved on; safe for several threads.

    Distributions, uniforms and quantiles, which are the same for all effects, are computed once.
    """

    def __init__(self, control: Rows, largest: Floats | None = None, seed: int = SEED) -> None:
        """Set the control cells; the arguments are those of `fit_mover`.

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
        self._draws = uniforms_of(seed, np.arange(self.cells.shape[0]), rows.shape[1])
        self._by_gene = self.cells.tocsc()
        self._parts: dict[int, Quantiles] = {}
        self._lock = threading.Lock()

    def mover(self, change: Floats, library: float = 1.0) -> Mover:
        """Return the mover that changes the mean levels of these cells by `change` [genes].

        Raises:
            ValueError: `library` is not a positive number.
        """
        if not 0.0 < library < np.inf:
            message = f"library is {library}; give a positive number, 1 = that of the control cells"
            raise ValueError(message)
        rate, size, common = self.distribution
        # Additional counts more dispersed than the gene's would leave more cells without a count
        # the higher their mean is: the mean level would have no single root.
        added = added_size(size, common)
        start = Mover(rate, size, added, np.zeros(len(rate)), library, self.largest)
        return _Fit(self, np.nan_to_num(change)).run(start)

    def quantiles(self, part: int, mover: Mover) -> Quantiles:
        """Return the quantiles of the genes of a part, with the largest counts of `mover`."""
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
        """Yield the number of each part with some of `genes`, and their places in the part."""
        for part in np.unique(genes // GENES).tolist():
            yield part, genes[genes // GENES == part] - part * GENES


class _Fit:
    """Solves ln phi of one effect on a fixed set of control cells and uniforms.

    With fixed uniforms the mean change is an increasing step function of ln phi, and the result is
    a function of cells and target alone.
    """

    def __init__(self, fit: FitCells, change: Floats) -> None:
        self.fit, self.umi, self.before = fit, fit.umi, fit.before
        self.target = np.where(np.abs(change) >= NEGLIGIBLE, change, 0.0)

    def run(self, mover: Mover) -> Mover:
        """Return the mover that delivers the target.

        A level is a share of the moved cell's library, which depends on all genes and is known
        only after a first pass.
        """
        if abs(np.log(mover.library)) > SLACK and self.target.any():
            mover, excess = self._with_library(mover)
        else:
            # Without a change, or with a library about that of the control cells, genes of target 0
            # keep their counts.
            mover, excess = self._filled(*self._pass(replace(mover, library=1.0), self.umi))
        beyond = _beyond(excess, ACCEPTED)
        # A common factor of all genes corrects the rest: shares, and so levels, hardly change.
        return replace(mover, log_fold=mover.log_fold - beyond) if beyond else mover

    def _with_library(self, start: Mover) -> tuple[Mover, float]:
        """Return the mover with the library of `start` or, where levels contradict it, another one.

        Where changes are shrunk to 0, rare genes keep their mean level only with as many counts as
        before. In a smaller library they do not fit, and to fill a larger one they need as much
        dispersion as where nothing is known of the levels. Then the library is one between the
        target and that of the control cells, where levels agree with one, or else the nearer of
        the two.
        """
        at_target = self._pass(start, self.umi * start.library)
        filled, excess = self._filled(*at_target)
        agrees = abs(excess) <= ACCEPTED
        unsupported = FILLING * abs(float(np.log(start.library)))
        if agrees and filled.dispersion < unsupported:
            return filled, excess
        at_one = self._pass(replace(start, library=1.0), self.umi)
        # Filling takes up to five passes over all genes, so it is left until it decides.
        kept = self._filled(*at_one) if agrees else None
        # Perturbed cells may need as much whatever their library.
        if kept and filled.dispersion < kept[0].dispersion + unsupported:
            return filled, excess
        first, second = self._excess(*at_one), self._excess(*at_target)
        if min(first, second) < 0 < max(first, second):
            library = _between(float(np.log(start.library)), first, second)
            if abs(np.log(library)) > SLACK:
                at_library = self._pass(replace(start, library=library), self.umi * library)
                return self._filled(*at_library)
        if abs(second) < abs(first):
            return filled, excess
        return kept or self._filled(*at_one)

    def _filled(self, mover: Mover, totals: Floats) -> tuple[Mover, float]:
        """Return the mover with the eta at which the levels fill the library, and the excess left.

        Without eta where the levels need no less than the library, and where no gene changes.

        Args:
            mover: solved without eta.
            totals: libraries of the cells it moves, [cells].
        """
        excess = self._excess(mover, totals)
        moved: list[tuple[Mover, float]] = []
        # Every pass solves all genes, so few eta are tried: the secant method needs three or four.
        for _ in range(PASSES):
            # The libraries of the last pass, brought to the target: each cell's is known now.
            mover, totals = self._pass(mover, totals * np.exp(-excess))
            excess = self._excess(mover, totals)
            moved.append((mover, excess))
            dispersion = _next_dispersion([(m.dispersion, e) for m, e in moved])
            if dispersion == mover.dispersion or mover.staying.all():
                break
            mover = replace(mover, dispersion=dispersion)
        # The nearest pass, not the last: a step function of eta can jump over its root.
        return min(moved, key=lambda each: abs(each[1]))

    def _pass(self, mover: Mover, totals: Floats) -> Solved:
        """Return the mover solved for libraries `totals`, and the moved libraries, [cells]."""
        mover = replace(mover, log_fold=self._solve(mover, totals))
        return mover, self._totals(mover)

    def _totals(self, mover: Mover) -> Floats:
        """Return the library sizes of the moved cells, [cells]."""
        staying, moving = mover.staying, np.flatnonzero(~mover.staying)
        cells = len(self.umi)
        totals = self.fit.cells @ staying.astype(np.float64)
        for part, some in self.fit.chosen(moving):
            genes = self.fit.genes(part)[some]
            shifted = mover.shifted(genes, mover.log_fold[genes])
            _, cell, count = self.fit.quantiles(part, mover).shifted(some, *shifted)
            totals += np.bincount(cell, count, cells)
        return totals

    def _excess(self, mover: Mover, totals: Floats) -> float:
        """Return ln of the moved cells' summed libraries over the target."""
        return float(np.log(max(totals.sum(), 1.0) / (self.umi.sum() * mover.library)))

    def _solve(self, mover: Mover, totals: Floats) -> Floats:
        """Return ln phi, [genes]: the mean level in libraries of `totals` changes by the target."""
        out = np.zeros(len(self.target))
        # Genes with target 0 that stay as they are need no solution.
        stays = replace(mover, log_fold=self.target).staying
        genes = np.flatnonzero(~stays)
        # Counts to counts per 10,000 of the moved cell's library, [cells].
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
            if mover.dispersion:
                # A pass before has solved them for another eta.
                guess = mover.log_fold[chosen]
            out[chosen] = roots(miss, guess, MAX_SHIFT, CLOSE)
        return out


def _between(target: float, at_one: float, at_target: float) -> float:
    """Return the library between 1 and the target at which counts and levels agree, about.

    Without a gene that had a seventh of all counts, the others have larger shares of fewer counts:
    neither library suits their levels, and one between does.

    Args:
        target: ln of the target library.
        at_one: ln of the moved libraries over 1, solved at 1.
        at_target: over the target, solved at it; of the other sign.
    """
    # The excess is about linear in ln library.
    return float(np.exp(target * at_one / (at_one - at_target)))


def _beyond(value: float, slack: float) -> float:
    """Return what of a value lies beyond plus or minus `slack`."""
    return value - float(np.clip(value, -slack, slack))


def _next_dispersion(tried: Sequence[tuple[float, float]]) -> float:
    """Return the eta to try next, by the secant method; the last one if it is solved.

    Args:
        tried: eta and the excess of ln library at it, of each pass; the first without eta.
    """
    eta, excess = tried[-1]
    # Less dispersion than that of the control cells is not delivered.
    if abs(excess) <= FILLED or (eta == 0.0 and excess > 0):
        return eta
    if len(tried) < 2:
        return min(-FILLING * excess, MOST_DISPERSED)
    before, larger = tried[-2]
    if excess == larger:
        return eta
    return float(np.clip(eta - excess * (eta - before) / (excess - larger), 0.0, MOST_DISPERSED))


def added_size(size: Floats, common: float) -> Floats:
    """Return the size of a gene's additional counts, [genes].

    Args:
        size: r, of its counts in control cells, [genes].
        common: r_common, the size of a typical gene.
    """
    return np.maximum(size, common)


def _guess(before: Floats, wanted: Floats) -> Floats:
    """Return ln phi if every cell had the mean level: the log ratio of expm1 of levels, [genes]."""
    least = 1e-3
    guess = np.log(np.expm1(np.maximum(wanted, 0.02 * before)) + least)
    return guess - np.log(np.expm1(before) + least)


def _fit_rows(cells: int) -> Ints:
    """Return rows to solve on: evenly spaced of many cells, each several times of few.

    A repeated cell has another stream, and so other uniforms.
    """
    if cells >= FIT_CELLS:
        return np.linspace(0, cells - 1, FIT_CELLS).astype(np.int64)
    return np.tile(np.arange(cells), -(-FIT_CELLS // cells))


def uniforms_of(seed: int, cells: Ints, genes: int) -> Floats:
    """Return the uniforms v of cells by their numbers, [cells, genes]."""
    return stratified(seed, cells, Purpose.MOVE, genes)


def _whole(counts: Rows) -> Rows:
    rows = canonical(counts)
    fractional = rows.data[rows.data != np.rint(rows.data)]
    if len(fractional):
        message = f"counts hold {fractional[0]}: quantiles are of whole counts; give raw counts"
        raise ValueError(message)
    return rows


def _distribution(rows: Rows) -> tuple[Floats, Floats, float]:
    """Return rate p and size r of each gene, and the common size, by the method of moments.

    With means m = N p, E[sum (c - m)^2 - m] = sum m^2 / r over cells. Stray counts, which depend on
    rate and size, are left out; both are computed in turn, starting from r = 1.
    """
    umi = cell_totals(rows)
    # sum m^2 = p^2 sum N^2.
    squared_depths = float((umi**2).sum())
    of_cell = np.repeat(umi, np.diff(rows.indptr))
    genes = rows.shape[1]
    kept = np.ones(rows.nnz, bool)
    rate, size, common = np.zeros(genes), np.ones(genes), 1.0
    for _ in range(ROUNDS):
        gene, c, n = rows.indices[kept], rows.data[kept], of_cell[kept]
        total = np.bincount(gene, c, genes)
        # Half a count over all cells: a gene without counts in control cells can still go up.
        rate = (total + 0.5 / len(umi)) / umi.sum()
        stays: NDArray[np.bool_] = stray(
            rows.data, of_cell * rate[rows.indices], size[rows.indices]
        )
        kept = ~stays
        information = rate**2 * squared_depths
        # sum (c - m)^2 - c with the square expanded: only non-zero counts are visited.
        excess = np.bincount(gene, c * c - 2 * rate[gene] * n * c, genes) + information - total
        # The median of genes with enough counts: a mean would be dominated by few extreme genes.
        enough = information > PRIOR
        each = (
            excess[enough] / information[enough]
            if enough.any()
            else excess.sum() / information.sum()
        )
        common = float(np.clip(np.median(each), 1.0 / GREATEST, 1.0 / SMALLEST))
        # Dispersion 1 / r of each gene, moderated by that of the median gene.
        dispersion = (excess + PRIOR * common) / (information + PRIOR)
        size = 1.0 / np.clip(dispersion, 1.0 / GREATEST, 1.0 / SMALLEST)
    return rate, size, 1.0 / common


def _most(umi: Floats, mover: Mover, genes: Ints) -> Floats:
    """Return the largest counts of `genes` in moved cells of `umi` [cells], [genes, cells]."""
    return np.ceil(umi * mover.library * mover.largest[genes][:, None])


def _moved(cells: Rows, mover: Mover, draws: Floats) -> Rows:
    """Return the cells with every gene moved whose factor is not 1, [cells, genes]."""
    # Counts of other genes are copied: mapping them to the same distribution would only be slower.
    staying, moving = mover.staying, np.flatnonzero(~mover.staying)
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
