"""Student's t and Benjamini-Hochberg in plain numpy, since the server process loads no scipy."""

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TINY = 1e-300
_MAX_TERMS = 2000


def t_two_sided(t: ArrayLike, df: float) -> NDArray[np.float64]:
    """Return the two-sided p of Student's t with `df` degrees of freedom; NaN stays NaN."""
    square = np.square(np.asarray(t, np.float64))
    with np.errstate(over="ignore"):
        # p = I_x(df / 2, 1 / 2), x = df / (df + t^2). 1 - x is computed by itself, since the
        # difference would lose all digits of a small t.
        x = df / (df + square)
        rest = 1 / (1 + df / np.where(square == 0, 1.0, square)) * (square != 0)
    return _incomplete_beta(x, rest, df / 2, 0.5)


@cache
def t_quantile(p: float, df: float) -> float:
    """Return the t whose lower tail holds `p`, 0.5 <= p < 1."""
    # A bracket in 0, 1, 2, 4 ... 2**59, narrowed 64-fold by each further round: to rounding.
    grid = np.concatenate([[0.0], 2.0 ** np.arange(60)])
    for _ in range(10):
        # p falls as t grows, so its negative ascends.
        i = int(np.searchsorted(-t_two_sided(grid, df), -2 * (1 - p)))
        grid = np.linspace(grid[max(i - 1, 0)], grid[min(max(i, 1), len(grid) - 1)], 65)
    return float(grid[32])


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """Return the false discovery rate at which each p is called; NaN is no test and stays NaN."""
    p = np.asarray(p, np.float64)
    q = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    if not len(tested):
        return q
    order = tested[np.argsort(p[tested], kind="stable")]
    # p_(i) n / i, then the least of it among all larger p, so that q ascends with p.
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return q


def _incomplete_beta(
    x: NDArray[np.float64], rest: NDArray[np.float64], a: float, b: float
) -> NDArray[np.float64]:
    """Return the regularised incomplete beta function I_x(a, b); `rest` is 1 - x, unrounded."""
    # The continued fraction converges fast below this x; above it the mirror image does.
    direct = x < (a + 1) / (a + b + 2)
    lower = _fraction(np.where(direct, x, 0.0), a, b)
    upper = 1 - _fraction(np.where(direct, 0.0, rest), b, a)
    return np.where(direct, lower, upper)


def _fraction(x: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    # x^a (1 - x)^b / (a B(a, b)).
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - math.log(a)
    with np.errstate(divide="ignore"):
        front = np.exp(log_front + a * np.log(x) + b * np.log1p(-x))
    return front * _lentz(x, a, b)


def _lentz(x: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """Return the continued fraction of DLMF 8.17.22 by Lentz's method."""
    # Lentz: C and D are ratios of successive numerators and of denominators, which themselves
    # would overflow; a 0 is replaced by a tiny number.
    c = np.ones_like(x)
    d = 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value = value * d * c
        # All elements advance together: the slowest decides.
        if np.all(np.abs(d * c - 1) < 1e-15) or not np.any(np.isfinite(value)):
            break
    return value


def _away_from_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(values) < _TINY, _TINY, values)
