"""Who is alive: one lock per experiment at work, freed when its holder dies.

Beside a database in a file, a lock is a `file_locks` lock on `locks/NAME.lock`. The file says which
machine made it, because a lock taken on another machine cannot be seen through every shared file
system: such a file counts as alive until somebody removes it. A child forked from a holder lets go
of the lock at once. A server keeps locks itself.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from sqlalchemy import Select

from lingshu_model.system.file_locks import FileLock, NoLocksError, is_held, try_lock
from lingshu_model.system.private import UnsafePathError, private_folder
from lingshu_tools.errors import LedgerError

BUSY_S = 30.0
"""The longest wait for other programs' locks, where no call's time limit is shorter."""
# A probe holds the lock for microseconds; these pauses outlast it.
_PAUSES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


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


class FileLocks:
    """A folder of lock files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def acquire(self, name: str) -> FileLock | None:
        """Return the lock, or None while somebody else holds it.

        Raises:
            LedgerError: its file cannot be made or locked.
        """
        for pause in _PAUSES:
            time.sleep(pause)
            if lock := self._try(self._path(name)):
                return lock
        return None

    def held(self, names: Iterable[str]) -> set[str]:
        """Return which of these somebody holds, as far as this machine can tell."""
        try:
            return {name for name in names if is_held(self._path(name), foreign=True)}
        except UnsafePathError as error:
            raise LedgerError(str(error)) from error

    def held_in(self, query: Select[tuple[str]]) -> set[str]:
        """Return what is held, whatever the query: what has no file is not."""
        del query
        return self.held(path.stem for path in self._folder.glob("*.lock"))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def _try(self, path: Path) -> FileLock | None:
        try:
            private_folder(self._folder)
            return try_lock(path, remove=True, foreign=True)
        except NoLocksError as error:
            raise LedgerError(str(error)) from error
        except UnsafePathError as error:
            message = f"{path} cannot be made: {error}"
            raise LedgerError(message) from error
        except OSError as error:
            message = (
                f"{path} cannot be locked ({error}); free some space, or move the ledger to a "
                "local disk"
            )
            raise LedgerError(message) from error
