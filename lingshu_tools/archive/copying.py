"""Rows copied into a fresh database, in chain order: one file per chain, whatever it came from.

A ledger is insert-only, so all rows up to a head are one state of it, however long they take to
read: the copy goes in short transactions and writers need not wait. Only known tables and columns
are read, and the target's schema is ours, so nothing else of a source survives, be it free pages,
triggers or views.
"""

import sqlite3
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, insert, inspect, select
from sqlalchemy.exc import DBAPIError

from lingshu_tools.ledger import sqlite, sqlite_schema
from lingshu_tools.ledger.records import Head
from lingshu_tools.ledger.schema import TABLES, chain

# Rows of the chain for each read transaction.
BATCH = 1000
Progress = Callable[[int, int], None]
Read = Callable[[], AbstractContextManager[Connection]]
# What a disk refuses; all other codes mean that the rows are wrong.
_REFUSALS = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
)


def copy_rows(
    read: Read, head: Head, target: Path, journal: sqlite.Journal, progress: Progress
) -> dict[str, int]:
    """Return how many rows each table of the new database `target` holds: those up to `head`.

    Its bytes follow from the rows, the schema and SQLite's version alone.

    Raises:
        OSError: the disk refused `target`.
        SQLAlchemyError: the rows cannot be read, or are not those of a ledger.
    """
    with read() as connection:
        sources = [(table, _known(connection, table)) for table in (chain, *TABLES.values())]
    # All rows in one transaction: the file has them all or stays empty.
    with _refusals(), sqlite.writer(target, journal).begin() as into:
        sqlite_schema.create_tables(into)
        # By numbers of the chain, from 1, of which each row of each table has one.
        for start in range(1, head.seq + 1, BATCH):
            end = min(start + BATCH - 1, head.seq)
            with read() as connection:
                parts = [(table, _between(connection, table, columns, start, end))
                         for table, columns in sources]  # fmt: skip
            for table, rows in parts:
                if rows:
                    into.execute(insert(table), rows)
            progress(end, head.seq)
        return {name: _count(into, table) for name, table in TABLES.items()}


@contextmanager
def _refusals() -> Generator[None]:
    """Tell a disk that refuses from rows that are wrong."""
    try:
        yield
    except DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        # Extended codes of SQLite have the primary one in their lowest byte.
        if isinstance(error.orig, OSError) or (code & 0xFF) in _REFUSALS:
            raise OSError(str(error.orig)) from error
        raise


def _known(connection: Connection, table: Table) -> list[Any]:
    # A column or a table that a later version added is missing in older files: NULL, or no rows.
    present = inspect(connection)
    if not present.has_table(table.name):
        return []
    names = {column["name"] for column in present.get_columns(table.name)}
    return [column for column in table.c if column.name in names]


def _between(
    connection: Connection, table: Table, columns: list[Any], start: int, end: int
) -> list[dict[str, Any]]:
    if not columns:
        return []
    query = select(*columns).where(table.c.seq.between(start, end)).order_by(table.c.seq)
    return [dict(row) for row in connection.execute(query).mappings()]


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0
