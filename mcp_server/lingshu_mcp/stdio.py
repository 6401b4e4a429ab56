"""MCP over stdin and stdout.

The SDK drops a line that it cannot read, and ends every call under way when stdin ends. Here such a
line is answered with a JSON-RPC error, and the end of stdin or a signal first lets calls that wait
answer with the state of their experiment.
"""

import asyncio
import os
import signal
import sys
from io import TextIOWrapper
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

import anyio
import anyio.to_thread
import mcp_types as types
from mcp.server import MCPServer
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage

from lingshu_mcp.back import Back
from lingshu_mcp.messages import MAX_LINE, UnreadableError, read_message, too_long
from lingshu_mcp.wire import Wire
from lingshu_tools.system.interrupts import INTERRUPTED

FAREWELL_S: Final = 1.5
"""Seconds that calls under way get to answer in at the end; clients kill after 2."""
FIRST_CALL_S: Final = 20.0
"""Seconds that a first call gets in which its modules are imported; a busy machine is slow."""
LAST_S: Final = 3.0
"""Seconds after which the process ends even if a client does not read its answers."""
ON_SIGNAL: Final[dict[int, int]] = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: 0}
"""The exit status after a signal."""


def serve_stdio(server: MCPServer, back: Back, wire: Wire) -> int:
    """Return the exit status: 0 when stdin or stdout was closed, else that of the signal.

    Threads may still be at work: the caller ends the process without waiting for them.
    """
    # A person who starts it by hand would wait for a prompt.
    if wire.incoming.isatty():
        sys.stderr.write("lingshu-mcp: for an MCP client on stdin and stdout; Ctrl-C ends it\n")
    try:
        return anyio.run(_serve, server, back, wire)
    except BaseExceptionGroup as group:
        # [1] is what remains of the group beside closed pipes.
        if group.split((BrokenPipeError, ConnectionResetError))[1] is not None:
            raise
        return 0  # nobody reads the answers any more


async def _serve(server: MCPServer, back: Back, wire: Wire) -> int:
    lines = _Lines(wire.incoming, back)
    answers = anyio.wrap_file(TextIOWrapper(wire.outgoing, encoding="utf-8", newline="\n"))
    loop = asyncio.get_running_loop()
    for number in ON_SIGNAL:
        loop.add_signal_handler(number, lines.end, number)
    # A filter in front of the server: the SDK has no public type for a file that is none, and no
    # public way to run an MCPServer on streams.
    async with stdio_server(cast("Any", lines), answers) as (incoming, outgoing):
        output = lines.output = _Output(outgoing)
        low = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]
        await low.run(incoming, output, low.create_initialization_options())
    return 0 if lines.signal is None else ON_SIGNAL[lines.signal]


class _Output:
    """The SDK's stream of outgoing messages, with the ids of the requests not yet answered."""

    def __init__(self, stream: WriteStream[SessionMessage]) -> None:
        self._stream = stream
        self.owed: set[str | int] = set()

    async def send(self, item: SessionMessage, /) -> None:
        message = item.message
        await self._stream.send(item)
        if isinstance(message, types.JSONRPCResponse | types.JSONRPCError):
            # After sending: the process may end once nothing is owed.
            self.owed.discard("" if message.id is None else message.id)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()


class _Lines:
    """The lines of stdin that hold a message; the others are answered here.

    Ends with stdin or with `end`, after the calls under way have had time to answer.
    """

    output: _Output

    def __init__(self, file: BinaryIO, back: Back) -> None:
        self._file, self._back = file, back
        self._reading = anyio.CancelScope()
        self.signal: int | None = None

    def end(self, number: int) -> None:
        """Stop reading because of a signal; a second one ends the process at once."""
        if self.signal is not None:
            # The loop may be blocked: no clean end is tried a second time.
            os._exit(ON_SIGNAL[number])
        self.signal = number
        self._reading.cancel()
        # Also where a client does not read its answers, so that the loop never ends by itself.
        asyncio.get_running_loop().call_later(LAST_S, os._exit, ON_SIGNAL[number])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        with self._reading:
            # A thread that blocks in readline cannot be woken; it is left behind.
            while line := await anyio.to_thread.run_sync(self._line, abandon_on_cancel=True):
                text = await self._checked(line)
                if text is not None:
                    return text
        await self._farewell()
        raise StopAsyncIteration

    def _line(self) -> bytes:
        """Return the next line, of a line that is too long its start; b"" at the end."""
        line = self._file.readline(MAX_LINE + 1)
        rest = line
        # The rest of a line that is too long is read and dropped, a piece at a time.
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = self._file.readline(MAX_LINE + 1)
        return line

    async def _checked(self, line: bytes) -> str | None:
        """Return the message in a line; None where there is none, after answering it."""
        try:
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                raise too_long(line, MAX_LINE)
            # A byte order mark before the first message is no part of it.
            text = line.decode(errors="replace").lstrip("\ufeff").strip()
            if not text:
                return None
            # Parsing 8 MiB takes long enough to delay other answers.
            message = await anyio.to_thread.run_sync(read_message, text)
        except UnreadableError as error:
            await self.output.send(SessionMessage(error.answer))
            return None
        if isinstance(message, types.JSONRPCRequest):
            self.output.owed.add(message.id)
        elif isinstance(message, types.JSONRPCNotification):
            self._cancelled(message)
        return text

    def _cancelled(self, message: types.JSONRPCNotification) -> None:
        # A cancelled request gets no answer.
        if message.method == "notifications/cancelled" and message.params:
            self.output.owed.discard(message.params.get("requestId", ""))

    async def _farewell(self) -> None:
        # The first call may be on its way to what answers it.
        # Shielded: what ends the reading must not end this wait.
        with anyio.move_on_after(FIRST_CALL_S, shield=True):
            while self.output.owed and not self._back.ready:
                await anyio.sleep(0.01)
        # Waiting calls answer with the state that their experiments are in.
        self._back.leave()
        with anyio.move_on_after(FAREWELL_S, shield=True):
            while self.output.owed:
                await anyio.sleep(0.01)
