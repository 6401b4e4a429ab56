"""The forms of a context in a call: a list of fields, a map, or the line in which it is listed."""

import re
from typing import Any, Final

CONTEXT_SCHEMA: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"field": {"type": "string"}, "value": {"type": "string"}},
        "required": ["field", "value"],
    },
}
"""The published form: objects with any keys are what strict schema converters reject."""
FORMS: Final = (
    'a list of {field, value} objects, e.g. [{"field": "cell_line", "value": "THP-1"}]; '
    'a map {"cell_line": "THP-1"} or the line "cell_line=THP-1" is accepted too'
)
# A comma ends a value only if a field and = follow: values may hold commas.
# "context cell_type=B cell": the word of a description before the line. A field named context is
# followed by "=" itself.
_WORD = re.compile(r"context\s*:?\s+(?=[^,=\s]{1,100}=)", re.IGNORECASE)
_NEXT_FIELD = re.compile(r",\s*(?=[^,=\s]{1,100}=)")


def context_map(given: Any) -> Any:
    """Return a context as a map of its fields, from any form; what is a map already is not checked.

    Raises:
        ValueError: no form of a context.
    """
    if isinstance(given, str):
        return _from_line(given)
    # Other values go to pydantic, whose text says what was expected.
    return _from_list(given) if isinstance(given, list) else given


def context_fields(context: dict[str, str]) -> list[dict[str, str]]:
    """Return a context in its published form."""
    return [{"field": name, "value": value} for name, value in context.items()]


def _from_line(line: str) -> dict[str, str]:
    """Return the fields of `cell_type=CD14 monocyte, donor=1015`, as contexts are listed."""
    line = line.strip()
    word = _WORD.match(line)
    parts = [part.partition("=") for part in _NEXT_FIELD.split(line[word.end() if word else 0 :])]
    if not all(field.strip() and value.strip() for field, _, value in parts):
        raise ValueError(FORMS)
    return _unique([(field.strip(), value.strip()) for field, _, value in parts])


def _from_list(items: list[Any]) -> dict[str, str]:
    if not all(isinstance(item, dict) and item.keys() == {"field", "value"} for item in items):
        raise ValueError(FORMS)
    return _unique([(item["field"], item["value"]) for item in items])


def _unique(fields: list[tuple[Any, Any]]) -> dict[str, Any]:
    if not all(isinstance(field, str) for field, _ in fields):
        raise ValueError(FORMS)
    # A map would keep the last of them in silence.
    if len({field for field, _ in fields}) < len(fields):
        message = f"{FORMS}. Here a field is named twice"
        raise ValueError(message)
    return dict(fields)
