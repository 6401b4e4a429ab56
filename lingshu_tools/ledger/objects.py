"""A content-addressed store: bytes under their digest, durable before they are named.

`objects/ab/cdef…` holds the bytes whose SHA-256 is `abcdef…`. Knows nothing of what the bytes are
or of who needs them.
"""

import os
import re
from pathlib import Path

from lingshu_model.wire.durable import sync_name, write_durably
from lingshu_tools.errors import InputError, LedgerError, NotFoundError, TamperError
from lingshu_tools.ledger.canonical import digest_bytes, digest_file

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
                f"{digest!r} is not a digest: `sha256:` and 64 hexadecimal digits in lower case"
            )
            raise InputError(message)
        digits = digest.removeprefix("sha256:")
        return self.root / digits[:2] / digits[2:]

    def put(self, data: bytes) -> str:
        """Return the digest of `data`, which is on the disk when this returns.

        Raises:
            LedgerError: read-only, or the disk refused; no half of it is left under a digest.
        """
        digest = digest_bytes(data)
        path = self.path(digest)
        if not self._writable:
            message = f"{self.root} was opened read-only: nothing can be stored in it"
            raise LedgerError(message)
        try:
            if _touched(path, digest):
                # Whoever stored it may have died before its name was on the disk.
                sync_name(path)
            else:
                write_durably(path, data)
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
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            message = f"{digest} is not in {self.root}; replay its experiment to make it again"
            raise NotFoundError(message) from error
        except OSError as error:
            message = f"{path} cannot be read: {error}; replay its experiment to make it again"
            raise LedgerError(message) from error
        if (found := digest_bytes(data)) != digest:
            message = f"{path} is {found}, not {digest}: it is damaged; replay its experiment"
            raise TamperError(message)
        return data

    def has(self, digest: str) -> bool:
        """Return whether an object is there; its bytes are checked when it is read."""
        return self.path(digest).is_file()


def _touched(path: Path, digest: str) -> bool:
    """Return whether an object is there and whole, and young again for whoever collects garbage."""
    try:
        # In this order: an object taken away in between is missed here, and written anew.
        os.utime(path)
        # A damaged object is replaced by whoever brings the right bytes again.
        return digest_file(path) == digest
    except FileNotFoundError:
        return False
