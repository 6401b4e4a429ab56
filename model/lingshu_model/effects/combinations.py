"""How much less than their sum perturbations do together, fitted on trained combinations.

The formula is `lingshu_model.contracts.combining`. Doubles of the data at hand correct the borrowed
figure, which counts as `PRIOR` of them.
"""

from collections.abc import Sequence

import numpy as np

from lingshu_model.contracts.combining import (
    BORROWED,
    RANGE_FROM,
    Range,
    Saturation,
    Together,
    together,
)
from lingshu_model.effects.moments import Floats

__all__ = ["RANGE_FROM", "Range", "Saturation", "Together", "fit_saturation", "together"]

PRIOR = 10.0
"""Doubles that the borrowed figure counts as."""
LARGEST = 4.0
"""Of s."""


def fit_saturation(
    sums: Floats, doubles: Floats, noise: Floats, sizes: Sequence[int]
) -> Saturation:
    """Return the saturation of measured combinations.

    The sums' own noise would make doubles look smaller than they are; `noise` is taken off.

    Args:
        sums: sums of single changes, [combinations, genes].
        doubles: changes of the combinations, the same shape.
        noise: squared standard errors of `sums`, the same shape.
        sizes: how many perturbations each has.
    """
    n = len(sums)
    if not n:
        return Saturation()
    known = np.isfinite(sums) & np.isfinite(doubles)
    product = np.where(known, sums * doubles, 0.0).sum(axis=1)
    square = np.where(known, sums**2 - noise, 0.0).sum(axis=1)
    # Each combination's own s, weighted by how much it has to saturate.
    weight = np.maximum(square, 0.0) * (np.asarray(sizes) - 1)
    if not weight.sum() > 0:
        return Saturation()
    factor = float((weight * product).sum() / max(float((weight * square).sum()), 1e-12))
    mean_size = float((weight * (np.asarray(sizes) - 1)).sum() / weight.sum())
    fitted = (1.0 / max(factor, 0.1) - 1.0) / mean_size
    strength = (n * fitted + PRIOR * BORROWED) / (n + PRIOR)
    return Saturation(float(np.clip(strength, 0.0, LARGEST)), n)
