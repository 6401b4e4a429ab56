"""The serving thread: HTTP on its own event loop, so that the main thread is free to compute."""

import asyncio
import logging
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from lingshu_model.engine.http.access import Bearer, OwnersOnly
from lingshu_model.engine.http.listening import Local
from lingshu_model.engine.http.routes import Face
from lingshu_model.engine.job_queue import JobQueue
from lingshu_model.engine.results import identity
from lingshu_model.engine.samplers import Samplers

# Seconds that open requests have to end after the service was told to leave.
_GRACE_S = 10
_HOME_S = 1.0
"""How late a moved or deleted home is noticed."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """A TCP listener besides the local one: every request must bear `token`."""

    listener: socket.socket
    token: str
    certificate: Path | None
    key: Path | None


class Service:
    """Serves a queue until told to leave, idle for too long, or another rank is lost."""

    def __init__(
        self, queue: JobQueue, samplers: Samplers, *, ranks: int, idle_exit_s: float
    ) -> None:
        """Prepare; `start` begins to serve."""
        self._queue, self._idle_exit_s = queue, idle_exit_s
        # Made here and not in the thread, so that `leave` has it from the start.
        self._loop = asyncio.new_event_loop()
        self._face = Face(queue, samplers, ranks, idle_exit_s, self.leave)
        self._servers: list[uvicorn.Server] = []
        self._files: dict[Path, tuple[int, int] | None] = {}
        self._thread: threading.Thread | None = None

    def start(self, local: Local, remote: Remote | None = None) -> None:
        """Serve in a thread; the queue is closed once serving has ended."""
        app = self._face.app(local=True)
        if local.token:
            self._servers = [_server(Bearer(app, local.token, proves=True))]
        else:
            self._servers = [_server(app, http=OwnersOnly)]
        sockets = [local.listener]
        self._files = {path: identity(path) for path in local.files}
        if remote:
            self._servers.append(_remote_server(self._face.app(local=False), remote))
            sockets.append(remote.listener)
        self._thread = threading.Thread(target=self._run, args=(sockets,), name="engine-http")
        self._thread.start()

    def leave(self) -> None:
        """Ask to end; may be called from a signal handler, and twice."""
        with suppress(RuntimeError):  # the loop is closed: it has left
            self._loop.call_soon_threadsafe(self._leave)

    def join(self) -> None:
        """Wait until serving has ended."""
        if self._thread:
            self._thread.join()

    def _run(self, sockets: list[socket.socket]) -> None:
        try:
            # Closes the loop at the end, which `leave` relies on.
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve(sockets))
        finally:
            # Computing ends with serving: nobody could fetch a result.
            self._queue.close()

    async def _serve(self, sockets: list[socket.socket]) -> None:
        watches = [asyncio.ensure_future(self._watch_home())]
        if self._idle_exit_s:
            watches.append(asyncio.ensure_future(self._watch_idle()))
        pairs = zip(self._servers, sockets, strict=True)
        await asyncio.gather(*(server.serve(sockets=[s]) for server, s in pairs))
        for watch in watches:
            watch.cancel()

    async def _watch_idle(self) -> None:
        # Closing tests and closes in one step; a request in between would be lost.
        while not self._queue.close(idle_s=self._idle_exit_s):
            await asyncio.sleep(max(self._idle_exit_s - self._queue.idle_s(), 0.01))
        self._leave()

    async def _watch_home(self) -> None:
        """Leave when the home was moved or deleted: a client of the new place starts another."""
        while not self._queue.results.gone and self._is_found():
            await asyncio.sleep(_HOME_S)
        _log.warning("the home of %s was moved or deleted", self._queue.results.folder)
        self._leave()

    def _is_found(self) -> bool:
        # Their inode and device: another engine's file at the same path is not this one's.
        return all(identity(path) == then for path, then in self._files.items())

    def _leave(self) -> None:
        self._face.leaving.set()
        for server in self._servers:
            server.should_exit = True


def _server(app: Any, **options: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        access_log=False,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=60,
        **options,
    )
    return uvicorn.Server(config)


def _remote_server(app: Any, remote: Remote) -> uvicorn.Server:
    tls: dict[str, Any] = {}
    if remote.certificate:
        tls = {"ssl_certfile": remote.certificate, "ssl_keyfile": remote.key}
        tls["ssl_version"] = ssl.PROTOCOL_TLS_SERVER
    return _server(Bearer(app, remote.token), **tls)
