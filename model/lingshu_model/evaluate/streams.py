"""Random generators keyed by what they are used for.

Every use has a stream of its own, so that a figure does not depend on which other figures are
computed, or in which order.
"""

import hashlib

import numpy as np


def stream(*key: str | int) -> np.random.Generator:
    """Return the generator of one use: a Philox stream keyed by the SHA-256 of `key`."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
