"""A proxy in front of an engine that gives two callers the answers to each other's requests."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 20


class CrossingProxy:
    """Takes an engine's place at its socket, and crosses answers while `crosses(path)` is true.

    `whole` answers are crossed with their headers, as a shared connection does it; otherwise each
    caller gets its own headers and the other's body.
    """

    def __init__(self, path: Path, crosses: Callable[[str], bool], *, whole: bool) -> None:
        self.crosses, self.whole = crosses, whole
        self.crossed: list[str] = []
        self._behind = path.with_name("behind.sock")
        path.rename(self._behind)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(32)
        self._meeting = threading.Barrier(2)
        self._answers: dict[int, bytes] = {}
        self._turn = threading.Lock()
        self._path = path
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Put the engine's own socket back."""
        self._meeting.abort()
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
            path = request.split(b" ", 2)[1].decode()
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(str(self._behind))
                engine.sendall(request)
                answer = _message(engine)
            if self.crosses(path):
                answer = self._other(path, answer)
            caller.sendall(answer)

    def _other(self, path: str, answer: bytes) -> bytes:
        try:
            mine = self._meeting.wait(PATIENCE_S)
            self._answers[mine] = answer
            self._meeting.wait(PATIENCE_S)
            other = self._answers[1 - mine]
            self._meeting.wait(PATIENCE_S)
        except threading.BrokenBarrierError:
            return answer  # the other caller has gone
        self.crossed.append(path)
        return other if self.whole else _with_body_of(answer, other)


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
