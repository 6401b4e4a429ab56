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
from scipy import sparse

from lingshu_model.evaluate.scoring.cells import (
    Floats,
    Matrix,
    Piece,
    cell_sums,
    pieces,
)
from lingshu_model.evaluate.scoring.threads import each

PER_MILLION = 1e6
SMALL = 128
"""Counts below this are looked up by cell; the few above are ranked one by one."""
Integers = NDArray[np.int64]
Codes = NDArray[np.uint32]


@dataclass(frozen=True)
class Ordered:
    """A matrix's entries, gene by gene, as integers of the same order; a missing one is the lowest.

    Attributes:
        starts: where each gene's entries begin, and the end of the last.
        cells: each entry's row.
        codes: each entry's integer.
        shape: of the matrix, [cells, genes].
    """

    starts: NDArray[np.integer[Any]]
    cells: NDArray[np.integer[Any]]
    codes: Codes
    shape: tuple[int, int]


def median_log1p(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Return float32 ln(1 + count / cell total × the median total of all the cells together).

    As `scanpy` does with a float32 CSR matrix that holds all of them: totals and their median are
    rounded to float32, and an empty cell stays empty.

    Raises:
        ValueError: most cells are empty, so that the median total is 0.
    """
    totals = [sums.astype(np.float32) for sums in each(cell_sums, matrices)]
    median = np.median(np.concatenate(totals))
    if not median > 0:
        message = "more than half of the cells have no counts at all: leave empty cells out"
        raise ValueError(message)
    scales = [total / median for total in totals]
    return each(lambda pair: _scaled_log1p(*pair), zip(matrices, scales, strict=True))


def mean_per_million(matrix: Matrix) -> Floats:
    """Return the mean over cells of counts per million of each cell's total, [genes]."""
    scale = cell_sums(matrix) / PER_MILLION
    weights = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    return (weights @ matrix) / matrix.shape[0]


def order_float32(matrix: Matrix) -> Ordered:
    """Return a float32 matrix's positive entries by their bits, which are ordered as they are."""
    return _by_gene(matrix, matrix.data.view(np.uint32))


def order_log1p_per_million(matrices: Sequence["Matrix | PerMillion"]) -> list[Ordered]:
    """Return float64 ln(1 + counts per million) of several matrices, ordered in common."""
    sides = [m if isinstance(m, PerMillion) else PerMillion.of(m) for m in matrices]
    values = np.concatenate([side.values for side in sides])
    codes = np.unique(values, return_inverse=True)[1].astype(np.uint32)
    ends = np.cumsum([len(side.values) for side in sides])
    found = np.split(codes, ends[:-1])
    return each(lambda pair: pair[0].ordered(pair[1]), zip(sides, found, strict=True))


@dataclass(frozen=True)
class PerMillion:
    """Float64 ln(1 + counts per million) of cells, ready to be ordered with others.

    Attributes:
        matrix: the cells' counts.
        sources: their values, piece by piece.
        values: the distinct ones of every piece.
    """

    matrix: Matrix
    sources: Sequence["_Source"]
    values: Floats

    @classmethod
    def of(cls, matrix: Matrix) -> "PerMillion":
        """Return those of counts."""
        sources = each(_Source.of, pieces(matrix))
        return cls(matrix, sources, np.concatenate([source.values for source in sources]))

    def ordered(self, codes: Codes) -> Ordered:
        """Return the entries as the integers that stand for their values."""
        ends = np.cumsum([len(source.values) for source in self.sources])
        pairs = zip(self.sources, np.split(codes, ends[:-1]), strict=True)
        return _by_gene(
            self.matrix, np.concatenate([source.codes(found) for source, found in pairs])
        )


@dataclass(frozen=True)
class _Source:
    """A piece's distinct values: those of small whole counts by cell and count, and the rest.

    Attributes:
        cells: how many.
        places: of each entry in a table of cells × counts, 0 for one of the rest.
        seen: which places of the table any entry has.
        rest: which entries are not in the table.
        values: those of `seen` and those of `rest`.
    """

    cells: int
    places: NDArray[np.int32]
    seen: Integers
    rest: Integers
    values: Floats

    @classmethod
    def of(cls, piece: Piece) -> "_Source":
        cell, cells = (piece.cells - piece.first).astype(np.int32), piece.last - piece.first
        scale = np.bincount(cell, piece.data, cells) / PER_MILLION
        count = np.minimum(piece.data, SMALL).astype(np.int32)
        tabled = (count < SMALL) & (count == piece.data)
        places = np.where(tabled, cell * np.int32(SMALL) + count, np.int32(0))
        table = np.zeros(cells * SMALL, bool)
        table[places] = True
        table[0] = False
        seen, rest = np.flatnonzero(table), np.flatnonzero(~tabled)
        small = (seen % SMALL) / scale[seen // SMALL]
        large = piece.data[rest].astype(np.float64) / scale[cell[rest]]
        return cls(cells, places, seen, rest, np.log1p(np.concatenate([small, large])))

    def codes(self, found: Codes) -> Codes:
        """Return each entry's integer, given those of the distinct values."""
        table = np.zeros(self.cells * SMALL, np.uint32)
        table[self.seen] = found[: len(self.seen)]
        codes = table[self.places]
        codes[self.rest] = found[len(self.seen) :]
        return codes


def _by_gene(matrix: Matrix, codes: Codes) -> Ordered:
    coded = sparse.csr_matrix((codes, matrix.indices, matrix.indptr), shape=matrix.shape).tocsc()
    return Ordered(coded.indptr, coded.indices, np.asarray(coded.data, codes.dtype), matrix.shape)


def _scaled_log1p(matrix: Matrix, by: NDArray[np.floating[Any]]) -> Matrix:
    by = np.where(by == 0, by.dtype.type(1), by)
    scaled = matrix.copy()
    scaled.data /= np.repeat(by, np.diff(matrix.indptr))
    np.log1p(scaled.data, out=scaled.data)
    return scaled
