"""Weights of several predictions, fitted where each was left out: stacking, shrunk to the simplest.

Candidates f_j predict the effects of contexts that were left out in turn; non-negative weights w
minimise the squared error (Breiman 1996),

    sum_k |d_k - sum_j w_j f_jk|^2 / (noise_k + tau^2),

tau^2 being how far effects are from the first candidate beyond their noise, so that neither a noisy
context nor the strongest alone decides. Weights need not sum to 1: what is missing goes to no
change. They are then shrunk to the first candidate, which counts as `SIMPLEST` further contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from lingshu_model.effects.moments import Floats

SIMPLEST = 2.0
"""Contexts that the first candidate counts as."""


@dataclass(frozen=True)
class Left:
    """A context that was left out.

    Attributes:
        change: its effect, [genes]; NaN where not measured.
        noise: squared standard errors, [genes].
        candidates: what the others predict, [candidates, genes].
        shared: covariance of `change` with each candidate that comes of noise they share (an own
            control mean is in both), summed over genes, [candidates].
    """

    change: Floats
    noise: Floats
    candidates: Floats
    shared: Floats


def stack(left: Sequence[Left], simplest: float = SIMPLEST) -> tuple[Floats, float]:
    """Return the weights [candidates], at least 0, and the error per context that they leave.

    The error is before shrinkage and in units of noise plus tau^2, to compare sets of candidates.
    The first candidate counts as `simplest` further contexts.
    """
    products = [_products(each) for each in left]
    excess = [p.first - p.noise for p in products]
    # Variance that the first candidate leaves beyond noise, summed over genes, [scalar].
    tau2 = max(float(np.mean(excess)), 0.0)
    scales = np.array([p.noise + tau2 for p in products])
    scales = np.maximum(scales, 1e-12)
    gram = np.sum([p.gram / s for p, s in zip(products, scales, strict=True)], axis=0)
    moment = np.sum([p.moment / s for p, s in zip(products, scales, strict=True)], axis=0)
    whole = float(np.sum([p.square / s for p, s in zip(products, scales, strict=True)]))
    weights = _non_negative(gram, moment)
    # ||d - w F||^2 expanded, so that contexts are passed over once whatever the weights.
    error = (whole - 2 * weights @ moment + weights @ gram @ weights) / len(left)
    first = np.eye(len(weights))[0]
    return (len(left) * weights + simplest * first) / (len(left) + simplest), float(error)


@dataclass(frozen=True)
class _Products:
    """Inner products of one left-out context over the genes it measures."""

    gram: Floats
    moment: Floats
    square: float
    noise: float
    first: float


def _products(left: Left) -> _Products:
    known = np.isfinite(left.change)
    d, f = left.change[known], left.candidates[:, known]
    return _Products(
        gram=f @ f.T,
        moment=f @ d - left.shared,
        square=float(d @ d),
        noise=float(left.noise[known].sum()),
        first=float(((d - f[0]) ** 2).sum()),
    )


def _non_negative(gram: Floats, moment: Floats) -> Floats:
    """Return w >= 0 of least w' G w - 2 w' m, by non-negative least squares on a root of G."""
    ridge = 1e-9 * max(float(np.trace(gram)), 1e-12)
    root = np.linalg.cholesky(gram + ridge * np.eye(len(gram)))
    weights, _ = nnls(root.T, np.linalg.solve(root, moment))
    return np.asarray(weights, np.float64)
