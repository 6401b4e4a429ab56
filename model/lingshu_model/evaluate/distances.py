"""Distances between two sets of points, as one number each: MMD, energy distance, iLISI.

The points are cells along the axes of a `Frame`. MMD and energy distance are V-statistics: never
negative, 0 for equal sets, and at equal n as large for two halves of one sample as sampling noise
makes them, so sources are to be compared at one n. Knows nothing of genes.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from lingshu_model.evaluate.changes import Floats

PERPLEXITY = 30.0
NEIGHBOURS_PER_PERPLEXITY = 3
WIDTHS = (-2, -1, 0, 1, 2)
"""Kernel widths are the mean squared distance times 2 to these powers."""
ROUNDS, REACH = 32, 8.0
"""Bisections of a log precision between -8 and 8, in units of the mean squared distance."""


def mmd2(a: Floats, b: Floats, squared_distance: float) -> float:
    """Return the squared maximum mean discrepancy under the sum of five Gaussian kernels.

    The kernels are exp(-d² / w) with w the given squared distance times 1/4, 1/2, 1, 2 and 4.
    """

    def similarity(x: Floats, y: Floats) -> float:
        squared = cdist(x, y, "sqeuclidean") / squared_distance
        return float(np.sum([np.exp(-squared / 2.0**w).mean() for w in WIDTHS]))

    return similarity(a, a) + similarity(b, b) - 2 * similarity(a, b)


def energy_distance(a: Floats, b: Floats) -> float:
    """Return 2 E|x - y| - E|x - x'| - E|y - y'|, Euclidean, all pairs counted."""
    between, within = cdist(a, b).mean(), cdist(a, a).mean() + cdist(b, b).mean()
    return float(2 * between - within)


def ilisi(a: Floats, b: Floats, perplexity: float = PERPLEXITY) -> float:
    """Return how well two sets are mixed, from 0 (apart) to 1 (as evenly as can be).

    Around each point of either set its nearest others (three times the perplexity) get Gaussian
    weights whose entropy is the log of the perplexity; the inverse Simpson index of the two sets'
    shares of weight says how many sets there effectively are, 1 to 2; the mean minus 1 is returned.
    Chance keeps well mixed sets at about 0.9. The perplexity is at most a third of the points
    around. After Korsunsky et al. 2019, whose neighbourhoods are weighted by distance, not by its
    square.
    """
    points = np.concatenate([a, b])
    labels = np.repeat([0.0, 1.0], [len(a), len(b)])
    others = len(points) - 1
    perplexity = min(perplexity, others / NEIGHBOURS_PER_PERPLEXITY)
    k = min(round(NEIGHBOURS_PER_PERPLEXITY * perplexity), others)
    squared = cdist(points, points, "sqeuclidean")
    np.fill_diagonal(squared, np.inf)
    nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
    weights = _weights(np.take_along_axis(squared, nearest, 1).astype(np.float64), perplexity)
    share = (weights * labels[nearest]).sum(axis=1)
    return float((1 / (share**2 + (1 - share) ** 2)).mean() - 1)


def _weights(squared: Floats, perplexity: float) -> Floats:
    """Return rows of Gaussian weights summing to 1 whose entropy is log(perplexity), by bisection.

    Equidistant neighbours have more than that at any width; they keep equal weights.
    """
    squared = squared - squared.min(axis=1, keepdims=True)
    scale = np.maximum(squared.mean(axis=1, keepdims=True), 1e-300)
    squared = squared / scale
    low, high = (np.full((len(squared), 1), bound) for bound in (-REACH, REACH))
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        entropy = _entropy(_normalised(squared, middle))
        too_flat = entropy > np.log(perplexity)
        low, high = np.where(too_flat, middle, low), np.where(too_flat, high, middle)
    return _normalised(squared, (low + high) / 2)


def _normalised(squared: Floats, log_precision: Floats) -> Floats:
    weights = np.exp(-squared * np.exp(log_precision))
    return weights / weights.sum(axis=1, keepdims=True)


def _entropy(weights: Floats) -> Floats:
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return -(weights * logs).sum(axis=1, keepdims=True)


def rank(values: Floats) -> NDArray[np.float64]:
    """Return ranks from 0, ties sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    return (first + (counts - 1) / 2)[inverse]
