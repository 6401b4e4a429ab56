"""Where a running engine listens, and a connection to it that is sure to reach this user's engine.

Over a Unix socket, the owner and mode of the socket and its folder are checked, and the user at the
other end. Over TCP, where there is no Unix socket to be had, the engine proves that it knows the
token before the token is sent: a port may have passed to another process.
"""

import hashlib
import hmac
import http.client
import json
import os
import secrets
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from lingshu_model.system.durable import write_durably
from lingshu_model.system.peers import check_peer
from lingshu_model.system.places import EnginePlaces
from lingshu_model.system.private import (
    UnsafePathError,
    check_closed,
    check_folder,
    check_owner,
    open_private,
)
from lingshu_model.system.redaction import remember

LOOPBACK = "127.0.0.1"
PROOF_PATH = "/v1/proof"
NONCE_HEADER = "X-Lingshu-Nonce"
# Bytes of an answer or a file that are read; seconds between two attempts to connect.
_MAX_BYTES = 1 << 16
_BACKLOG_PAUSE_S = 0.02


@dataclass(frozen=True)
class Endpoint:
    """A Unix socket, or a port of the loopback interface and the file that holds its token."""

    path: Path | None = None
    port: int | None = None
    token_file: Path | None = None

    def __str__(self) -> str:
        return str(self.path or f"{LOOPBACK}:{self.port}")

    @property
    def folder(self) -> Path:
        """Where its socket or token lies."""
        return (self.path or self.token_file or Path()).parent

    def token(self) -> str | None:
        """Return the token that requests must bear; None over a Unix socket.

        Raises:
            UnsafePathError: its file is a link, another user's, or open to others.
        """
        if self.token_file is None:
            return None
        token = _read(self.token_file, closed=True).decode("ascii", "replace").strip()
        remember(token)
        return token

    def connect(self, timeout_s: float) -> socket.socket:
        """Return a connection to this user's engine.

        Raises:
            UnsafePathError: what listens there is another user's, or may be.
            OSError: nothing listens there, or not in time.
        """
        if self.path:
            return _connect_unix(self.path, timeout_s)
        return _connect_tcp(self.port or 0, self.token() or "", timeout_s)


def read_endpoint(places: EnginePlaces) -> Endpoint:
    """Return where the engine of a home says it listens; its usual socket where it says nothing.

    Raises:
        UnsafePathError: the file that says so is a link or another user's.
    """
    if places.other_socket:
        return Endpoint(places.socket)
    try:
        fields = json.loads(_read(places.endpoint))
        port, token_file = fields.get("port"), fields.get("token_file")
        if isinstance(port, int) and isinstance(token_file, str):
            return Endpoint(port=port, token_file=Path(token_file))
        return Endpoint(Path(str(fields["socket"])))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, AttributeError):
        return Endpoint(places.socket)


def write_endpoint(places: EnginePlaces, endpoint: Endpoint) -> None:
    """Tell clients where the engine listens."""
    if endpoint.path:
        fields: dict[str, str | int | None] = {"socket": str(endpoint.path)}
    else:
        fields = {"port": endpoint.port, "token_file": str(endpoint.token_file)}
    write_durably(places.endpoint, json.dumps(fields).encode())


def proof(token: str, nonce: str) -> str:
    """Return what only those who know the token can answer to a nonce."""
    # The prefix keeps a proof from being of use in another protocol with the same token.
    return hmac.new(token.encode(), b"lingshu engine " + nonce.encode(), hashlib.sha256).hexdigest()


def check_socket(path: Path) -> None:
    """Refuse a socket that others may have made or may reach.

    Raises:
        UnsafePathError: it or its folder is another user's or open to others.
        OSError: it is not there.
    """
    check_closed(path.parent, check_folder(path.parent))
    status = path.lstat()
    if not stat.S_ISSOCK(status.st_mode):
        message = f"{path} is not a socket: remove it"
        raise UnsafePathError(message)
    check_owner(path, status)
    check_closed(path, status)


def _connect_unix(path: Path, timeout_s: float) -> socket.socket:
    # Before connecting, and the user at the other end after it: the file may be replaced between.
    check_socket(path)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(connection, str(path), timeout_s)
        check_peer(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(connection: socket.socket, path: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        connection.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            connection.connect(path)
        except BlockingIOError:  # so many wait to be accepted that Linux refuses one more
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(_BACKLOG_PAUSE_S)
        else:
            return


def _connect_tcp(port: int, token: str, timeout_s: float) -> socket.socket:
    connection = socket.create_connection((LOOPBACK, port), timeout_s)
    try:
        # Requests are small; waiting to fill a packet would delay each by tens of ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        nonce = secrets.token_hex(32)
        if not hmac.compare_digest(_answer_of(connection, nonce), proof(token, nonce)):
            message = (
                f"the process that answers at {LOOPBACK}:{port} does not know this engine's token: "
                "it is not trusted"
            )
            raise UnsafePathError(message)
    except BaseException:
        connection.close()
        raise
    return connection


def _answer_of(connection: socket.socket, nonce: str) -> str:
    """Return the answer to a nonce; the connection can be used on."""
    talk = http.client.HTTPConnection(LOOPBACK)
    # Keep-alive: the request with the token goes over the connection that was proved.
    talk.sock = connection
    try:
        talk.request("GET", PROOF_PATH, headers={NONCE_HEADER: nonce})
        return talk.getresponse().read(_MAX_BYTES).decode("ascii", "replace")
    except http.client.HTTPException as error:
        message = f"the process that answers at this engine's port speaks no HTTP ({error!r})"
        raise UnsafePathError(message) from error


def _read(path: Path, *, closed: bool = False) -> bytes:
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        if closed:
            check_closed(path, os.fstat(file.fileno()))
        return file.read(_MAX_BYTES)
