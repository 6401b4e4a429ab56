"""Every tool as a callable for a model in this process, in the forms of three frameworks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from lingshu_tools.app import ASK_ABOVE_S, App
from lingshu_tools.calls.concise import is_detailed, structured
from lingshu_tools.calls.definitions import anthropic_tool, openai_chat_tool, openai_tool
from lingshu_tools.calls.dispatcher import call, error_result, find_tool
from lingshu_tools.calls.registry import CORE, ToolSpec, registry
from lingshu_tools.errors import InputError, LingshuError, quoted

Answer = dict[str, Any]


class AgentApp(App):
    """An application whose long calls need `max_seconds` or a person's consent, as over MCP."""

    @property
    def ask_above_s(self) -> float | None:
        """Estimated seconds of computing above which a call needs `max_seconds`."""
        return ASK_ABOVE_S


class Toolbox:
    """The tools of one application; a refused call is an answer too, and never an exception.

    Args:
        app: what the tools work on; one of the default home if it is None.
        tools: names of the tools that are offered, `"core"` for six of them; all if it is None.

    Raises:
        NotFoundError: there is no tool of a given name.
    """

    def __init__(self, app: App | None = None, *, tools: Sequence[str] | None = None) -> None:
        self.app = app or AgentApp(door="python")
        # In the order of the registry, which is the order of use.
        names = CORE if tools == "core" else registry() if tools is None else tools
        self.specs: tuple[ToolSpec, ...] = tuple(find_tool(name) for name in names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.app.close()

    def call(self, name: str, arguments: Mapping[str, Any] | str | None = None) -> Answer:
        """Return what an agent gets from a tool: JSON values, with `status` and `summary`.

        Args:
            name: of the tool.
            arguments: a mapping, or the JSON text of one, as models write it.
        """
        try:
            return self.result(name, arguments)
        except LingshuError as error:
            return error_result(error).model_dump(mode="json")

    def result(self, name: str, arguments: Mapping[str, Any] | str | None) -> Answer:
        """Return the same as `call`; an error is raised.

        Raises:
            CostError: it takes longer than a call may without being confirmed.
            LingshuError: the call is refused, or failed.
        """
        offered = [spec.name for spec in self.specs]
        # A name that no tool has is refused by the dispatcher, with the nearest.
        if name in registry() and name not in offered:
            message = f"the tool {quoted(name)} is not offered here; there are {', '.join(offered)}"
            raise InputError(message)
        # The call is answered in the form that its own `detail` asks for.
        given = _mapping(name, arguments)
        outcome = call(self.app, name, given)
        return structured(outcome, name, given, detailed=is_detailed(given))

    def openai(self) -> list[Answer]:
        """Return `tools` for OpenAI's Chat Completions API and for servers compatible with it."""
        return [openai_chat_tool(spec) for spec in self.specs]

    def openai_responses(self) -> list[Answer]:
        """Return `tools` for OpenAI's Responses API, in its strict form."""
        return [openai_tool(spec) for spec in self.specs]

    def answer_openai(self, tool_call: Any) -> Answer:
        """Return the message that answers a tool call of a chat completion.

        Args:
            tool_call: an item of `message.tool_calls`, as a mapping or as the SDK's object.
        """
        function = _field(tool_call, "function")
        answer = self.call(str(_field(function, "name")), _field(function, "arguments"))
        content = json.dumps(answer, ensure_ascii=False)
        return {"role": "tool", "tool_call_id": _field(tool_call, "id"), "content": content}

    def answer_openai_responses(self, item: Any) -> Answer:
        """Return the input item that answers a `function_call` item of a response."""
        answer = self.call(str(_field(item, "name")), _field(item, "arguments"))
        output = json.dumps(answer, ensure_ascii=False)
        call_id = _field(item, "call_id")
        return {"type": "function_call_output", "call_id": call_id, "output": output}

    def anthropic(self) -> list[Answer]:
        """Return `tools` for Anthropic's Messages API."""
        return [anthropic_tool(spec) for spec in self.specs]

    def answer_anthropic(self, block: Any) -> Answer:
        """Return the `tool_result` block that answers a `tool_use` block.

        Args:
            block: a block of a message's `content`, as a mapping or as the SDK's object.
        """
        answer = self.call(str(_field(block, "name")), _field(block, "input"))
        return {
            "type": "tool_result",
            "tool_use_id": _field(block, "id"),
            "content": json.dumps(answer, ensure_ascii=False),
            # Anthropic's form tells the model that a call failed.
            "is_error": answer["status"] in ("error", "failed"),
        }

    def langchain(self) -> list[Answer]:
        """Return arguments of `StructuredTool` for each tool: `[StructuredTool(**t) for t in …]`.

        A tool gives its text and, as artifact, the values.
        """
        return [
            {
                "name": spec.name,
                "description": spec.description,
                "args_schema": spec.input_schema,
                "func": partial(self._content_and_artifact, spec.name),
                "response_format": "content_and_artifact",
            }
            for spec in self.specs
        ]

    def functions(self) -> dict[str, Callable[..., Answer]]:
        """Return each tool as a function of named arguments, for any other framework."""
        return {spec.name: partial(self._named, spec.name) for spec in self.specs}

    def _named(self, tool: str, /, **arguments: Any) -> Answer:
        return self.call(tool, arguments)

    def _content_and_artifact(self, tool: str, /, **arguments: Any) -> tuple[str, Answer]:
        answer = self.call(tool, arguments)
        return json.dumps(answer, ensure_ascii=False), answer


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _mapping(tool: str, arguments: Mapping[str, Any] | str | None) -> Mapping[str, Any]:
    """Return arguments as a mapping; models leave an empty text where there are none.

    Raises:
        InputError: no JSON object.
    """
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, Mapping):
        return arguments
    try:
        value: Any = json.loads(arguments)
        if isinstance(value, str):  # encoded twice
            value = json.loads(value)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{tool}: the arguments {quoted(arguments)} are no JSON ({error}); send an object"
        raise InputError(message) from error
    if not isinstance(value, dict):
        message = f"{tool}: the arguments are {quoted(value)}; send a JSON object, such as {{}}"
        raise InputError(message)
    return value
