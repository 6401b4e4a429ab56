"""Finding experiments: filters, newest first, and the status that is derived and never stored."""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Select, exists, select

from lingshu_tools.errors import InputError, did_you_mean, quoted
from lingshu_tools.ledger.chain import checked
from lingshu_tools.ledger.derived import OPEN
from lingshu_tools.ledger.records import Experiment, Listed, OutcomeKind, Page, Status
from lingshu_tools.ledger.rows import record
from lingshu_tools.ledger.schema import attempt, chain, experiment, outcome, standing, tag
from lingshu_tools.ledger.search import Search

MAX_LIMIT = 500
_EQUAL = ("tool", "checkpoint", "context", "perturbation", "parent", "request_digest", "principal")
Place = ColumnElement[int]
_UNSEALED = ("queued", "running", "interrupted")


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
    principal: str | None = None
    tag: str | None = None
    text: str | None = None

    def query(
        self, *, standings: bool = True, held: Collection[str] | None = None
    ) -> tuple[Select[Any], Place]:
        """Return the query for experiments with their outcome's kind, newest first.

        And the column that has their order: of whichever table is gone through.

        Args:
            standings: whether the ledger has the table `standing`; without it, a rare status is
                looked for in every experiment.
            held: the experiments that somebody may be at, where others are not wanted.
        """
        kind = None if self.status in _UNSEALED else self.status
        query = select(experiment, outcome.c.kind.label("kind"), chain.c.row_hash.label("chained"))
        place: Place = experiment.c.seq
        if self.tag is not None:
            place = tag.c.experiment_seq
            query = query.select_from(tag).join(experiment, experiment.c.seq == place)
            query = query.where(tag.c.name == self.tag)
        elif held is None and self.status is not None and standings:
            place = standing.c.seq
            query = query.select_from(standing).join(experiment, experiment.c.seq == place)
            query = query.where(standing.c.status == (kind or OPEN))
        query = query.outerjoin(outcome, outcome.c.experiment_id == experiment.c.id)
        query = query.outerjoin(chain, chain.c.seq == experiment.c.seq)
        if self.status is not None:
            query = query.where(outcome.c.kind.is_not_distinct_from(kind))
        if held is not None:
            query = query.where(experiment.c.id.in_(held))
        if self.status in ("queued", "interrupted"):
            tried = exists().where(attempt.c.experiment_id == experiment.c.id)
            query = query.where(tried if self.status == "interrupted" else ~tried)
        for name in _EQUAL:
            if (wanted := getattr(self, name)) is not None:
                query = query.where(experiment.c[name] == wanted)
        if self.text is not None:
            searched = experiment.c.id + " " + experiment.c.request
            query = query.where(searched.icontains(self.text, autoescape=True))
        return query.order_by(place.desc()), place


def unsealed_ids(*, standings: bool) -> Select[tuple[str]]:
    """Return the query for the ids of experiments that have no outcome.

    Args:
        standings: whether the ledger has the table `standing`.
    """
    query = select(experiment.c.id)
    if standings:
        query = query.join(standing, standing.c.seq == experiment.c.seq)
        return query.where(standing.c.status == OPEN)
    query = query.outerjoin(outcome, outcome.c.experiment_id == experiment.c.id)
    return query.where(outcome.c.seq.is_(None))


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
    unsealed: Callable[[Sequence[str]], Mapping[str, Status]],
    held: Callable[[], Collection[str]],
    before: str | None,
    limit: int,
    *,
    standings: bool = True,
    search: Search | None = None,
) -> Page:
    """Return one page.

    Args:
        read: opens a short transaction; none is open while `unsealed` looks.
        wanted: what to show.
        unsealed: gives the statuses of experiments that had no outcome when they were read.
        held: gives the experiments that somebody may be at, all of them.
        before: the cursor; None for the first page.
        limit: experiments per page.
        standings: whether the ledger has the table `standing`.
        search: what finds text without reading every row, if anything does.

    Raises:
        InputError: the cursor, the limit or the status is not one.
        TamperError: a row to be shown was changed after it was written.
    """
    if not 1 <= limit <= MAX_LIMIT:
        message = f"limit={limit!r}: ask for 1 to {MAX_LIMIT} and page on with next_before"
        raise InputError(message)
    if wanted.status is not None and wanted.status not in get_args(Status):
        near = did_you_mean(wanted.status, get_args(Status))
        message = f"status={quoted(wanted.status)} is none of {', '.join(get_args(Status))}.{near}"
        raise InputError(message)
    items: list[Listed] = []
    # Few experiments are at work, and their locks know which: not every unsealed one is asked.
    at_work = held() if wanted.status == "running" else None
    (query, place), cursor = wanted.query(standings=standings, held=at_work), _cursor(before)
    if wanted.text is None or search is None or not search.covers(wanted.text):
        batches = _batches(read, query, place, cursor, limit + 1)
    else:
        batches = _looked_up(read, query, place, cursor, limit + 1, search, wanted.text)
    for rows in batches:
        unsealed_ids = unsealed([row["id"] for row in rows if row["kind"] is None])
        for row in rows:
            status = row.pop("kind") or unsealed_ids[row["id"]]
            if wanted.status in (None, status):
                if len(items) == limit:
                    return Page(tuple(items), str(items[-1].experiment.seq))
                items.append(Listed(record(Experiment, checked(experiment.name, row)), status))
    return Page(tuple(items), None)


def _cursor(before: str | None) -> int | None:
    if before is None:
        return None
    if not before.isdecimal():
        message = (
            f"before={quoted(before)} is no cursor: pass the next_before of the page before it"
        )
        raise InputError(message)
    return int(before)


def _batches(
    read: Callable[[], AbstractContextManager[Connection]],
    query: Select[Any],
    place: Place,
    before: int | None,
    size: int,
) -> Iterator[list[dict[str, Any]]]:
    while True:
        with read() as connection:
            seqs = connection.execute(numbers(query, place, before, size)).scalars().all()
            matches = connection.execute(_numbered(seqs)).mappings() if seqs else ()
            rows = [dict(row) for row in matches]
        yield rows
        if len(rows) < size:
            return
        before = rows[-1]["seq"]


def numbers(query: Select[Any], place: Place, before: int | None, size: int) -> Select[Any]:
    """Return the query for the numbers of the experiments of a page, newest first.

    Their rows are kilobytes long, and a database sorts all that it selects where no index has both
    the filter (a principal) and the order: 15 ms instead of 700 for one in 100,000 experiments.
    """
    later = query if before is None else query.where(place < before)
    return later.with_only_columns(place, maintain_column_froms=True).limit(size)


def _numbered(seqs: Sequence[int]) -> Select[Any]:
    """Return the query for the experiments of these numbers, newest first."""
    query = select(experiment, outcome.c.kind.label("kind"), chain.c.row_hash.label("chained"))
    query = query.outerjoin(outcome, outcome.c.experiment_id == experiment.c.id)
    query = query.outerjoin(chain, chain.c.seq == experiment.c.seq)
    return query.where(experiment.c.seq.in_(seqs)).order_by(experiment.c.seq.desc())


def _looked_up(
    read: Callable[[], AbstractContextManager[Connection]],
    query: Select[Any],
    place: Place,
    before: int | None,
    size: int,
    search: Search,
    text: str,
) -> Iterator[list[dict[str, Any]]]:
    search.update()
    mark = search.mark()
    yield from _batches(read, query.where(place > mark), place, before, size)
    before = mark + 1 if before is None else min(before, mark + 1)
    try:
        for seqs in search.candidates(text, before) if mark else ():
            with read() as connection:
                matches = connection.execute(query.where(experiment.c.seq.in_(seqs))).mappings()
                rows = [dict(row) for row in matches]
            yield rows
            before = seqs[-1]
    except sqlite3.Error:
        # A damaged index: row by row from there on.
        yield from _batches(read, query, place, before, size)
