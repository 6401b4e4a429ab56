"""Roots of many increasing functions at the same time.

The functions may be step functions without derivatives; one call evaluates all that are still open.
"""

from collections.abc import Callable

import numpy as np

from lingshu_model.effects.moments import Floats, Ints

STEPS = 24
"""Largest number of steps inside the bracket."""
WIDTH = 1e-3
"""Width of a bracket that is not divided further."""
FIRST = 0.3
"""Distance of the second point from the guess."""


def roots(
    miss: Callable[[Ints, Floats], Floats], guess: Floats, limit: float, close: float
) -> Floats:
    """Return the evaluated point of each function whose value is nearest to 0, [n].

    First the bracket: steps from the guess towards the root, each twice as long, until the sign
    changes or `limit` is reached. Then the Illinois method (a regula falsi) inside the bracket.
    Every third step is a bisection, since the slope of a step function can mislead.

    Args:
        miss: takes function numbers [k] and points [k], returns the values [k].
        guess: first point of each function, [n].
        limit: largest absolute value of a point.
        close: absolute value that counts as 0.
    """
    b = np.clip(guess, -limit, limit)
    fb = miss(np.arange(len(b)), b)
    best, least = b.copy(), np.abs(fb)
    a, fa, step = b.copy(), fb.copy(), np.full(len(b), FIRST)
    left = np.flatnonzero(least > close)
    # The functions increase, so the root is against the sign of the value. b is the newest point, a
    # the one before.
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
        # Illinois: the value at an end that stays twice is halved, or that end would never move.
        same = fc * fq > 0
        a[left], fa[left] = np.where(same, p, q), np.where(same, fp / 2, fq)
        b[left], fb[left] = c, fc
        left = left[(least[left] > close) & (np.abs(a[left] - b[left]) > WIDTH) & (fc != 0)]
    return best


def _keep(best: Floats, least: Floats, which: Ints, point: Floats, value: Floats) -> None:
    """Update `best` and `least` in place where `value` is nearer to 0 than any before."""
    better = np.abs(value) < least[which]
    best[which] = np.where(better, point, best[which])
    least[which] = np.where(better, np.abs(value), least[which])
