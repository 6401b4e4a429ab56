"""What a piece of work holds in memory, as Python and numpy count it."""

import tracemalloc
from collections.abc import Callable
from typing import Any


def most_held(work: Callable[[], Any]) -> int:
    """Return the most bytes that `work` held at a time; mapped files do not count."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
