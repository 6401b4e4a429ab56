"""An effect in one context predicted from others by a Gaussian process over contexts.

A gene's effects in all contexts are normal with mean 0 and covariance v K (Rasmussen and Williams
2006, section 2.2), K_ab = 1 - rho d_ab, where d_ab is one minus the Pearson correlation of the
control profiles of contexts a and b. With rho = 0 all contexts respond alike; with rho = 1 they do
as far as their control cells are alike. Each observed effect has its squared standard error as
noise, and the prediction for another context is the posterior mean. v is estimated for each gene,
as the mean squared effect less its noise. rho is one number for all genes: the one that predicts
contexts best when each is left out.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lingshu_model.effects.moments import Floats, Ints

RHOS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Values of rho that are compared."""
CHOOSING = 2000
"""Number of genes, those with the largest effects, on which rho is chosen."""
GENES = 2048
"""Genes solved at a time."""
EXACT = 1e-9
"""Added to the noise, so that covariances can be inverted; far below any effect."""
UNKNOWN = 1e9
"""Noise of an effect that is not measured, far above any effect: it has no weight."""


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
        noise: their squared standard errors, the same shape.
        distance: between the observed contexts and, last, the further one,
            [contexts + 1, contexts + 1].
        rho: decrease of the correlation of effects with distance, 0 to 1.
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
    """Return the rho with which each context is predicted best by the others.

    Contexts are left out in closed form (Rasmussen and Williams 2006, equation 5.12). Squared
    errors are divided by the noise of the context, so that a context of six cells has little
    weight.

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
            residual = (inverse @ y[:, genes].T[..., None])[..., 0] / inverse.diagonal(0, 1, 2)
            total += np.where(observed[:, genes].T, residual**2, 0.0).sum(axis=0)
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
    """Yield the genes with v above 0 and their v, `GENES` at a time; others are predicted as 0."""
    genes: NDArray[np.int64] = np.flatnonzero(strength > 0)
    for first in range(0, len(genes), GENES):
        part = genes[first : first + GENES]
        yield part, strength[part]


def _covariances(s2: Floats, strength: Floats, covariance: Floats) -> Floats:
    """Return the covariance of the observed effects of each gene, [genes, contexts, contexts]."""
    return strength[:, None, None] * covariance + s2.T[..., None] * np.eye(len(s2))
