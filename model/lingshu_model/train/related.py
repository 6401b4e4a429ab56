"""A perturbation's effect in one context, told by others: the more alike, the more they count.

Observed effects y of contexts c on genes g, with squared standard errors s2:

- v_g, how large effects on a gene are: the mean over contexts of y**2 - s2, never below 0;
- t2_g = rho v_g, how much of that differs between contexts, and c_g = v_g - t2_g, how much is
  common to them; rho is one number for all genes;
- what the others say of what is common: the mean of their y, weighted by likeness_ac over
  s2_cg + t2_g and shrunk towards 0 by c_g / (c_g + its variance);
- context a's effect is that and a deviation of its own, of variance t2_g, of which the others know
  nothing; where a's own effect was observed, the two are averaged by their precisions.

Likeness is exp(-d**2 / 2 h**2) of the distance d between control profiles; h is the one that, each
context left out in turn, predicts it best from the rest. Knows nothing of cells.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BANDWIDTHS = (0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0, 10.0)


def distances(profiles: Floats, home: NDArray[np.int64]) -> Floats:
    """Return 1 - Pearson between contexts, float64 [contexts, contexts].

    Profiles [contexts, genes] are taken as deviations from the mean of their own `home` (a number
    for each context, such as its data set's); genes that either side lacks (NaN) are left out.
    """
    centred = np.array(profiles)
    for one in np.unique(home):
        here = home == one
        known = np.isfinite(centred[here])
        total = np.where(known, centred[here], 0.0).sum(axis=0)
        centred[here] -= total / np.maximum(known.sum(axis=0), 1) if here.sum() > 1 else 0.0
    known = np.isfinite(centred).astype(np.float64)
    x = np.nan_to_num(centred)
    product = x @ x.T
    squares = (x * x) @ known.T
    return 1 - product / np.sqrt(np.maximum(squares * squares.T, 1e-12))


def carry_over(
    value: Floats, noise: Floats, distance: Floats, observed: NDArray[np.int64]
) -> Floats:
    """Return the effect in every context, float64 [all contexts, genes]; 0 where nothing is known.

    Args:
        value: effects of the observed contexts, [contexts, genes], NaN where not measured.
        noise: their squared standard errors.
        distance: between all contexts, [all, all].
        observed: which of all contexts the rows of `value` are.
    """
    known = np.isfinite(value) & np.isfinite(noise)
    y, s2 = np.where(known, value, 0.0), np.where(known, noise, np.inf)
    excess = np.where(known, y**2 - np.where(known, s2, 0.0), 0.0)
    strength = np.maximum(excess.sum(axis=0) / np.maximum(known.sum(axis=0), 1), 0.0)
    t2 = _heterogeneity(y, s2, known) * strength
    common = strength - t2
    h = bandwidth(y, s2, t2, distance[np.ix_(observed, observed)])
    out = np.zeros((len(distance), value.shape[1]))
    for a in range(len(distance)):
        likeness = np.exp(-(distance[a, observed] ** 2) / (2 * h**2))
        own = np.flatnonzero(observed == a)
        likeness[own] = 0.0
        mean, variance = told(y, s2, t2, likeness)
        kept = common / (common + variance + 1e-12)
        out[a] = mean * kept
        if len(own):
            prior = 1 / (common * (1 - kept) + t2 + 1e-12)
            own_precision = np.where(known[own[0]], 1 / (s2[own[0]] + 1e-12), 0.0)
            out[a] += (y[own[0]] - out[a]) * own_precision / (prior + own_precision)
    return out


def told(y: Floats, s2: Floats, t2: Floats, likeness: Floats) -> tuple[Floats, Floats]:
    """Return the weighted mean of the contexts' effects and its variance, [genes] each.

    Genes that no context tells of get mean 0 and an infinite variance.
    """
    weight = likeness[:, None] / (s2 + t2 + 1e-12)
    total = weight.sum(axis=0)
    nothing = total <= 0
    total = np.where(nothing, 1.0, total)
    spread = np.where(np.isfinite(s2), s2 + t2, 0.0)
    mean = (weight * y).sum(axis=0) / total
    variance = (weight**2 * spread).sum(axis=0) / total**2
    return np.where(nothing, 0.0, mean), np.where(nothing, np.inf, variance)


def bandwidth(y: Floats, s2: Floats, t2: Floats, distance: Floats) -> float:
    """Return the bandwidth under which contexts left out are predicted with the least error."""
    if len(y) < 3:
        return BANDWIDTHS[-1]

    def error(h: float) -> float:
        total = 0.0
        for a in range(len(y)):
            likeness = np.exp(-(distance[a] ** 2) / (2 * h**2)) * (np.arange(len(y)) != a)
            mean, _ = told(y, s2, t2, likeness)
            known = np.isfinite(s2[a])
            varies = known & (s2[a] > 0)
            floor = np.median(s2[a][varies]) if varies.any() else 1.0
            total += float((((mean - y[a]) ** 2)[varies] / (s2[a][varies] + floor)).sum())
        return total

    return min(BANDWIDTHS, key=error)


def _heterogeneity(y: Floats, s2: Floats, known: NDArray[np.bool_]) -> float:
    """Return rho: the share of squared effects that is not common to the contexts, 0.05 to 1."""
    pairs = np.where(known, y, 0.0)
    n = known.sum(axis=0)
    enough = n > 1
    squares = np.where(known, y**2 - np.where(known, s2, 0.0), 0.0).sum(axis=0)
    # Products of two contexts' effects have no noise in common: their mean is the shared square.
    products = pairs.sum(axis=0) ** 2 - (pairs**2).sum(axis=0)
    common = (products[enough] / (n * (n - 1))[enough]).sum()
    whole = (squares[enough] / n[enough]).sum()
    return float(np.clip(1 - common / whole, 0.05, 1.0)) if whole > 0 else 1.0
