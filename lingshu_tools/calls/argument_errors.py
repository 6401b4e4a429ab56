"""Validation errors rewritten for whoever has to mend the call.

Each line says the field, the value got, what is allowed and, for a misspelt name, the nearest.
Knows nothing of what the fields mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lingshu_tools.errors import LONGEST_ECHO, did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from lingshu_tools.calls.registry import ToolSpec

_LONGEST = 80
_LONGEST_REASON = 500
_MOST_LINES = 20


def teach(spec: ToolSpec, error: ValidationError) -> str:
    """Return the text of a refused call: a line for each wrong field, then what to do."""
    schema = spec.input_schema
    details = error.errors(include_url=False, include_context=True)
    lines = [f"- {_line(schema, one)}" for one in details[:_MOST_LINES]]
    if len(details) > _MOST_LINES:
        lines.append(f"- and {len(details) - _MOST_LINES} more")
    fields = ", ".join(_field(schema, name) for name in schema.get("properties", {}))
    return "\n".join(
        [
            f"{spec.name}: {len(details)} argument(s) to mend.",
            *lines,
            f"Arguments: {fields or 'none'}.",
        ]
    )


def _line(schema: dict[str, Any], one: ErrorDetails) -> str:
    path = _path(one["loc"])
    if one["type"] == "extra_forbidden":
        known = _properties(schema, one["loc"][:-1])
        allowed = f" Allowed: {', '.join(known)}." if known else " Leave it out."
        return f"{path} is not an argument.{did_you_mean(str(one['loc'][-1]), known)}{allowed}"
    if one["type"] == "missing":
        return f"{path} is missing. {_about(schema, one['loc'])}".rstrip()
    if one["type"] == "json_invalid":
        return f"the arguments are not JSON: {_cut(one['msg'], _LONGEST_REASON)}"
    reason = one["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    reason = _cut(reason, _LONGEST_REASON)
    got = _cut(repr(one["input"]), _LONGEST)
    return f"{path} = {got}: it should be {reason}. {_about(schema, one['loc'])}".rstrip()


def _path(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return _cut(text.removeprefix("."), LONGEST_ECHO) or "arguments"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def _about(schema: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """Return the description of the innermost described field of a path."""
    found = ""
    for depth in range(1, len(loc) + 1):
        name = loc[depth - 1]
        if isinstance(name, str):
            found = _properties(schema, loc[: depth - 1]).get(name, {}).get("description", found)
    return found


def _properties(schema: dict[str, Any], loc: tuple[int | str, ...]) -> dict[str, Any]:
    """Return the properties of the object at a path, through references, arrays and options."""
    here = schema
    for part in loc:
        here = _object(schema, here)
        here = (
            here.get("items", {})
            if isinstance(part, int)
            else here.get("properties", {}).get(part, {})
        )
    return _object(schema, here).get("properties", {})


def _object(root: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return root.get("$defs", {}).get(node["$ref"].rsplit("/", 1)[-1], {})
    for option in node.get("anyOf", ()):
        found = _object(root, option)
        if found.get("type") in ("object", "array"):
            return found
    return node


def _field(schema: dict[str, Any], name: str) -> str:
    return name if name in schema.get("required", ()) else f"{name} (optional)"
