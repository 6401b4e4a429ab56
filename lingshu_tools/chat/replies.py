"""A reply of a model, put together from the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lingshu_tools.errors import EndpointError, quoted

MOST_CALLS: Final = 64
"""Tool calls of one reply that are put together; no model makes as many."""


@dataclass(frozen=True)
class ToolCall:
    """One call that a model wants: its arguments as it wrote them."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """What a model replied.

    Attributes:
        calls: none of a reply that was cut: half a call is none.
        cut: the stream ended before the reply did.
        usage: tokens as the endpoint counts them; empty where it does not.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    finish: str | None = None
    cut: bool = False
    usage: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass
class _Partial:
    id: str = ""
    name: str = ""
    arguments: str = ""


class Assembly:
    """Takes chunks of a chat completion; gives text as it comes and the reply at the end."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: dict[int, _Partial] = {}
        # The call that a number stands for, where it has stood for another before.
        self._keys: dict[int, int] = {}
        self._finish: str | None = None
        self._usage: dict[str, int] = {}
        self.ended = False
        """Whether the endpoint said that the stream is complete."""

    def take(self, chunk: Any) -> Iterator[str]:
        """Yield the text of a chunk, or of a whole completion that was not streamed.

        Raises:
            EndpointError: the endpoint reports an error, or this is no chunk.
        """
        if not isinstance(chunk, dict):
            message = f"the endpoint sent {quoted(chunk)} where a completion is expected"
            raise EndpointError(message)
        if chunk.get("error"):
            raise EndpointError(f"the endpoint reports: {error_text(chunk)}")  # noqa: EM102
        # The last that is sent counts: some endpoints repeat it, growing.
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = {k: v for k, v in usage.items() if isinstance(v, int)}
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return  # the last chunk has the usage alone
        choice = choices[0]
        # `delta` of a stream, `message` of a whole completion.
        part = choice.get("delta") or choice.get("message") or {}
        if isinstance(part, dict):
            text = part.get("content")
            if isinstance(text, str) and text:
                self._text.append(text)
                yield text
            for place, call in enumerate(_items(part.get("tool_calls"))):
                self._take_call(place, call)
        if isinstance(choice.get("finish_reason"), str):
            self._finish = choice["finish_reason"]

    def _take_call(self, place: int, call: Mapping[str, Any]) -> None:
        # Some servers leave the number out, or give every call the same one, and send whole calls.
        index = call.get("index")
        number = index if isinstance(index, int) else place
        key = self._keys.get(number, number)
        if key in self._calls and _begins_another(self._calls[key], call):
            key = max(self._calls) + 1
            self._keys[number] = key
        if key not in self._calls and len(self._calls) >= MOST_CALLS:
            return
        partial = self._calls.setdefault(key, _Partial())
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        if isinstance(call.get("id"), str) and call["id"]:
            partial.id = call["id"]
        name, arguments = function.get("name"), function.get("arguments")
        # Some servers repeat the name in each chunk, some send it in parts.
        if isinstance(name, str) and name != partial.name:
            partial.name += name
        if isinstance(arguments, str):
            partial.arguments += arguments
        elif arguments is not None:  # an object where the text of one is due
            partial.arguments = json.dumps(arguments, ensure_ascii=False)

    def reply(self) -> Reply:
        """Return the reply; it is cut if neither an end nor a reason for one came."""
        cut = not self.ended and self._finish is None
        calls: list[ToolCall] = []
        taken: set[str] = set()
        for key in sorted(self._calls):
            partial = self._calls[key]
            # An answer belongs to its call by the id, so each needs one, and no two the same.
            identity = partial.id or f"call_{key}"
            while identity in taken:
                identity += "_"
            taken.add(identity)
            calls.append(ToolCall(identity, partial.name, partial.arguments))
        # A call that was cut could be valid JSON of something else than was meant.
        complete = () if cut or self._finish == "length" else tuple(calls)
        return Reply("".join(self._text), complete, self._finish, cut, self._usage)


def _begins_another(partial: _Partial, call: Mapping[str, Any]) -> bool:
    """Return whether a part of a call under a number in use is of another call than that one."""
    identity = call.get("id")
    if isinstance(identity, str) and identity and partial.id and identity != partial.id:
        return True
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    # With a name and arguments after arguments that are whole: these cannot go on.
    return bool(function.get("name") and function.get("arguments")) and _is_whole(partial.arguments)


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False


def _items(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def error_text(value: Any) -> str:
    """Return what the JSON of an error says."""
    error = value.get("error", value) if isinstance(value, dict) else value
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:500]
