"""Summaries of training cells that the network starts from: frequencies, components, maxima."""

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


def histogram(cells: TrainingCells, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return how often each gene had each token among `rows`, int64 [genes, 281]."""
    chosen = cells if rows is None else cells.take(rows)
    genes = len(cells.panel)
    counts = np.zeros(genes * VOCABULARY, np.int64)
    for block in chosen.blocks():
        counts_matrix = block.matrix
        flat = counts_matrix.indices.astype(np.int64) * VOCABULARY + counts_matrix.data
        counts += np.bincount(flat, minlength=len(counts))
    counts = counts.reshape(genes, VOCABULARY)
    n = np.bincount(chosen.source, minlength=len(cells.measured)) @ cells.measured.astype(np.int64)
    counts[:, 0] = n - counts[:, 1:].sum(axis=1)
    return counts


def largest_tokens(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each gene's largest token, int64 [genes]; 0 where it was never measured."""
    seen = counts > 0
    return np.where(seen.any(axis=1), VOCABULARY - 1 - seen[:, ::-1].argmax(axis=1), 0)


def log_frequencies(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return smoothed log frequencies [genes, 281], centred on each gene's value at 0."""
    # Unseen values keep a small, falling share, so that the tail stays reachable.
    smooth = counts + 0.5 * 0.8 ** np.arange(VOCABULARY) + 1e-4
    log = np.log(smooth / smooth.sum(axis=1, keepdims=True))
    return (log - log[:, :1]).astype(np.float32)


@dataclass(frozen=True)
class Levels:
    """ln(1 + UMI at the median depth) of cells, sparse, and its moments over measured genes."""

    values: Rows
    source: NDArray[np.int64]
    measured: NDArray[np.bool_]

    @classmethod
    def of(cls, cells: TrainingCells, median: float) -> "Levels":
        """Return the levels of `cells` brought to the depth `median` UMI."""
        umi = cells.umi()
        # In place: a sample fills much of the memory there is.
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
        return np.maximum(squares - self.mean**2, 0.0)


def _like(matrix: Rows, data: Floats) -> Rows:
    """Return a matrix of other values in the places of `matrix`, which are not copied."""
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), matrix.shape)


@dataclass(frozen=True)
class Components:
    """Principal components of levels: loadings [genes, rank], unit columns, and score spreads."""

    loadings: Floats
    spread: Floats


def components(levels: Levels, rank: int) -> Components:
    """Return the leading components; an unmeasured gene counts as its mean.

    With fewer cells or genes than `rank` asks for, the rest are zero.
    """
    cells, genes = levels.values.shape
    centre = np.nan_to_num(levels.mean)
    means = levels.measured * centre
    x = levels.values

    def forward(v: Floats) -> Floats:
        v = np.ravel(v)
        return x @ v - (means @ v)[levels.source]

    def backward(y: Floats) -> Floats:
        y = np.ravel(y)
        per_source = np.bincount(levels.source, weights=y, minlength=len(means))
        return x.T @ y - means.T @ per_source

    kept = min(rank, min(cells, genes) - 1)
    # scipy's types know neither of these as it documents them.
    make: Any = LinearOperator
    decompose: Any = svds
    operator = make((cells, genes), matvec=forward, rmatvec=backward, dtype=np.float64)
    # A fixed start makes the components a function of the cells alone.
    start = np.random.Generator(np.random.Philox(0)).standard_normal(min(cells, genes))
    _, singular, v = decompose(operator, k=kept, v0=start)
    order = np.argsort(-singular)
    loadings, spread = np.zeros((genes, rank)), np.ones(rank)
    loadings[:, :kept] = _signed(v[order].T)
    spread[:kept] = np.maximum(singular[order] / np.sqrt(cells), 1e-6)
    return Components(loadings, spread)


def _signed(loadings: Floats) -> Floats:
    """Return the columns with their largest entry positive: a component has no sign of its own."""
    peak = loadings[np.abs(loadings).argmax(axis=0), np.arange(loadings.shape[1])]
    return loadings * np.where(peak < 0, -1.0, 1.0)
