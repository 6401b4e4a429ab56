"""Made cells: counts around known means, so that the truth of an effect is known."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]


def shares(rng: np.random.Generator, genes: int, spread: float = 1.5) -> Floats:
    """Return shares of a cell's counts, as uneven as those of real genes."""
    p = rng.lognormal(0.0, spread, genes)
    return p / p.sum()


def draw(
    rng: np.random.Generator,
    share: Floats,
    cells: int,
    depth: float,
    size: float = 2.0,
    spread: float = 0.4,
) -> NDArray[np.int64]:
    """Return negative binomial counts [cells, genes] at depths of their own.

    `share` is [genes], or [cells, genes] where cells differ.
    """
    umi = depth * rng.lognormal(0.0, spread, (cells, 1))
    return rng.poisson(umi * share * rng.gamma(size, 1.0 / size, (cells, share.shape[-1])))


def rows(counts: Sequence[NDArray[np.int64]] | NDArray[np.int64]) -> sparse.csr_matrix:
    """Return counts, one block or several below one another, in compressed rows."""
    whole = counts if isinstance(counts, np.ndarray) else np.concatenate(counts)
    return sparse.csr_matrix(whole.astype(np.float64))


def levels(counts: NDArray[np.int64]) -> Floats:
    """Return log1p_cp10k, written out."""
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
