"""Finished arms on disk: written once, found by any later engine, the least recently used pruned.

A file is one line with the digest of what follows, then the cells blob. A key is whatever decides
the bytes; the blob's header says which request its cells answer, so that a file under another's
key, or one written before blobs said so, is computed again.
"""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lingshu_model.contracts import Origin
from lingshu_model.contracts.canonical import HASH_PREFIX
from lingshu_model.contracts.cells import read_origin_at
from lingshu_model.engine.tiles import Tiles
from lingshu_model.system.durable import UNFINISHED, durably
from lingshu_model.system.private import private_folder

DEFAULT_LIMIT = 2 << 30
_SUFFIX = ".cells"
_DIGEST_LENGTH = len(HASH_PREFIX) + hashlib.sha256().digest_size * 2


@dataclass(frozen=True)
class Result:
    """A result to be read: its digest, the length of its blob, and a file that stands before it."""

    digest: str
    size: int
    file: BinaryIO


class Results:
    """A folder of results of at most `limit` bytes; safe for several threads of one process."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        """Open `folder`, and clear away what a killed engine left half written."""
        self.folder, self.limit = folder, limit
        private_folder(folder)
        for path in folder.glob(f"{UNFINISHED}*"):
            path.unlink(missing_ok=True)
        self.tiles = Tiles(folder / "tiles")
        # Killed between writing the result and dropping its tiles.
        for path in folder.glob(f"*{_SUFFIX}"):
            self.tiles.drop(path.stem)
        self.tiles.sweep()
        self._identity = identity(folder)

    @property
    def gone(self) -> bool:
        """Whether the folder was deleted or moved: nothing can be kept where clients look."""
        return identity(self.folder) != self._identity

    def touch(self, key: str, origin: Origin) -> bool:
        """Return whether the cells of `origin` are under `key`, and count this as a use of them.

        Their bytes are checked when they are opened.
        """
        try:
            with self._path(key).open("rb") as file:
                result = _origin(file)
            # The time of modification is that of the last use, by which results are pruned.
            os.utime(self._path(key))
        except FileNotFoundError:
            return False
        return result == origin

    def open(self, key: str, origin: Origin) -> Result | None:
        """Return the result of `key`, its bytes checked; None where it is missing or damaged.

        One whose cells answer another request than `origin` is deleted like a damaged one. The
        caller closes the file.
        """
        try:
            file = self._path(key).open("rb")
        except FileNotFoundError:
            return None
        # `begin` is read after the line: where the blob starts.
        digest, begin = file.readline(_DIGEST_LENGTH + 1).rstrip(b"\n"), file.tell()
        result = HASH_PREFIX + hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell() - begin
        if result.encode() != digest or _origin(file) != origin:
            # A result that cannot be trusted is computed again; keeping it would fail every later
            # request.
            file.close()
            self._path(key).unlink(missing_ok=True)
            return None
        self.touch(key, origin)
        file.seek(begin)
        return Result(result, size, file)

    def write(self, key: str, pieces: Iterable[bytes]) -> None:
        """Store a blob so that after a crash it is there whole or not at all."""
        digest = hashlib.sha256()
        with durably(self._path(key)) as file:
            # The digest is known at the end; its place is kept, and filled in before the file
            # appears.
            file.write(b"?" * _DIGEST_LENGTH + b"\n")
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.seek(0)
            file.write(HASH_PREFIX.encode() + digest.hexdigest().encode())
        self._prune(keep=self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _prune(self, keep: Path) -> None:
        entries: list[tuple[int, Path, int]] = []
        for path in (*self.folder.glob(f"*{_SUFFIX}"), *self.tiles.idle()):
            # Another thread ends its arm, or prunes too, between the listing and this look.
            with suppress(FileNotFoundError):
                entries.append((path.stat().st_mtime_ns, path, _size(path)))
        excess = sum(size for *_, size in entries) - self.limit
        for _, path, size in sorted(entries):
            if excess <= 0:
                return
            # The result just written is kept even if it alone is beyond the limit.
            if path != keep:
                self._delete(path)
                excess -= size

    def _delete(self, path: Path) -> None:
        if path.is_dir():
            self.tiles.drop_idle(path)
        else:
            path.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file or folder from one put in its place; None where nothing is."""
    try:
        status = path.lstat()
    except OSError:
        return None
    # A folder put in its place has another inode, whatever its path.
    return status.st_dev, status.st_ino


def _origin(file: BinaryIO) -> Origin | None:
    """Return the origin in the blob's header; None where there is none, or no blob."""
    try:
        return read_origin_at(file, _DIGEST_LENGTH + 1)
    except ValueError:
        return None


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)
