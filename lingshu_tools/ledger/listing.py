"""Finding experiments: filters, newest first, and the status that is derived and never stored.

Knows nothing of writing.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import Connection, Select, select

from lingshu_tools.errors import InputError, did_you_mean
from lingshu_tools.ledger.chain import checked
from lingshu_tools.ledger.records import Experiment, Listed, OutcomeKind, Page, Status
from lingshu_tools.ledger.rows import record
from lingshu_tools.ledger.schema import chain, experiment, outcome

MAX_LIMIT = 500
_BATCH = 100
_EQUAL = ("tool", "checkpoint", "context", "perturbation", "parent", "request_digest")
_PROBED = ("queued", "running", "interrupted")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a listing is narrowed by; None means any.

    `text` is looked for in the request and the id, ignoring case.
    """

    tool: str | None = None
    status: Status | None = None
    checkpoint: str | None = None
    context: str | None = None
    perturbation: str | None = None
    parent: str | None = None
    request_digest: str | None = None
    text: str | None = None

    def query(self) -> Select[Any]:
        """Return the query for experiments with their outcome's kind, newest first."""
        query = select(experiment, outcome.c.kind.label("kind"), chain.c.row_hash.label("chained"))
        query = query.outerjoin(outcome, outcome.c.experiment_id == experiment.c.id)
        query = query.outerjoin(chain, chain.c.seq == experiment.c.seq)
        for name in _EQUAL:
            if (wanted := getattr(self, name)) is not None:
                query = query.where(experiment.c[name] == wanted)
        if self.text is not None:
            place = experiment.c.id + " " + experiment.c.request
            query = query.where(place.icontains(self.text, autoescape=True))
        if self.status is not None:
            kind = None if self.status in _PROBED else self.status
            query = query.where(
                outcome.c.kind.is_(None) if kind is None else outcome.c.kind == kind
            )
        return query.order_by(experiment.c.seq.desc())


def status_of(kind: OutcomeKind | None, *, tried: bool, alive: bool) -> Status:
    """Return the status that an outcome, an attempt and a living lock add up to."""
    if kind is not None:
        return kind
    if alive:
        return "running"
    return "interrupted" if tried else "queued"


def page(
    read: Callable[[], AbstractContextManager[Connection]],
    wanted: Filter,
    unsealed: Callable[[str], Status],
    before: str | None,
    limit: int,
) -> Page:
    """Return one page.

    Args:
        read: opens a short transaction; none is open while `unsealed` looks.
        wanted: what to show.
        unsealed: gives the status of an experiment that had no outcome when it was read.
        before: the cursor; None for the first page.
        limit: experiments per page.

    Raises:
        InputError: the cursor, the limit or the status is not one.
        TamperError: a row to be shown was changed after it was written.
    """
    if not 1 <= limit <= MAX_LIMIT:
        message = f"limit={limit!r}: ask for 1 to {MAX_LIMIT} and page on with next_before"
        raise InputError(message)
    if wanted.status is not None and wanted.status not in get_args(Status):
        near = did_you_mean(wanted.status, get_args(Status))
        message = f"status={wanted.status!r} is none of {', '.join(get_args(Status))}.{near}"
        raise InputError(message)
    items: list[Listed] = []
    for row in _rows(read, wanted.query(), _cursor(before)):
        status = row.pop("kind") or unsealed(row["id"])
        if wanted.status in (None, status):
            if len(items) == limit:
                return Page(tuple(items), str(items[-1].experiment.seq))
            items.append(Listed(record(Experiment, checked(experiment.name, row)), status))
    return Page(tuple(items), None)


def _cursor(before: str | None) -> int | None:
    if before is None:
        return None
    if not before.isdecimal():
        message = f"before={before!r} is no cursor: pass the next_before of the page before it"
        raise InputError(message)
    return int(before)


def _rows(
    read: Callable[[], AbstractContextManager[Connection]], query: Select[Any], before: int | None
) -> Iterator[dict[str, Any]]:
    while True:
        later = query if before is None else query.where(experiment.c.seq < before)
        with read() as connection:
            rows = [dict(row) for row in connection.execute(later.limit(_BATCH)).mappings()]
        yield from rows
        if len(rows) < _BATCH:
            return
        before = rows[-1]["seq"]
