"""A proxy in front of an engine that gives one caller the answers to another's requests."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path


class CrossingProxy:
    """Takes an engine's place at its socket, and crosses answers while `crosses(path)` is true.

    The requests of one caller are recorded first. A request that is crossed gets the engine's
    answer to the recorded one of its kind, so no two callers have to meet.

    `whole` answers are crossed with their headers, as a shared connection does it; otherwise the
    caller gets its own headers and the other's body.
    """

    def __init__(self, path: Path, *, whole: bool) -> None:
        self.crosses: Callable[[str], bool] = lambda _: False
        self.crossed: list[str] = []
        self._whole, self._path = whole, path
        self._recorded: dict[str, bytes] = {}
        self._recording = False
        self._behind = path.with_name("behind.sock")
        path.rename(self._behind)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(32)
        threading.Thread(target=self._serve, daemon=True).start()

    @contextmanager
    def recording(self) -> Generator[None]:
        """Take down the requests made meanwhile, whose answers others get later."""
        self._recording = True
        yield
        self._recording = False

    def close(self) -> None:
        """Put the engine's own socket back."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._behind.rename(self._path)

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._exchange, args=(caller,), daemon=True).start()

    def _exchange(self, caller: socket.socket) -> None:
        with caller:
            request = _message(caller)
            if not request:
                return  # the client's probe
            path = request.split(b" ", 2)[1].decode().partition("?")[0]
            answer = self._answer(request)
            if self._recording:
                self._recorded[kind_of(path)] = request
            elif self.crosses(path):
                self.crossed.append(path)
                other = self._answer(self._recorded[kind_of(path)])
                answer = other if self._whole else _with_body_of(answer, other)
            caller.sendall(answer)

    def _answer(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self._behind))
            engine.sendall(request)
            return _message(engine)


def kind_of(path: str) -> str:
    """Return what a request is for: "submit", "cells", "wait", or its path."""
    if path == "/v1/jobs":
        return "submit"
    if path.startswith("/v1/jobs/"):
        return "cells" if path.endswith("/cells") else "wait"
    return path


def _message(source: socket.socket) -> bytes:
    """Return one HTTP message, whose length its head says."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = source.recv(1 << 16)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(_field(head, b"content-length") or 0)
    while len(body) < length:
        body += source.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def _field(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def _with_body_of(answer: bytes, other: bytes) -> bytes:
    """Return an answer with the body of another, and with the fields that describe a body."""
    describing = (b"content-length", b"x-lingshu-digest")
    head, other_head = (text.partition(b"\r\n\r\n")[0] for text in (answer, other))
    lines = [
        line
        for line in head.split(b"\r\n")
        if line.partition(b":")[0].strip().lower() not in describing
    ]
    for name in describing:
        if (value := _field(other_head, name)) is not None:
            lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n" + other.partition(b"\r\n\r\n")[2]
