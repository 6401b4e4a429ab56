"""How a waiting call tells its door how far an experiment is, without knowing the door.

The door opens `reporting(sink)` around a call; code that waits calls `report`. The sink lives in a
context variable, so calls of one process do not hear each other.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

Sink = Callable[[int, int], None]
_sink: ContextVar[Sink | None] = ContextVar("lingshu_progress", default=None)


@contextmanager
def reporting(sink: Sink | None) -> Generator[None]:
    """Send what is reported in this context to `sink(done, total)`, both in cells."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


def report(n_done: int, total: int) -> None:
    """Tell the door of the current call, if it listens, that `n_done` of `total` cells exist."""
    sink = _sink.get()
    if sink is not None:
        sink(n_done, total)
