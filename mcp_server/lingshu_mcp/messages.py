"""JSON-RPC messages as they arrive, and what is said of one that cannot be read.

The SDK leaves some requests without any answer: those nested too deep, with a lone surrogate, with
an id that is none, or sent as a batch. Both transports check a message here before the SDK gets it.
"""

import json
import re
from typing import Any, Final

import mcp_types as types
from pydantic import ValidationError

MAX_LINE: Final = 8 << 20
"""Bytes of one message over stdio."""
_SEARCHED: Final = 4096
"""Bytes at either end of an unreadable message in which its id is looked for."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+')
_LAST_ID = re.compile(r',\s*"id"\s*:\s*("[^"\\]*"|\d+)\s*}\s*$')


class UnreadableError(ValueError):
    """A message that is no JSON-RPC request, notification or response; `answer` is its error."""

    def __init__(self, code: int, message: str, request_id: str | int | None) -> None:
        super().__init__(message)
        self.answer = types.JSONRPCError(
            jsonrpc="2.0", id=request_id, error=types.ErrorData(code=code, message=message)
        )


def read_message(text: str) -> types.JSONRPCMessage:
    """Return a message.

    Raises:
        UnreadableError: with the answer to send, and the id of the request where it can be found.
    """
    try:
        message = types.jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValidationError as error:
        raise _unreadable(text, error) from None
    # The SDK takes a request with an id of another type for a notification, and answers nothing.
    if isinstance(message, types.JSONRPCNotification) and '"id"' in text:
        value = json.loads(text).get("id", _ABSENT)
        if value is not _ABSENT:
            message = f"Invalid request: id is {value!r:.80}; a string or an integer is needed"
            raise UnreadableError(types.INVALID_REQUEST, message, None)
    return message


def too_long(start: bytes, limit: int) -> UnreadableError:
    """Return the error for a message longer than `limit` bytes, of which `start` is known."""
    text = start[:_SEARCHED].decode(errors="replace")
    message = f"Invalid request: the message is longer than {limit} bytes; send less in one call"
    return UnreadableError(types.INVALID_REQUEST, message, find_id(text))


def find_id(text: str) -> str | int | None:
    """Return the id of a request that is no JSON, or is cut off; None where it is not found."""
    # The id may stand on either side of arguments that are too long to read.
    for value in (_id_at_start(text[:_SEARCHED]), _id_at_end(text[-_SEARCHED:])):
        if value is not None:
            return value
    return None


_ABSENT: Final = object()


def _unreadable(text: str, error: ValidationError) -> UnreadableError:
    problem = error.errors(include_url=False, include_input=False)[0]
    if problem["type"] == "json_invalid":
        reason = str(problem.get("ctx", {}).get("error", "no JSON"))
        if "hex escape" in reason or "surrogate" in reason:
            reason += "; a lone surrogate such as \\ud800 is no character"
        elif "recursion" in reason:
            reason += "; nothing here needs more than a few levels"
        return UnreadableError(types.PARSE_ERROR, f"Parse error: {reason}", find_id(text))
    if text.lstrip().startswith("["):
        reason = "a batch; send one request at a time"
    else:
        reason = "no JSON-RPC 2.0 request, notification or response"
    return UnreadableError(types.INVALID_REQUEST, f"Invalid request: {reason}", find_id(text))


def _id_at_start(text: str) -> str | int | None:
    """Return the value of the key `id` of the outermost object."""
    depth, parts = 0, [match.group() for match in _TOKEN.finditer(text)]
    # Each token with the one before it and the two after: `"id"` as a key, a colon, its value.
    for before, part, colon, value in zip(["", *parts], parts, parts[1:], parts[2:], strict=False):
        if part in ("{", "["):
            depth += 1
        elif part in ("}", "]"):
            depth -= 1
        elif depth == 1 and [before in ("{", ","), part, colon] == [True, '"id"', ":"]:
            return _as_id(value)
    return None


def _id_at_end(text: str) -> str | int | None:
    match = _LAST_ID.search(text)
    return _as_id(match.group(1)) if match else None


def _as_id(token: str) -> str | int | None:
    try:
        value: Any = json.loads(token)
        # Raises for a lone surrogate, which the answer could not carry.
        return value if isinstance(value, int | str) and str(value).encode() else None
    except ValueError:  # cut off, no JSON, or a lone surrogate
        return None
