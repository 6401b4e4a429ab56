"""Independent pieces of work, as many at a time as there are cores.

numpy and scipy let go of the interpreter while they compute. Every piece is the same whoever does
it, so how many are done at a time changes no bit. Knows nothing of what is computed.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[[T], R], pieces: Iterable[T]) -> list[R]:
    """Return what a function makes of every piece, in their order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(function, pieces))
