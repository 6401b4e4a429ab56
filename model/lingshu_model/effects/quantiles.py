"""Quantile mapping of counts from one negative binomial distribution to another.

The negative binomial with mean m and size r has variance m + m^2 / r, f(0) = (1 + m / r)^-r and
f(k + 1) = f(k) (k + r) / (k + 1) m / (r + m). Adding up f costs as many steps as a count is large,
and one comparison for an entry that stays 0. Three kinds of counts are treated differently:

- With large means or many steps, quantiles are those of the gamma distribution with the same mean
  and variance.
- Counts above `LARGE`, and counts whose distribution function underflows to 0, are multiplied by
  the ratio of the means, which is close to the quantile mapping there.
- Stray counts, too large for their distribution (ambient RNA, or another kind of cell), stay.

Arrays are [genes, cells], since some genes of all cells are processed at a time.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from lingshu_model.effects.moments import Floats, Ints

LARGE = 64
"""Largest count that is mapped by its quantile; a larger one is scaled."""
FAR = 12.0
"""Standard deviations above the mean, plus as many counts, beyond which a count is stray."""
HIGH = 200.0
"""Mean above which quantiles are those of a gamma distribution."""
STEPS = 400
"""Number of steps after which quantiles are those of a gamma distribution, too."""
FEWER = 0.6
"""Share of unfinished entries below which the finished ones are removed from the arrays."""


@dataclass(frozen=True)
class Apart:
    """Entries that are not mapped by quantiles, ordered by gene.

    Attributes:
        cell: of each entry, [entries].
        count: of each entry, [entries].
        v: uniform that rounds a scaled entry, [entries].
        first: index of each gene's first entry, then the number of entries, [genes + 1].
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
        """Return the indices of the entries of `genes`, and for each the place of its gene."""
        begin, length = self.first[genes], self.first[genes + 1] - self.first[genes]
        place = np.repeat(np.arange(len(genes)), length)
        # 0, 1, 2, … within each gene, added to the gene's first index.
        within = np.arange(len(place)) - np.repeat(np.cumsum(length) - length, length)
        return begin[place] + within, place


@dataclass(frozen=True)
class Quantiles:
    """Counts and their quantiles in their distributions.

    Attributes:
        counts: whole numbers, [genes, cells].
        mean: of each count's distribution, [genes, cells].
        most: largest count that each may become, [genes, cells].
        log_u: logarithm of each count's quantile u, [genes, cells]; -inf where it is not used.
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
        """Return the quantiles u = F(c - 1) + v f(c), uniform if the distributions are right.

        Args:
            counts: whole numbers, [genes, cells].
            mean: of each count's distribution, [genes, cells].
            size: of each gene's distribution, [genes].
            most: largest count that each may become, [genes, cells].
            v: uniforms in (0, 1), [genes, cells].
        """
        r = size[:, None]
        # f(0) of every entry, [genes, cells]; zeros need no more than this.
        below, chance = np.zeros_like(mean), np.exp(-r * np.log1p(mean / r))
        away = stray(counts, mean, r)
        scaled = (counts > LARGE) & ~away
        place = np.flatnonzero((counts > 0) & ~scaled & ~away)
        # The largest counts first: at every step the unfinished entries are a leading slice.
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
        # f(0) underflows for large means: then the quantile of a small count is 0 as well.
        scaled.flat[place[under + f <= 0.0]] = True
        # Logarithms: F(0) of a shifted distribution, which it is compared with, may underflow.
        with np.errstate(divide="ignore"):
            log_u = np.log(np.where(scaled | away, 0.0, below + v * chance))
        apart = Apart.of(scaled, counts, v), Apart.of(away, counts, v)
        return cls(counts, mean, np.maximum(most, counts), log_u, *apart)

    def capped(self, most: Floats) -> "Quantiles":
        """Return the same with other largest counts, [genes, cells]."""
        return replace(self, most=np.maximum(most, self.counts))

    def shifted(self, genes: Ints, fold: Floats, size: Floats) -> tuple[Ints, Ints, Floats]:
        """Return the non-zero counts at the same quantiles of shifted distributions.

        Args:
            genes: row numbers, [chosen genes].
            fold: factor of the means, [chosen genes].
            size: of the shifted distributions, [chosen genes].

        Returns:
            Of each count the place of its gene in `genes`, its cell, and the count, [n] each.
        """
        cells = self.counts.shape[1]
        mean = (self.mean[genes] * fold[:, None]).ravel()
        log_u = self.log_u[genes]
        # Where u <= F(0) of the shifted distribution the count is 0: most entries.
        r = size[:, None]
        place = np.flatnonzero(log_u > -r * np.log1p(mean.reshape(log_u.shape) / r))
        gene, cell = np.divmod(place, cells)
        most = self.most[genes[gene], cell]
        count = _inverse(np.exp(log_u.ravel()[place]), mean[place], size[gene], most)
        parts = [(gene, cell, count)]
        if len(self.scaled.cell):
            entry, gene = self.scaled.among(genes)
            cell = self.scaled.cell[entry]
            # Floor of a value plus a uniform: rounding that keeps the mean.
            rounded = np.floor(self.scaled.count[entry] * fold[gene] + self.scaled.v[entry])
            parts.append((gene, cell, np.minimum(rounded, self.most[genes[gene], cell])))
        if len(self.stray.cell):
            entry, gene = self.stray.among(genes)
            parts.append((gene, self.stray.cell[entry], self.stray.count[entry]))
        gene, cell, count = (np.concatenate(each) for each in zip(*parts, strict=True))
        kept = np.flatnonzero(count)
        if len(parts) > 1:
            # A fixed order of sums over cells: the same bits, whichever entries are apart.
            kept = kept[np.argsort(gene[kept] * cells + cell[kept], kind="stable")]
        return gene[kept], cell[kept], count[kept]


def stray(counts: Floats, mean: Floats, size: Floats) -> NDArray[np.bool_]:
    """Return which counts are too large for a negative binomial of that mean and size."""
    # 1 + sd: at a mean near 0 the sd is near 0, and any count would be far above it.
    return counts > mean + FAR * (1.0 + np.sqrt(mean + mean**2 / size))


def _inverse(u: Floats, mean: Floats, size: Floats, most: Floats) -> Floats:
    """Return the smallest counts whose distribution functions reach `u`, at most `most`.

    Args:
        u: quantiles, [n].
        mean: of each distribution, [n].
        size: of each distribution, [n].
        most: largest counts, [n].
    """
    out = np.zeros(len(u))
    high = np.flatnonzero(mean > HIGH)
    out[high] = _high(u[high], mean[high], size[high], most[high])
    low = np.flatnonzero(mean <= HIGH)
    out[low] = _steps(u[low], mean[low], size[low], most[low])
    return out


def _high(u: Floats, mean: Floats, size: Floats, most: Floats) -> Floats:
    """Return the quantiles of gamma distributions of the same mean and variance, rounded."""
    # Variance over mean is the gamma's scale, mean over scale its shape.
    scale = 1.0 + mean / size
    # The quantile of 1 is infinite.
    quantile = gammaincinv(mean / scale, np.minimum(u, 1.0 - 1e-15)) * scale
    return np.minimum(np.rint(quantile), most)


def _steps(u: Floats, mean: Floats, size: Floats, most: Floats) -> Floats:
    """Return the quantiles by adding up probabilities, all entries at the same time."""
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
        # Finished entries stay in the arrays for some steps: their count no longer changes, and
        # removing them at every step would cost more than the additions.
        f *= (k + size) / (k + 1)
        f *= ratio
        reached += f
        count += more
    out[left] = count
    last = left[more]
    # Long tails after STEPS steps: at least the count that was reached.
    if len(last):
        out[last] = np.maximum(_high(*(each[last] for each in whole)), out[last])
    return out
