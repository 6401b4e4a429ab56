"""Axes and scales for comparing sets of cells, computed from training cells.

They are the same for every source: the principal axes, the width of the MMD's kernels, and the
genes whose correlations are compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, svds

from lingshu_model.evaluate.metrics.matrices import (
    Floats,
    Indices,
    Sparse,
    expression_levels,
    moments,
    stacked,
)

COMPONENTS, FEWEST = 50, 2
"""Largest and smallest number of axes."""
REPRODUCED = 0.5
"""Share of an axis' variance that cells which it was not fitted on must have along it."""
VARIABLE_GENES = 1000
"""Largest number of genes whose correlations are compared."""


@dataclass(frozen=True)
class Frame:
    """The fixed part of every comparison.

    Attributes:
        mean: float64 [genes], of the training cells, log1p_cp10k.
        axes: float64 [genes, components], orthonormal, largest variance first; at most 50, and only
            those that both halves of the training cells have.
        squared_distance: mean squared distance of two training cells along the axes.
        variable: the genes of largest training variance, at most 1,000, ascending.
    """

    mean: Floats
    axes: Floats
    squared_distance: float
    variable: Indices

    @classmethod
    def fit(cls, train: Iterable[Any]) -> "Frame":
        """Return the frame of training cells, given as counts matrices [cells, genes]."""
        values = expression_levels(stacked(train))
        mean, variance = moments(values)
        axes, spread = _components(values, mean, _reproduced(values))
        chosen = np.argsort(-variance, kind="stable")[:VARIABLE_GENES]
        return cls(
            mean=mean,
            axes=axes,
            # Two independent cells differ by twice the variance along each axis.
            squared_distance=float(2 * spread.sum()),
            variable=np.sort(chosen[variance[chosen] > 0]),
        )

    def scores(self, values: Sparse) -> Floats:
        """Return cells [cells, genes] along the axes, float64 [cells, components]."""
        # [components], the same for every cell; centring `values` would make it dense.
        return np.asarray(values @ self.axes) - self.mean @ self.axes


class _Centred(LinearOperator):
    """A sparse matrix less its column means, without making it dense."""

    def __init__(self, values: Sparse, mean: Floats) -> None:
        super().__init__(np.dtype(np.float64), values.shape)
        self.values, self.mean = values, mean

    def _matvec(self, x: Floats) -> Floats:
        # (V - 1 m^T) x and its transpose, without the dense matrix.
        return self.values @ x.ravel() - self.mean @ x.ravel()

    def _rmatvec(self, x: Floats) -> Floats:
        return self.values.T @ x.ravel() - self.mean * x.sum()


def _reproduced(values: Sparse) -> int:
    """Return how many leading axes of one half of the cells are axes of the other half too.

    Later axes are noise of the cells they were fitted on, which vary along them several times as
    much as other cells do: training cells would be far from held-out ones for that reason alone.
    """
    first, second = values[::2], values[1::2]
    axes, spread = _components(first, moments(first)[0], COMPONENTS)
    # Variance of the second half along the axes of the first, [components].
    # The second half is centred on itself: a shift of the mean is not variance.
    others = np.asarray((second @ axes - moments(second)[0] @ axes).var(axis=0))
    noise = np.flatnonzero(others < REPRODUCED * spread)
    return max(FEWEST, int(noise[0]) if len(noise) else len(spread))


def _components(values: Sparse, mean: Floats, most: int) -> tuple[Floats, Floats]:
    """Return the principal axes [genes, components] and the variance along each."""
    n, genes = values.shape
    k, least = min(most, n - 1, genes - 1), min(n, genes)
    # A fixed start vector: the same cells give the same axes.
    parts = svds(_Centred(values, mean), k=k, v0=np.full(least, 1 / np.sqrt(least)))
    size, axes = (np.asarray(part, np.float64) for part in parts[1:])
    order = np.argsort(-size)  # svds returns the smallest singular value first
    size, axes = size[order], axes[order]
    # The sign of an axis is arbitrary; its largest entry is made positive.
    signs = np.sign(axes[np.arange(k), np.abs(axes).argmax(axis=1)])
    # Singular values of centred cells squared, over n: the variances.
    return np.ascontiguousarray((axes * signs[:, None]).T), size**2 / n
