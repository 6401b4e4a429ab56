"""A perturbation's effect in one context, told by others: the more alike, the more they count.

A gene's effects in all contexts are taken to be normal around 0 with covariance v K, a Gaussian
process over contexts (Rasmussen and Williams 2006, section 2.2). K_ab = 1 - rho d_ab, d being one
minus the correlation of the contexts' control profiles: rho = 0 means that all contexts respond
alike, rho = 1 that they do as far as their control cells are alike. What was observed has its
squared standard error beside it, and every context gets the posterior mean: one where the effect
was seen mostly its own, any other what its relatives show. An estimate is shrunk by what is not
known of it, and by that alone.

v is one number a gene, the mean over contexts of the squared effect less its noise; rho is one for
all genes, with which each context, left out in turn, is told best by the others. Knows nothing of
cells.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RHOS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
GENES = 2048
"""Genes solved for at a time."""
NOTHING = 1e-9
"""Noise of what was observed without any, far below any effect."""
UNKNOWN = 1e9
"""Noise of what was not observed, far above any effect."""


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
    y, s2 = np.where(known, value, 0.0), np.where(known, noise + NOTHING, UNKNOWN)
    excess = np.where(known, y**2 - s2, 0.0).sum(axis=0)
    strength = np.maximum(excess / np.maximum(known.sum(axis=0), 1), 0.0)
    rho = likeness(y, s2, strength, distance[np.ix_(observed, observed)])
    covariance = 1 - rho * distance[:, observed]
    out = np.zeros((len(distance), value.shape[1]))
    for genes, chosen in _parts(strength):
        total = _covariances(s2[:, genes], chosen, covariance[observed])
        weights = np.linalg.solve(total, y[:, genes].T[..., None])[..., 0]
        out[:, genes] = covariance @ (weights * chosen[:, None]).T
    return out


def likeness(y: Floats, s2: Floats, strength: Floats, distance: Floats) -> float:
    """Return the rho under which each context is told best by the others.

    Each context's effects are left out in turn (Rasmussen and Williams 2006, eq 5.12); the squared
    error counts in units of what noise alone would make of it, so that six cells say little.

    Args:
        y: effects, [contexts, genes].
        s2: their squared standard errors.
        strength: variance of each gene's effects, [genes].
        distance: between these contexts.
    """
    noise = np.where(s2 < UNKNOWN, s2, 0.0).sum(axis=1)

    def error(rho: float) -> float:
        found = np.zeros(len(y))
        for genes, chosen in _parts(strength):
            inverse = np.linalg.inv(_covariances(s2[:, genes], chosen, 1 - rho * distance))
            off = (inverse @ y[:, genes].T[..., None])[..., 0] / inverse.diagonal(0, 1, 2)
            found += np.where(s2[:, genes].T < UNKNOWN, off**2, 0.0).sum(axis=0)
        return float((found / np.maximum(noise, NOTHING)).sum())

    return min(RHOS, key=error)


def _parts(strength: Floats) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Yield the genes on which there is any effect, and its variance, some at a time."""
    genes = np.flatnonzero(strength > 0)
    for first in range(0, len(genes), GENES):
        part = genes[first : first + GENES]
        yield part, strength[part]


def _covariances(s2: Floats, strength: Floats, covariance: Floats) -> Floats:
    """Return the covariance of what was observed of each gene, [genes, contexts, contexts]."""
    return strength[:, None, None] * covariance + s2.T[..., None] * np.eye(len(s2))
