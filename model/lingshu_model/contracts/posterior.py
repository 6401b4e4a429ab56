"""What is believed of an effect, gene by gene. NumPy alone, so that light processes can read it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
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
        z = np.abs(mean) / np.maximum(sd, 1e-12)
        return cls(mean, sd, np.where(mean == 0, 0.5, normal_tail(z)))


def normal_tail(z: Floats) -> Floats:
    """Return P(Z > z) of a standard normal variable, the same shape."""
    return np.asarray(0.5 * _ERFC(np.asarray(z) / math.sqrt(2.0)), np.float64)
