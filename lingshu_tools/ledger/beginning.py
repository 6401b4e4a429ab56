"""How an experiment begins, or is asked to stop, as rows; and which ones a call has begun.

Each function that takes a connection runs in a transaction that somebody else opened.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Table, select

from lingshu_tools.errors import InputError, quoted
from lingshu_tools.ledger import schema, sealing
from lingshu_tools.ledger.canonical import digest_bytes
from lingshu_tools.ledger.chain import append_many
from lingshu_tools.ledger.records import Experiment, NewExperiment, Screen
from lingshu_tools.ledger.rows import new_id, now, record, records, row_by_id, text_of

_Key = tuple[str, str | int]
"""A principal and its client key; the row's number where it has none."""

_recorded: ContextVar[list[str] | None] = ContextVar("lingshu_recorded", default=None)


@contextmanager
def recording() -> Generator[list[str]]:
    """Give a list to which the ids of the experiments that are begun meanwhile are added.

    A call that fails after that can so name what it has recorded all the same.
    """
    ids: list[str] = []
    token = _recorded.set(ids)
    try:
        yield ids
    finally:
        _recorded.reset(token)


def note(experiments: Iterable[Experiment]) -> None:
    """Add experiments, whose rows are on the disk, to the list that `recording` gave."""
    ids = _recorded.get()
    if ids is not None:
        ids += [experiment.id for experiment in experiments]


def row_of(request: NewExperiment) -> dict[str, Any]:
    """Return the columns of a new experiment.

    Raises:
        InputError: its request is no JSON.
    """
    row = {f.name: getattr(request, f.name) for f in fields(NewExperiment)}
    row["request"] = text_of(request.request)
    return row | {"request_digest": digest_bytes(row["request"].encode())}


def begin(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Experiment]:
    """Return an experiment for each row: the one with its client key, or a new one.

    Raises:
        InputError: a client key stands for another request.
        NotFoundError: a parent does not exist.
    """
    keys: list[_Key] = [
        (row["principal"], i if row["client_key"] is None else row["client_key"])
        for i, row in enumerate(rows)
    ]
    begun = _known(connection, rows)
    for parent in sorted({row["parent"] for row in rows} - {None}):
        row_by_id(connection, Screen if parent.startswith("scr_") else Experiment, parent)
    new: dict[_Key, Mapping[str, Any]] = {}
    for key, row in zip(keys, rows, strict=True):
        if key not in begun:
            new.setdefault(key, row)
    rows_added = append_many(
        connection,
        schema.experiment,
        ({**row, "id": new_id("exp"), "created_at": now()} for row in new.values()),
    )
    begun |= {key: record(Experiment, row) for key, row in zip(new, rows_added, strict=True)}
    return [_same(begun[key], row) for key, row in zip(keys, rows, strict=True)]


def ask_to_stop(
    connection: Connection,
    experiment_ids: Sequence[str],
    principal: str,
    *,
    owner: str | None = None,
) -> None:
    """Record that experiments are to stop; those that ended or were asked before are left alone.

    Args:
        connection: in a transaction that writes.
        experiment_ids: the experiments.
        principal: who asks.
        owner: whose experiments there are; None for everybody's.

    Raises:
        NotFoundError: there is no such experiment; nothing is recorded.
    """
    table = schema.experiment.c
    query = select(table.id).where(table.id.in_(experiment_ids))
    there = set(
        connection.scalars(query if owner is None else query.where(table.principal == owner))
    )
    for name in experiment_ids:
        if name not in there:
            row_by_id(connection, Experiment, name, principal=owner)
    left = _without(connection, experiment_ids, schema.outcome, schema.cancellation)
    stamp = {"principal": principal, "created_at": now()}
    append_many(connection, schema.cancellation, ({"experiment_id": i, **stamp} for i in left))


def stop(connection: Connection, experiment_ids: Sequence[str]) -> None:
    """Seal experiments as cancelled, but for those that have an outcome."""
    left = _without(connection, experiment_ids, schema.outcome)
    ended = (sealing.ending(name, None, kind="cancelled")["outcome"] for name in left)
    append_many(connection, schema.outcome, ended)


def _without(connection: Connection, names: Sequence[str], *tables: Table) -> list[str]:
    """Return which experiments have no row in any of the tables, each once."""
    present: set[str] = set()
    for table in tables:
        column = table.c.experiment_id
        present.update(connection.scalars(select(column).where(column.in_(names))))
    return [name for name in dict.fromkeys(names) if name not in present]


def _known(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[_Key, Experiment]:
    """Return the experiments begun earlier with the client keys of these rows."""
    keys: dict[str, list[str]] = {}
    for row in rows:
        if row["client_key"] is not None:
            keys.setdefault(row["principal"], []).append(row["client_key"])
    present = [
        experiment
        for principal, named in keys.items()
        for experiment in records(connection, Experiment, principal=principal, client_key=named)
    ]
    return {(e.principal, e.client_key or ""): e for e in present}


def _same(begun: Experiment, row: Mapping[str, Any]) -> Experiment:
    if (begun.tool, begun.request_digest) != (row["tool"], row["request_digest"]):
        message = (
            f"client_key={quoted(row['client_key'])} already stands for {begun.id}, which asked "
            "something else; use a new key for a new request"
        )
        raise InputError(message)
    return begun
