"""HTTP to the engine of a home, wherever it listens, on connections that reach nobody else's.

Each connection goes where the home's endpoint file says at that moment, and is checked before it is
used (`lingshu_model.system.endpoints`).
"""

import select
import socket
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from lingshu_model.system.endpoints import read_endpoint
from lingshu_model.system.places import EnginePlaces
from lingshu_model.system.private import UnsafePathError

_CONNECT_S = 10.0
# Without effect where no connection is kept.
_KEEPALIVE_S = 5.0


class LocalTransport(httpx.HTTPTransport):
    """Sends requests to the engine of a home, with its token where it wants one.

    Raises, besides httpx's own errors, `UnsafePathError`: what listens there is another user's.
    """

    def __init__(self, places: EnginePlaces, limits: httpx.Limits | None = None) -> None:
        super().__init__(verify=False)  # never TLS: a context would be made for nothing
        self._places = places
        limits = limits or httpx.Limits(max_connections=100, max_keepalive_connections=20)
        # httpx has no public way to say how connections are made.
        self._pool = httpcore.ConnectionPool(
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=_Backend(places),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer to a request."""
        try:
            # Read for every request: an engine that was replaced has another token.
            token = read_endpoint(self._places).token()
        except UnsafePathError:
            raise
        except OSError as error:  # a home of another user, for one
            raise httpx.ConnectError(str(error), request=request) from error
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return super().handle_request(request)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, places: EnginePlaces) -> None:
        self._places = places

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection to the engine, whatever host the URL names."""
        del host, port, local_address, socket_options
        limit = _CONNECT_S if timeout is None else timeout
        try:
            # The address too; it is checked there that the listener is of this user.
            return _Stream(read_endpoint(self._places).connect(limit))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except UnsafePathError:
            raise
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error


class _Stream(httpcore.NetworkStream):
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has arrived, up to `max_bytes`; empty at the end."""
        self._connection.settimeout(timeout)
        try:
            return self._connection.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of `buffer`."""
        self._connection.settimeout(timeout)
        try:
            self._connection.sendall(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get_extra_info(self, info: str) -> Any:
        """Return the socket, or whether something can be read of it, as the pool asks."""
        if info == "socket":
            return self._connection
        if info == "is_readable":
            # A closed socket counts as readable: httpcore takes that as the end of the connection.
            return self._connection.fileno() < 0 or _readable(self._connection)
        return None


def _readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
