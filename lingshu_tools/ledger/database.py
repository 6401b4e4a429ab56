"""Transactions on a ledger file: short, retried, and with one kind of error.

Knows nothing of what is read or written.
"""

import fcntl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine, insert, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import derived, schema, sqlite
from lingshu_tools.ledger.chain import append
from lingshu_tools.ledger.migrations import BASELINE, HEAD, REVISIONS
from lingshu_tools.ledger.rows import new_id, now

T = TypeVar("T")
# Each try has waited for sqlite.BUSY_S already.
_TRIES = 3
_NOTHING = "nothing was recorded"
# A commit can fail in its last step, when the rows are in the file already.
_UNKNOWN = "what was asked may or may not have been recorded: look before you ask again"


UNREADABLE = (DBAPIError, UnicodeDecodeError)
"""SQLite quotes what is damaged in its messages, and sqlite3 may fail to read those."""


def why(error: DBAPIError | UnicodeDecodeError) -> object:
    """Return what the database said."""
    return error.orig if isinstance(error, DBAPIError) else f"it is damaged ({error})"


class Database:
    """One ledger file; `writable` says whether `write` works."""

    def __init__(self, path: Path, reader: Engine, writer: Engine | None = None) -> None:
        self.path = path
        self.reader = reader
        self.revision = BASELINE
        self._writer = writer

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._writer is not None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the database at `path`, made with all its tables where there is none.

        Raises:
            LedgerError: it is no ledger, one of another format, or cannot be opened.
        """
        with opening(path):
            journal = sqlite.journal_for(path)
            self = cls(path, sqlite.reader(path), sqlite.writer(path, journal))
            self.revision = self.write(_create)
        return self

    @classmethod
    def open_read_only(cls, path: Path) -> Self:
        """Return the database at `path`; nothing is written, not even beside it.

        Raises:
            LedgerError: it is missing, no ledger, or one of another format.
        """
        self = cls(path, sqlite.read_only(path))
        with self.read() as connection:
            self.revision = _check(connection)
        return self

    @contextmanager
    def read(self) -> Generator[Connection]:
        """Give a connection that sees one state of the ledger; hold it briefly."""
        try:
            with self.reader.begin() as connection:
                yield connection
        except UNREADABLE as error:
            message = f"{self.path} cannot be read: {why(error)}; run `lingshu ledger verify`"
            raise LedgerError(message) from error

    def write(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, after its rows are on the disk; it may be called again.

        Raises:
            LedgerError: read-only, or the rows could not be written: none of them was, or, where
                the commit itself failed, all or none.
        """
        if self._writer is None:
            message = f"{self.path} was opened read-only: open your own ledger to record anything"
            raise LedgerError(message)
        for left in reversed(range(_TRIES)):
            done = _NOTHING
            try:
                with self._writer.begin() as connection:
                    made = work(connection)
                    done = _UNKNOWN
                return made
            except UNREADABLE as error:
                if not (left and sqlite.is_locked(error)):
                    message = f"{self.path} cannot be written: {why(error)}; {done}"
                    raise LedgerError(message) from error
            time.sleep(SystemRandom().uniform(0.05, 0.5))
        raise AssertionError


def path_of(home: Path, url: str | None) -> Path:
    """Return the database file of `home`, or the one that `url` names.

    Raises:
        InputError: not a URL of an SQLite file.
    """
    if url is None:
        return home / "experiments.db"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        message = f"{url!r} is no URL of a ledger; write sqlite:////absolute/path/experiments.db"
        raise InputError(message) from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        message = f"{url!r}: this version keeps ledgers in SQLite files, sqlite:////absolute/path"
        raise InputError(message)
    return Path(parsed.database).absolute()


@contextmanager
def opening(path: Path) -> Generator[None]:
    """Let one process at a time decide the journal and make or change the tables.

    Raises:
        LedgerError: the folder cannot be written to.
    """
    # Never a lock on the database itself: closing any descriptor of it would drop SQLite's own.
    guard = path.with_name(f"{path.name}.open")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = guard.open("ab")
    except OSError as error:
        message = f"{guard} cannot be made: {error}; set LINGSHU_HOME to a folder you can write to"
        raise LedgerError(message) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def create_tables(connection: Connection) -> None:
    """Make all that the newest revision of the schema has, in an empty database; no row of it."""
    sqlite.create_tables(connection)
    derived.create(connection)
    schema.revision.create(connection)
    connection.execute(insert(schema.revision), {"version_num": HEAD})


def _create(connection: Connection) -> str:
    if not inspect(connection).get_table_names():
        create_tables(connection)
        append(connection, schema.ledger, id=new_id("led"), format=schema.FORMAT, created_at=now())
    return _check(connection)


def _check(connection: Connection) -> str:
    found = None
    if inspect(connection).has_table(schema.ledger.name):
        found = connection.scalar(select(schema.ledger.c.format))
    if found != schema.FORMAT:
        message = (
            f"this file has the format {found!r}, and this version reads {schema.FORMAT!r}: "
            + ("use a newer lingshu-tools" if found else "it is not a ledger, name another file")
        )
        raise LedgerError(message)
    return _revision(connection)


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table(schema.revision.name):
        return BASELINE
    found = connection.scalar(select(schema.revision.c.version_num))
    if found not in REVISIONS:
        message = (
            f"this ledger has the schema {found!r}, and this version knows {', '.join(REVISIONS)}: "
            "it was made by a newer lingshu-tools; use that one"
        )
        raise LedgerError(message)
    return str(found)
