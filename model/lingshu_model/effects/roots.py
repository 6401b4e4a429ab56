"""Roots of many increasing functions at once, each a step function that can only be evaluated."""

from collections.abc import Callable

import numpy as np

from lingshu_model.effects.moments import Floats, Ints

STEPS = 24
WIDTH = 1e-3
"""Distance of the two ends at which a root is as good as found."""
FIRST = 0.3
"""Distance of the second point from the first."""


def roots(
    miss: Callable[[Ints, Floats], Floats], guess: Floats, limit: float, close: float
) -> Floats:
    """Return where each function is nearest to 0.

    From the guess a bracket goes outwards until the sign changes or `bound` is reached; then the
    Illinois method, every third step a bisection, since a step function has no slope to follow.

    Args:
        miss: values of the functions with the given numbers at the given points.
        guess: a point for each function.
        limit: largest absolute value of a point.
        close: absolute value that counts as 0.
    """
    b = np.clip(guess, -limit, limit)
    fb = miss(np.arange(len(b)), b)
    best, least = b.copy(), np.abs(fb)
    a, fa, step = b.copy(), fb.copy(), np.full(len(b), FIRST)
    left = np.flatnonzero(least > close)
    # Outwards: b leads, a follows.
    while len(left):
        a[left], fa[left] = b[left], fb[left]
        b[left] = np.clip(b[left] - np.sign(fb[left]) * step[left], -limit, limit)
        step[left] *= 2.0
        fb[left] = miss(left, b[left])
        _keep(best, least, left, b[left], fb[left])
        going = (fa[left] * fb[left] > 0) & (np.abs(b[left]) < limit)
        left = left[going & (least[left] > close)]
    left = np.flatnonzero((fa * fb < 0) & (least > close))
    for number in range(STEPS):
        if not len(left):
            break
        p, q, fp, fq = a[left], b[left], fa[left], fb[left]
        c = (p + q) / 2 if number % 3 == 2 else (p * fq - q * fp) / (fq - fp)
        fc = miss(left, c)
        _keep(best, least, left, c, fc)
        same = fc * fq > 0
        a[left], fa[left] = np.where(same, p, q), np.where(same, fp / 2, fq)
        b[left], fb[left] = c, fc
        left = left[(least[left] > close) & (np.abs(a[left] - b[left]) > WIDTH) & (fc != 0)]
    return best


def _keep(best: Floats, least: Floats, which: Ints, point: Floats, value: Floats) -> None:
    """Keep the points that are nearer to 0 than any before."""
    better = np.abs(value) < least[which]
    best[which] = np.where(better, point, best[which])
    least[which] = np.where(better, np.abs(value), least[which])
