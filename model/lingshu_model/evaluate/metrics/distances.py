"""Distances between two sets of points, one number each: energy distance, MMD, iLISI.

The points are cells along the axes of a `Frame`. Energy distance and MMD are V-statistics: they are
never negative, 0 for equal sets, and positive for two halves of one sample because of sampling
noise. They are larger for smaller samples, so sources are compared at one number of cells.
"""

import numpy as np
from scipy.spatial.distance import cdist

from lingshu_model.evaluate.metrics.matrices import Floats

PERPLEXITY = 30.0
NEIGHBOURS_PER_PERPLEXITY = 3
WIDTHS = (-2, -1, 0, 1, 2)
"""Kernel widths are the mean squared distance times 2 to these powers."""
BISECTIONS, LOG_PRECISION = 32, 8.0
"""The log precision of a neighbourhood is searched between -8 and 8, in units of the mean squared
distance."""


def energy_distance(a: Floats, b: Floats) -> float:
    """Return 2 E|x - y| - E|x - x'| - E|y - y'|, Euclidean, all pairs counted.

    Székely and Rizzo 2013; in single-cell perturbation data called E-distance (Peidli et al. 2024).
    """
    between, within = cdist(a, b).mean(), cdist(a, a).mean() + cdist(b, b).mean()
    return float(2 * between - within)


def mmd2(a: Floats, b: Floats, squared_distance: float) -> float:
    """Return the squared maximum mean discrepancy under the sum of five Gaussian kernels.

    The kernels are exp(-d^2 / w) with w the given squared distance times 1/4, 1/2, 1, 2 and 4
    (Gretton et al. 2012).
    """

    def similarity(x: Floats, y: Floats) -> float:
        squared = cdist(x, y, "sqeuclidean") / squared_distance
        return float(np.sum([np.exp(-squared / 2.0**w).mean() for w in WIDTHS]))

    return similarity(a, a) + similarity(b, b) - 2 * similarity(a, b)


def ilisi(a: Floats, b: Floats, perplexity: float = PERPLEXITY) -> float:
    """Return how well two sets are mixed, from 0 (separate) to 1 (perfectly mixed).

    Around each point of either set its nearest others (three times the perplexity) get Gaussian
    weights whose entropy is the log of the perplexity. The inverse Simpson index of the two sets'
    shares of weight is the effective number of sets there, 1 to 2; its mean minus 1 is returned.
    Well mixed random sets reach about 0.9. The perplexity is at most a third of the other points.
    After Korsunsky et al. 2019, whose weights fall with distance and not with its square.
    """
    points = np.concatenate([a, b])
    labels = np.repeat([0.0, 1.0], [len(a), len(b)])
    others = len(points) - 1
    perplexity = min(perplexity, others / NEIGHBOURS_PER_PERPLEXITY)
    k = min(round(NEIGHBOURS_PER_PERPLEXITY * perplexity), others)
    squared = cdist(points, points, "sqeuclidean")
    np.fill_diagonal(squared, np.inf)  # a point is no neighbour of its own
    nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
    weights = _weights(np.take_along_axis(squared, nearest, 1).astype(np.float64), perplexity)
    # Weight of the second set around each point; the first set has 1 - share.
    share = (weights * labels[nearest]).sum(axis=1)
    return float((1 / (share**2 + (1 - share) ** 2)).mean() - 1)


def _weights(squared: Floats, perplexity: float) -> Floats:
    """Return rows of Gaussian weights that sum to 1 and whose entropy is log(perplexity).

    Equidistant neighbours have a larger entropy at any precision; they keep equal weights.

    Args:
        squared: squared distances to the neighbours, [points, k].
        perplexity: effective number of neighbours.
    """
    # Distances less the smallest: a common factor of the weights, which would underflow otherwise.
    squared = squared - squared.min(axis=1, keepdims=True)
    scale = np.maximum(squared.mean(axis=1, keepdims=True), 1e-300)
    squared = squared / scale
    low = np.full((len(squared), 1), -LOG_PRECISION)
    high = -low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        # The entropy falls as the precision grows.
        too_flat = _entropy(_normalised(squared, middle)) > np.log(perplexity)
        low, high = np.where(too_flat, middle, low), np.where(too_flat, high, middle)
    return _normalised(squared, (low + high) / 2)


def _normalised(squared: Floats, log_precision: Floats) -> Floats:
    weights = np.exp(-squared * np.exp(log_precision))
    return weights / weights.sum(axis=1, keepdims=True)


def _entropy(weights: Floats) -> Floats:
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return -(weights * logs).sum(axis=1, keepdims=True)
