"""JSON schemas as clients get them: without references, unions and keywords that some reject.

OpenAI (strict), Anthropic, Gemini, LangChain, LlamaIndex, smolagents and pydantic-ai convert a
published schema, each from a different subset of JSON Schema. What is published here is in all of
these subsets; what is accepted is decided by the argument models alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
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
SHORT: Final = range(1, 31)
"""Characters of a description in a published output schema; the whole schema has longer ones."""
DEPTH: Final = 1
"""Objects in a field of a result whose fields are listed too: those of the field and its items."""
_RANGE: Final = re.compile(r"\b\d+ to \d+\b")
LARGEST_LIMIT: Final = 10_000
"""A larger maximum is no help to a client, and is not published."""
SMALLEST_LIMIT: Final = 2
"""A minimum below it goes without saying: counts and offsets are not negative."""


def published_input(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's arguments in the form that every client library converts.

    References are resolved, an optional argument has the type of its value (not that or null), and
    required arguments come first. Unknown arguments are refused when a call is made:
    `additionalProperties: false` is left out, since Gemini's library does not convert it.

    Raises:
        TypeError: a field may have several types; it needs a separate published form
            (`pydantic.WithJsonSchema`).
    """
    flat = _flat(schema, schema.get("$defs", {}), "arguments")
    # The tool has a description; that of the class is for readers of code.
    flat.pop("description", None)
    return flat


def strict_input(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published schema in OpenAI's strict form.

    Every argument is required and no other is allowed; null stands for one that is left out.
    """
    # Strict mode allows no defaults.
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
    # An enum of one value, which every library knows.
    if "const" in whole:
        whole["enum"] = [whole["const"]]
    flat = {key: whole[key] for key in INPUT_KEYS if key in whole}
    if "type" not in flat:
        message = f"{place} has no type to publish: {dict(node)}"
        raise TypeError(message)
    # null as a default would need null as a type.
    if flat.get("default") is None:
        flat.pop("default", None)
    if not flat.get("description", "-"):
        del flat["description"]
    if abs(flat.get("maximum", 0)) > LARGEST_LIMIT:
        del flat["maximum"]
    if flat.get("minimum", SMALLEST_LIMIT) in range(SMALLEST_LIMIT):
        del flat["minimum"]
    if _RANGE.search(flat.get("description", "")):
        # The words have both limits; a refusal repeats them.
        flat = {key: value for key, value in flat.items() if key not in ("minimum", "maximum")}
    if "items" in flat:
        flat["items"] = _flat(flat["items"], defs, f"{place}[]")
        # The field is described; what is said of the class of its items is for readers of code.
        flat["items"].pop("description", None)
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
        # Keywords beside a reference are those of this field, and win.
        return _one_type(defs[node["$ref"].rsplit("/", 1)[-1]], defs, place) | rest
    if "anyOf" not in node:
        return dict(node)
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    if len(options) != 1:
        message = f"{place} has {len(options)} types; give it one published form"
        raise TypeError(message)
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return _one_type(options[0], defs, place) | rest


def published_output(
    schema: Mapping[str, Any], shared: Collection[str], known: set[str]
) -> dict[str, Any]:
    """Return the schema of a tool's result as it is published: short, and without references.

    What several results have in common is spelled out in the first of them that is listed.

    Args:
        schema: of the result, with every view in `$defs`.
        shared: the fields that every result has.
        known: names of the views and fields that a tool listed before spells out: such a view is a
            plain object here, such a shared field is left out. Those spelled out here are added.
    """
    defs, fields = schema.get("$defs", {}), schema["properties"]
    properties = {
        name: _brief(field, defs, known)
        for name, field in fields.items()
        if name not in known or name not in shared
    }
    # Shared fields count as spelled out from here on; views are added where they are met.
    known.update(name for name in properties if name in shared)
    return {"type": "object", "properties": properties, "required": list(schema["required"])}


def _brief(
    node: Mapping[str, Any], defs: Mapping[str, Any], known: set[str], depth: int = DEPTH
) -> dict[str, Any]:
    """Return a schema without what clients do not need; objects below `depth` have no fields."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        # Spelled out before, or too deep: an object of any fields; another kind of type stays.
        if name in known or depth < 1:
            return (
                {"type": "object"}
                if "properties" in defs[name]
                else _brief(defs[name], defs, known)
            )
        known.add(name)
        return _brief(defs[name], defs, known, depth)
    if "anyOf" in node:
        return _brief_union(node, defs, known, depth)
    if "const" in node:
        return {"enum": [node["const"]]}
    brief = {key: node[key] for key in ("type", "enum") if key in node}
    # Its values say the type.
    if "enum" in brief:
        del brief["type"]
    if len(node.get("description", "")) in SHORT and "properties" not in node:
        brief["description"] = node["description"]
    if "properties" in node and depth:
        fields = node["properties"].items()
        brief["properties"] = {name: _brief(f, defs, known, depth - 1) for name, f in fields}
    items = _brief(node["items"], defs, known, depth) if "items" in node else {}
    # An array of numbers is a list or an interval; the field's description says which.
    return brief | ({"items": items} if items.get("properties") or items.get("enum") else {})


def _brief_union(
    node: Mapping[str, Any], defs: Mapping[str, Any], known: set[str], depth: int
) -> dict[str, Any]:
    """Return one schema for several, that of every value: what is common to them."""
    options = [_brief(option, defs, known, depth) for option in node["anyOf"]]
    values = [option for option in options if option.get("type") != "null"]
    types = sorted({option.get("type", "") for option in options})
    whole: dict[str, Any] = dict(values[0]) if len(values) == 1 else {}
    if depth < DEPTH and "properties" not in whole and "items" not in whole:
        # Of the fields of rows, only those that always have a value have a type.
        return {}
    if "enum" in whole:
        whole["enum"] = [*whole["enum"], *([None] if len(values) < len(options) else [])]
    elif "" not in types:
        whole["type"] = types[0] if len(types) == 1 else types
    short = len(node.get("description", "")) in SHORT
    return whole | ({"description": node["description"]} if short else {})
