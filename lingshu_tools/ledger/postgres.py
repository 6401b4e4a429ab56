"""All that is PostgreSQL's own: engines, what stops a rewrite, and who is alive.

Writing transactions take one advisory lock first, so that the chain stays a line; the reader's see
one state and are read-only. An attempt is alive as long as the connection that holds its advisory
lock. No connection outlives its transaction but that one.
"""

import math
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    NullPool,
    Select,
    Text,
    create_engine,
    event,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from lingshu_model.system import forks
from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import postgres_schema
from lingshu_tools.ledger.differences import Difference
from lingshu_tools.ledger.liveness import BUSY_S
from lingshu_tools.ledger.search import Read
from lingshu_tools.system.deadline import remaining

_CONNECT_S = 10
_WRITER_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('ledger ' || current_schema(), 0))"
_TAKE = "SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"
_SETTINGS = {"synchronous_commit": "on"}
# The last is a statement that took the time that a call had left.
_BUSY = ("LockNotAvailable", "DeadlockDetected", "SerializationFailure", "QueryCanceled")
_BLOCKERS = """SELECT DISTINCT a.pid, a.application_name, a.usename
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE l.granted AND l.pid <> pg_backend_pid() AND (
    (l.locktype = 'advisory' AND l.classid::bigint << 32 | l.objid::bigint
      = hashtextextended('ledger ' || current_schema(), 0))
    OR (n.nspname = current_schema() AND l.mode IN
      ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')))"""
_HELD = text(
    "SELECT l.classid::bigint << 32 | l.objid::bigint"
    " FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
    " WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()"
    " AND l.objsubid = 1"
)


class PostgresBackend:
    """A schema of a PostgreSQL database: the first one of the connection's `search_path`."""

    path = None

    def __init__(self, url: URL, *, writable: bool) -> None:
        self._url = url.set(drivername="postgresql+psycopg")
        self.writable = writable

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self._url.render_as_string()

    @property
    def address(self) -> str:
        """The URL, password and all: for a pipe, never for an argument or a message."""
        return self._url.render_as_string(hide_password=False)

    def reader(self) -> Engine:
        """Return the engine for reading: one state, and nothing written."""
        engine = self._engine()
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def writer(self) -> Engine:
        """Return the engine for transactions that write, one after the other."""
        engine = self._engine()

        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql(_WRITER_LOCK)

        # After the one that limits how long it waits.
        event.listen(engine, "begin", on_begin)
        return engine

    def _engine(self) -> Engine:
        try:
            engine = create_engine(self._url, poolclass=NullPool)
        except ModuleNotFoundError as error:
            message = f"{error}; install lingshu-tools[postgres] for ledgers on PostgreSQL"
            raise LedgerError(message) from error
        event.listen(engine, "do_connect", _limit_connecting)
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _limit_waiting)
        return engine

    @property
    def exists(self) -> bool:
        """True: only the server can tell."""
        return True

    @contextmanager
    def alone(self) -> Generator[None]:
        """Do nothing: here tables are made in transactions, and those wait for each other."""
        yield

    def is_empty(self, connection: Connection) -> bool:
        """Return whether the schema has no ledger yet; other tables may be there."""
        return not inspect(connection).has_table("ledger")

    def create(self, connection: Connection) -> None:
        """Make every table, index, function, trigger and view."""
        postgres_schema.create(connection)

    def is_busy(self, error: Exception) -> bool:
        """Return whether somebody else held what was needed for too long."""
        return type(getattr(error, "orig", error)).__name__ in _BUSY

    def cause(self, error: Exception) -> str | None:
        """Return None: a server says itself what is wrong."""
        del error

    def blockers(self) -> str:
        """Return which connections hold locks that stop the ledger; empty if it cannot be asked."""
        try:
            with self._engine().connect() as connection:
                rows = connection.exec_driver_sql(_BLOCKERS).all()
        except DBAPIError:
            return ""
        return ", ".join(f"server process {pid} ({app or user})" for pid, app, user in rows)

    def flaws(self, connection: Connection, *, revision: str) -> Iterator[tuple[int | None, str]]:
        """Yield what of the schema is not as its revision; foreign keys PostgreSQL minds."""
        for each in postgres_schema.differences(connection, self._engine(), revision):
            yield None, each.explained

    def differences(self, connection: Connection, revision: str) -> list[Difference]:
        """Return the triggers that are not as in a revision."""
        return postgres_schema.trigger_differences(connection, revision)

    def restore(self, connection: Connection, revision: str) -> None:
        """Put back the functions and triggers that a revision has."""
        postgres_schema.restore(connection, self._engine(), revision)

    def locks(self, folder: Path) -> "AdvisoryLocks":
        """Return the locks that connections hold; no lock files are needed."""
        del folder
        return AdvisoryLocks(self._engine())

    def search(self, read: Read) -> None:
        """Return no index: PostgreSQL looks at every row."""
        del read


class AdvisoryLock:
    """An advisory lock, held by a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._pid = connection, os.getpid()
        forks.register(self)

    def after_fork(self) -> None:
        """Close the child's copy of the socket, so that the lock ends with the parent."""
        driver = self._connection.connection.dbapi_connection
        if driver is not None:
            # The driver may still close the number that it knows: it becomes another file's.
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, driver.fileno())
            os.close(null)

    @property
    def held(self) -> bool:
        """Whether it has not been released yet, in the process that took it.

        A server that restarted has let it go all the same. Work that went on meanwhile may still be
        sealed: an experiment takes one outcome, the first.
        """
        return self._pid == os.getpid() and not self._connection.closed

    def release(self) -> None:
        """Close the connection, and with it the lock; a second time does nothing."""
        if self.held:
            with suppress(DBAPIError):
                self._connection.close()


class AdvisoryLocks:
    """Locks by name, seen from every machine that reaches the server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    def acquire(self, name: str) -> AdvisoryLock | None:
        """Return the lock, or None while somebody else holds it."""
        with _said(self._engine):
            connection = self._engine.connect()
            if connection.scalar(text(_TAKE), {"name": name}):
                return AdvisoryLock(connection)
            connection.close()
        return None

    def held(self, names: Iterable[str]) -> set[str]:
        """Return which of these somebody holds."""
        return self.held_in(select(func.unnest(array(names, type_=Text))))

    def held_in(self, query: Select[tuple[str]]) -> set[str]:
        """Return which of the names that a query gives somebody holds."""
        (name,) = query.subquery().c
        # A lock has a number, and it does not say which name that was made of.
        held = select(name).where(func.hashtextextended(name, 0).in_(_HELD))
        with _said(self._engine), self._engine.connect() as connection:
            return set(connection.scalars(held))


@contextmanager
def _said(engine: Engine) -> Generator[None]:
    try:
        yield
    except DBAPIError as error:
        message = f"{engine.url.render_as_string()} cannot be asked who is alive: {error.orig}"
        raise LedgerError(message) from error


def _limit_connecting(_: Any, __: Any, ___: Any, parameters: dict[str, Any]) -> None:
    # libpq takes whole seconds, and at least 2.
    parameters.setdefault("connect_timeout", max(2, int(remaining(_CONNECT_S))))


def _limit_waiting(connection: Connection) -> None:
    """Let locks be waited for, and where the call has a time limit any statement run, that long."""
    milliseconds = int(remaining(BUSY_S) * 1000)
    connection.exec_driver_sql(f"SET lock_timeout = {milliseconds}")
    if remaining(math.inf) < math.inf:
        connection.exec_driver_sql(f"SET statement_timeout = {milliseconds + 250}")


def _prepare(connection: Any, _: Any) -> None:
    """Set what a ledger needs on a new connection, and read it back."""
    with connection.cursor() as cursor:
        for name, value in _SETTINGS.items():
            cursor.execute(f"SET {name} TO '{value}'")
            (kept,) = cursor.execute(f"SHOW {name}").fetchone()
            if kept != value:
                message = f"PostgreSQL kept {name}={kept!r} where {value!r} is needed"
                raise LedgerError(message)
        (encoding,) = cursor.execute("SHOW server_encoding").fetchone()
    connection.commit()
    if encoding != "UTF8":
        message = f"the database's encoding is {encoding}; make one with ENCODING 'UTF8'"
        raise InputError(message)
