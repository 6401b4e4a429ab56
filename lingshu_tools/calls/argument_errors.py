"""Validation errors rewritten for the caller that has to correct the call.

Each line says the field, the value got, what is allowed and, for a misspelt name, the nearest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lingshu_tools.errors import LONGEST_ECHO, did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from lingshu_tools.calls.registry import ToolSpec

# Characters of a wrong value, and of pydantic's reason: a caller may send megabytes.
_LONGEST = 80
_LONGEST_REASON = 500
_MOST_LINES = 20


def teach(spec: ToolSpec, error: ValidationError) -> str:
    """Return the text of a refused call: a line for each wrong field, then what to do."""
    schema = spec.argument_schema
    details = error.errors(include_url=False, include_context=True)
    lines = [f"- {_line(schema, record)}" for record in details[:_MOST_LINES]]
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


def _line(schema: dict[str, Any], record: ErrorDetails) -> str:
    path = _path(record["loc"])
    if record["type"] == "extra_forbidden":
        known = properties_at(schema, record["loc"][:-1])
        allowed = f" Allowed: {', '.join(known)}." if known else " Leave it out."
        return f"{path} is not an argument.{did_you_mean(str(record['loc'][-1]), known)}{allowed}"
    if record["type"] == "missing":
        return f"{path} is missing. {_about(schema, record['loc'])}".rstrip()
    if record["type"] == "json_invalid":
        return f"the arguments are not JSON: {_cut(record['msg'], _LONGEST_REASON)}"
    # pydantic's words without its beginnings, as they go on after "it should be".
    reason = record["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    reason = _cut(reason, _LONGEST_REASON)
    got = _cut(repr(record["input"]), _LONGEST)
    return f"{path} = {got}: it should be {reason}. {_about(schema, record['loc'])}".rstrip()


def _path(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return _cut(text.removeprefix("."), LONGEST_ECHO) or "arguments"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def _about(schema: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """Return the description of the innermost described field of a path."""
    description = ""
    # From the outside in, so that the innermost description stays.
    for depth in range(1, len(loc) + 1):
        name = loc[depth - 1]
        if isinstance(name, str):
            fields = properties_at(schema, loc[: depth - 1])
            description = fields.get(name, {}).get("description", description)
    return description


def properties_at(schema: dict[str, Any], loc: tuple[int | str, ...]) -> dict[str, Any]:
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
    # Of "an object or null" the object: null has no fields.
    for option in node.get("anyOf", ()):
        schema_of_option = _object(root, option)
        if schema_of_option.get("type") in ("object", "array"):
            return schema_of_option
    return node


def _field(schema: dict[str, Any], name: str) -> str:
    return name if name in schema.get("required", ()) else f"{name} (optional)"
