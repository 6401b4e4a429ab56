"""Connections to SQLite files; while one is open, other threads' forks wait.

SQLite keeps the locks of a process in memory: a child forked in the middle of a transaction would
believe that it has locks which no thread of it can give up, and wait for itself, or worse, not wait
for others (https://sqlite.org/howtocorrupt.html, 2.6).
"""

import sqlite3
from pathlib import Path

from lingshu_model.system.forks import DividedError, Section, require_whole
from lingshu_tools.errors import LedgerError


class SameFile:
    """A database file that must stay the one that was opened first.

    SQLite would make a new, empty file in the place of one that was deleted, and a process would go
    on with another's ledger where one was put in its place. A new file that got the number of the
    deleted one is not told from it; it is a whole ledger all the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None

    def require(self) -> None:
        """Return if it is, or is still to be made.

        Raises:
            LedgerError: it was moved, deleted or replaced; what is said is what to do.
        """
        try:
            status = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            if self._identity is None:
                return
            self._refuse("is gone: it, or its home, was moved or deleted")
            return
        identity = status.st_dev, status.st_ino
        if self._identity is None and status.st_size:
            self._identity = identity
        elif self._identity not in (None, identity):
            self._refuse("is another file now: it was replaced")

    def _refuse(self, what: str) -> None:
        message = (
            f"{self._path} {what} while this process had it open; nothing was read or recorded. "
            "Put it back, or restart this process to go on with what is there then"
        )
        raise LedgerError(message)


class _Connection(sqlite3.Connection):
    section: Section | None = None

    def close(self) -> None:
        """Close it, and let forks happen."""
        try:
            super().close()
        finally:
            if self.section:
                self.section.leave()


def connect(name: str, *, timeout: float) -> sqlite3.Connection:
    """Return a connection to the file that a URI names, without transactions of Python's own.

    Args:
        name: the URI, `file:PATH?mode=…`.
        timeout: seconds to wait for locks.

    Raises:
        LedgerError: this process was forked in the middle of a transaction of its parent.
        sqlite3.OperationalError: the file cannot be opened.
    """
    try:
        require_whole()
    except DividedError as error:
        raise LedgerError(str(error)) from error
    section = Section()
    try:
        connection = sqlite3.connect(
            name,
            uri=True,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
    except BaseException:
        section.leave()
        raise
    connection.section = section
    return connection
