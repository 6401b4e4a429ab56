"""The sampling variance of a group's summed, scaled and logged expression, by leaving cells out.

The statistic is b = ln(1 + 50,000 × P / S), with P the group's counts of a gene and S of all genes.
Its delete-1 jackknife leaves out each cell in turn, and a cell that lacks a gene still moves it,
because S falls. That makes cells × genes logarithms; but where a cell lacks the gene, its deviation
depends on the cell only through its share x of S and on the gene only through w = S / (S + 50,000
P): it is ln(1 − x w) − ln(1 − x) = Σ xᵏ (1 − wᵏ) / k. Sums over cells are then polynomials in w
with the power sums of x as coefficients, and only the entries a cell has are done one by one.
Knows nothing of what the variance is for.
"""

import numpy as np

from lingshu_model.evaluate.scoring.cells import (
    Floats,
    Matrix,
    cell_sums,
    gene_sums,
    pieces,
)

TARGET = 50_000.0
"""What a group's counts are scaled to."""
LARGEST_SHARE = 0.2
"""A cell with more than this share of its group makes the series long: then it is done directly."""
EXACT = 1e-17
ROWS = 64
"""Cells done directly at a time."""


def log_bulk(counts: Floats) -> Floats:
    """Return ln(1 + 50,000 × count / total) of summed counts, [..., genes]; nothing stays 0."""
    total = counts.sum(axis=-1, keepdims=True)
    return np.log1p(counts * (TARGET / np.where(total > 0, total, np.inf)))


def variance(cells: Matrix) -> float:
    """Return the delete-1 jackknife variance of a group's log bulk, summed over genes.

    0 for fewer than two cells, or no counts at all.
    """
    n = cells.shape[0]
    counts = gene_sums(cells)
    totals = cell_sums(cells)
    if n < 2 or not counts.sum():
        return 0.0
    share = totals / counts.sum()
    use = _by_series if share.max() <= LARGEST_SHARE else _directly
    first, second = use(cells, counts, totals)
    return max((n - 1) / n * float((second - first**2 / n).sum()), 0.0)


def _directly(cells: Matrix, counts: Floats, totals: Floats) -> tuple[Floats, Floats]:
    """Return Σ and Σ of squares, over left-out cells, of the deviation of each gene's bulk."""
    first, second = np.zeros_like(counts), np.zeros_like(counts)
    bulk = log_bulk(counts)
    for start in range(0, cells.shape[0], ROWS):
        block = cells[start : start + ROWS].toarray().astype(np.float64)
        rest = counts.sum() - totals[start : start + ROWS, None]
        safe = np.where(rest > 0, rest, 1.0)
        left = np.where(rest > 0, np.log1p(TARGET * (counts - block) / safe), 0.0) - bulk
        first += left.sum(axis=0)
        second += (left**2).sum(axis=0)
    return first, second


def _by_series(cells: Matrix, counts: Floats, totals: Floats) -> tuple[Floats, Floats]:
    """Return what `_directly` does."""
    total, genes = counts.sum(), len(counts)
    share, w = totals / total, total / (total + TARGET * counts)
    logs, scale = np.log1p(-share), TARGET / total
    first, second = _absent(share, w)
    for piece in pieces(cells):
        gene = piece.genes.astype(np.int64)
        x, weight, rest = share[piece.cells], -w[gene], logs[piece.cells]
        absent = np.log1p(weight * x) - rest
        left = np.log1p(weight * (x + piece.data * scale)) - rest
        more = left - absent
        first += np.bincount(gene, more, genes)
        second += np.bincount(gene, more * (left + absent), genes)
    return first, second


def _absent(share: Floats, w: Floats) -> tuple[Floats, Floats]:
    """Return Σ and Σ of squares of the deviations as if no cell had the gene."""
    terms = max(4, int(np.ceil(np.log(EXACT) / np.log(share.max()))))
    sums = np.array([np.sum(share**power) for power in range(2 * terms + 1)])
    power = np.arange(1, terms + 1)
    powers = np.multiply.accumulate(np.broadcast_to(w, (terms, len(w))))
    parts = (1 - powers) / power[:, None]
    products = sums[power[:, None] + power]
    first = np.einsum("k,kg->g", sums[1 : terms + 1], parts)
    return first, np.einsum("jg,jg->g", parts, np.einsum("jk,kg->jg", products, parts))
