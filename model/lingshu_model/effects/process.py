"""An effect in one context predicted from others by a Gaussian process over contexts.

A gene's effects in all contexts are normal around 0 with the covariance v K (Rasmussen and Williams
2006, section 2.2), K_ab = 1 - rho d_ab, d_ab being one minus the Pearson correlation of the
contexts' control profiles: with rho = 0 all contexts respond alike, with rho = 1 as far as their
control cells are alike. Each observed effect has its squared standard error beside it; a context
that was not observed has the posterior mean. v is one number per gene, the mean squared effect less
its noise; rho is one for all genes, with which contexts left out in turn are predicted best.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lingshu_model.effects.moments import Floats, Ints

RHOS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
CHOOSING = 2000
"""Genes with the largest effects, by which rho is chosen."""
GENES = 2048
"""Genes solved for at a time."""
EXACT = 1e-9
"""Noise of what was observed without any, far below any effect."""
UNKNOWN = 1e9
"""Noise of what was not observed, far above any effect."""


def distances(profiles: Floats) -> Floats:
    """Return 1 - Pearson between contexts, [contexts, contexts].

    Profiles [contexts, genes] are taken as deviations from their mean over contexts; genes that
    either of two contexts lacks (NaN) are left out of their correlation.
    """
    known = np.isfinite(profiles)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, profiles - np.where(known, profiles, 0.0).sum(axis=0) / count, 0.0)
    product = centred @ centred.T
    squares = (centred * centred) @ known.T
    return 1.0 - product / np.sqrt(np.maximum(squares * squares.T, 1e-12))


def predict(change: Floats, noise: Floats, distance: Floats, rho: float) -> Floats:
    """Return the effect in a further context, [genes].

    Args:
        change: effects of the observed contexts, [contexts, genes], NaN where not measured.
        noise: their squared standard errors.
        distance: between the observed contexts and, last, the further one.
        rho: how fast likeness falls.
    """
    y, s2, strength = _prepared(change, noise)
    covariance = 1.0 - rho * distance
    out = np.zeros(change.shape[1])
    for genes, v in _parts(strength):
        total = _covariances(s2[:, genes], v, covariance[:-1, :-1])
        # Kriging: v k' (v K + noise)^-1 y for every gene, [genes, contexts].
        weights = np.linalg.solve(total, y[:, genes].T[..., None])[..., 0]
        out[genes] = v * (weights @ covariance[-1, :-1])
    return out


def choose_rho(change: Floats, noise: Floats, distance: Floats) -> float:
    """Return the rho under which each context is predicted best by the others.

    Contexts are left out in closed form (Rasmussen and Williams 2006, equation 5.12); the squared
    error of each counts in units of its noise, so that a context of six cells says little.

    Args:
        change: [contexts, genes].
        noise: squared standard errors.
        distance: [contexts, contexts].
    """
    y, s2, strength = _prepared(change, noise)
    largest = np.sort(np.argsort(-strength, kind="stable")[:CHOOSING])
    y, s2, strength = y[:, largest], s2[:, largest], strength[largest]
    observed = s2 < UNKNOWN
    scale = np.maximum(np.where(observed, s2, 0.0).sum(axis=1), EXACT)

    def error(rho: float) -> float:
        total = np.zeros(len(y))
        for genes, v in _parts(strength):
            inverse = np.linalg.inv(_covariances(s2[:, genes], v, 1.0 - rho * distance))
            # Residual of each context when it is left out: (K^-1 y)_i / (K^-1)_ii.
            off = (inverse @ y[:, genes].T[..., None])[..., 0] / inverse.diagonal(0, 1, 2)
            total += np.where(observed[:, genes].T, off**2, 0.0).sum(axis=0)
        return float((total / scale).sum())

    return min(RHOS, key=error)


def _prepared(change: Floats, noise: Floats) -> tuple[Floats, Floats, Floats]:
    """Return effects with 0 and noise with UNKNOWN where not measured, and v of each gene."""
    known = np.isfinite(change) & np.isfinite(noise)
    y, s2 = np.where(known, change, 0.0), np.where(known, noise + EXACT, UNKNOWN)
    # E[y^2] = v + noise, so v is estimated by what squares exceed their noise by, at least 0.
    excess = np.where(known, y**2 - s2, 0.0).sum(axis=0)
    return y, s2, np.maximum(excess / np.maximum(known.sum(axis=0), 1), 0.0)


def _parts(strength: Floats) -> Iterator[tuple[Ints, Floats]]:
    """Yield the genes with any effect, and v of each, some at a time."""
    genes: NDArray[np.int64] = np.flatnonzero(strength > 0)
    for first in range(0, len(genes), GENES):
        part = genes[first : first + GENES]
        yield part, strength[part]


def _covariances(s2: Floats, strength: Floats, covariance: Floats) -> Floats:
    """Return the covariance of the observed effects of each gene, [genes, contexts, contexts]."""
    return strength[:, None, None] * covariance + s2.T[..., None] * np.eye(len(s2))
