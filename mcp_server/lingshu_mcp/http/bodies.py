"""Request bodies in bounded time and size, and refusals as JSON-RPC errors."""

from collections.abc import Mapping
from typing import Final

import anyio
import mcp_types as types
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

MAX_BODY: Final = 1 << 20
"""Bytes."""
BODY_S: Final = 30.0
"""Seconds in which the body of a request must have arrived."""
CLOSE = {"connection": "close"}
REFUSED: Final = -32001
"""The JSON-RPC code of a request that was refused before it was read; of no other meaning."""


async def read_body(request: Request, receive: Receive) -> bytes | Response:
    """Return the body of a request, or the refusal: it is too long, or comes too slowly."""
    declared = request.headers.get("content-length", "")
    # A declared length is refused before anything is read; a false one is found while reading.
    if declared.isdecimal() and int(declared) > MAX_BODY:
        return _too_long()
    body = bytearray()
    with anyio.move_on_after(BODY_S):
        # The time is for the whole body: a client that sends a byte a second is cut off.
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return refusal(400, "the request was not sent to its end", headers=CLOSE)
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                return _too_long()
            if not message.get("more_body", False):
                return bytes(body)
    # The rest of the body may still come, which would be taken for the next request.
    return refusal(408, f"the request did not arrive within {BODY_S:.0f} s", headers=CLOSE)


def refusal(
    status: int, answer: str | types.JSONRPCError, *, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON-RPC error as an HTTP response."""
    if isinstance(answer, str):
        error = types.ErrorData(code=REFUSED, message=answer)
        answer = types.JSONRPCError(jsonrpc="2.0", id=None, error=error)
    text = answer.model_dump_json(by_alias=True, exclude_unset=True)
    return Response(text + "\n", status, headers=headers, media_type="application/json")


def _too_long() -> Response:
    message = f"the request is longer than {MAX_BODY} bytes: send less in one call"
    return refusal(413, message, headers=CLOSE)
