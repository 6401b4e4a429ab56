"""The time limit of the current call.

The dispatcher opens `time_limit` around a call. Whatever waits inside it (for the engine, a lock, a
child process) asks `remaining` how long it may, so that a call never outlasts `wait_s` by more than
a few seconds. The limit lives in a context variable: background threads start without one.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

GRACE_S = 2.5
"""Seconds a call may take beyond its `wait_s`; the promise to clients is 3, so half a second is
left for sending the answer."""
LEAST_S = 0.05
"""The shortest wait that `remaining` gives: a call that is late still looks once."""

_end: ContextVar[float | None] = ContextVar("lingshu_deadline", default=None)


@contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """End every wait inside this context `seconds` from now; an earlier limit stays in force."""
    end = time.monotonic() + seconds
    outer = _end.get()
    token = _end.set(end if outer is None else min(end, outer))
    try:
        yield
    finally:
        _end.reset(token)


def remaining(longest: float) -> float:
    """Return the seconds a wait may take: at most `longest`, at most what the call has left.

    Never less than `LEAST_S`.
    """
    end = _end.get()
    if end is None:
        return longest
    return max(min(longest, end - time.monotonic()), LEAST_S)
