"""Mean and variance of expression levels per group of cells, in one pass over sparse counts.

The level of a gene with count c in a cell with N counts is log1p_cp10k = ln(1 + 10,000 c / N), 0
for a count of 0. Only non-zero entries are visited, and blocks of rows are freed after use, so
memory is that of the sums: groups × genes, whatever the number of cells.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts.levels import CP10K, log1p_cp10k

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = Any
"""Counts or levels [cells, genes] as a csr_matrix of scipy, whose types pyright cannot follow."""
BLOCK = 4096
"""Cells whose levels are computed at a time. Fixed: it decides the order of sums, and so the last
bits of stored effects."""


@dataclass(frozen=True)
class Moments:
    """Sums over the cells of each group.

    Attributes:
        cells: number of cells, int64 [groups].
        total: sum of levels, float64 [groups, genes].
        squares: sum of squared levels, the same shape.
        step: mean over cells of the level of a single count, ln(1 + 10,000 / N), [groups].
        log_depth: mean of ln(counts per cell), [groups].
    """

    cells: Ints
    total: Floats
    squares: Floats
    step: Floats
    log_depth: Floats

    @classmethod
    def of(cls, counts: Iterable[Rows], group: Ints, groups: int, genes: int) -> "Moments":
        """Return the sums of counts that are given in blocks of rows.

        Args:
            counts: blocks [any number of cells, genes], together in the order of `group`.
            group: each cell's group; a cell with a negative number is left out.
            groups: number of groups.
            genes: columns of every block.

        Raises:
            ValueError: a count is negative or not finite, or rows and labels differ in number.
        """
        total, squares = np.zeros((groups, genes)), np.zeros((groups, genes))
        step, log_depth = np.zeros(groups), np.zeros(groups)
        first = 0
        for block in _pieces(counts, genes):
            of_cell = group[first : first + block.shape[0]]
            first += block.shape[0]
            if len(of_cell) < block.shape[0]:
                break
            umi = cell_totals(block)
            member = _membership(of_cell)
            values = expression_levels(block, umi)
            rows = member.groups
            # [groups of the block, cells] @ [cells, genes], with zeros never visited.
            total[rows] += (member.matrix @ values).toarray()
            values.data **= 2
            squares[rows] += (member.matrix @ values).toarray()
            step[rows] += member.matrix @ np.log1p(CP10K / np.maximum(umi, 1.0))
            log_depth[rows] += member.matrix @ np.log(np.maximum(umi, 1.0))
        if first != len(group):
            message = f"{first} rows of counts or more for {len(group)} labels: give one per cell"
            raise ValueError(message)
        cells = np.bincount(group[group >= 0], minlength=groups)
        n = np.maximum(cells, 1)
        return cls(cells, total, squares, step / n, log_depth / n)

    @property
    def mean(self) -> Floats:
        """Mean level, [groups, genes]; NaN for a group without cells."""
        with np.errstate(invalid="ignore"):
            return self.total / self.cells[:, None]

    def pooled(self, groups: Ints) -> "Moments":
        """Return the sums of several groups as those of a single group, [1, genes]."""
        n = self.cells[groups]
        weight = n / max(int(n.sum()), 1)
        return Moments(
            np.array([n.sum()]),
            self.total[groups].sum(axis=0, keepdims=True),
            self.squares[groups].sum(axis=0, keepdims=True),
            np.array([weight @ self.step[groups]]),
            np.array([weight @ self.log_depth[groups]]),
        )

    def within(self, groups: Ints) -> Floats:
        """Return the variance of single cells around the mean of their group, [genes].

        Pooled over groups, with cells less groups as the degrees of freedom.
        """
        n = self.cells[groups]
        rest = np.maximum(self.squares[groups].sum(axis=0), 0.0)
        for group in groups[n > 0]:
            rest -= self.total[group] ** 2 / self.cells[group]
        return np.maximum(rest, 0.0) / max(int((n - 1)[n > 0].sum()), 1)


def canonical(block: Rows) -> Rows:
    """Return counts as float64 in compressed rows, with duplicate entries added.

    Raises:
        ValueError: a count is negative or not finite.
    """
    rows = sparse.csr_matrix(block, dtype=np.float64, copy=not block.has_canonical_format)
    rows.sum_duplicates()
    if rows.nnz and not (np.isfinite(rows.data).all() and rows.data.min() >= 0):
        bad = rows.data[~(np.isfinite(rows.data) & (rows.data >= 0))][0]
        message = f"counts hold {bad}: give raw counts, which are finite and at least 0"
        raise ValueError(message)
    return rows


def cell_totals(counts: Rows) -> Floats:
    """Return the sum of each cell's counts, [cells]."""
    return np.asarray(counts.sum(axis=1), np.float64).ravel()


def expression_levels(counts: Rows, umi: Floats | None = None) -> Rows:
    """Return log1p_cp10k of counts [cells, genes] as a csr_matrix; an empty cell stays 0."""
    umi = cell_totals(counts) if umi is None else umi
    values = log1p_cp10k(counts.data, np.repeat(umi, np.diff(counts.indptr)))
    return sparse.csr_matrix((values, counts.indices, counts.indptr), counts.shape)


@dataclass(frozen=True)
class _Membership:
    """The groups of the cells of a block.

    Attributes:
        groups: numbers of the groups that occur in it, ascending.
        matrix: 1 where a cell is in a group, [groups, cells of the block].
    """

    groups: Ints
    matrix: Rows


def _membership(of_cell: Ints) -> _Membership:
    """Return the membership of a block; cells of a negative group are in none."""
    cells = np.flatnonzero(of_cell >= 0)
    groups, row = np.unique(of_cell[cells], return_inverse=True)
    shape = (len(groups), len(of_cell))
    return _Membership(groups, sparse.csr_matrix((np.ones(len(cells)), (row, cells)), shape))


def _pieces(counts: Iterable[Rows], genes: int) -> Iterator[Rows]:
    """Yield checked counts, at most `BLOCK` rows at a time."""
    for block in counts:
        if block.shape[1] != genes:
            message = f"a block has {block.shape[1]} genes where {genes} are expected"
            raise ValueError(message)
        for first in range(0, block.shape[0], BLOCK):
            yield canonical(block[first : first + BLOCK])
