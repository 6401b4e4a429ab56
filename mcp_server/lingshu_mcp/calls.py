"""Tool calls of an MCP server: admitted, begun in a thread, awaited without one, finished in time.

A call that waits for experiments holds no thread meanwhile, so hundreds of them leave the server
free to read and answer. Every call is answered by its deadline, even if a thread is stuck.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import anyio

from lingshu_mcp.threads import LANES, LateError, OverloadError, Threads, lane_of
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import Waiting, start
from lingshu_tools.calls.registry import ToolSpec
from lingshu_tools.calls.results import Result
from lingshu_tools.errors import BudgetError, InputError, LingshuError
from lingshu_tools.system.deadline import time_limit
from lingshu_tools.tools.common import MAX_WAIT_S

MAX_WAITING: Final = 1000
"""Calls with `wait_s` above 0 in flight at a time; each costs a task, not a thread."""
MAX_SHORT: Final = 100
"""Other calls in flight at a time."""
LAST_S: Final = 2.75
"""Seconds after `wait_s` at which the server answers without the thread; the promise is 3."""
READ_S: Final = 4.0
"""Seconds that a resource, a prompt or a completion may take."""
FIRST_FINISH_S: Final = 0.05
"""Seconds assumed for reading a state back, until some have been measured."""
_MARGIN = 1.5
"""How much longer than the mean a reading is taken to last when waits are spread out."""
T = TypeVar("T")
Report = Callable[[int, int], Awaitable[None]]
Kind = Literal["waiting", "short"]
Outcome = Literal["ok", "refused", "failed", "busy", "late", "cancelled"]


@dataclass
class Counts:
    """What a server has done since it began."""

    calls: Counter[tuple[str, Outcome]] = field(default_factory=Counter[tuple[str, Outcome]])
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    in_flight: Counter[Kind] = field(default_factory=Counter[Kind])
    by_principal: Counter[str] = field(default_factory=Counter[str])


class Calls:
    """The calls of one server, of all its clients."""

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self.counts = Counts()
        self.threads = Threads()
        self._max_waiting = max_waiting
        self._leaving = False
        self._finish_s = FIRST_FINISH_S
        self.waits: set[asyncio.Event] = set()
        """One event for each call that waits now; setting it makes the call look again."""

    def leave(self) -> None:
        """Let every waiting call answer now with the state its experiment is in."""
        self._leaving = True
        for changed in self.waits:
            changed.set()

    async def call(
        self,
        app: App,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        report: Report,
        render: Callable[[Result], T],
    ) -> T:
        """Return a tool's result as `render` makes it, in the thread of the call.

        A cancelled request ends the wait; the experiment is a row and goes on.

        Raises:
            LingshuError: refused, failed, or not answered in time.
        """
        # Until the call ends otherwise: a cancelled task leaves by an exception that is not caught
        # here.
        begin, outcome = time.monotonic(), "cancelled"
        try:
            # Counted before anything is begun, so that a refused call has no effect.
            with self._admitted(waits=wait_of(spec, arguments) > 0), self._budgeted(app):
                result = await self._answer(app, spec, arguments, report, render, begin)
            outcome = "ok"
        except LingshuError as error:
            outcome = _outcome(error)
            raise
        finally:
            self.counts.calls[spec.name, outcome] += 1
            self.counts.seconds[spec.name] += time.monotonic() - begin
        return result

    async def read(self, app: App, work: Callable[[], T]) -> T:
        """Return what a short piece of work returns that is no tool call: a resource, a prompt.

        Raises:
            LingshuError: refused, failed, or not answered in time.
        """
        end = time.monotonic() + READ_S

        def limited() -> T:
            with time_limit(READ_S):
                return work()

        try:
            with self._admitted(waits=False), self._budgeted(app):
                return await self.threads.run("read", limited, end)
        except TimeoutError as error:
            message = f"no answer from the ledger or a disk in {READ_S:.0f} s: ask again"
            raise LateError(message) from error

    async def _answer(
        self,
        app: App,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        report: Report,
        render: Callable[[Result], T],
        begin: float,
    ) -> T:
        wait_s, lane = wait_of(spec, arguments), lane_of(spec)
        # `begin` is that of the request: time spent waiting for a thread counts.
        end, name = begin + wait_s + LAST_S, None

        def first() -> T | Waiting:
            begun = start(app, spec.name, arguments)
            return begun if isinstance(begun, Waiting) else render(begun)

        try:
            # A call that waits reads the state at its begin too, before any wait has ended.
            reads = lane == "follow" and wait_s > 0
            work = self._timed(first, first=True) if reads else first
            begun = await self.threads.run(lane, work, end)
            if not isinstance(begun, Waiting):
                return begun
            name, finish = begun.name, begun.finish
            await self._wait(app, begun, report, self.wait_end(begun.until, wait_s))
            return await self.threads.run(lane, self._timed(lambda: render(finish())), end)
        except TimeoutError as error:
            raise _late(spec, name, time.monotonic() - begin) from error

    def wait_end(self, until: float, wait_s: float) -> float:
        """Return when a call stops waiting, on the monotonic clock: at `until`, or a little before.

        Waits that began together would end together, and their states could not all be read before
        their deadlines. Each ends earlier by the time that those begun before it will take.
        """
        # Seconds: waits under way x time of one reading, by as many threads as read at once.
        before_s = _MARGIN * len(self.waits) * self._finish_s / LANES["follow"]
        # Never more than half of the wait, however many calls wait.
        return until - min(before_s, wait_s / 2)

    def _timed(self, read: Callable[[], T], *, first: bool = False) -> Callable[[], T]:
        """Return a function that does the same and keeps in mind how long a state takes to read."""

        def work() -> T:
            begin = time.monotonic()
            result = read()
            longer_s = time.monotonic() - begin - self._finish_s
            # A running mean over about the last 20. The first read of a call does less than the
            # last one: it can show that the estimate is too low, not that it is too high.
            self._finish_s += 0.05 * (max(longer_s, 0.0) if first else longer_s)
            return result

        return work

    async def _wait(self, app: App, waiting: Waiting, report: Report, until: float) -> None:
        """Return when the experiments have ended, the time is up or the server leaves."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(changed.set)

        self.waits.add(changed)
        try:
            # Watched before the first test of `over`, so that an end in between is not missed.
            with (
                waiting.watch(app, wake) as watch,
                anyio.move_on_after(until - time.monotonic()),
            ):
                while not (watch.over or self._leaving):
                    await changed.wait()
                    # Cleared before the state is looked at: a change after it wakes the loop again.
                    changed.clear()
                    await report(watch.progress.done, watch.progress.total)
        finally:
            self.waits.discard(changed)

    @contextmanager
    def _budgeted(self, app: App) -> Generator[None]:
        limit, in_flight = app.budget.max_calls, self.counts.by_principal
        # All on the event loop: nothing comes between the test and the count.
        if limit is not None and in_flight[app.principal] >= limit:
            message = (
                f"{app.principal!r} may have {limit} calls in flight at a time, and 0 are left: "
                "call again when one has ended, or wait with a smaller wait_s"
            )
            raise BudgetError(message)
        in_flight[app.principal] += 1
        try:
            yield
        finally:
            in_flight[app.principal] -= 1

    @contextmanager
    def _admitted(self, *, waits: bool) -> Generator[None]:
        kind: Kind = "waiting" if waits else "short"
        limit = self._max_waiting if waits else MAX_SHORT
        in_flight = self.counts.in_flight
        if in_flight[kind] >= limit:
            message = (
                f"server busy: {in_flight[kind]} calls in flight, and it takes {limit} of this "
                "kind at a time. Nothing was begun: call again when some have ended. One call that "
                "waits for an experiment or a screen is enough"
            )
            raise OverloadError(message)
        in_flight[kind] += 1
        try:
            yield
        finally:
            in_flight[kind] -= 1


def wait_of(spec: ToolSpec, arguments: Mapping[str, Any]) -> float:
    """Return the seconds a call may wait, before its arguments are checked: 0 if they are wrong."""
    # Arguments are not validated yet, and a wrong value is refused by the dispatcher.
    known = spec.arguments.model_fields.get("wait_s")
    if known is None:
        return 0.0
    value = arguments.get("wait_s")
    value = known.default if value is None else value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= MAX_WAIT_S else 0.0


def _late(spec: ToolSpec, name: str | None, seconds: float) -> LateError:
    if name is None:
        message = (
            f"{spec.name} got no answer from the ledger, a disk or a child process in "
            f"{seconds:.0f} s. What it asked for may or may not have been recorded: "
            "list_experiments shows it"
        )
    else:
        message = (
            f"{name} is recorded and goes on, but its state could not be read within "
            f'{seconds:.0f} s: get_experiment(id="{name}", wait_s=4) asks again'
        )
    return LateError(message)


def _outcome(error: LingshuError) -> Outcome:
    if isinstance(error, OverloadError | BudgetError):
        return "busy"
    if isinstance(error, LateError):
        return "late"
    return "refused" if isinstance(error, InputError) else "failed"
