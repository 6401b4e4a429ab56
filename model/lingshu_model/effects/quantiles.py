"""Counts taken through the quantiles of one negative binomial to those of another.

The negative binomial of mean m and size r has variance m + m^2 / r, f(0) = (1 + m / r)^-r and
f(k + 1) = f(k) (k + r) / (k + 1) m / (r + m), so a count costs as many steps as it is large, and an
entry that stays 0 a single comparison. Where steps become many, quantiles are those of the gamma
distribution of the same mean and variance. Counts above `LARGE`, and counts so low in their
distribution that its function is 0 to the computer, are multiplied by the ratio of the means, which
is what the quantiles amount to there. A count that its distribution cannot explain (stray, or
another kind of cell) stays what it is.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Quantiles:
    """Counts [cells, genes] and where they lie in their distributions.

    Attributes:
        counts: whole numbers, [cells, genes].
        mean: of each count's distribution, the same shape.
        most: what a count may become at most, the same shape.
        log_u: logarithm of each count's quantile, the same shape; -inf where that is not used.
        v: uniforms that round what is scaled, the same shape.
        scaled: which counts are scaled, the same shape.
        stray: which counts stay, the same shape.
    """

    counts: Floats
    mean: Floats
    most: Floats
    log_u: Floats
    v: Floats
    scaled: NDArray[np.bool_]
    stray: NDArray[np.bool_]

    @classmethod
    def of(cls, counts: Floats, mean: Floats, size: Floats, most: Floats, v: Floats) -> "Quantiles":
        """Return the quantiles u = F(c - 1) + v f(c) of counts of size `size` [genes]."""
        # f(0) of every entry, [cells, genes]; zeros need no more than this.
        below, chance = np.zeros_like(mean), np.exp(-size * np.log1p(mean / size))
        away = stray(counts, mean, size)
        scaled = (counts > LARGE) & ~away
        place = np.flatnonzero((counts > 0) & ~scaled & ~away)
        c, m = counts.flat[place], mean.flat[place]
        r = np.broadcast_to(size, mean.shape).flat[place]
        # Flat arrays over non-zero counts: f is f(k), `under` is F(k - 1) while k counts up.
        ratio, f, under = m / (r + m), chance.flat[place], np.zeros(len(place))
        left = np.arange(len(place))
        for k in range(LARGE):
            under[left] += f[left]
            f[left] *= (k + r[left]) / (k + 1) * ratio[left]
            left = left[c[left] > k + 1]  # entries that have reached their count leave the loop
            if not len(left):
                break
        below.flat[place], chance.flat[place] = under, f
        scaled.flat[place[under + f <= 0.0]] = True
        with np.errstate(divide="ignore"):
            log_u = np.log(np.where(scaled | away, 0.0, below + v * chance))
        return cls(counts, mean, np.maximum(most, counts), log_u, v, scaled, away)

    def at(self, genes: Ints, fold: Floats, size: Floats) -> Floats:
        """Return counts [cells, chosen genes] at the same quantiles of shifted distributions.

        Args:
            genes: columns.
            fold: factor of each one's means, [chosen genes].
            size: size of each one's shifted distribution, [chosen genes].
        """
        mean = self.mean[:, genes] * fold
        log_u = self.log_u[:, genes]
        out = np.zeros(mean.shape)
        # Where u <= F(0) of the shifted distribution the count is 0, which most are.
        row, column = np.nonzero(log_u > -size * np.log1p(mean / size))
        place = genes[column]
        out[row, column] = _inverse(
            np.exp(log_u[row, column]), mean[row, column], size[column], self.most[row, place]
        )
        row, column = np.nonzero(self.scaled[:, genes])
        place = genes[column]
        larger = np.floor(self.counts[row, place] * fold[column] + self.v[row, place])
        out[row, column] = np.minimum(larger, self.most[row, place])
        row, column = np.nonzero(self.stray[:, genes])
        out[row, column] = self.counts[row, genes[column]]
        return out


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
    out = np.zeros(len(u))
    f = np.exp(-size * np.log1p(mean / size))
    ratio, reached = mean / (size + mean), f.copy()
    left, whole = np.arange(len(u)), (u, mean, size, most)
    for k in range(STEPS):
        more = (reached < u) & (k < most)
        left, f, reached, ratio = left[more], f[more], reached[more], ratio[more]
        u, size, most = u[more], size[more], most[more]
        if not len(left):
            break
        f = f * ((k + size) / (k + 1)) * ratio
        reached = reached + f
        out[left] = k + 1
    if len(left):
        out[left] = np.maximum(_high(*(each[left] for each in whole)), out[left])
    return out
