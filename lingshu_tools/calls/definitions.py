"""Tools in the forms in which model APIs and frameworks take them."""

from typing import TYPE_CHECKING, Any

from lingshu_tools.calls.schemas import strict_input

if TYPE_CHECKING:
    from lingshu_tools.calls.registry import ToolSpec


def openai_tool(spec: "ToolSpec") -> dict[str, Any]:
    """Return a tool in the form of OpenAI's Responses API; null stands for an argument left out."""
    named = {"type": "function", "name": spec.name, "description": spec.description}
    return {**named, "parameters": strict_input(spec.input_schema), "strict": True}


def openai_chat_tool(spec: "ToolSpec") -> dict[str, Any]:
    """Return a tool in the form of OpenAI's Chat Completions API, which other servers take too.

    Not strict: many of them do not convert a type that may be null.
    """
    named = {"name": spec.name, "description": spec.description}
    return {"type": "function", "function": {**named, "parameters": spec.input_schema}}


def anthropic_tool(spec: "ToolSpec") -> dict[str, Any]:
    """Return a tool in the form of Anthropic's Messages API."""
    named = {"name": spec.name, "description": spec.description}
    return {**named, "input_schema": spec.input_schema}


def full_tool(spec: "ToolSpec") -> dict[str, Any]:
    """Return everything a tool declares, schemas included."""
    return {
        "name": spec.name,
        "title": spec.title,
        "description": spec.description,
        "input_schema": spec.input_schema,
        "output_schema": spec.output_schema,
        "annotations": {
            "read_only": spec.read_only,
            "destructive": spec.destructive,
            "idempotent": spec.idempotent,
        },
        "simulates": spec.simulates,
    }
