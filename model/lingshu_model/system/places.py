"""Where an engine's files lie under a home, so that both sides look in the same place."""

import os
from dataclasses import dataclass
from pathlib import Path

MAX_SOCKET_PATH = 100
"""Bytes; the kernel's own limit is 108 on Linux and 104 on macOS."""

LOG_VARIABLE = "LINGSHU_ENGINE_LOG"
"""The environment variable that tells an engine in which file its output is kept."""


@dataclass(frozen=True)
class EnginePlaces:
    """The engine's socket, lock, log and results under one home."""

    home: Path
    other_socket: Path | None = None

    @property
    def folder(self) -> Path:
        """What holds the rest; mode 0700."""
        return self.home.absolute() / "engines"

    @property
    def lock(self) -> Path:
        """Locked for as long as an engine of this home lives."""
        return self.folder / "engine.lock"

    @property
    def starting(self) -> Path:
        """Locked by the client that starts an engine: of many clients at once, one starts it."""
        return self.folder / "starting.lock"

    @property
    def log(self) -> Path:
        """What the engine started last says: another name of its file in `logs`."""
        return self.folder / "engine.log"

    @property
    def logs(self) -> Path:
        """A file for each start of an engine, so that no start writes over what another said."""
        return self.folder / "logs"

    @property
    def results(self) -> Path:
        """Finished arms, one file each."""
        return self.folder / "results"

    @property
    def endpoint(self) -> Path:
        """The file in which a running engine writes where it listens."""
        return self.folder / "endpoint.json"

    @property
    def socket(self) -> Path:
        """The Unix socket, unless its path is too long or the file system has no sockets."""
        return self.other_socket or self.folder / "engine.sock"


def fits(socket: Path) -> bool:
    """Return whether the path of a Unix socket is short enough."""
    return len(os.fsencode(socket)) <= MAX_SOCKET_PATH
