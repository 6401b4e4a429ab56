"""Counter-based random streams: Philox4x64-10 keyed by (seed, cell), counted by (purpose, gene).

Salmon et al. 2011 (Random123), through NumPy's raw Philox output, which NEP 19 keeps stable. Every
gene has one draw per purpose, so any cell, and any gene of it, can be drawn alone, in any batch, on
any process. Floats are made here, not by NumPy's distributions, which may change.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What a draw is for: the second word of the counter. Never renumber."""

    ORDER = 1
    VALUE = 2
    DEPTH = 3
    MOVE = 4
    POOL = 5
    SCORE = 16
    """And up: one for each draw of a score."""


def raw(seed: int, cell: int, purpose: int, genes: int) -> NDArray[np.uint64]:
    """Return 64 random bits per gene; gene g's are lane g mod 4 of counter (g // 4, purpose)."""
    # NumPy steps the counter before its first block: starting one below makes block 0 the first.
    counter = ((int(purpose) << 64) - 1) % (1 << 256)
    words = [(counter >> (64 * i)) & 0xFFFFFFFFFFFFFFFF for i in range(4)]
    stream = np.random.Philox(
        key=np.array([seed, cell], np.uint64), counter=np.array(words, np.uint64)
    )
    return stream.random_raw(genes)


def uniforms(seed: int, cell: int, purpose: Purpose, genes: int) -> NDArray[np.float64]:
    """Return one uniform per gene in (0, 1): the upper 53 bits plus a half, over 2^53."""
    bits = raw(seed, cell, purpose, genes) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53
