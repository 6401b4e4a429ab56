"""What differs between the databases that can hold a ledger, as one set of questions.

`sqlite.py` and `postgres.py` answer them; nothing else may ask which one it is.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lingshu_tools.errors import InputError
from lingshu_tools.ledger.differences import Difference
from lingshu_tools.ledger.liveness import Locks
from lingshu_tools.ledger.search import Read, Search


class Backend(Protocol):
    """A database that holds, or is to hold, one ledger."""

    @property
    def name(self) -> str:
        """What messages call it; no password is in it."""
        ...

    @property
    def address(self) -> str:
        """What `backend_of` makes it from again; a URL's may hold a password."""
        ...

    @property
    def path(self) -> Path | None:
        """Its file; None where it is none."""
        ...

    @property
    def writable(self) -> bool:
        """Whether it was named to be written."""
        ...

    @property
    def exists(self) -> bool:
        """Whether there may be a ledger: False for a file that is missing or empty."""
        ...

    def reader(self) -> Engine:
        """Return the engine whose transactions see one state and write nothing."""
        ...

    def writer(self) -> Engine:
        """Return the engine whose transactions come one after the other."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Let one process at a time make or change the tables."""
        ...

    def is_empty(self, connection: Connection) -> bool:
        """Return whether the tables are still to be made."""
        ...

    def create(self, connection: Connection) -> None:
        """Make every table, index, trigger and view in the transaction that is open."""
        ...

    def is_busy(self, error: Exception) -> bool:
        """Return whether a transaction failed only for another's lock, and was rolled back."""
        ...

    def cause(self, error: Exception) -> str | None:
        """Return what of the surroundings makes every transaction fail; None if nothing is seen."""
        ...

    def blockers(self) -> str:
        """Return who holds locks now, such as `process 4711 (sqlite3)`; empty if not known."""
        ...

    def flaws(self, connection: Connection, *, revision: str) -> Iterator[tuple[int | None, str]]:
        """Yield what is wrong with a database of a revision, and the row where there is one."""
        ...

    def differences(self, connection: Connection, revision: str) -> Sequence[Difference]:
        """Return what of the schema is not as in a revision, as far as can be seen at once."""
        ...

    def restore(self, connection: Connection, revision: str) -> None:
        """Put back what of a revision's schema holds no rows, as far as it differs."""
        ...

    def locks(self, folder: Path) -> Locks:
        """Return the locks that tell who is alive; `folder` is the home's for lock files."""
        ...

    def search(self, read: Read) -> Search | None:
        """Return the index of texts; None where every row is looked at."""
        ...


def backend_of(address: str, *, writable: bool = True) -> Backend:
    """Return the backend at an address.

    Args:
        address: a file's absolute path, with any characters in it; `sqlite:////absolute/path`; or
            `postgresql+psycopg://user@host/database`.
        writable: whether it is to be written.

    Raises:
        InputError: none of these.
    """
    from lingshu_tools.ledger.sqlite import SqliteBackend

    if address.startswith("/"):
        return SqliteBackend(Path(address), writable=writable)
    parsed = _parsed(address)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return SqliteBackend(Path(parsed.database).absolute(), writable=writable)
    if parsed.get_backend_name() == "postgresql":
        from lingshu_tools.ledger.postgres import PostgresBackend

        return PostgresBackend(parsed, writable=writable)
    message = (
        f"{parsed.render_as_string()!r}: a ledger is in an SQLite file, sqlite:////absolute/path, "
        "or on a PostgreSQL server, postgresql+psycopg://user@host/database"
    )
    raise InputError(message)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        # Not the text itself: a URL with a mistake in it may still hold a password.
        message = (
            "that is no URL of a ledger; write sqlite:////absolute/path/experiments.db or "
            "postgresql+psycopg://user@host/database"
        )
        raise InputError(message) from error
