"""Who is alive: one lock per experiment at work, freed when its holder dies.

Beside a database in a file, a lock is `flock` on `locks/NAME.lock`. The file says which machine
made it, because a lock taken on another machine cannot be seen through every shared file system:
such a file counts as alive until somebody removes it. A child forked from a holder holds the lock
too. A server keeps locks itself. Knows nothing of experiments.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from sqlalchemy import Select

from lingshu_tools.errors import LedgerError

_ABSENT = (FileNotFoundError, NotADirectoryError)
# A probe holds the lock for microseconds; these pauses outlast it.
_PAUSES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


def boot_id() -> str:
    """Return what tells this boot of this kernel from others; empty where there is nothing."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text("ascii").strip() if path.exists() else ""


class Lock(Protocol):
    """A lock that is held until `release` or the end of the process."""

    @property
    def held(self) -> bool:
        """Whether it has not been released yet."""
        ...

    def release(self) -> None:
        """Give it up; a second time does nothing."""
        ...


class Locks(Protocol):
    """Locks by name."""

    def acquire(self, name: str) -> Lock | None:
        """Return the lock, or None while somebody else holds it."""
        ...

    def held(self, names: Iterable[str]) -> set[str]:
        """Return which of these somebody holds."""
        ...

    def held_in(self, query: Select[tuple[str]]) -> set[str]:
        """Return which of the names that a query gives somebody holds, and maybe others.

        It costs as much as there are locks, or as a server takes for the query: nobody has to ask
        about each name.
        """
        ...


class FileLock:
    """A lock on a file of its own."""

    def __init__(self, path: Path, handle: BinaryIO) -> None:
        self._path = path
        self._handle = handle

    @property
    def held(self) -> bool:
        """Whether it has not been released yet."""
        return not self._handle.closed

    def release(self) -> None:
        """Give it up; a second time does nothing."""
        if self.held:
            # Removed before it is freed: who waits on the old file sees that it has no name left.
            # A file that cannot be removed is free all the same.
            try:
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)
            finally:
                self._handle.close()


class FileLocks:
    """A folder of lock files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._machine = f"{socket.gethostname()} {boot_id()}".encode()

    def acquire(self, name: str) -> FileLock | None:
        """Return the lock, or None while somebody else holds it."""
        for pause in _PAUSES:
            time.sleep(pause)
            if self._is_foreign(self._path(name)):
                return None
            if lock := self._try(self._path(name)):
                return lock
        return None

    def held(self, names: Iterable[str]) -> set[str]:
        """Return which of these somebody holds, as far as this machine can tell."""
        return {name for name in names if self._is_held(self._path(name))}

    def held_in(self, query: Select[tuple[str]]) -> set[str]:
        """Return what is held, whatever the query: what has no file is not."""
        del query
        return self.held(path.stem for path in self._folder.glob("*.lock"))

    def _is_held(self, path: Path) -> bool:
        try:
            with path.open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except _ABSENT:
            return False
        except BlockingIOError:
            return True
        return self._is_foreign(path)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def _try(self, path: Path) -> FileLock | None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = path.open("a+b", buffering=0)
        except OSError as error:
            message = f"{path} cannot be made ({error}); free some space and try again"
            raise LedgerError(message) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
                raise FileNotFoundError
            handle.truncate(0)
            handle.write(self._machine)
        except (BlockingIOError, FileNotFoundError):
            handle.close()
            return None
        except OSError as error:
            handle.close()
            message = (
                f"{path} cannot be locked ({error}); free some space, or move the ledger to a "
                "local disk"
            )
            raise LedgerError(message) from error
        return FileLock(path, handle)

    def _is_foreign(self, path: Path) -> bool:
        try:
            host, _, boot = path.read_bytes().partition(b" ")
        except _ABSENT:
            return False
        ours, _, our_boot = self._machine.partition(b" ")
        return bool(host) and host != ours and (not boot or boot != our_boot)
