"""What sampled cells are like, gene by gene and as a whole.

Cells are gone through twice, a block at a time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Cells, row_blocks
from lingshu_tools.analysis.effects import Floats, expression_levels


@dataclass(frozen=True)
class Summary:
    """Cells in numbers; an array over genes holds the measured ones alone, in panel order.

    Attributes:
        mean: float64 [measured], log1p_cp10k.
        se: float64 [measured], its Monte Carlo standard error; None of one cell.
        mean_count: float64 [measured], UMI.
        zero_rate: float64 [measured], share of cells without a count.
        totals: int64 [cells], UMI of each cell.
        zeros: share of counts that are 0, over cells and measured genes.
    """

    mean: Floats
    se: Floats | None
    mean_count: Floats
    zero_rate: Floats
    totals: NDArray[np.int64]
    zeros: float


def summarised(cells: Cells) -> Summary:
    """Return the summary of at least one cell."""
    n, panel = cells.shape
    genes = int(cells.measured.sum())
    # Levels are summed over measured genes, counts over the panel; both end as [measured].
    total, totals = np.zeros(genes), np.zeros(n, np.int64)
    counts, present = np.zeros(panel, np.int64), np.zeros(panel, np.int64)
    for rows in row_blocks(*cells.shape):
        block = cells[rows]
        total += expression_levels(block).sum(axis=0)
        totals[rows] = np.bincount(block.row_of_each, block.values[:], len(block))
        counts += np.bincount(block.indices[:], block.values[:], panel).astype(np.int64)
        present += np.bincount(block.indices[:], minlength=panel)
    mean = total / n
    present = present[cells.measured]
    return Summary(
        mean=mean,
        # Of a mean over cells: the cells are independent draws, not pairs.
        se=np.sqrt(_squares(cells, mean) / (n - 1)) / np.sqrt(n) if n > 1 else None,
        mean_count=counts[cells.measured] / n,
        zero_rate=(n - present) / n,
        totals=totals,
        # n * genes counts, measured ones alone.
        zeros=float(n * genes - present.sum()) / (n * genes) if genes else np.nan,
    )


def _squares(cells: Cells, mean: Floats) -> Floats:
    """Return the summed squares about the mean; squares about 0 would lose digits."""
    sums = np.zeros_like(mean)
    for rows in row_blocks(*cells.shape):
        sums += ((expression_levels(cells[rows]) - mean) ** 2).sum(axis=0)
    return sums
