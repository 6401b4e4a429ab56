"""How an experiment begins, or is asked to stop, as rows; and which ones a call has begun.

Each function that takes a connection runs in a transaction that somebody else opened.
"""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection

from lingshu_tools.errors import InputError, quoted
from lingshu_tools.ledger import schema, sealing
from lingshu_tools.ledger.canonical import digest_bytes
from lingshu_tools.ledger.chain import append, has
from lingshu_tools.ledger.records import Experiment, NewExperiment, Screen
from lingshu_tools.ledger.rows import new_id, now, one, record, records, text_of

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


def begin(connection: Connection, row: Mapping[str, Any]) -> Experiment:
    """Return the experiment of these columns: the one recorded earlier with its client key, if any.

    Raises:
        InputError: the key stands for another request.
        NotFoundError: its parent does not exist.
    """
    if row["client_key"] is not None and (known := _known(connection, row)):
        return known
    if row["parent"] is not None:
        one(connection, Screen if row["parent"].startswith("scr_") else Experiment, row["parent"])
    made = append(connection, schema.experiment, **row, id=new_id("exp"), created_at=now())
    return record(Experiment, made)


def ask_to_stop(connection: Connection, experiment_id: str, principal: str) -> None:
    """Write down that an experiment is to stop, unless it is or has ended."""
    if not any(
        has(connection, table, experiment_id=experiment_id)
        for table in (schema.outcome, schema.cancellation)
    ):
        values = {"experiment_id": experiment_id, "principal": principal, "created_at": now()}
        append(connection, schema.cancellation, **values)


def stop(connection: Connection, experiment_id: str) -> None:
    """Seal an experiment that nobody works on as cancelled, unless it has ended."""
    if not has(connection, schema.outcome, experiment_id=experiment_id):
        sealing.seal(connection, sealing.ending(experiment_id, None, kind="cancelled"))


def _known(connection: Connection, row: Mapping[str, Any]) -> Experiment | None:
    key = {name: row[name] for name in ("principal", "client_key")}
    found = records(connection, Experiment, **key)
    if not found:
        return None
    if (found[0].tool, found[0].request_digest) != (row["tool"], row["request_digest"]):
        message = (
            f"client_key={quoted(row['client_key'])} already stands for {found[0].id}, which asked "
            "something else; use a new key for a new request"
        )
        raise InputError(message)
    return found[0]
