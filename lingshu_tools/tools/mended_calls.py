"""The call of a caller that was refused, with what was wrong in it mended.

What is wrong comes from the validation of arguments, or from the error: the names that it refuses,
and what each may be instead (`InputError.replacing`). The rest of the call stays as it was. A
mended call is shown only if it would be accepted, as far as that can be known without running it.
"""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from lingshu_tools.calls.argument_errors import properties_at
from lingshu_tools.calls.mending import unpacked, without_injected
from lingshu_tools.calls.registry import Arguments, ToolSpec, registry
from lingshu_tools.errors import InputError, nearest
from lingshu_tools.experiments.lookup import is_screen, locate, locate_screen
from lingshu_tools.system.deadline import time_limit
from lingshu_tools.tools.common import printed

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from lingshu_tools.app import App

Call = dict[str, Any]
_SECONDS = 1.0
"""The longest time that mended calls are tried in."""
_ROUNDS = 4
"""Corrections of one call: each may show the next mistake."""
_LIMITS = ("ge", "le")
"""Bounds of a number in a validation error that are themselves allowed."""
_RULES = re.compile(r"_of\b|\ball_panel\b")
"""Candidates that take long to resolve."""


def mended_call(
    app: App,
    tool: str,
    arguments: Mapping[str, Any],
    error: InputError,
    example: str | None,
) -> str | None:
    """Return the call with what was wrong in it mended; None where that is not known.

    Args:
        app: the application.
        tool: its name.
        arguments: of the call that was refused.
        error: why.
        example: a valid call of another question; its arguments stand in for what is wrong.
    """
    spec = registry().get(tool)
    # Without a value of the caller's the example is as good.
    if spec is None or not arguments or "cells" in arguments:
        return None
    end = time.monotonic() + _SECONDS
    # A refusal without a mended call is still a refusal: nothing here may take its place.
    with suppress(Exception), time_limit(_SECONDS):
        given = without_injected(arguments, spec.input_schema)
        for call in _attempts(spec, given, error, _arguments_of(example, tool)):
            if time.monotonic() > end:
                return None
            text = _accepted(app, spec, call, error)
            if text is not None and _keeps(call, given):
                return text
    return None


def _arguments_of(example: str | None, tool: str) -> Call:
    """Return the arguments of an example of the tool; empty for one of another tool."""
    if example is None or not example.startswith(f"{tool}("):
        return {}
    node = ast.parse(example, mode="eval").body
    keywords = node.keywords if isinstance(node, ast.Call) else ()
    return {k.arg: ast.literal_eval(k.value) for k in keywords if k.arg}


def _attempts(spec: ToolSpec, given: Call, error: InputError, example: Call) -> Iterator[Call]:
    """Give mended calls, the one that changes least first."""
    replaced = _replaced(given, error.replacing)
    # A name may be wrong in one argument and right in another.
    for name in given:
        alone = {n: v for n, v in given.items() if n != name}
        if name in replaced:
            alone[name] = replaced[name]
        if alone not in (given, replaced):
            yield alone
    begun = _in_form(spec, replaced, example)
    if begun != given:
        yield begun
    # What is wrong is not known by name: one argument of the example after the other.
    for name, value in example.items():
        yield begun | {name: value}
    for name in ("context", "interventions"):
        if name in example and name in begun:
            yield begun | {n: example[n] for n in ("checkpoint", "context", name) if n in example}


def _keeps(mended: Any, given: Any) -> bool:
    """Return whether a value of the caller's is in a call."""
    if isinstance(mended, Mapping) and isinstance(given, Mapping):
        return any(k in given and _keeps(v, given[k]) for k, v in mended.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(mended, list) and isinstance(given, list):
        return any(_keeps(a, b) for a in mended for b in given)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return mended == given


def _replaced(value: Any, replacing: Mapping[str, str | None]) -> Any:
    """Return a value with names replaced, also within texts; names to leave out leave lists."""
    if isinstance(value, Mapping):
        items: Mapping[str, Any] = value
        kept = {k: v for k, v in items.items() if replacing.get(k, k) is not None}
        mended = {k: _replaced(v, replacing) for k, v in kept.items()}
        # An argument of which nothing is left is left out.
        return {k: v for k, v in mended.items() if v not in ([], {}) or items[k] in ([], {})}
    if isinstance(value, list):
        return [_replaced(item, replacing) for item in value if not _is_left_out(item, replacing)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, str):
        for name, other in replacing.items():
            if other is not None:
                value = _as_word(name).sub(lambda _, other=other: other, value)
    return value


def _is_left_out(item: Any, replacing: Mapping[str, str | None]) -> bool:
    """Return whether an item of a list is a name that is to be left out, or has one as a value."""
    if isinstance(item, Mapping):
        fields: Mapping[str, Any] = item
        return any(_is_left_out(v, replacing) for v in fields.values() if isinstance(v, str))
    # Names stand in texts too: "STAT1:2", "STAT1 knockout", "STAT1 + JAK2".
    gone = [name for name, other in replacing.items() if other is None]
    return isinstance(item, str) and any(_as_word(name).search(item) for name in gone)


def _as_word(name: str) -> re.Pattern[str]:
    """Return what finds a name, but not within another: STAT1 within STAT11 is another gene."""
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")


def _in_form(spec: ToolSpec, call: Call, example: Call) -> Call:
    """Return a call with the arguments mended that do not have the form of the tool's."""
    call = unpacked(call, spec.input_schema)
    for _ in range(_ROUNDS):
        try:
            _parsed(spec, call)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=True)
            # Of nested mistakes the last first, so that the places of the others stay.
            for record in reversed(wrong):
                call = _corrected(spec, call, record, example)
        else:
            break
    return call


def _parsed(spec: ToolSpec, call: Call) -> Arguments:
    return spec.arguments.model_validate_json(json.dumps(call))


def _corrected(spec: ToolSpec, call: Call, record: ErrorDetails, example: Call) -> Call:
    """Return a call with one wrong argument corrected, renamed, left out or as in the example."""
    first, *_, last = (record["loc"][0], *record["loc"])
    whole: Call = json.loads(json.dumps(call))
    inner = _inner(whole, record["loc"][:-1])
    if isinstance(inner, dict):
        fields: Call = inner
        if record["type"] == "missing" and len(record["loc"]) == 1 and first in example:
            return whole | {str(first): example[str(first)]}
        better = _nearest_value(record)
        if better is not None:
            fields[str(last)] = better
            return whole
        if record["type"] == "extra_forbidden":
            value = fields.pop(str(last))
            known = properties_at(spec.argument_schema, record["loc"][:-1])
            for name in nearest(str(last), known, 1):
                renamed = _with(whole, record["loc"][:-1], name, value)
                if name not in fields and not _is_wrong(spec, renamed, record["loc"][:-1]):
                    return renamed
            return whole
    # Whole, as what is wrong inside cannot be left out.
    whole.pop(str(first), None)
    return whole


def _with(whole: Call, path: Sequence[int | str], name: str, value: Any) -> Call:
    copy: Call = json.loads(json.dumps(whole))
    _inner(copy, path)[name] = value
    return copy


def _is_wrong(spec: ToolSpec, call: Call, path: Sequence[int | str]) -> bool:
    """Return whether an argument at a path, or within it, has not the form of the tool's."""
    try:
        _parsed(spec, call)
    except ValidationError as error:
        return any(record["loc"][: len(path)] == tuple(path) for record in error.errors())
    return False


def _inner(value: Any, path: Sequence[int | str]) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _nearest_value(record: ErrorDetails) -> int | float | None:
    """Return the number that a text stands for, or the nearest that is allowed."""
    value = record["input"]
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and record["type"] in ("int_type", "float_type"):
        with suppress(ValueError):
            return int(value) if record["type"] == "int_type" else float(value)
    limits = record.get("ctx", {})
    return next((limits[key] for key in _LIMITS if key in limits), None)


def _accepted(app: App, spec: ToolSpec, call: Call, error: InputError) -> str | None:
    """Return a call as text if the tool would accept it."""
    try:
        arguments = _parsed(spec, call)
    except ValidationError:
        return None
    if not _would_run(app, spec, call, arguments, error):
        return None
    return printed(spec.name, arguments)


def _would_run(
    app: App, spec: ToolSpec, call: Call, arguments: Arguments, error: InputError
) -> bool:
    """Return whether a call in the right form would be accepted; False where it is not known."""
    _require_ids(app, arguments)
    fields = spec.arguments.model_fields
    if spec.name == "plan_screen" or "dry_run" in fields:
        # A plan would be recorded; the dry run of its screen resolves the same names.
        name = "run_screen" if spec.name == "plan_screen" else spec.name
        if _RULES.search(json.dumps(call.get("candidates", ""))):
            return False
        tried = registry()[name]
        with suppress(InputError):
            tried.run(app, _parsed(tried, call | {"dry_run": True}))
            return True
        return False
    if spec.read_only and not spec.waits:
        with suppress(InputError):
            spec.run(app, arguments)
            return True
        return False
    # What is begun cannot be tried: names that are left out leave a call that was right but for
    # them, and an id that exists is one that the caller named.
    if error.replacing:
        return call == _replaced(call, error.replacing)
    return spec.read_only and "id" in fields


def _require_ids(app: App, arguments: BaseModel) -> None:
    """Refuse ids that do not exist.

    Raises:
        NotFoundError: one does not.
    """
    given: list[str] = [*getattr(arguments, "ids", ())]
    given += [getattr(arguments, name, None) or "" for name in ("id", "screen_id")]
    for name in filter(None, given):
        if is_screen(name):
            locate_screen(app, name)
        else:
            locate(app, name)
