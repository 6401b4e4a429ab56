"""Summaries of training cells for the initialisation: frequencies, components, largest tokens.

A level is ln(1 + c m / N): the count c of a cell with N UMI in all, at the median depth of m UMI.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds

from lingshu_model.network.tokens import LOWER_EDGES, VOCABULARY
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.store import Rows

Floats = NDArray[np.float64]
LEVELS: Floats = np.log1p(LOWER_EDGES.astype(np.float64))
"""ln(1 + count) of each token, [281]."""


def histogram(cells: TrainingCells, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return how often each gene had each token among `rows`, int64 [genes, 281]."""
    chosen = cells if rows is None else cells.take(rows)
    genes = len(cells.panel)
    counts = np.zeros(genes * VOCABULARY, np.int64)
    for block in chosen.blocks():
        matrix = block.matrix
        # One number for each (gene, token), so that one bincount counts them all.
        flat = matrix.indices.astype(np.int64) * VOCABULARY + matrix.data
        counts += np.bincount(flat, minlength=len(counts))
    counts = counts.reshape(genes, VOCABULARY)
    # Zeros are not stored: they are the cells that measure the gene less those with another token.
    n = np.bincount(chosen.source, minlength=len(cells.measured)) @ cells.measured.astype(np.int64)
    counts[:, 0] = n - counts[:, 1:].sum(axis=1)
    return counts


def largest_tokens(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each gene's largest token, int64 [genes]; 0 where it was never measured."""
    seen = counts > 0
    return np.where(seen.any(axis=1), VOCABULARY - 1 - seen[:, ::-1].argmax(axis=1), 0)


def log_frequencies(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return smoothed log frequencies [genes, 281], less each gene's log frequency of token 0."""
    # Pseudo-counts, half a cell at token 0 and falling, 1e-4 at least: log 0 would be a logit of
    # minus infinity, which no gradient can change.
    smooth = counts + 0.5 * 0.8 ** np.arange(VOCABULARY) + 1e-4
    log = np.log(smooth / smooth.sum(axis=1, keepdims=True))
    # A constant over tokens cancels in the softmax; less it, 0 means "as frequent as token 0".
    return (log - log[:, :1]).astype(np.float32)


@dataclass(frozen=True)
class Levels:
    """Levels of cells and their moments over the cells that measure a gene.

    Attributes:
        values: float64 [cells, genes] in compressed rows.
        source: int64 [cells], an index into `measured`.
        measured: bool [sources, genes].
    """

    values: Rows
    source: NDArray[np.int64]
    measured: NDArray[np.bool_]

    @classmethod
    def of(cls, cells: TrainingCells, median: float) -> "Levels":
        """Return the levels of `cells` brought to the depth `median` UMI."""
        umi = cells.umi()
        # In place: a sample may take much of the memory.
        levels = np.repeat(median / cells.depth(), np.diff(umi.indptr))
        levels *= umi.data
        np.log1p(levels, out=levels)
        return cls(_like(umi, levels), cells.source, cells.measured)

    def rows(self, rows: NDArray[np.int64]) -> "Levels":
        """Return the levels of the cells `rows`."""
        return Levels(self.values[rows], self.source[rows], self.measured)

    @cached_property
    def n(self) -> Floats:
        """Cells that measure each gene, NaN where none does, [genes]."""
        per_source = np.bincount(self.source, minlength=len(self.measured))
        n = (per_source @ self.measured).astype(np.float64)
        n[n == 0] = np.nan
        return n

    @cached_property
    def mean(self) -> Floats:
        """Mean over the cells that measure the gene, [genes]."""
        return np.asarray(self.values.sum(axis=0), np.float64).ravel() / self.n

    @cached_property
    def variance(self) -> Floats:
        """Variance over the cells that measure the gene, [genes]."""
        squared = _like(self.values, self.values.data**2)
        squares = np.asarray(squared.sum(axis=0), np.float64).ravel() / self.n
        # The difference of two sums may round to just below 0 for a gene that does not vary.
        return np.maximum(squares - self.mean**2, 0.0)


def _like(matrix: Rows, data: Floats) -> Rows:
    """Return a matrix with the values `data` at the positions of `matrix`, which are not copied."""
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), matrix.shape)


@dataclass(frozen=True)
class Components:
    """Principal components of levels.

    Attributes:
        loadings: [genes, rank], columns of length 1, the largest entry positive.
        spread: standard deviation of the scores, [rank].
    """

    loadings: Floats
    spread: Floats


def components(levels: Levels, rank: int) -> Components:
    """Return the leading principal components; an unmeasured gene counts as its mean.

    With `rank` or fewer cells or genes, the loadings of the last components are zero.

    Args:
        levels: of the training cells.
        rank: number of components.
    """
    cells, genes = levels.values.shape
    centre = np.nan_to_num(levels.mean)
    # The mean of what a source measures, [sources, genes]: an unmeasured gene, which is 0 in `x`,
    # has 0 subtracted and so deviates from its mean by nothing.
    means = levels.measured * centre
    x = levels.values
    # Products with the centred matrix x - means[source]; that matrix itself would be dense.

    def forward(v: Floats) -> Floats:
        v = np.ravel(v)
        return x @ v - (means @ v)[levels.source]

    def backward(y: Floats) -> Floats:
        y = np.ravel(y)
        per_source = np.bincount(levels.source, weights=y, minlength=len(means))
        return x.T @ y - means.T @ per_source

    kept = min(rank, min(cells, genes) - 1)
    # scipy's type stubs do not agree with its documentation of these two.
    make: Any = LinearOperator
    decompose: Any = svds
    operator = make((cells, genes), matvec=forward, rmatvec=backward, dtype=np.float64)
    # A fixed start makes the components a function of the cells alone.
    start = np.random.Generator(np.random.Philox(0)).standard_normal(min(cells, genes))
    _, singular, v = decompose(operator, k=kept, v0=start)
    order = np.argsort(-singular)
    loadings, spread = np.zeros((genes, rank)), np.ones(rank)
    # svds guarantees no order of the singular values.
    loadings[:, :kept] = _signed(v[order].T)
    spread[:kept] = np.maximum(singular[order] / np.sqrt(cells), 1e-6)
    return Components(loadings, spread)


def _signed(loadings: Floats) -> Floats:
    """Return columns with their largest entry positive; the sign of a component is arbitrary."""
    peak = loadings[np.abs(loadings).argmax(axis=0), np.arange(loadings.shape[1])]
    return loadings * np.where(peak < 0, -1.0, 1.0)
