"""Stacking: weights of several predictions, fitted to contexts that were left out in turn.

Candidates f_j predict the effects d_k of the left-out contexts k. Non-negative weights w minimise
the squared error (Breiman 1996),

    sum_k |d_k - sum_j w_j f_jk|^2 / (noise_k + tau^2),

where tau^2 is the squared error of the first candidate beyond noise. With it, neither a noisy
context nor the one with the strongest effects decides alone. Weights need not sum to 1: a smaller
sum shrinks predictions to no change. They are then moved towards the first candidate alone, which
counts as `SIMPLEST` further contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from lingshu_model.effects.moments import Floats

SIMPLEST = 2.0
"""Number of contexts that the first candidate counts as."""


@dataclass(frozen=True)
class Left:
    """A context that was left out.

    Attributes:
        change: its effect, [genes]; NaN where not measured.
        noise: squared standard errors, [genes].
        candidates: predictions from the other contexts, [candidates, genes].
        shared: covariance of `change` and each candidate due to common noise, summed over genes,
            [candidates]. A control mean that is in both, for example, makes them correlated.
    """

    change: Floats
    noise: Floats
    candidates: Floats
    shared: Floats


def stack(left: Sequence[Left], simplest: float = SIMPLEST) -> tuple[Floats, float]:
    """Return the weights [candidates], at least 0, and their squared error per context.

    The error is before shrinkage, in units of noise plus tau^2; it serves to compare sets of
    candidates.

    Args:
        left: contexts that were left out.
        simplest: number of contexts that the first candidate counts as.
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
    # ||d - w F||^2 expanded into the sums that were accumulated over contexts.
    error = (whole - 2 * weights @ moment + weights @ gram @ weights) / len(left)
    first = np.eye(len(weights))[0]
    return (len(left) * weights + simplest * first) / (len(left) + simplest), float(error)


@dataclass(frozen=True)
class _Products:
    """Inner products of one left-out context over the genes it measures.

    Attributes:
        gram: F F', [candidates, candidates].
        moment: F d less the shared noise, [candidates].
        square: d'd.
        noise: summed noise.
        first: squared error of the first candidate.
    """

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
    """Return w >= 0 that minimises w' G w - 2 w' m, by non-negative least squares on a root of G.

    With G = L L' that is |L' w - L^-1 m|^2 up to a constant.
    """
    # Candidates may be equal, and G singular.
    ridge = 1e-9 * max(float(np.trace(gram)), 1e-12)
    root = np.linalg.cholesky(gram + ridge * np.eye(len(gram)))
    weights, _ = nnls(root.T, np.linalg.solve(root, moment))
    return np.asarray(weights, np.float64)
