"""Short synchronous work in threads, with a limit for each kind of work and a time for each piece.

A thread that does not return in time is left behind and counted: it holds no place that others
need, and beyond a number of such threads new work is refused.
"""

import time
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

import anyio
import anyio.to_thread

from lingshu_tools.calls.registry import ToolSpec
from lingshu_tools.errors import LingshuError

T = TypeVar("T")
Lane = Literal["simulate", "follow", "control", "child", "read"]
LANES: dict[Lane, int] = {"simulate": 4, "follow": 4, "control": 4, "child": 4, "read": 4}
"""Threads at work at a time, by kind of tool: many calls of one kind must not delay another."""
# Threads that nobody waits for, beyond which the server takes no work.
MOST_STUCK = 64


class OverloadError(LingshuError):
    """The server takes on no more work for now."""


class LateError(LingshuError):
    """A call's deadline passed while its thread did not respond."""


def lane_of(spec: ToolSpec) -> Lane:
    """Return which threads a tool runs in."""
    # First: cancelling must work while all other lanes are full.
    if spec.destructive:
        return "control"
    if spec.simulates:
        return "simulate"
    if spec.in_child:
        return "child"
    return "follow" if spec.waits else "read"


class Threads:
    """The worker threads of a server."""

    def __init__(self) -> None:
        self._places = {lane: anyio.CapacityLimiter(n) for lane, n in LANES.items()}
        self._left: set[_Work[Any]] = set()

    @property
    def stuck(self) -> int:
        """How many threads are still at work that nobody waits for."""
        self._left = {work for work in self._left if work.running}
        return len(self._left)

    async def run(self, lane: Lane, work: Callable[[], T], end: float) -> T:
        """Return what `work` returns, from another thread.

        Raises:
            OverloadError: too many threads are stuck.
            TimeoutError: it did not begin or return until `end`, on the monotonic clock.
        """
        if self.stuck >= MOST_STUCK:
            message = (
                f"server busy: {MOST_STUCK} calls are stuck in it, on a disk, a lock or a child "
                "process that does not respond; `lingshu doctor` looks for the reason, and a new "
                "server begins afresh"
            )
            raise OverloadError(message)
        job = _Work(work)
        try:
            # Waiting for a place in the lane counts as well.
            with anyio.fail_after(max(end - time.monotonic(), 0)):
                return await anyio.to_thread.run_sync(
                    job, abandon_on_cancel=True, limiter=self._places[lane]
                )
        finally:
            # It began and did not return: the thread goes on without its call.
            if job.running:
                self._left.add(job)


class _Work(Generic[T]):
    """A function that knows whether it runs."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self.running = False

    def __call__(self) -> T:
        self.running = True
        try:
            return self._function()
        finally:
            self.running = False
