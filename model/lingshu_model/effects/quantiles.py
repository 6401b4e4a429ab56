"""Counts taken through the quantiles of one negative binomial to those of another.

The negative binomial of mean m and size r has variance m + m^2 / r, f(0) = (1 + m / r)^-r and
f(k + 1) = f(k) (k + r) / (k + 1) m / (r + m), so a count costs as many steps as it is large, and an
entry that stays 0 a single comparison. Where steps become many, quantiles are those of the gamma
distribution of the same mean and variance. Counts above `LARGE`, and counts so low in their
distribution that its function is 0 to the computer, are multiplied by the ratio of the means, which
is what the quantiles amount to there. A count that its distribution cannot explain (stray, or
another kind of cell) stays what it is.

Arrays are [genes, cells]: some genes at a time are asked for, each with all cells.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from lingshu_model.effects.moments import Floats, Ints

LARGE = 64
"""Counts above which a count is scaled."""
FAR = 12.0
"""Standard deviations above the mean, and as many counts, beyond which a count is stray."""
HIGH = 200.0
"""Mean above which quantiles are those of a gamma distribution."""
STEPS = 400
"""Steps after which they are, too."""
FEWER = 0.6
"""Share of entries that are still counted up, below which the others are put aside."""


@dataclass(frozen=True)
class Apart:
    """Entries that are not taken through quantiles, gene by gene.

    Attributes:
        cell: of each entry.
        count: of each entry.
        v: uniform that rounds it, where it is scaled.
        first: number of each gene's first entry, and of what follows the last, [genes + 1].
    """

    cell: Ints
    count: Floats
    v: Floats
    first: Ints

    @classmethod
    def of(cls, chosen: NDArray[np.bool_], counts: Floats, v: Floats) -> "Apart":
        """Return the entries that are `chosen` [genes, cells]."""
        gene, cell = np.nonzero(chosen)
        first = np.searchsorted(gene, np.arange(len(chosen) + 1))
        return cls(cell, counts[gene, cell], v[gene, cell], first)

    def among(self, genes: Ints) -> tuple[Ints, Ints]:
        """Return the entries of these genes, and the place of each one's gene in `genes`."""
        begin, length = self.first[genes], self.first[genes + 1] - self.first[genes]
        place = np.repeat(np.arange(len(genes)), length)
        # Numbers from 0 on within each gene, put behind the gene's first entry.
        within = np.arange(len(place)) - np.repeat(np.cumsum(length) - length, length)
        return begin[place] + within, place


@dataclass(frozen=True)
class Quantiles:
    """Counts [genes, cells] and where they lie in their distributions.

    Attributes:
        counts: whole numbers, [genes, cells].
        mean: of each count's distribution, the same shape.
        most: what a count may become at most, the same shape.
        log_u: logarithm of each count's quantile, the same shape; -inf where that is not used.
        scaled: counts that are scaled.
        stray: counts that stay.
    """

    counts: Floats
    mean: Floats
    most: Floats
    log_u: Floats
    scaled: Apart
    stray: Apart

    @classmethod
    def of(cls, counts: Floats, mean: Floats, size: Floats, most: Floats, v: Floats) -> "Quantiles":
        """Return the quantiles u = F(c - 1) + v f(c) of counts of size `size` [genes].

        Args:
            counts: whole numbers, [genes, cells].
            mean: of each count's distribution, the same shape.
            size: of its genes' distributions, [genes].
            most: what a count may become at most, [genes, cells].
            v: uniforms in (0, 1), the same shape.
        """
        r = size[:, None]
        # f(0) of every entry, [genes, cells]; zeros need no more than this.
        below, chance = np.zeros_like(mean), np.exp(-r * np.log1p(mean / r))
        away = stray(counts, mean, r)
        scaled = (counts > LARGE) & ~away
        place = np.flatnonzero((counts > 0) & ~scaled & ~away)
        # The largest counts first: those that go on are the first of the arrays, at every step.
        place = place[np.argsort(-counts.ravel()[place], kind="stable")]
        c, m, f = counts.ravel()[place], mean.ravel()[place], chance.ravel()[place]
        r = size[place // counts.shape[1]]
        ratio, under = m / (r + m), np.zeros(len(place))
        going = np.searchsorted(-c, -np.arange(LARGE), side="left")  # entries with c > k
        for k, n in enumerate(going.tolist()):
            if not n:
                break
            # f is f(k), `under` becomes F(k).
            under[:n] += f[:n]
            f[:n] *= (k + r[:n]) / (k + 1) * ratio[:n]
        below.flat[place], chance.flat[place] = under, f
        scaled.flat[place[under + f <= 0.0]] = True
        with np.errstate(divide="ignore"):
            log_u = np.log(np.where(scaled | away, 0.0, below + v * chance))
        apart = Apart.of(scaled, counts, v), Apart.of(away, counts, v)
        return cls(counts, mean, np.maximum(most, counts), log_u, *apart)

    def capped(self, most: Floats) -> "Quantiles":
        """Return the same with other largest counts, [genes, cells]."""
        return replace(self, most=np.maximum(most, self.counts))

    def shifted(self, genes: Ints, fold: Floats, size: Floats) -> tuple[Ints, Ints, Floats]:
        """Return the counts at the same quantiles of shifted distributions, those that are not 0.

        Args:
            genes: rows.
            fold: factor of each one's means, [chosen genes].
            size: size of each one's shifted distribution, [chosen genes].

        Returns:
            The place in `genes` of each count's gene, its cell, and the count.
        """
        cells = self.counts.shape[1]
        mean = (self.mean[genes] * fold[:, None]).ravel()
        log_u = self.log_u[genes]
        # Where u <= F(0) of the shifted distribution the count is 0, which most are.
        r = size[:, None]
        place = np.flatnonzero(log_u > -r * np.log1p(mean.reshape(log_u.shape) / r))
        gene, cell = np.divmod(place, cells)
        most = self.most[genes[gene], cell]
        count = _inverse(np.exp(log_u.ravel()[place]), mean[place], size[gene], most)
        parts = [(gene, cell, count)]
        if len(self.scaled.cell):
            entry, gene = self.scaled.among(genes)
            cell = self.scaled.cell[entry]
            larger = np.floor(self.scaled.count[entry] * fold[gene] + self.scaled.v[entry])
            parts.append((gene, cell, np.minimum(larger, self.most[genes[gene], cell])))
        if len(self.stray.cell):
            entry, gene = self.stray.among(genes)
            parts.append((gene, self.stray.cell[entry], self.stray.count[entry]))
        gene, cell, count = (np.concatenate(each) for each in zip(*parts, strict=True))
        kept = np.flatnonzero(count)
        if len(parts) > 1:
            # Sums over cells are then the same to the last bit, whichever entries are apart.
            kept = kept[np.argsort(gene[kept] * cells + cell[kept], kind="stable")]
        return gene[kept], cell[kept], count[kept]


def stray(counts: Floats, mean: Floats, size: Floats) -> NDArray[np.bool_]:
    """Return which counts are too large for a negative binomial of that mean and size."""
    return counts > mean + FAR * (1.0 + np.sqrt(mean + mean**2 / size))


def _inverse(u: Floats, mean: Floats, size: Floats, most: Floats) -> Floats:
    """Return the smallest counts whose distribution functions reach `u`, at most `most`."""
    out = np.zeros(len(u))
    high = np.flatnonzero(mean > HIGH)
    out[high] = _high(u[high], mean[high], size[high], most[high])
    low = np.flatnonzero(mean <= HIGH)
    out[low] = _steps(u[low], mean[low], size[low], most[low])
    return out


def _high(u: Floats, mean: Floats, size: Floats, most: Floats) -> Floats:
    """Return the quantiles of gamma distributions of the same mean and variance, rounded."""
    spread = 1.0 + mean / size
    quantile = gammaincinv(mean / spread, np.minimum(u, 1.0 - 1e-15)) * spread
    return np.minimum(np.rint(quantile), most)


def _steps(u: Floats, mean: Floats, size: Floats, most: Floats) -> Floats:
    """Return the quantiles by adding up probabilities from 0 on."""
    out, whole = np.zeros(len(u)), (u, mean, size, most)
    f = np.exp(-size * np.log1p(mean / size))
    ratio, reached, count = mean / (size + mean), f.copy(), np.zeros(len(u))
    left: Ints = np.arange(len(u))
    more = np.ones(len(u), bool)
    for k in range(STEPS):
        more = (reached < u) & (k < most)
        n = int(np.count_nonzero(more))
        if n < FEWER * len(left):
            out[left] = count
            kept = np.flatnonzero(more)
            left = left.take(kept)
            each = (u, most, size, f, ratio, reached, count)
            u, most, size, f, ratio, reached, count = (a.take(kept) for a in each)
            more = np.ones(n, bool)
        if not n:
            break
        # Entries that have reached their quantile stay in place for some steps: their f is added
        # to no purpose, and their count no more.
        f *= (k + size) / (k + 1)
        f *= ratio
        reached += f
        count += more
    out[left] = count
    last = left[more]
    if len(last):
        out[last] = np.maximum(_high(*(each[last] for each in whole)), out[last])
    return out
