"""The published count quantiser: 280 regular levels and one overflow token, about two digits.

arXiv 2603.25240, eqs 3-7. A count of 0 to 99 is its own token; 100 to 999 have steps of 10 and 1000
to 9999 steps of 100; anything above is OVERFLOW. The paper leaves decoding open: here a token
decodes to its bin's lower edge (OVERFLOW to 10,000), so decoding never raises a count, and encoding
a decoded token gives the same token.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

CAP = 9999
"""Largest count with a regular token."""
OVERFLOW = 280
VOCABULARY = 281
"""Number of count tokens, 0 to OVERFLOW."""
MASK = VOCABULARY
"""The token of a gene not yet revealed or not measured; never a value."""


def encode(counts: ArrayLike) -> NDArray[np.int64]:
    """Return the token of each UMI count, same shape.

    Raises:
        ValueError: a count is negative or not a whole number.
    """
    array = np.asarray(counts)
    x = array.astype(np.int64)
    if not np.array_equal(x, array):
        message = "counts must be whole numbers (raw UMI); these are not"
        raise ValueError(message)
    if x.size and x.min() < 0:
        message = f"counts must not be negative; the smallest is {x.min()}"
        raise ValueError(message)
    # Offsets that make each range continue the one before: 100 -> 100, 1000 -> 190, 9999 -> 279.
    tokens = np.where(x < 100, x, np.where(x < 1000, 90 + x // 10, 180 + x // 100))
    return np.where(x > CAP, OVERFLOW, tokens)


def _edges() -> NDArray[np.int64]:
    """Return the smallest count of each token, [281]."""
    fine = np.arange(100)
    tens = 100 + 10 * np.arange(90)
    hundreds = 1000 + 100 * np.arange(90)
    return np.concatenate([fine, tens, hundreds, [CAP + 1]]).astype(np.int64)


LOWER_EDGES = _edges()


def decode(tokens: ArrayLike) -> NDArray[np.int64]:
    """Return the lower edge of each token's bin, same shape; tokens are 0..280."""
    return LOWER_EDGES[np.asarray(tokens, np.int64)]
