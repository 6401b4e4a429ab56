"""Rows to records and back: JSON columns, ids, times."""

import base64
import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, select

from lingshu_tools.errors import InputError, NotFoundError, did_you_mean, quoted
from lingshu_tools.ledger.canonical import canonical_json
from lingshu_tools.ledger.chain import fetch
from lingshu_tools.ledger.records import (
    Experiment,
    Measurement,
    Outcome,
    Screen,
    Verification,
)
from lingshu_tools.ledger.schema import (
    experiment,
    measurement,
    outcome,
    screen,
    verification,
)

R = TypeVar("R")
_TABLES: dict[type, tuple[Table, tuple[str, ...]]] = {
    Experiment: (experiment, ("request",)),
    Measurement: (measurement, ("payload",)),
    Outcome: (outcome, ("result", "artifacts")),
    Screen: (screen, ("plan",)),
    Verification: (verification, ("differs",)),
}
_FIND = {experiment: "list_experiments shows what there is", screen: "plan_screen makes one"}


def new_id(prefix: str) -> str:
    """Return `PREFIX_` and 16 random letters and digits: short enough to be copied by hand."""
    return f"{prefix}_{base64.b32encode(secrets.token_bytes(10)).decode().lower()}"


def now() -> str:
    """Return the time as UTC text."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def text_of(value: Any) -> str:
    """Return a JSON value as it stands in a column.

    Raises:
        InputError: not JSON: NaN, an infinity, a lone surrogate or another type, and where.
    """
    try:
        return canonical_json(value).decode()
    except ValueError as error:
        message = f"{error}; give JSON values, and None where there is no number"
        raise InputError(message) from error


def table_of(kind: type) -> Table:
    """Return the table that holds records of `kind`."""
    return _TABLES[kind][0]


def record(kind: type[R], row: Mapping[str, Any]) -> R:
    """Return a row as a record of `kind`."""
    table, documents = _TABLES[kind]
    values = {column.name: row[column.name] for column in table.c}
    for name in documents:
        values[name] = None if values[name] is None else json.loads(values[name])
    return kind(**values)


def records(connection: Connection, kind: type[R], **equals: Any) -> list[R]:
    """Return the records whose columns equal these values, oldest first, hashes checked."""
    rows = fetch(connection, _TABLES[kind][0], **equals)
    return [record(kind, row) for row in rows]


def row_by_id(
    connection: Connection, kind: type[R], identifier: str, *, principal: str | None = None
) -> R:
    """Return the record with this id.

    Args:
        connection: where to look.
        kind: an experiment or a screen.
        identifier: its id.
        principal: whose records there are; None for everybody's.

    Raises:
        NotFoundError: there is none; the nearest ids are offered.
    """
    table = _TABLES[kind][0]
    owner = {} if principal is None else {"principal": principal}
    rows = records(connection, kind, id=identifier, **owner)
    if not rows:
        raise not_found(table, identifier, _near(connection, table, identifier, owner))
    return rows[0]


def not_found(table: Table, identifier: str, known: Iterable[str]) -> NotFoundError:
    """Return the error for an id that `table` lacks."""
    near = did_you_mean(identifier, known)
    return NotFoundError(f"there is no {table.name} {quoted(identifier)}.{near} {_FIND[table]}.")


def _near(
    connection: Connection, table: Table, identifier: str, owner: Mapping[str, str]
) -> set[str]:
    # Not the whole table: what begins alike and what is newest.
    known = select(table.c.id).filter_by(**owner)
    alike = known.where(table.c.id.startswith(identifier[:7], autoescape=True))
    newest = known.order_by(table.c.seq.desc())
    return {i for query in (alike, newest) for i in connection.scalars(query.limit(50))}
