"""The one way in: a tool name and JSON arguments become a result or an error that teaches."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from lingshu_model.contracts import CheckpointError
from lingshu_tools.calls.argument_errors import teach
from lingshu_tools.calls.checkpoint_caveats import with_caveats
from lingshu_tools.calls.mending import unpacked, without_injected
from lingshu_tools.calls.registry import (
    TOOL_NAMES,
    Arguments,
    ToolSpec,
    example_call,
    registry,
)
from lingshu_tools.calls.results import ErrorResult, Result
from lingshu_tools.calls.waiting import Pending, Watch, wait_until_over, waiting
from lingshu_tools.errors import (
    InputError,
    InternalError,
    LingshuError,
    LockedError,
    NotFoundError,
    bounded,
    did_you_mean,
    quoted,
)
from lingshu_tools.ledger.beginning import recording
from lingshu_tools.system.deadline import GRACE_S, time_limit
from lingshu_tools.system.incidents import report_incident
from lingshu_tools.system.plain_text import plain, plain_result

if TYPE_CHECKING:
    from lingshu_tools.app import App

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """A call whose experiments are recorded and at work; `finish` makes its result.

    Attributes:
        name: the experiment or screen that a client goes on with.
        ids: the experiments waited for.
        until: when the waiting ends, on the monotonic clock.
        finish: returns the result whatever has become of the experiments; raises `LingshuError`.
        watched: gives a watch on something else that is waited for, if it is not experiments.
    """

    name: str
    ids: Sequence[str]
    until: float
    finish: Callable[[], Result]
    watched: Callable[[Callable[[], None]], AbstractContextManager[Watch]] | None = None

    def watch(self, app: App, wake: Callable[[], None]) -> AbstractContextManager[Watch]:
        """Give a watch on what is waited for; `wake` is called from another thread."""
        return self.watched(wake) if self.watched else app.runner.watch(self.ids, wake)


def call(app: App, tool: str, arguments: Mapping[str, Any]) -> Result:
    """Return a tool's result, after waiting as long as its arguments say.

    Raises:
        LingshuError: as `start`.
    """
    begun = start(app, tool, arguments)
    if isinstance(begun, Result):
        return begun
    # `until` counts from the begin of the call, so what recording took is not waited again.
    left = max(begun.until - time.monotonic(), 0)
    # A ledger that cannot be read now is read again by `finish`, which reports it.
    with suppress(LockedError), time_limit(left):
        if left:
            wait_until_over(lambda wake: begun.watch(app, wake), left)
    return begun.finish()


def start(app: App, tool: str, arguments: Mapping[str, Any]) -> Result | Waiting:
    """Return a tool's result, or what has to be waited for before there is one.

    The texts of a result hold no characters that do what they do not show.

    Raises:
        LingshuError: always with a text fit to be shown. `InputError` when the call can be mended,
            `InternalError` (a fixed sentence and an incident id) when it is ours to mend.
    """
    begin = time.monotonic()

    def work() -> Result | Waiting:
        spec = find_tool(tool)
        parsed = parse(spec, arguments)
        wait_s = getattr(parsed, "wait_s", 0.0)
        # On the clock, not a duration: `finish` runs later under the same limit.
        limit = begin + wait_s + GRACE_S
        # `recording` collects the ids of rows, for the error of a ledger that gets locked
        # meanwhile.
        with time_limit(limit - time.monotonic()), waiting(wait_s), recording() as recorded:
            begun = _unless_incident(
                spec.name, recorded, lambda: with_caveats(app, parsed, spec.run(app, parsed))
            )
        if isinstance(begun, Pending):
            finish = begun.finish
            # Caveats are added to the result, which is made after the wait.
            begun = replace(begun, finish=lambda: with_caveats(app, parsed, finish()))
            waited = _waiting(spec.name, recorded, begun, begin, limit, wait_s)
            return replace(
                waited, finish=lambda: _teaching(app, spec.name, arguments, waited.finish)
            )
        return plain_result(begun)

    return _teaching(app, tool, arguments, lambda: _plainly(work))


def _teaching(app: App, tool: str, arguments: Mapping[str, Any], work: Callable[[], T]) -> T:
    try:
        return work()
    except InputError as error:
        # Changed in place: the class of the error and its traceback stay.
        # Plain once more, as the call that is shown repeats what the caller sent.
        error.args = (_with_example(app, tool, arguments, error),)
        error.args = (shown_error(error),)
        raise


def _with_example(app: App, tool: str, arguments: Mapping[str, Any], error: InputError) -> str:
    """Return the text of a refused call with one that is valid, unless it shows one already."""
    text = str(error)
    if re.search(rf"\b({'|'.join(TOOL_NAMES)})\(", text):
        return text
    example = example_call(app, tool, arguments, error)
    return f"{text}\nA valid call: {example}" if example else text


def _waiting(
    tool: str,
    recorded: list[str],
    pending: Pending[Any],
    begin: float,
    limit: float,
    wait_s: float,
) -> Waiting:
    def work() -> Result:
        with time_limit(limit - time.monotonic()), waiting(wait_s):
            return plain_result(_unless_incident(tool, recorded, pending.finish))

    until = begin + pending.wait_s
    return Waiting(pending.name, pending.ids, until, lambda: _plainly(work), pending.watched)


def _plainly(work: Callable[[], T]) -> T:
    try:
        return work()
    except LingshuError as error:
        error.args = (shown_error(error),)
        raise


def _unless_incident(tool: str, recorded: list[str], work: Callable[[], T]) -> T:
    try:
        return work()
    except LockedError as error:
        raise _with_ids(error, recorded) from error
    except LingshuError:
        raise
    except CheckpointError as error:
        raise InputError(str(error)) from error
    # Ours to report in words: an incident id would not help.
    except MemoryError as error:
        message = (
            f"{tool}: this process has no more memory. Ask for fewer cells or genes, end other "
            "programs, or raise its limit (ulimit -v)"
        )
        raise LingshuError(message) from error
    except Exception as error:
        raise _incident(tool, error) from error


def find_tool(name: str) -> ToolSpec:
    """Return a tool's spec.

    Raises:
        NotFoundError: no such tool; the nearest and all names are given.
    """
    tools = registry()
    if name not in tools:
        near = did_you_mean(name, tools)
        message = f"no tool {quoted(name)}.{near} Tools: {', '.join(tools)}."
        raise NotFoundError(message)
    return tools[name]


def parse(spec: ToolSpec, arguments: Mapping[str, Any]) -> Arguments:
    """Return the typed arguments of a call, after undoing what client libraries do to them.

    Raises:
        InputError: one line for each field: the value got, what is allowed, what to do; then a
            call that is valid.
    """
    schema = spec.input_schema
    given = without_injected(arguments, schema)
    try:
        with suppress(ValidationError):
            return _validated(spec, given)
        # Only a call that would be refused: text that is meant as text stays text.
        return _validated(spec, unpacked(given, schema))
    except ValidationError as error:
        # `from None`: pydantic's text repeats the whole input.
        raise InputError(teach(spec, error)) from None
    except TypeError as error:
        message = f"{spec.name}: the arguments must be JSON values ({error})"
        raise InputError(message) from None


def _validated(spec: ToolSpec, arguments: Mapping[str, Any]) -> Arguments:
    # In JSON mode, where a strict model takes what JSON can say: lists for tuples, text for enums.
    return spec.arguments.model_validate_json(json.dumps(arguments))


def error_result(error: LingshuError) -> ErrorResult:
    """Return an error in the shape of a result, for doors that print one."""
    return ErrorResult(error=type(error).__name__, summary=shown_error(error))


def shown_error(error: LingshuError) -> str:
    """Return the text of an error as every door shows it: plain, without secrets, not endless."""
    return bounded(plain(str(error)))


def _with_ids(error: LockedError, recorded: list[str]) -> LockedError:
    """Return the error of a call that could not read back what it had recorded before."""
    if not recorded:
        return error
    more = f" and {len(recorded) - 3} more" if len(recorded) > 3 else ""
    message = (
        f"{error}. What this call asked for was recorded before, as {', '.join(recorded[:3])}{more}"
        ": it goes on when the lock is released, and get_experiment gives the result"
    )
    return LockedError(message)


def _incident(tool: str, error: Exception) -> InternalError:
    incident = report_incident(tool, error)
    message = (
        f"{tool} failed for a reason of its own, not of the call (incident {incident}). "
        "Nothing in the ledger was lost; details are in the server's error output. "
        "Try again, or report the incident id."
    )
    return InternalError(message)
