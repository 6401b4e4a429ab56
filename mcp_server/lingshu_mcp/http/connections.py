"""HTTP connections: how many, how long they may be silent, how much they may send before a request.

uvicorn waits for the first request of a connection for ever, and answers a header that is too long
with 400. Both are changed here.
"""

from __future__ import annotations

import asyncio
import errno
import http
import logging
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_S: Final = 30
"""Seconds in which a connection must have sent the whole head of its next request."""
MAX_HEAD: Final = 16 << 10
"""Bytes of a request's line and headers."""
FLUSH_S: Final = 5
"""Seconds that a closed connection gets to take in what was written to it."""
# Connections at most, however many descriptors there are.
_MOST: Final = 1024
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def raise_descriptor_limit(wanted: int = 8192) -> int:
    """Return how many descriptors this process may have, after raising the limit if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Without root a process cannot pass its hard limit.
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return wanted if soft == resource.RLIM_INFINITY else soft


def connection_limits(descriptors: int) -> tuple[int, int]:
    """Return how many connections to keep, and how many to accept at a time beyond them.

    At least half of the descriptors are left for the ledger, the engine and children.
    """
    # An eighth of the descriptors, for connections that the kernel has accepted for us.
    backlog = max(4, min(128, descriptors // 8))
    return max(4, min(_MOST, descriptors // 2 - backlog)), backlog


def protocol(most: int) -> type[H11Protocol]:
    """Return the class of connections of a server that keeps at most `most` of them.

    Beyond that a new one takes the place of the one that has been without a request for longest.
    """
    kept: set[Connection] = set()
    silent: dict[Connection, None] = {}  # in the order in which they fell silent

    class Connection(H11Protocol):
        """One connection: bounded in number, in silence and in the size of a header."""

        # Fires when the next request has not come in time; None while one is served.
        _silence: asyncio.TimerHandle | None = None
        _answered = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(kept) >= most and silent:
                next(iter(silent))._close()
            if len(kept) >= most:
                self._answer(503, "Too many connections: close some, or try again later.")
                self._close()
            else:
                kept.add(self)
                self._expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            kept.discard(self)
            self._stop_expecting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._answered:
                return
            super().data_received(data)
            # A head has come, and its answer is not complete: the limits of the gate hold from
            # here.
            if self.cycle and not self.cycle.response_complete:
                self._stop_expecting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect_request()

        def send_400_response(self, msg: str) -> None:
            hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
            if hint == http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                msg = f"The request line and headers are longer than {MAX_HEAD} bytes."
            self._answer(hint, msg)
            # What else comes is ignored for a while: closing now would reset the connection before
            # the answer is read.
            self._expect_request(FLUSH_S)

        def timeout_keep_alive_handler(self) -> None:
            self._close()

        def _expect_request(self, within_s: float | None = None) -> None:
            self._stop_expecting()
            if not self.transport.is_closing():
                silent[self] = None
                self._silence = self.loop.call_later(within_s or SILENT_S, self._close)

        def _stop_expecting(self) -> None:
            silent.pop(self, None)
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None

        def _answer(self, status: int, text: str) -> None:
            """Answer what is no request that an application could get."""
            self._answered = True
            # Once an answer has begun, another status line would be read as its body.
            if self.conn.our_state is h11.IDLE:
                phrase = http.HTTPStatus(status).phrase
                head = f"HTTP/1.1 {status} {phrase}\r\nconnection: close\r\n"
                body = f"content-type: text/plain\r\ncontent-length: {len(text)}\r\n\r\n{text}"
                self.transport.write((head + body).encode())
            if not self.transport.is_closing():
                self.transport.write_eof()

        def _close(self) -> None:
            kept.discard(self)
            self._stop_expecting()
            if not self.transport.is_closing():
                self.transport.close()
            # A peer that does not read would keep the connection open.
            self.loop.call_later(FLUSH_S, self.transport.abort)

    return Connection


class Sparing(logging.Filter):
    """Lets a message through a few times a minute, and then says how many were left out."""

    def __init__(self, *, each: int = 5, per_s: float = 60.0) -> None:
        super().__init__()
        self._each, self._per_s = each, per_s
        self._since = 0.0
        self._counts: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record."""
        now = time.monotonic()
        if now - self._since >= self._per_s:
            self._since, self._counts = now, {}
        key = (record.name, str(record.msg)[:80])
        count = self._counts[key] = self._counts.get(key, 0) + 1
        # One more than are let through in full: it says that others follow.
        if count == self._each + 1:
            record.msg, record.args = f"{record.msg} (and more of these)", record.args
        return count <= self._each + 1


def quiet_when_scarce(
    write: Callable[[str], object],
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return an exception handler for an event loop that cannot accept for want of descriptors.

    asyncio tries again each second; one line a minute says so.
    """
    last = float("-inf")

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal last
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _SCARCE):
            loop.default_exception_handler(context)
        elif time.monotonic() - last >= 60:
            last = time.monotonic()
            write(f"lingshu: no connection can be accepted for now ({error.strerror})\n")

    return handle
