"""Connections to SQLite files; while one is open, other threads' forks wait.

SQLite keeps the locks of a process in memory: a child forked in the middle of a transaction would
believe that it has locks which no thread of it can give up, and wait for itself, or worse, not wait
for others (https://sqlite.org/howtocorrupt.html, 2.6).
"""

import sqlite3

from lingshu_model.wire.forks import DividedError, Section, require_whole
from lingshu_tools.errors import LedgerError


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
