"""Finished arms on disk: written once, found by any later engine, the least recently used pruned.

A file is one line with the digest of what follows, then the cells blob. Knows nothing of requests:
a key is whatever decides the bytes.
"""

import os
from pathlib import Path

from lingshu_model.wire import digest_bytes
from lingshu_model.wire.durable import UNFINISHED, write_durably

DEFAULT_LIMIT = 2 << 30
_SUFFIX = ".cells"


class Results:
    """A folder of results of at most `limit` bytes; safe for several threads of one process."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        """Open `folder`, and clear away what a killed engine left half written."""
        self.folder, self.limit = folder, limit
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.glob(f"{UNFINISHED}*"):
            path.unlink(missing_ok=True)

    def touch(self, key: str) -> bool:
        """Return whether `key` is there, and count this as a use of it."""
        try:
            os.utime(self._path(key))
        except FileNotFoundError:
            return False
        return True

    def read(self, key: str) -> tuple[str, bytes] | None:
        """Return the digest and the blob of `key`; None where it is missing or damaged."""
        try:
            digest, _, blob = self._path(key).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if digest_bytes(blob).encode() != digest:
            self._path(key).unlink(missing_ok=True)
            return None
        self.touch(key)
        return digest.decode(), blob

    def write(self, key: str, blob: bytes) -> None:
        """Store `blob` so that after a crash it is there whole or not at all."""
        write_durably(self._path(key), digest_bytes(blob).encode() + b"\n", blob)
        self._prune(keep=self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _prune(self, keep: Path) -> None:
        entries = [(p, p.stat()) for p in self.folder.glob(f"*{_SUFFIX}")]
        excess = sum(s.st_size for _, s in entries) - self.limit
        for path, stat in sorted(entries, key=lambda e: e[1].st_mtime_ns):
            if excess <= 0:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                excess -= stat.st_size
