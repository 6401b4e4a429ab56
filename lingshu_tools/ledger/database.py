"""Transactions on a ledger: short, retried, and with one kind of error."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import SystemRandom
from typing import Self, TypeVar

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DBAPIError

from lingshu_tools.errors import LedgerError, LockedError
from lingshu_tools.ledger import schema
from lingshu_tools.ledger.backend import Backend
from lingshu_tools.ledger.chain import append
from lingshu_tools.ledger.differences import require_none
from lingshu_tools.ledger.liveness import BUSY_S
from lingshu_tools.ledger.migrations import BASELINE, REVISIONS
from lingshu_tools.ledger.rows import new_id, now
from lingshu_tools.system.deadline import LEAST_S, remaining, time_limit

T = TypeVar("T")
_NOTHING = "nothing was recorded"
# A commit can fail in its last step, when the rows are in the file already.
_UNKNOWN = "what was asked may or may not have been recorded: look before you ask again"


UNREADABLE = (DBAPIError, UnicodeDecodeError)
"""SQLite quotes what is damaged in its messages, and sqlite3 may fail to read those."""


def why(error: DBAPIError | UnicodeDecodeError) -> object:
    """Return what the database said."""
    return error.orig if isinstance(error, DBAPIError) else f"it is damaged ({error})"


class Database:
    """One ledger's database; `writable` says whether `write` works."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.reader = backend.reader()
        self.revision = BASELINE
        self._writer = backend.writer() if backend.writable else None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.backend.name

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._writer is not None

    @classmethod
    def open(cls, backend: Backend) -> Self:
        """Return the database, made with all its tables where there is none.

        Raises:
            LockedError: another program keeps it locked.
            LedgerError: it is no ledger, one of another format, or cannot be opened.
            SchemaError: its schema is not as its revision says.
        """
        # Most are there already, and are opened without waiting for a process that writes.
        self = cls(backend)
        if backend.exists and self._is_ledger():
            return self
        with backend.alone():
            # Anew: another process may have chosen the journal meanwhile.
            self = cls(backend)
            self.revision = self.write(self._create)
        return self

    @classmethod
    def open_read_only(cls, backend: Backend, *, audit: bool = False) -> Self:
        """Return the database; nothing is written, not even beside a file.

        Args:
            backend: where it is.
            audit: take it whatever its views, triggers and indexes are: for `verify` and
                `migrate`, which name what differs.

        Raises:
            LedgerError: it is missing, no ledger, or one of another format.
            SchemaError: it is not as its revision says.
        """
        self = cls(backend)
        with self.read() as connection:
            self.revision = revision_of(connection) if audit else self._required(connection)
        return self

    @contextmanager
    def read(self) -> Generator[Connection]:
        """Give a connection that sees one state of the ledger; hold it briefly.

        Raises:
            LockedError: another program keeps it locked.
            LedgerError: it cannot be read.
        """
        started = time.monotonic()
        try:
            with self.reader.begin() as connection:
                yield connection
        except UNREADABLE as error:
            if cause := self.backend.cause(error):
                raise LedgerError(cause) from error
            if self.backend.is_busy(error):
                raise self._locked(started, "nothing was read") from error
            message = f"{self.name} cannot be read: {why(error)}; run `lingshu ledger verify`"
            raise LedgerError(message) from error

    def write(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, after its rows are on the disk; it may be called again.

        Raises:
            LockedError: another program keeps it locked; nothing was recorded.
            LedgerError: read-only, or the rows could not be written: none of them was, or, where
                the commit itself failed, all or none.
        """
        if self._writer is None:
            message = f"{self.name} was opened read-only: open your own ledger to record anything"
            raise LedgerError(message)
        started = time.monotonic()
        # Everything inside waits for the rest of this time at most.
        with time_limit(remaining(BUSY_S)):
            while True:
                effect = _NOTHING
                try:
                    with self._writer.begin() as connection:
                        result = work(connection)
                        effect = _UNKNOWN
                    return result
                except UNREADABLE as error:
                    if cause := self.backend.cause(error):
                        raise LedgerError(cause) from error
                    if not self.backend.is_busy(error):
                        message = f"{self.name} cannot be written: {why(error)}; {effect}"
                        raise LedgerError(message) from error
                    if remaining(BUSY_S) <= LEAST_S:
                        raise self._locked(started, _NOTHING) from error
                # Readers get in meanwhile: a writer that waits for one keeps the others out.
                time.sleep(remaining(SystemRandom().uniform(0.05, 0.5)))

    def _is_ledger(self) -> bool:
        with self.read() as connection:
            if self.backend.is_empty(connection):
                return False
            self.revision = self._required(connection)
        return True

    def _required(self, connection: Connection) -> str:
        """Return the revision, and refuse a database that is not as it says."""
        revision = revision_of(connection)
        require_none(self.backend.differences(connection, revision), self.name, revision)
        return revision

    def _locked(self, started: float, effect: str) -> LockedError:
        who = self.backend.blockers() or "another program"
        message = (
            f"{self.name} is locked by {who}; waited {time.monotonic() - started:.1f} s, {effect}. "
            "A backup or a database browser holds such locks: close it or wait until it has ended, "
            "then ask again"
        )
        return LockedError(message)

    def _create(self, connection: Connection) -> str:
        if self.backend.is_empty(connection):
            self.backend.create(connection)
            start = {"id": new_id("led"), "format": schema.FORMAT, "created_at": now()}
            append(connection, schema.ledger, **start)
        return self._required(connection)


def revision_of(connection: Connection) -> str:
    """Return the revision of a ledger's schema.

    Raises:
        LedgerError: it is no ledger, or one of another format or a newer revision.
    """
    revision = None
    if inspect(connection).has_table(schema.ledger.name):
        revision = connection.scalar(select(schema.ledger.c.format))
    if revision != schema.FORMAT:
        message = (
            f"this file has the format {revision!r}, and this version reads {schema.FORMAT!r}: "
            + ("use a newer lingshu-tools" if revision else "it is not a ledger, name another file")
        )
        raise LedgerError(message)
    return _revision(connection)


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table(schema.revision.name):
        return BASELINE
    revision = connection.scalar(select(schema.revision.c.version_num))
    if revision not in REVISIONS:
        message = (
            f"this ledger has the schema {revision!r}, and this version knows "
            f"{', '.join(REVISIONS)}: it was made by a newer lingshu-tools; use that one"
        )
        raise LedgerError(message)
    return str(revision)
