"""Expression levels of counts, the one scale on which changes of expression are given.

For a gene with count c in a cell with N counts over the genes that are measured,

    cp10k = 10,000 c / N,        log1p_cp10k = ln(1 + cp10k).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CP10K = 1e4
"""Counts to which every cell is scaled."""

Floats = NDArray[np.float64]


def cp10k(counts: NDArray[Any], totals: NDArray[Any]) -> Floats:
    """Return counts per 10,000, elementwise; 0 in a cell without counts.

    Args:
        counts: UMI counts.
        totals: the sum of the cell that each count is of, in a shape that broadcasts.
    """
    scaled = np.asarray(counts, np.float64) * CP10K
    # `where` leaves the zeros of `out` in cells without counts, and no warning of 0 / 0.
    return np.divide(scaled, totals, out=np.zeros_like(scaled), where=np.asarray(totals) > 0)


def log1p_cp10k(counts: NDArray[Any], totals: NDArray[Any]) -> Floats:
    """Return ln(1 + counts per 10,000), elementwise; 0 in a cell without counts."""
    return np.log1p(cp10k(counts, totals))
