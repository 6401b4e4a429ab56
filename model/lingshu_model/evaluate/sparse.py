"""Counts of many cells over many genes, kept sparse: 10,000 cells of 18,080 genes fit in memory.

A matrix of counts is an array or a CSR array; these functions take either. Knows nothing of what
the cells are.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse

from lingshu_model.evaluate.changes import Counts, Floats, log1p_cp10k

Sparse = Any
"""A scipy CSR array [cells, genes]; scipy ships no types."""


def csr(counts: Any) -> Sparse:
    """Return the counts as a CSR array without stored zeros, its columns in order."""
    found = sparse.csr_array(counts)
    found.eliminate_zeros()
    found.sort_indices()
    return found


def dense(counts: Any) -> Counts:
    """Return the counts as an int32 array."""
    array = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
    return array.astype(np.int32, copy=False)


def expressed(cells: Any) -> Floats:
    """Return cells in log1p_cp10k [cells, genes]; floats are taken to be that already."""
    if is_expression(cells):
        return (cells.toarray() if sparse.issparse(cells) else cells).astype(np.float64)
    return log1p_cp10k(dense(cells))


def is_expression(cells: Any) -> bool:
    """Return whether cells are log1p_cp10k instead of counts: a peer may have nothing else."""
    return np.issubdtype(cells.dtype, np.floating)


def stacked(parts: Iterable[Any]) -> Sparse:
    """Return the cells of all parts one below the other, as CSR."""
    return csr(sparse.vstack([sparse.csr_array(part) for part in parts]))


def expression(counts: Sparse) -> Sparse:
    """Return log1p_cp10k of CSR counts, float64 CSR; zeros stay unstored."""
    totals = np.asarray(counts.sum(axis=1), np.float64)
    found = sparse.csr_array(counts, dtype=np.float64, copy=True)
    found.data *= np.repeat(1e4 / np.maximum(totals, 1.0), np.diff(found.indptr))
    np.log1p(found.data, out=found.data)
    return found


def moments(values: Sparse) -> tuple[Floats, Floats]:
    """Return the mean and the variance (over n) of each column."""
    mean = np.asarray(values.mean(axis=0), np.float64)
    square = np.asarray(values.multiply(values).mean(axis=0), np.float64)
    return mean, np.maximum(square - mean**2, 0.0)


def thermometer(counts: Sparse, width: int) -> Sparse:
    """Return a 0/1 CSR array in which equal ones of two cells count their shared UMI.

    A count c of a gene becomes c ones among the gene's `width` columns, so the product of two rows
    is the sum over genes of the smaller count.
    """
    repeats = np.asarray(counts.data, np.int64)
    level = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    columns = np.repeat(np.asarray(counts.indices, np.int64), repeats) * width + level
    indptr = np.concatenate([[0], np.cumsum(repeats)])[counts.indptr]
    return _ones(counts, width, columns, indptr)


def one_hot(counts: Sparse, width: int) -> Sparse:
    """Return a 0/1 CSR array with one column per gene and count up to `width`.

    The product of two rows is the number of genes in which both have the same count above 0.
    """
    columns = np.asarray(counts.indices, np.int64) * width + np.asarray(counts.data, np.int64) - 1
    return _ones(counts, width, columns, counts.indptr)


def presence(counts: Sparse) -> Sparse:
    """Return a 0/1 CSR array [cells, genes]: where a count is above 0."""
    return _ones(counts, 1, counts.indices, counts.indptr)


def _ones(counts: Sparse, width: int, columns: Any, indptr: Any) -> Sparse:
    shape = (counts.shape[0], counts.shape[1] * width)
    return sparse.csr_array((np.ones(len(columns), np.int32), columns, indptr), shape)
