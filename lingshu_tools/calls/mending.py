"""What client libraries do to arguments on their way, and how it is undone.

Only differences that cannot mean anything else are mended. Everything else is refused with a text,
so that a misspelt argument is never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

INJECTED: Final[Mapping[str, str]] = {
    "sessionId": "n8n",
    "action": "n8n",
    "chatInput": "n8n",
    "tool": "n8n",
    "toolCallId": "n8n",
    "task_progress": "Cline",
    "wait_for_previous": "Gemini CLI",
    "security_risk": "OpenHands",
    "random_string": "Cursor",
}
"""Keys that a client adds to the arguments of every tool, and the client that is known to do so."""


def without_injected(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that a client adds and the tool does not have."""
    known = schema.get("properties", {})
    # A key that the tool has is never dropped, whatever client is known to add it.
    return {k: v for k, v in arguments.items() if k in known or k not in INJECTED}


def unpacked(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return a value with the lists and objects unpacked that came as JSON text.

    Args:
        value: what a client sent.
        schema: its published schema; text stays text where the schema has text.
    """
    expected = schema.get("type")
    # Some clients send nested arguments as JSON text.
    if isinstance(value, str) and expected in ("array", "object"):
        with suppress(ValueError, RecursionError):
            # Only text that begins as JSON: a name such as "5" stays one.
            value = json.loads(value) if value.lstrip().startswith(("[", "{")) else value
    if isinstance(value, list) and expected == "array":
        return [unpacked(item, schema.get("items", {})) for item in value]
    if isinstance(value, dict) and expected == "object":
        fields = schema.get("properties", {})
        return {name: unpacked(item, fields.get(name, {})) for name, item in value.items()}
    return value
