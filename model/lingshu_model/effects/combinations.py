"""Saturation of combined perturbations, fitted on trained combinations.

The change of k perturbations together is modelled as their sum over 1 + s (k - 1), with one
saturation s for all (`lingshu_model.contracts.combining`). `BORROWED`, the value from another data
set, is the prior; it counts as `PRIOR` combinations.
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
"""Combinations that the borrowed value counts as."""
LARGEST = 4.0
"""Largest s; two perturbations then have a fifth of their sum."""


def fit_saturation(
    sums: Floats, doubles: Floats, noise: Floats, sizes: Sequence[int]
) -> Saturation:
    """Return the saturation of measured combinations.

    The regression of `doubles` on `sums` through the origin has the slope 1 / (1 + s (k - 1)).
    Noise in the sums would bias it towards 0 (attenuation), so `noise` is subtracted from their
    squares.

    Args:
        sums: sums of single changes of mean log1p_cp10k, [combinations, genes].
        doubles: changes of the combinations, the same shape.
        noise: squared standard errors of `sums`, the same shape.
        sizes: number of perturbations of each combination.
    """
    n = len(sums)
    if not n:
        return Saturation()
    known = np.isfinite(sums) & np.isfinite(doubles)
    product = np.where(known, sums * doubles, 0.0).sum(axis=1)
    square = np.where(known, sums**2 - noise, 0.0).sum(axis=1)
    # Combinations with large sums determine the slope best; one with no sum above noise, not at
    # all.
    weight = np.maximum(square, 0.0) * (np.asarray(sizes) - 1)
    if not weight.sum() > 0:
        return Saturation()
    slope = float((weight * product).sum() / max(float((weight * square).sum()), 1e-12))
    mean_size = float((weight * (np.asarray(sizes) - 1)).sum() / weight.sum())
    # slope = 1 / (1 + s (k - 1)) solved for s, at the mean k - 1.
    fitted = (1.0 / max(slope, 0.1) - 1.0) / mean_size
    strength = (n * fitted + PRIOR * BORROWED) / (n + PRIOR)
    return Saturation(float(np.clip(strength, 0.0, LARGEST)), n)
