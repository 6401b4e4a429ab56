"""Random streams, the bootstrap over cells, and random halves.

Every use of randomness has a stream of its own, keyed by what it is for, so that a figure does not
depend on which others are computed, or in which order.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from lingshu_model.evaluate.metrics.matrices import Floats, Indices, Sparse, weighted_sums


@dataclass(frozen=True)
class Draws:
    """How often each random step is repeated.

    Attributes:
        bootstrap: resamplings of the held-out cells.
        monte_carlo: resamplings of the model's own cells.
        halves: random splits in halves, of which reliabilities are means.
        splits: random splits of held-out cells into a reference and another half.
        most_cells: cells on either side of a comparison of distributions. Pairwise distances take
            time by the square of it.
    """

    bootstrap: int = 500
    monte_carlo: int = 200
    halves: int = 100
    splits: int = 30
    most_cells: int = 1000


def stream(*key: str | int) -> np.random.Generator:
    """Return the generator of one use: a Philox stream keyed by the SHA-256 of `key`."""
    # A separator that no name contains, so that ("a", "bc") and ("ab", "c") differ.
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def bootstrap_means(values: Sparse, draws: int, generator: np.random.Generator) -> Floats:
    """Return means of cells drawn with replacement, [draws, genes].

    A draw of n cells from n is a multinomial count of how often each is drawn (Efron 1979).
    """
    n = values.shape[0]
    # [draws, cells]: how often each cell is drawn
    weights = generator.multinomial(n, np.full(n, 1 / n), size=draws)
    return weighted_sums(weights / n, values)


def halves(n: int, generator: np.random.Generator) -> tuple[Indices, Indices]:
    """Return two disjoint random sets of n // 2 row numbers."""
    order = generator.permutation(n)
    return order[: n // 2], order[n // 2 : 2 * (n // 2)]


def half_means(values: Sparse, splits: int, generator: np.random.Generator) -> Floats:
    """Return the means of random halves, [2, splits, genes]."""
    n = values.shape[0]
    weights = np.zeros((2, splits, n))
    for split in range(splits):
        for side, rows in enumerate(halves(n, generator)):
            weights[side, split, rows] = 1 / max(len(rows), 1)
    # One product for all halves: [2 splits, cells] x [cells, genes].
    means = weighted_sums(weights.reshape(2 * splits, n), values)
    return means.reshape(2, splits, values.shape[1])
