"""The schema of a ledger in an SQLite file: created, compared with its revision, restored.

A file holds its schema as SQL text, in `sqlite_master`. A changed text changes what a view shows,
or what a trigger or a constraint forbids, without a row being touched, so the text is compared
token by token with that of the file's revision. White space outside quotes is left out, because it
depends on who wrote the statement: SQLAlchemy, or a migration.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache

from sqlalchemy import Connection, NullPool, Table, UniqueConstraint, create_engine, insert

from lingshu_tools.ledger import derived
from lingshu_tools.ledger.differences import FOREIGN, Difference, Entry, compare
from lingshu_tools.ledger.migrations import BASELINE, HEAD
from lingshu_tools.ledger.schema import chain, metadata, revision, tables_at

DIGESTS = {
    "0001": "a7b538d8468b43b8750b25996b2b4c3c50586f53057533dc2f2208e61cc79cca",
    "0002": "3bc739ec0b2a808035d680483cc7038b6645dc8f2b45911426d4b18e89f47426",
    "0003": "e4a5ebffcf5535c84cc3ca6953c92e1940e304f3c4b54a59f4099cbff04a4347",
    "0004": "03a329f9377d4795ee7b61773c0ae2eec38c66f29b26f18a223814fc297319e3",
}
"""`digest_of` the schema of each revision; a test computes them anew."""
# Made by ANALYZE. They change how a query is carried out, never its result.
_STATISTICS = (("table", "sqlite_stat1"), ("table", "sqlite_stat4"))
# SQLite's white space, and no other character, separates tokens.
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\w+|[^ \t\n\f\r]", re.ASCII)


def create_tables(connection: Connection, at: str = HEAD) -> None:
    """Make all that a revision of the schema has, in an empty database."""
    tables = [chain, *tables_at(at).values()]
    metadata.create_all(connection, tables=tables, checkfirst=False)
    for table in tables:
        for statement in _triggers(table):
            connection.exec_driver_sql(statement)
    derived.create(connection, at)
    if at != BASELINE:
        revision.create(connection)
        connection.execute(insert(revision), {"version_num": at})


def differences(connection: Connection, at: str) -> list[Difference]:
    """Return what of the open database is not as in revision `at`."""
    entries = sorted(entry for entry, _ in _read(connection))
    # Creating a schema to compare with takes 10 ms, the digest less than 1.
    return [] if digest_of(entries) == DIGESTS[at] else list(compare(entries, expected(at)))


def restore(connection: Connection, at: str) -> None:
    """Put triggers, views and indexes back as revision `at` has them; drop foreign triggers."""
    statements = {entry[:2]: sql for entry, sql in _created(at)}
    for kind, name, what in differences(connection, at):
        if kind == "trigger" or (kind in ("view", "index") and what != FOREIGN):
            connection.exec_driver_sql(f'DROP {kind} IF EXISTS "{name}"')
            if statement := statements.get((kind, name)):
                connection.exec_driver_sql(statement)


def digest_of(schema: Iterable[Entry]) -> str:
    """Return the SHA-256 of a sorted schema, in hexadecimal."""
    return hashlib.sha256("\0".join("\0".join(entry) for entry in schema).encode()).hexdigest()


def expected(at: str) -> list[Entry]:
    """Return the schema of a revision, sorted, as this version creates it."""
    return sorted(entry for entry, _ in _created(at))


@cache
def _created(at: str) -> tuple[tuple[Entry, str], ...]:
    engine = create_engine("sqlite://", poolclass=NullPool)
    with engine.begin() as connection:
        create_tables(connection, at)
        return tuple(_read(connection))


def _read(connection: Connection) -> Iterator[tuple[Entry, str]]:
    """Yield the parts of the open schema and their SQL; the index of a constraint has none."""
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master")
    for kind, name, table, sql in rows:
        if (kind, name) not in _STATISTICS:
            text = str(sql or "")
            tokens = "\n".join([str(table), *_TOKEN.findall(text)])
            yield Entry(str(kind), str(name), tokens), text


def _triggers(table: Table) -> Iterator[str]:
    """Yield the triggers that keep a table insert-only."""
    stop = f"SELECT RAISE(ABORT, '{table.name} is insert-only');"
    for action in ("update", "delete"):
        name = f"{table.name}_no_{action}"
        yield f"CREATE TRIGGER {name} BEFORE {action.upper()} ON {table.name} BEGIN {stop} END"
    # Stops a REPLACE by connections that did not set recursive_triggers.
    taken = " OR ".join(f"({' AND '.join(f'{c} = NEW.{c}' for c in key)})" for key in _keys(table))
    name = f"{table.name}_no_replace"
    when = f"WHEN EXISTS (SELECT 1 FROM {table.name} WHERE {taken})"  # noqa: S608 - own names
    yield f"CREATE TRIGGER {name} BEFORE INSERT ON {table.name} {when} BEGIN {stop} END"


def _keys(table: Table) -> list[list[str]]:
    unique = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    keys = [["seq"], *([column.name for column in constraint.columns] for constraint in unique)]
    return sorted(keys)
