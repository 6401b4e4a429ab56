"""A content-addressed store: bytes under their digest, durable before they are named.

`objects/ab/cdef…` holds the bytes whose SHA-256 is `abcdef…`.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, TypeVar

from lingshu_model.contracts.canonical import HASH_PREFIX, digest_pieces
from lingshu_model.system.durable import durably, sync_name
from lingshu_model.system.private import UnsafePathError, private_folder
from lingshu_tools.errors import InputError, LedgerError, NotFoundError, TamperError, quoted
from lingshu_tools.ledger.canonical import digest_bytes, digest_file

R = TypeVar("R")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ObjectStore:
    """Objects under one folder; `writable` False refuses to add any."""

    def __init__(self, root: Path, *, writable: bool = True) -> None:
        self.root = root
        self._writable = writable

    def path(self, digest: str) -> Path:
        """Return where an object is kept, whether or not it is there.

        Raises:
            InputError: not a digest.
        """
        if not _DIGEST.fullmatch(digest):
            message = (
                f"{quoted(digest)} is not a digest: `sha256:` and 64 hexadecimal digits in lower "
                "case"
            )
            raise InputError(message)
        digits = digest.removeprefix("sha256:")
        return self.root / digits[:2] / digits[2:]

    def put(self, data: bytes | Iterable[bytes]) -> str:
        """Return the digest of `data`, which is on the disk when this returns.

        Args:
            data: the bytes; or pieces of them, to be gone through twice, so that what is there
                already is not written again.

        Raises:
            LedgerError: read-only, or the disk refused, or the pieces were others the second time;
                no half of it is left under a digest.
        """
        pieces = (data,) if isinstance(data, bytes) else data
        digest = digest_pieces(pieces)
        path = self.path(digest)
        if not self._writable:
            message = f"{self.root} was opened read-only: nothing can be stored in it"
            raise LedgerError(message)
        try:
            if _touched(path, digest):
                # The process that stored it may have died before its name was on the disk.
                sync_name(path)
            else:
                private_folder(self.root)
                private_folder(path.parent)
                with durably(path) as file:
                    _write(file, pieces, digest)
        except UnsafePathError as error:
            raise LedgerError(str(error)) from error
        except OSError as error:
            message = f"{path} could not be written: {error}; free some space and try again"
            raise LedgerError(message) from error
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes of an object, checked against its digest.

        Raises:
            NotFoundError: it is not in the store.
            TamperError: its bytes are not those it was stored with.
        """
        data = self._read(digest, Path.read_bytes)
        self._compare(digest, digest_bytes(data))
        return data

    def checked(self, digest: str) -> Path:
        """Return the file of an object of any size, after checking its bytes.

        Raises:
            NotFoundError, TamperError: as `get`.
        """
        self._compare(digest, self._read(digest, digest_file))
        return self.path(digest)

    def has(self, digest: str) -> bool:
        """Return whether an object is there; its bytes are checked when it is read."""
        return _is_object(self.path(digest))

    def _read(self, digest: str, read: Callable[[Path], R]) -> R:
        path = self.path(digest)
        try:
            if not _is_object(path):
                path.lstat()  # raises where there is nothing at all
                message = "it is no regular file"
                raise OSError(message)
            return read(path)
        except FileNotFoundError as error:
            message = f"{digest} is not in {self.root}; replay its experiment to make it again"
            raise NotFoundError(message) from error
        except OSError as error:
            message = f"{path} cannot be read: {error}; replay its experiment to make it again"
            raise LedgerError(message) from error

    def _compare(self, digest: str, actual: str) -> None:
        if actual != digest:
            path = self.path(digest)
            message = f"{path} is {actual}, not {digest}: it is damaged; replay its experiment"
            raise TamperError(message)


def _write(file: BinaryIO, pieces: Iterable[bytes], digest: str) -> None:
    written = hashlib.sha256()
    for piece in pieces:
        written.update(piece)
        file.write(piece)
    if HASH_PREFIX + written.hexdigest() != digest:
        message = f"what was to be stored changed meanwhile: it was {digest}; make it again"
        raise LedgerError(message)


def _is_object(path: Path) -> bool:
    """Return whether a regular file is there: no link, and nothing that a reader would wait for."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _touched(path: Path, digest: str) -> bool:
    """Return whether an object is there and whole, and young again for a garbage collection."""
    if not _is_object(path):
        return False
    try:
        # In this order: an object taken away in between is missed here, and written anew.
        os.utime(path)
        # A damaged object is replaced by the next write of the right bytes.
        return digest_file(path) == digest
    except FileNotFoundError:
        return False
