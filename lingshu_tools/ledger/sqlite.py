"""All that is SQLite's own: how a file is opened, which journal it gets, what stops a rewrite.

Two engines per ledger: the writer's transactions begin IMMEDIATE, so that they wait for each other
instead of failing; the reader is `query_only`. No connection outlives its transaction.
"""

import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import (
    Connection,
    Engine,
    NullPool,
    create_engine,
    event,
    inspect,
)

from lingshu_model.system.file_locks import (
    LockTimeoutError,
    NoLocksError,
    require_record_locks,
    wait_for_lock,
)
from lingshu_model.system.private import make_private, private_folder
from lingshu_tools.errors import LedgerError, LockedError
from lingshu_tools.ledger import sqlite_schema
from lingshu_tools.ledger.blockers import blockers
from lingshu_tools.ledger.connections import SameFile, connect
from lingshu_tools.ledger.differences import Difference
from lingshu_tools.ledger.liveness import BUSY_S, FileLocks
from lingshu_tools.ledger.search import Read, Search
from lingshu_tools.system.deadline import remaining

# A commit waits for readers, and no reader may begin meanwhile: so it waits in short turns.
_COMMIT_WAIT_S = 1.0
# A fork waits for what is open: a transaction that cannot begin lets it happen now and then.
_BEGIN_WAIT_S = 2.0
_PRAGMAS = {
    "foreign_keys": 1,
    # Without it INSERT OR REPLACE deletes a row behind the delete trigger's back.
    "recursive_triggers": 1,
    "synchronous": 2,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "mmap_size": 0,
    # 32 MiB: the 2 MiB it begins with make an audit read most pages twice.
    "cache_size": -32_768,
    # macOS: a plain fsync does not reach the platter. No effect elsewhere.
    "fullfsync": 1,
}
Mode = Literal["wal", "truncate"]


@dataclass(frozen=True)
class Journal:
    """The journal a ledger uses, and why."""

    mode: Mode
    reason: str


def journal_for(
    database: Path, version: tuple[int, int, int] = sqlite3.sqlite_version_info
) -> Journal:
    """Return the journal for `database` under an SQLite; a file that has one keeps it.

    Raises:
        LedgerError: a WAL file met by a SQLite whose WAL can corrupt it.
    """
    named = "SQLite " + ".".join(map(str, version))
    safe = _wal_is_safe(version)
    if database.exists() and database.stat().st_size:
        if not _is_wal(database):
            return Journal("truncate", "the file was made with a rollback journal and keeps it")
        if safe:
            return Journal("wal", "the file was made with a write-ahead log and keeps it")
        message = (
            f"{database} uses a write-ahead log, which {named} can corrupt when two processes "
            "write (fixed in 3.51.3, 3.50.7 and 3.44.6): use a Python with a newer SQLite, or read "
            "it with open_read_only"
        )
        raise LedgerError(message)
    if safe:
        return Journal("wal", f"{named} has the WAL-reset fix")
    return Journal("truncate", f"{named} lacks the WAL-reset fix of 3.51.3, so no write-ahead log")


def _wal_is_safe(version: tuple[int, int, int]) -> bool:
    backport = {(3, 50): 7, (3, 44): 6}.get(version[:2])
    return version >= (3, 51, 3) or (backport is not None and version[2] >= backport)


def _is_wal(database: Path) -> bool:
    with database.open("rb") as file:
        return file.read(20)[18:19] == b"\x02"


class SqliteBackend:
    """A ledger in an SQLite file."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        self.writable = writable
        self._same = SameFile(path)

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def address(self) -> str:
        """The file: a URL would lose what follows a question mark in its name."""
        return str(self.path.absolute())

    def reader(self) -> Engine:
        """Return the engine for reading; of a file that is only to be read, it writes nothing."""
        return reader(self.path, self._same) if self.writable else read_only(self.path)

    def writer(self) -> Engine:
        """Return the engine for transactions that write, with the journal that the file has."""
        return writer(self.path, journal_for(self.path), self._same)

    @property
    def exists(self) -> bool:
        """Whether there is a file with something in it."""
        return self.path.is_file() and self.path.stat().st_size > 0

    @contextmanager
    def alone(self) -> Generator[None]:
        """Let one process at a time decide the journal and make or change the tables.

        Raises:
            LockedError: another process is at it for longer than one may wait.
            LedgerError: the folder cannot be written to.
        """
        # Never a lock on the database itself: closing any descriptor of it would drop SQLite's own.
        guard = self.path.with_name(f"{self.path.name}.open")
        try:
            if not self.path.parent.exists():
                private_folder(self.path.parent)
            lock = wait_for_lock(guard, timeout_s=remaining(BUSY_S))
        except LockTimeoutError as error:
            who = blockers(guard) or "another process"
            message = (
                f"{self.path} is being made or migrated by {who}, which holds {guard}; nothing was "
                "recorded. Ask again when it is ready, or end it"
            )
            raise LockedError(message) from error
        except NoLocksError as error:
            raise LedgerError(str(error)) from error
        except OSError as error:
            message = (
                f"{guard} cannot be made: {error}; set LINGSHU_HOME to a folder you can write to"
            )
            raise LedgerError(message) from error
        with lock:
            yield

    def blockers(self) -> str:
        """Return which processes hold locks on the file; empty where the system does not tell."""
        return blockers(self.path, self.path.with_name(f"{self.path.name}-shm"))

    def is_empty(self, connection: Connection) -> bool:
        """Return whether the file has no table at all."""
        return not inspect(connection).get_table_names()

    def create(self, connection: Connection) -> None:
        """Make every table, index, trigger and view in the transaction that is open."""
        sqlite_schema.create_tables(connection)

    def is_busy(self, error: Exception) -> bool:
        """Return whether somebody else was writing for as long as this one waited."""
        text = str(error)
        return "database is locked" in text or "database table is locked" in text

    def cause(self, error: Exception) -> str | None:
        """Return that the file system has no locks, where SQLite says only what came of it."""
        if any(said in str(error) for said in ("locked", "disk I/O error", "locking protocol")):
            try:
                require_record_locks(self.path.parent)
            except NoLocksError as missing:
                return str(missing)
            except OSError:  # it cannot be tried in a folder that is only to be read
                return None
        return None

    def flaws(self, connection: Connection, *, revision: str) -> Iterator[tuple[int | None, str]]:
        """Yield what SQLite's own checks find, and what of the schema is not as its revision."""
        for (said,) in connection.exec_driver_sql("PRAGMA integrity_check(10)"):
            if said != "ok":
                yield None, f"SQLite's integrity check says: {said}"
        for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            yield row, f"{table} refers to a {parent} that is not there"
        for difference in sqlite_schema.differences(connection, revision):
            yield None, difference.explained

    def differences(self, connection: Connection, revision: str) -> list[Difference]:
        """Return what of the schema is not as in a revision."""
        return sqlite_schema.differences(connection, revision)

    def restore(self, connection: Connection, revision: str) -> None:
        """Put back the triggers, views and indexes that a revision has."""
        sqlite_schema.restore(connection, revision)

    def locks(self, folder: Path) -> FileLocks:
        """Return the lock files in `folder`."""
        return FileLocks(folder)

    def search(self, read: Read) -> Search:
        """Return the index beside the file."""
        return Search(self.path, read, writable=self.writable)


def writer(database: Path, journal: Journal, same: SameFile | None = None) -> Engine:
    """Return the engine for transactions that write; the file is made where it is missing."""
    journal_mode = {"journal_mode": journal.mode}
    return _engine(database, "mode=rwc", "BEGIN IMMEDIATE", journal_mode, _BEGIN_WAIT_S, same)


def reader(database: Path, same: SameFile | None = None) -> Engine:
    """Return the engine for reading a ledger that this process may also write.

    Opened read-write all the same: only so can it roll back the journal of a killed writer.
    """
    return _engine(database, "mode=rw", "BEGIN", {"query_only": 1}, same=same)


def read_only(database: Path) -> Engine:
    """Return an engine that writes nothing at all, not even beside the file.

    Raises:
        LedgerError: the file is missing.
    """
    if not database.is_file():
        message = f"{str(database)!r} is no file: name the ledger's experiments.db"
        raise LedgerError(message)
    # A write-ahead log needs shared memory beside the file, unless there is nothing in it.
    quiet = _is_wal(database) and not database.with_name(database.name + "-wal").exists()
    options = "mode=ro&immutable=1" if quiet else "mode=ro"
    return _engine(database, options, "BEGIN", {"query_only": 1})


def _engine(
    database: Path,
    options: str,
    begin: str,
    extra: dict[str, Any],
    longest: float = BUSY_S,
    same: SameFile | None = None,
) -> Engine:
    def connect_prepared() -> sqlite3.Connection:
        if same:
            same.require()
        if options == "mode=rwc":
            # SQLite would make it with what the umask leaves; its journals get the file's mode.
            # What hinders this hinders SQLite too, which says so.
            with suppress(OSError):
                make_private(database)
        name = f"file:{quote(str(database))}?{options}"
        connection = connect(name, timeout=remaining(BUSY_S))
        try:
            _prepare(connection, _PRAGMAS | extra)
        except BaseException:
            connection.close()
            raise
        return connection

    # The time that is left is less at each of these.
    def on_begin(connection: Connection) -> None:
        _wait(connection, longest)
        connection.exec_driver_sql(begin)

    def on_commit(connection: Connection) -> None:
        _wait(connection, _COMMIT_WAIT_S)

    engine = create_engine("sqlite://", creator=connect_prepared, poolclass=NullPool)
    event.listen(engine, "begin", on_begin)
    event.listen(engine, "commit", on_commit)
    return engine


def _wait(connection: Connection, longest: float) -> None:
    """Let the next statement wait for locks as long as the call may."""
    connection.exec_driver_sql(f"PRAGMA busy_timeout={int(remaining(longest) * 1000)}")


def _prepare(connection: sqlite3.Connection, pragmas: dict[str, Any]) -> None:
    for name, value in pragmas.items():
        _set(connection, name, value)
        row = connection.execute(f"PRAGMA {name}").fetchone()
        # Where memory mapping is compiled out, the pragma answers with no row: off, as wanted.
        if row is not None and row[0] != value:
            message = (
                f"SQLite kept {name}={row[0]!r} where {value!r} is needed; the ledger was not used"
            )
            raise LedgerError(message)


def _set(connection: sqlite3.Connection, name: str, value: Any) -> None:
    end = time.monotonic() + remaining(BUSY_S)
    while True:
        try:
            connection.execute(f"PRAGMA {name}={value}")
        except sqlite3.OperationalError as error:
            # The switch to WAL does not wait as other statements do.
            if name != "journal_mode" or "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
