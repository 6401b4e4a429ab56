"""A surrogate of measured values: Bayesian ridge regression on features of the candidates.

With features X (centred) and measured values y, y ~ N(X w, s^2), w ~ N(0, s^2 / lambda). lambda
is the one of a grid with the largest marginal likelihood; s^2 follows from it in closed form, and
so do predictions, their standard deviations and leave-one-out residuals. NumPy alone: the server
reads no SciPy, and equal measurements give equal proposals with any version of a library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Strategy = Literal["exploit", "ucb", "thompson", "diverse"]
STRATEGIES: tuple[Strategy, ...] = ("exploit", "ucb", "thompson", "diverse")
LAMBDAS = np.logspace(-4, 3, 29)
"""Grid of lambda over the largest squared singular value."""
PROMISING = 4000
"""Candidates, the best by expected value, among which the strategies that explore choose."""
FEWEST = 8
"""Measurements from which a regression is fitted."""
USEFUL, USEFUL_Z = 0.1, 1.64
"""Leave-one-out rank correlation from which features are called useful: this, and as many standard
errors of a correlation of nothing, 1 / sqrt(n - 1)."""


@dataclass(frozen=True)
class Surrogate:
    """A fitted regression.

    Attributes:
        centre: mean of the features, [features].
        intercept: mean of the values.
        weights: posterior mean, [features].
        basis: right singular vectors of the features, [rank, features].
        spread: singular values squared plus lambda, [rank].
        ridge: lambda.
        noise: s.
        loo: leave-one-out predictions of the measured values.
        skill: rank correlation of these with the values; 0 where either is constant.
    """

    centre: Floats
    intercept: float
    weights: Floats
    basis: Floats
    spread: Floats
    ridge: float
    noise: float
    loo: Floats
    skill: float

    @classmethod
    def fit(cls, features: Floats, values: Floats) -> Surrogate:
        """Return the regression of values on features, [measured, features] and [measured].

        Raises:
            ValueError: there are fewer than `FEWEST` values.
        """
        if len(values) < FEWEST:
            message = f"{len(values)} values; a regression needs {FEWEST}"
            raise ValueError(message)
        centre, intercept = features.mean(axis=0), float(values.mean())
        left, singular, basis = np.linalg.svd(features - centre, full_matrices=False)
        y = values - intercept
        projected = left.T @ y
        squared = singular**2
        ridge = _best_ridge(squared, projected, float(y @ y), len(y))
        shrunk = squared / (squared + ridge)
        # The intercept takes 1 / n of every point's leverage.
        leverage = np.minimum((left**2) @ shrunk + 1 / len(y), 1 - 1e-9)
        fitted = left @ (shrunk * projected)
        loo = intercept + y - (y - fitted) / (1 - leverage)
        noise2 = _noise2(squared, projected, float(y @ y), len(y), ridge)
        return cls(
            centre,
            intercept,
            basis.T @ (singular / (squared + ridge) * projected),
            basis,
            squared + ridge,
            ridge,
            float(np.sqrt(noise2)),
            loo,
            rank_correlation(loo, values),
        )

    def mean(self, features: Floats) -> Floats:
        """Return expected values of candidates, [candidates]."""
        return self.intercept + (features - self.centre) @ self.weights

    def sd(self, features: Floats) -> Floats:
        """Return standard deviations of the expected values, measurement noise left out."""
        moved = features - self.centre
        inside = moved @ self.basis.T
        outside = np.maximum((moved**2).sum(axis=1) - (inside**2).sum(axis=1), 0.0)
        variance = (inside**2 / self.spread).sum(axis=1) + outside / self.ridge
        return self.noise * np.sqrt(variance)

    def draws(self, features: Floats, n: int, generator: np.random.Generator) -> Floats:
        """Return joint draws of expected values, [n, candidates]."""
        size = len(self.weights)
        z = generator.normal(size=(n, size))
        inside = z @ self.basis.T
        scaled = inside / np.sqrt(self.spread) - inside / np.sqrt(self.ridge)
        weights = self.noise * (z / np.sqrt(self.ridge) + scaled @ self.basis)
        return self.intercept + (self.weights + weights) @ (features - self.centre).T


def ranked(
    surrogate: Surrogate,
    features: Floats,
    free: Integers,
    n: int,
    generator: np.random.Generator,
) -> dict[str, Integers]:
    """Return the `n` best free candidates by every strategy, best first.

    `exploit` orders by expected value, `ucb` by expected value plus standard deviation, `thompson`
    takes the best of joint draws, and `diverse` spreads over the features of the best by mean.
    """
    mean = surrogate.mean(features[free])
    # Of very many candidates only the promising ones get a standard deviation.
    promising = _best(mean, max(PROMISING, 4 * n))
    free, mean = free[promising], mean[promising]
    x = features[free].astype(np.float64)
    n = min(n, len(free))
    return {
        "exploit": free[_best(mean, n)],
        "ucb": free[_best(mean + surrogate.sd(x), n)],
        "thompson": free[_thompson(surrogate.draws(x, 2 * n, generator), n)],
        "diverse": free[_diverse(x, mean, n)],
    }


def is_useful(skill: float, n: int) -> bool:
    """Return whether a leave-one-out rank correlation of `n` values is more than chance."""
    return skill >= max(USEFUL, USEFUL_Z / np.sqrt(max(n - 1, 1)))


def rank_correlation(a: Floats, b: Floats) -> float:
    """Return Spearman's correlation; 0 where either is constant."""
    ranks = [_ranks(values) for values in (a, b)]
    if any(np.ptp(r) == 0 for r in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Floats) -> Floats:
    """Return ranks from 0; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def _best(values: Floats, n: int) -> Integers:
    return np.argsort(-values, kind="stable")[:n]


def _thompson(draws: Floats, n: int) -> Integers:
    """Return the best of each draw that no draw before has taken; the rest by mean rank."""
    chosen: list[int] = []
    taken = np.zeros(draws.shape[1], bool)
    for draw in draws:
        place = int(np.argmax(np.where(taken, -np.inf, draw)))
        taken[place] = True
        chosen.append(place)
        if len(chosen) == min(n, draws.shape[1]):
            break
    return np.array(chosen, np.intp)


def _diverse(features: Floats, mean: Floats, n: int) -> Integers:
    """Return candidates far from each other among the best by mean, farthest first."""
    pool = _best(mean, min(4 * n, len(mean)))
    x = features[pool]
    chosen = [0]
    distance = ((x - x[0]) ** 2).sum(axis=1)
    while len(chosen) < min(n, len(pool)):
        place = int(np.argmax(distance))
        chosen.append(place)
        distance = np.minimum(distance, ((x - x[place]) ** 2).sum(axis=1))
        distance[chosen] = -1.0
    return pool[np.array(chosen)]


def _noise2(squared: Floats, projected: Floats, total: float, n: int, ridge: float) -> float:
    """Return the maximum-likelihood s^2 at a lambda."""
    explained = float((projected**2 * squared / (squared + ridge)).sum())
    return max((total - explained) / n, 1e-12)


def _best_ridge(squared: Floats, projected: Floats, total: float, n: int) -> float:
    """Return the lambda of the grid with the largest marginal likelihood."""
    largest = float(squared.max(initial=0.0)) or 1.0
    likelihoods: Sequence[float] = [
        -n / 2 * np.log(_noise2(squared, projected, total, n, ridge))
        - 0.5 * np.log1p(squared / ridge).sum()
        for ridge in LAMBDAS * largest
    ]
    return float(LAMBDAS[int(np.argmax(likelihoods))] * largest)
