"""A figure with its bootstrap interval, and what an interval of a difference says.

Resampling test cells adds their sampling noise a second time, which lowers every correlation and
lengthens every distance. The spread of the draws is still right, their centre is not: intervals
are therefore the percentiles of the draws moved so that their mean is the figure itself. Knows
nothing of what is estimated.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["win", "tie", "loss"]
LEVEL = 0.95
ROUNDING = 1e-12
"""Equal predictions may differ by this much in the order of their sums."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    interval: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Return `{"value", "interval"}`."""
        return {"value": self.value, "interval": list(self.interval)}


def estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
    """Return `value` with the interval of `draws` centred on it; NaN draws are left out."""
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(draws):
        return Estimate(float(value), (float("nan"), float("nan")))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - draws.mean()
    return Estimate(float(value), (float(value + low), float(value + high)))


def verdict(difference: Estimate, *, higher_is_better: bool = True) -> Verdict:
    """Return what the interval of model − baseline says: a tie where it spans or touches 0."""
    low, high = difference.interval if higher_is_better else _negated(difference.interval)
    if low > ROUNDING:
        return "win"
    return "loss" if high < -ROUNDING else "tie"


def _negated(interval: tuple[float, float]) -> tuple[float, float]:
    return -interval[1], -interval[0]


def bootstrap_means(
    values: NDArray[np.float64], draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return float64 [draws, columns]: means of rows resampled with replacement."""
    n = len(values)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=draws)
    return weights @ values / n


def halves(n: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two disjoint random index sets of n // 2 rows each."""
    order = generator.permutation(n)
    return order[: n // 2], order[n // 2 : 2 * (n // 2)]
