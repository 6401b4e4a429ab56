"""JSON schemas as clients get them: without references, unions and keywords that some reject.

OpenAI (strict), Anthropic, Gemini, LangChain, LlamaIndex, smolagents and pydantic-ai convert a
published schema, each with a subset of JSON Schema of its own. What is published here is in all of
these subsets; what is accepted is decided by the argument models alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

INPUT_KEYS: Final = (
    "type",
    "description",
    "enum",
    "items",
    "properties",
    "required",
    "minimum",
    "maximum",
    "default",
)
"""The only keywords of a published input schema."""
LARGEST_INTEGER: Final = 2**53
"""Integers beyond it are not exact in JavaScript; a larger limit is not published."""


def published_input(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's arguments in the form that every client library converts.

    References are resolved, an optional argument has the type of its value (not that or null), and
    required arguments come first. Unknown arguments are refused when a call is made:
    `additionalProperties: false` is left out, since Gemini's library does not convert it.

    Raises:
        TypeError: a field may have several types; it needs a published form of its own
            (`pydantic.WithJsonSchema`).
    """
    flat = _flat(schema, schema.get("$defs", {}), "arguments")
    flat.pop("description", None)
    return flat


def strict_input(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published schema in OpenAI's strict form.

    Every argument is required and no other is allowed; null stands for one that is left out.
    """
    strict = {key: value for key, value in published.items() if key != "default"}
    if "items" in strict:
        strict["items"] = strict_input(strict["items"])
    if strict.get("type") == "object":
        required = published.get("required", ())
        strict["properties"] = {
            name: strict_input(node) if name in required else _or_null(strict_input(node))
            for name, node in published["properties"].items()
        }
        strict["required"] = list(strict["properties"])
        strict["additionalProperties"] = False
    return strict


def _or_null(node: dict[str, Any]) -> dict[str, Any]:
    nullable = node | {"type": [node["type"], "null"]}
    return nullable | ({"enum": [*node["enum"], None]} if "enum" in node else {})


def _flat(node: Mapping[str, Any], defs: Mapping[str, Any], place: str) -> dict[str, Any]:
    whole = _one_type(node, defs, place)
    if "const" in whole:
        whole["enum"] = [whole["const"]]
    flat = {key: whole[key] for key in INPUT_KEYS if key in whole}
    if "type" not in flat:
        message = f"{place} has no type to publish: {dict(node)}"
        raise TypeError(message)
    if flat.get("default") is None:
        flat.pop("default", None)
    if abs(flat.get("maximum", 0)) > LARGEST_INTEGER:
        del flat["maximum"]
    if "items" in flat:
        flat["items"] = _flat(flat["items"], defs, f"{place}[]")
    if flat["type"] == "object":
        if "properties" not in flat:
            message = f"{place} is an object of any fields; publish a list of {{field, value}}"
            raise TypeError(message)
        flat["properties"] = _properties(flat, defs, place)
    return flat


def _properties(
    node: Mapping[str, Any], defs: Mapping[str, Any], place: str
) -> dict[str, dict[str, Any]]:
    fields, required = node.get("properties", {}), node.get("required", ())
    # Models fill in arguments in the order in which they are listed.
    names = sorted(fields, key=lambda name: name not in required)
    return {name: _flat(fields[name], defs, f"{place}.{name}") for name in names}


def _one_type(node: Mapping[str, Any], defs: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return a schema with its references and its one option that is not null put in."""
    if "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _one_type(defs[node["$ref"].rsplit("/", 1)[-1]], defs, place) | rest
    if "anyOf" not in node:
        return dict(node)
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    if len(options) != 1:
        message = f"{place} has {len(options)} types; give it one published form"
        raise TypeError(message)
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return _one_type(options[0], defs, place) | rest
