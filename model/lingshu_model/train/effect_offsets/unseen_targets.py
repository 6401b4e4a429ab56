"""Where targets never perturbed start: what a gene's features say of what losing it does.

The tilt of an unseen target is a share of the mean tilt of the seen ones, and a ridge regression of
what differs from it on the targets' features (co-expression, and priors where a table is given).
Share and penalty are chosen by leaving one target out. Features must lower that error by more than
its own standard error over targets, or the mean alone is taken: with two dozen targets the best of
several penalties would often be luck. On its own gene a target has the mean of what the seen ones
have on theirs. Knows nothing of where features come from.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SHARES = (0.0, 0.5, 0.75, 1.0)
RIDGES = (0.3, 1.0, 3.0, 10.0)
FEWEST = 4
"""Seen targets below which none is left out and an unseen one has no tilt."""


@dataclass(frozen=True)
class Reach:
    """What the network is told.

    Attributes:
        effects: the mean's share, then what each feature adds, [1 + features, genes].
        own: theta of a target on its own gene.
        left: squared error of a target that is left out, over that of no tilt at all.
    """

    effects: NDArray[np.float32]
    own: float
    left: float

    def of(self, features: Floats) -> Floats:
        """Return theta [targets, genes] of targets with `features` [targets, features]."""
        return self.effects[0] + features @ self.effects[1:]


def fit_reach(theta: Floats, features: Floats, own: NDArray[np.int64]) -> Reach | None:
    """Return what the seen targets' `theta` [targets, genes] say of others; None of too few.

    `features` [targets, features] are zero where nothing is known, `own` [targets] the targets'
    own genes in the panel, -1 outside it.
    """
    if len(theta) < FEWEST:
        return None
    inside = np.flatnonzero(own >= 0)
    other = np.ones_like(theta)
    other[inside, own[inside]] = 0.0

    def errors(share: float, ridge: float) -> Floats:
        return (other * (theta - _left_out(theta, features, share, ridge)) ** 2).sum(axis=1)

    share, alone = min(((s, errors(s, np.inf)) for s in SHARES), key=lambda e: e[1].sum())
    ridge, told = min(((r, errors(share, r)) for r in RIDGES), key=lambda e: e[1].sum())
    gain = alone - told
    if gain.mean() <= gain.std(ddof=1) / np.sqrt(len(gain)):
        ridge, told = np.inf, alone
    left = float(told.sum() / max(errors(0.0, np.inf).sum(), 1e-12))
    mean, slope = _fit(theta, features, share, ridge)
    at_home = float(theta[inside, own[inside]].mean()) if len(inside) else 0.0
    return Reach(np.vstack([mean, slope]).astype(np.float32), at_home, left)


def _fit(theta: Floats, features: Floats, share: float, ridge: float) -> tuple[Floats, Floats]:
    """Return the mean's share [genes] and the slope [features, genes]."""
    mean = share * theta.mean(axis=0)
    if not np.isfinite(ridge):
        return mean, np.zeros((features.shape[1], theta.shape[1]))
    kernel = features @ features.T + ridge * np.eye(len(theta))
    return mean, features.T @ np.linalg.solve(kernel, theta - mean)


def _left_out(theta: Floats, features: Floats, share: float, ridge: float) -> Floats:
    """Return every target's theta as the others tell it."""
    found = np.empty_like(theta)
    for i in range(len(theta)):
        rest = np.arange(len(theta)) != i
        mean, slope = _fit(theta[rest], features[rest], share, ridge)
        found[i] = mean + features[i] @ slope
    return found
