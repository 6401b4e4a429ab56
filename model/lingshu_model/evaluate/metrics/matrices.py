"""Counts and expression of many cells as CSR arrays, [cells, genes].

Zeros are not stored, so that tens of thousands of cells of 18,000 genes fit in memory.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts.levels import log1p_cp10k

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Sparse = Any
"""A scipy CSR array [cells, genes]; scipy ships no types."""


def csr(counts: Any) -> Sparse:
    """Return a matrix as a CSR array without stored zeros, columns in ascending order."""
    matrix = sparse.csr_array(counts)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def stacked(parts: Iterable[Any]) -> Sparse:
    """Return the cells of all parts, one part after the other."""
    return csr(sparse.vstack([sparse.csr_array(part) for part in parts]))


def is_expression(cells: Any) -> bool:
    """Return whether cells are log1p_cp10k (floats) and not counts (integers)."""
    return np.issubdtype(cells.dtype, np.floating)


def expression_levels(cells: Any) -> Sparse:
    """Return log1p_cp10k of cells [cells, genes], float64 CSR; an empty cell stays 0.

    Floats are log1p_cp10k already and only change their type.
    """
    # The caller's counts must not change: `values.data` is overwritten below.
    values = sparse.csr_array(cells, dtype=np.float64, copy=True)
    if not is_expression(cells):
        totals = np.asarray(values.sum(axis=1), np.float64)
        values.data = log1p_cp10k(values.data, np.repeat(totals, np.diff(values.indptr)))
    return values


def column_means(values: Sparse) -> Floats:
    """Return the mean of each column."""
    return _column_sums(values, values.data) / values.shape[0]


def moments(values: Sparse) -> tuple[Floats, Floats]:
    """Return the mean and the variance (over n, not n - 1) of each column."""
    mean = column_means(values)
    square = _column_sums(values, values.data**2) / values.shape[0]
    # Rounding can leave a variance slightly below 0.
    return mean, np.maximum(square - mean**2, 0.0)


def _column_sums(values: Sparse, data: Floats) -> Floats:
    """Return the sum of each column of a matrix with these entries in the places of `values`."""
    return np.bincount(values.indices, data, values.shape[1]).astype(np.float64, copy=False)


def standard_error2(values: Sparse) -> Floats:
    """Return the squared standard error of each column's mean; 0 for a single row."""
    n = values.shape[0]
    # The variance over n - 1, divided by n: n of moments() cancels.
    return moments(values)[1] / (n - 1) if n > 1 else np.zeros(values.shape[1])


def weighted_sums(weights: Floats, values: Sparse) -> Floats:
    """Return weights [k, cells] times values [cells, genes], float64 [k, genes]."""
    # Sparse times dense; in the other order `values` would become dense.
    return np.ascontiguousarray((values.T @ weights.T).T)
