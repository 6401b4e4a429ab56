"""Where an engine's files lie under a home, so that both sides look in the same place.

Knows nothing of what is written there.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

MAX_SOCKET_PATH = 100
"""Bytes; the kernel's own limit is 108 on Linux and 104 on macOS."""


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
    def log(self) -> Path:
        """What a detached engine says."""
        return self.folder / "engine.log"

    @property
    def results(self) -> Path:
        """Finished arms, one file each."""
        return self.folder / "results"

    @property
    def socket(self) -> Path:
        """The Unix socket; under `/tmp/lingshu-UID` where the home's own path is too long."""
        if self.other_socket:
            return self.other_socket
        path = self.folder / "engine.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:24]
        return Path(f"/tmp/lingshu-{os.getuid()}") / f"{name}.sock"  # noqa: S108 - short, and 0700
