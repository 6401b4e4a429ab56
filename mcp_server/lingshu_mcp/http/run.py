"""The HTTP server from its socket to its end."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import Response

from lingshu_mcp.calls import Calls
from lingshu_mcp.http.bodies import MAX_BODY
from lingshu_mcp.http.connections import (
    MAX_HEAD,
    SILENT_S,
    Sparing,
    connection_limits,
    protocol,
    quiet_when_scarce,
    raise_descriptor_limit,
)
from lingshu_mcp.http.gate import PATH, Gate, Tokens, caller
from lingshu_mcp.http.sessions import IDLE_S, MAX_SESSIONS
from lingshu_mcp.server import build_server
from lingshu_tools.app import App
from lingshu_tools.errors import LingshuError
from lingshu_tools.system.access_tokens import AccessTokens
from lingshu_tools.system.interrupts import INTERRUPTED

FAREWELL_S: Final = 1.5
"""Seconds that calls under way get to answer in at the end."""
# Seconds that uvicorn waits for open connections.
GRACE_S: Final = 2
LAST_S: Final = 4.5
"""Seconds after a signal at which the process ends whatever is under way."""
ON_SIGNAL: Final[dict[int, int]] = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: 0}
# Seconds between two calls of `Gate.tend`.
TEND_S: Final = 1.0


class AddressError(LingshuError):
    """The address is none of this machine, or cannot be listened on."""


@dataclass(frozen=True)
class Address:
    """Where to listen: an address of this machine; port 0 stands for any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return the address in HOST:PORT.

        Raises:
            AddressError: it is none, or could be reached from elsewhere.
        """
        host, _, port = text.rpartition(":")
        # `:8931` is loopback, not every interface.
        host = host.strip("[]") or "127.0.0.1"
        if not (port.isascii() and port.isdigit() and int(port) < 2**16):
            message = f"{text!r} is not HOST:PORT, such as 127.0.0.1:8931 or [::1]:8931"
            raise AddressError(message)
        if host != "localhost" and not _is_loopback(host):
            message = (
                f"{host!r} could be reached from other machines, and this server speaks no TLS; "
                "use 127.0.0.1, and a tunnel or a proxy that speaks TLS"
            )
            raise AddressError(message)
        return cls(host, int(port))

    @property
    def netloc(self) -> str:
        """HOST:PORT as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def listen(self, backlog: int) -> socket.socket:
        """Return a socket that listens here.

        Raises:
            AddressError: another program does, or the system refuses.
        """
        # Not resolved by name: a hosts file may send `localhost` elsewhere.
        numeric = "127.0.0.1" if self.host == "localhost" else self.host
        family = socket.AF_INET6 if ":" in numeric else socket.AF_INET
        try:
            return socket.create_server((numeric, self.port), family=family, backlog=backlog)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "is in use by another program; choose another port, or 0 for any free one"
            else:
                reason = f"cannot be listened on: {error.strerror}"
            message = f"{self.netloc} {reason}"
            raise AddressError(message) from error


def serve_http(
    app: App,
    calls: Calls,
    address: Address,
    *,
    with_tokens: bool = True,
    core: bool = False,
    register: Callable[[MCPServer], None] | None = None,
) -> int:
    """Return the exit status, that of the signal that ended the server.

    Threads may still be at work: the caller ends the process without waiting for them.
    `register` may add to the server before it listens; a conformance suite adds its fixtures.

    Raises:
        LingshuError: the address or the tokens cannot be used.
    """
    tokens = AccessTokens(app.home) if with_tokens else None
    access = f"token in {tokens.ensure_owner()}" if tokens else "WITHOUT A TOKEN (--no-token)"

    def make(address: Address) -> Gate:
        return gate_of(app, calls, tokens, address, core=core, register=register)

    def announce(address: Address) -> None:
        sys.stderr.write(f"lingshu: serving http://{address.netloc}{PATH}, {access}\n")
        sys.stderr.flush()

    return serve_gate(make, calls, address, announce)


def serve_gate(
    make: Callable[[Address], Gate],
    calls: Calls,
    address: Address,
    announce: Callable[[Address], None],
    *,
    idle_s: float | None = None,
) -> int:
    """Return the exit status, that of the signal that ended the server; 0 where it was idle.

    Args:
        make: returns the application for the address that is listened on.
        calls: the calls of the server.
        address: where to listen.
        announce: called when the server accepts requests.
        idle_s: seconds without a call after which the server ends; None: never.

    Raises:
        LingshuError: the address cannot be used.
    """
    most, backlog = connection_limits(raise_descriptor_limit())
    listener = address.listen(backlog)
    # The port that the system chose, where 0 was given: the allowed hosts name it.
    address = Address(address.host, listener.getsockname()[1])
    # Of every handler: a client can make the server log as often as it likes.
    for handler in logging.getLogger().handlers:
        handler.addFilter(Sparing())
    gate = make(address)
    config = uvicorn.Config(
        gate,
        http=protocol(most),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        # A header must not decide where a request comes from.
        proxy_headers=False,
        server_header=False,
        backlog=backlog,
        timeout_keep_alive=SILENT_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=MAX_HEAD,
    )
    running = _Server(config, gate, calls, lambda: announce(address), idle_s)
    asyncio.run(running.serve(sockets=[listener]))
    return running.status


def gate_of(
    app: App,
    calls: Calls,
    tokens: Tokens | None,
    address: Address,
    *,
    core: bool = False,
    register: Callable[[MCPServer], None] | None = None,
    page: Callable[[], Response] | None = None,
) -> Gate:
    """Return the ASGI application of a server; no socket is opened."""
    security = security_of(address)
    server = build_server(app, calls, app_of_caller=caller.get, core=core)
    if register is not None:
        register(server)
    inner = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=security,
        max_request_body_size=MAX_BODY,
        session_idle_timeout=2 * IDLE_S,
        # A backstop: the gate makes room before.
        max_sessions=2 * MAX_SESSIONS,
    )
    return Gate(inner, app, calls, tokens, security, page)


def security_of(address: Address) -> TransportSecuritySettings:
    """Return settings that refuse foreign Host and Origin headers (DNS rebinding)."""
    # Clients on this machine may use any of these names.
    names = {
        Address(name, address.port).netloc for name in (address.host, "127.0.0.1", "localhost")
    }
    hosts = sorted(names)
    return TransportSecuritySettings(
        allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts]
    )


class _Server(uvicorn.Server):
    """uvicorn's server, with our signals, our tasks and our first line."""

    def __init__(
        self,
        config: uvicorn.Config,
        gate: Gate,
        calls: Calls,
        announce: Callable[[], None],
        idle_s: float | None,
    ) -> None:
        super().__init__(config)
        self.status = 0
        self._gate, self._calls, self._announce = gate, calls, announce
        self._idle_s = idle_s
        self._leaving = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(quiet_when_scarce(sys.stderr.write))
        await super().startup(sockets)
        if self.started:
            self._tending = asyncio.ensure_future(self._tend())
            self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        # Through the loop and not by `signal.signal`: handlers may touch the loop's objects.
        loop = asyncio.get_running_loop()
        for number in ON_SIGNAL:
            loop.add_signal_handler(number, self._end, number)
        yield

    def _end(self, number: int) -> None:
        """End because of a signal; a second one ends the process at once."""
        self.status = ON_SIGNAL[number]
        if self._leaving:
            os._exit(self.status)
        self._leaving = self.should_exit = True
        # Waiting calls answer first, then streams are ended, and at last the process.
        self._calls.leave()
        loop = asyncio.get_running_loop()
        loop.call_later(FAREWELL_S, self._gate.end_requests)
        loop.call_later(LAST_S, os._exit, self.status)

    async def _tend(self) -> None:
        while True:
            with suppress(LingshuError):  # the tokens cannot be read now: requests say so
                await self._gate.tend()
            silent_s = time.monotonic() - self._gate.last_call
            if self._idle_s is not None and silent_s > self._idle_s and self._gate.is_idle:
                self.should_exit = True
            await asyncio.sleep(TEND_S)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
