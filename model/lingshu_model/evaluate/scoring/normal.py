"""The two normalisations, each to the last bit, and values replaced by integers in their order.

Ranks need to know only which values are equal and which are larger, so what is ranked is turned
into integers of the same order: a float32's own bits, or the rank among all the distinct float64
values. Normalised values of one count differ between cells by their totals, so there are far fewer
distinct values (a few per cell) than entries. Knows nothing of conditions or tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.scoring.cells import Floats, Matrix, cell_sums

PER_MILLION = 1e6
SMALL = 128
"""Counts below this are looked up by cell; the few above are ranked one by one."""
Integers = NDArray[np.int64]
Codes = NDArray[np.uint32]


@dataclass(frozen=True)
class Ordered:
    """The entries of a CSR matrix as integers of the same order; a missing entry is the lowest.

    Attributes:
        rows: where each row's entries begin, and the end of the last.
        columns: each entry's column.
        codes: each entry's integer.
        shape: of the matrix.
    """

    rows: NDArray[np.integer[Any]]
    columns: NDArray[np.integer[Any]]
    codes: Codes
    shape: tuple[int, int]


def median_log1p(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Return float32 ln(1 + count / cell total × the median total of all the cells together).

    As `scanpy` does with a float32 CSR matrix that holds all of them: totals and their median are
    rounded to float32, and an empty cell stays empty.

    Raises:
        ValueError: most cells are empty, so that the median total is 0.
    """
    totals = [cell_sums(matrix).astype(np.float32) for matrix in matrices]
    median = np.median(np.concatenate(totals))
    if not median > 0:
        message = "more than half of the cells have no counts at all: leave empty cells out"
        raise ValueError(message)
    scaled = [_divided(m, t / median) for m, t in zip(matrices, totals, strict=True)]
    for matrix in scaled:
        np.log1p(matrix.data, out=matrix.data)
    return scaled


def mean_per_million(matrix: Matrix) -> Floats:
    """Return the mean over cells of counts per million of each cell's total, [genes]."""
    scale = cell_sums(matrix) / PER_MILLION
    weights = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    return (weights @ matrix) / matrix.shape[0]


def order_float32(matrix: Matrix) -> Ordered:
    """Return a float32 matrix's positive entries by their bits, which are ordered as they are."""
    return Ordered(matrix.indptr, matrix.indices, matrix.data.view(np.uint32), matrix.shape)


def order_log1p_per_million(matrices: Sequence[Matrix]) -> list[Ordered]:
    """Return float64 ln(1 + counts per million) of several matrices, ordered in common."""
    sources = [_Source.of(matrix) for matrix in matrices]
    distinct = np.unique(np.concatenate([value for s in sources for value in s.values()]))
    return [source.ordered(distinct) for source in sources]


@dataclass(frozen=True)
class _Source:
    """A matrix's distinct values: those of small whole counts by cell and count, and the rest."""

    matrix: Matrix
    places: Integers
    seen: NDArray[np.int64]
    small: Floats
    rest: NDArray[np.int64]
    large: Floats

    @classmethod
    def of(cls, matrix: Matrix) -> "_Source":
        scale = cell_sums(matrix) / PER_MILLION
        row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        count = matrix.data.astype(np.int64)
        tabled = (count < SMALL) & (count == matrix.data)
        places = np.where(tabled, row * SMALL + count, 0)
        table = np.zeros(matrix.shape[0] * SMALL, bool)
        table[places] = True
        table[0] = False
        seen, rest = np.flatnonzero(table), np.flatnonzero(~tabled)
        small = np.log1p((seen % SMALL) / scale[seen // SMALL])
        large = np.log1p(matrix.data[rest].astype(np.float64) / scale[row[rest]])
        return cls(matrix, places, seen, small, rest, large)

    def values(self) -> tuple[Floats, Floats]:
        return self.small, self.large

    def ordered(self, distinct: Floats) -> Ordered:
        table = np.zeros(self.matrix.shape[0] * SMALL, np.uint32)
        table[self.seen] = np.searchsorted(distinct, self.small)
        codes = table[self.places]
        codes[self.rest] = np.searchsorted(distinct, self.large)
        return Ordered(self.matrix.indptr, self.matrix.indices, codes, self.matrix.shape)


def _divided(matrix: Matrix, by: NDArray[np.floating[Any]]) -> Matrix:
    by = np.where(by == 0, by.dtype.type(1), by)
    divided = matrix.copy()
    divided.data = matrix.data / np.repeat(by, np.diff(matrix.indptr))
    return divided
