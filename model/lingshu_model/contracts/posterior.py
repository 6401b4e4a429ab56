"""What is believed of an effect, gene by gene. NumPy alone, so that light processes can read it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUNDS = 60
"""Bisections of the mass at 0 (`parts`)."""
# NumPy has no erfc, and SciPy takes too long to load for a light process.
_ERFC: Any = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True)
class Posterior:
    """Posterior of effects: changes of mean log1p_cp10k.

    Attributes:
        mean: [..., genes].
        sd: posterior standard deviation, the same shape.
        lfsr: local false sign rate, from 0 to 1, the same shape.
    """

    mean: Floats
    sd: Floats
    lfsr: Floats

    @classmethod
    def normal(cls, mean: Floats, sd: Floats) -> "Posterior":
        """Return a normal posterior; where `sd` is 0 and the mean is not, the sign is certain."""
        # An sd of 0 gives a z so large that its tail is 0.
        z = np.abs(mean) / np.maximum(sd, 1e-12)
        return cls(mean, sd, np.where(mean == 0, 0.5, normal_tail(z)))


def normal_tail(z: Floats) -> Floats:
    """Return P(Z > z) of a standard normal variable, the same shape."""
    return np.asarray(0.5 * _ERFC(np.asarray(z) / math.sqrt(2.0)), np.float64)


def parts(posterior: Posterior) -> tuple[Floats, Floats, Floats]:
    """Return mass at 0, and mean and sd of the rest, taken as normal, the shape of the posterior.

    The three follow from mean, sd and lfsr, by bisection of the lfsr in the mass.
    """
    mean, sd, lfsr = posterior.mean, posterior.sd, posterior.lfsr
    # E b^2 = sd^2 + mean^2, which mass at 0 and the rest share: (1 - p0) (m^2 + s^2).
    second = sd**2 + mean**2
    # With more mass at 0 the rest would need a negative variance.
    high = np.where(second > 0, sd**2 / np.where(second > 0, second, 1.0), 1.0)
    # Without a mean the sign is as uncertain as the mass at 0 makes it: lfsr = p0 + (1 - p0) / 2.
    none = (mean == 0) | (second == 0)
    low = np.zeros_like(mean)
    top = high.copy()
    for _ in range(ROUNDS):
        middle = (low + top) / 2
        _, m, s = _rest(middle, mean, second)
        # lfsr = p0 + (1 - p0) P(the rest has the other sign), which grows with p0.
        wrong = middle + (1 - middle) * normal_tail(np.abs(m) / np.maximum(s, 1e-300))
        more = wrong < lfsr
        low, top = np.where(more, middle, low), np.where(more, top, middle)
    at_zero = np.where(none, np.clip(2 * lfsr - 1, 0.0, 1.0), (low + top) / 2)
    return _rest(at_zero, mean, second)


def _rest(at_zero: Floats, mean: Floats, second: Floats) -> tuple[Floats, Floats, Floats]:
    # 1 - p0. The rest keeps both moments: share m = mean, share (m^2 + s^2) = second.
    share = np.maximum(1 - at_zero, 1e-12)
    m = mean / share
    return at_zero, m, np.sqrt(np.maximum(second / share - m**2, 0.0))
