r"""The hash chain over all rows: how a row is hashed, linked and appended.

    row_hash = digest of the canonical JSON of {"kind": table, "row": {column: value, …}},
               columns that are NULL left out
    hash     = digest of "PREVIOUS_HASH\nSEQ\nROW_HASH", the first row's previous hash being empty

It needs a transaction beside which no other process can write.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from math import isfinite
from typing import Any

from sqlalchemy import Connection, Table, exists, insert, select

from lingshu_tools.errors import TamperError
from lingshu_tools.ledger.canonical import digest_bytes
from lingshu_tools.ledger.records import Head
from lingshu_tools.ledger.schema import chain

EMPTY = Head(0, "")
# Canonical JSON for what is flat, as rows are: an audit does little else.
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def hash_row(kind: str, row: Mapping[str, Any]) -> str:
    """Return the digest of one row.

    Raises:
        TypeError, ValueError: it holds what canonical JSON cannot: bytes, an infinity, a lone
            surrogate.
    """
    return row_hasher(kind, tuple(row))(tuple(row.values()))


@cache
def row_hasher(kind: str, columns: tuple[str, ...]) -> Callable[[Sequence[Any]], str]:
    """Return a function from the values of these columns to the digest of their row.

    It writes what canonical JSON would, with the keys' order and text worked out once. It raises
    what `hash_row` does.
    """
    start = f'{{"kind":{_ENCODER.encode(kind)},"row":{{'
    fields = [(columns.index(name), f"{_ENCODER.encode(name)}:") for name in sorted(columns)]
    write = _WRITERS.get

    def hashed(values: Sequence[Any]) -> str:
        written = [
            key + write(type(value), _ENCODER.encode)(value)
            for at, key in fields
            if (value := values[at]) is not None
        ]
        return digest_bytes(f"{start}{','.join(written)}}}}}".encode())

    return hashed


def _real(value: float) -> str:
    if not isfinite(value):
        message = f"{value!r} is no JSON number"
        raise ValueError(message)
    # -0.0 becomes 0.0
    return float.__repr__(value + 0.0)


_WRITERS: dict[type, Callable[[Any], str]] = {int: int.__repr__, float: _real}


def hash_link(previous: str, seq: int, row_hash: str) -> str:
    """Return the chain's hash at `seq`."""
    return digest_bytes(f"{previous}\n{seq}\n{row_hash}".encode())


def head_of(connection: Connection) -> Head:
    """Return the newest link; `EMPTY` for a chain without rows."""
    newest = select(chain.c.seq, chain.c.hash).order_by(chain.c.seq.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return EMPTY if row is None else Head(row.seq, row.hash)


def append(connection: Connection, table: Table, **values: Any) -> dict[str, Any]:
    """Return the row as it was appended to `table` and to the chain."""
    return append_many(connection, table, [values])[0]


def append_many(
    connection: Connection, table: Table, many: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows as they were appended to `table` and to the chain, in this order."""
    head = head_of(connection)
    rows: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    for values in many:
        row = {**{column.name: values.get(column.name) for column in table.c}, **values}
        row["seq"] = head.seq + 1
        row_hash = hash_row(table.name, row)
        head = Head(row["seq"], hash_link(head.hash, row["seq"], row_hash))
        rows.append(row)
        links.append({"seq": head.seq, "kind": table.name, "row_hash": row_hash, "hash": head.hash})
    if rows:
        connection.execute(insert(chain), links)
        connection.execute(insert(table), rows)
    return rows


def fetch(connection: Connection, table: Table, **equals: Any) -> list[dict[str, Any]]:
    """Return the rows whose columns equal these values, oldest first, each checked by its hash.

    A list stands for any of its values.

    Raises:
        TamperError: a row is not what the chain says it was.
    """
    query = select(table, chain.c.row_hash.label("chained"))
    query = query.outerjoin(chain, chain.c.seq == table.c.seq).order_by(table.c.seq)
    for name, value in equals.items():
        column = table.c[name]
        query = query.where(column.in_(value) if isinstance(value, list) else column == value)
    rows = connection.execute(query).mappings()
    return [checked(table.name, dict(row)) for row in rows]


def has(connection: Connection, table: Table, **equals: Any) -> bool:
    """Return whether `table` holds a row with these values."""
    return bool(connection.scalar(select(exists(select(table.c.seq).filter_by(**equals)))))


def rehash(kind: str, columns: tuple[str, ...], values: Sequence[Any]) -> str:
    """Return the digest of a row as it was read; words where damage left what has none."""
    try:
        return row_hasher(kind, columns)(values)
    except (TypeError, ValueError) as error:
        return f"nothing ({error})"


def checked(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row less its `chained` hash, which it fits.

    Raises:
        TamperError: it is not what the chain says it was.
    """
    chained = row.pop("chained")
    actual = rehash(kind, tuple(row), tuple(row.values()))
    if actual != chained:
        message = (
            f"{kind} row {row['seq']} hashes to {actual}, but the chain has {chained}: it "
            "was changed after it was written; do not rely on it, and run `lingshu ledger verify`"
        )
        raise TamperError(message)
    return row
