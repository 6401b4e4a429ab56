"""A stretch of the chain, derived again: links, rows, what outcomes refer to, and objects.

Stretches do not depend on each other, so that processes can share a ledger out. As a program, it
reads one JSON value per line: where the ledger is, then stretches, each of which it answers with a
line. See `verify.py`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, select
from sqlalchemy.exc import DatabaseError

from lingshu_model.system.redaction import protect_streams
from lingshu_tools.errors import LingshuError, quoted
from lingshu_tools.ledger import derived
from lingshu_tools.ledger.backend import backend_of
from lingshu_tools.ledger.chain import EMPTY, hash_link, rehash
from lingshu_tools.ledger.migrations import STANDING
from lingshu_tools.ledger.objects import ObjectStore
from lingshu_tools.ledger.origins import foreign_cells
from lingshu_tools.ledger.records import Problem
from lingshu_tools.ledger.schema import (
    artifact,
    chain,
    experiment,
    outcome,
    tables_at,
    tag,
)
from lingshu_tools.ledger.tagging import is_tag

MAX_PROBLEMS = 100


@dataclass(frozen=True)
class Place:
    """Where a ledger is, in words that travel to another process.

    Attributes:
        database: its address.
        writable: whether this machine may roll back what a killed writer left.
        objects: its object store; None where rows alone are checked.
        revision: of its schema.
    """

    database: str
    writable: bool
    objects: str | None
    revision: str

    def engine(self) -> Engine:
        """Return an engine that reads it."""
        return backend_of(self.database, writable=self.writable).reader()


@dataclass
class Checked:
    """What came of a stretch; `objects` counts those that were read."""

    rows: int = 0
    objects: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])

    def note(self, seq: int | None, what: str) -> None:
        """Add a problem, up to a number that nobody reads beyond."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(seq, what))

    def __iadd__(self, other: "Checked") -> "Checked":
        self.rows += other.rows
        self.objects += other.objects
        self.problems.extend(other.problems[: MAX_PROBLEMS - len(self.problems)])
        return self


def check(engine: Engine, place: Place, start: int, end: int) -> Checked:
    """Return what is wrong with the rows from `start` to `end`; what cannot be read is named."""
    try:
        with engine.begin() as connection:
            return _check(connection, place, start, end)
    except (DatabaseError, TypeError, ValueError) as error:
        if start == end:
            what = f"cannot be read: {error.orig if isinstance(error, DatabaseError) else error}"
            return Checked(1, 0, [Problem(start, what)])
    middle = (start + end) // 2
    part = check(engine, place, start, middle)
    if len(part.problems) < MAX_PROBLEMS:
        part += check(engine, place, middle + 1, end)
    return part


def _check(connection: Connection, place: Place, start: int, end: int) -> Checked:
    checked = Checked(rows=end - start + 1)
    claimed: dict[int, tuple[str, str]] = {}
    previous = _before(connection, start)
    links = {seq: link for seq, *link in _between(connection, chain, start, end)}
    for seq in range(start, end + 1):
        if seq not in links:
            checked.note(seq, "is missing from the chain")
            continue
        kind, row_hash, linked = links[seq]
        if hash_link(previous, seq, row_hash) != linked:
            checked.note(seq, "the chain breaks here: this link or the one before was changed")
        previous = linked
        claimed[seq] = kind, row_hash
    stored: set[str] = set()
    for name, table in tables_at(place.revision).items():
        rows = _between(connection, table, start, end)
        _rows(checked, name, tuple(table.c.keys()), rows, claimed)
        if table is artifact:
            stored = {row.digest for row in rows}
            if place.objects is not None:
                _objects(checked, ObjectStore(Path(place.objects), writable=False), rows)
        if table is tag:
            for row in rows:
                if not is_tag(str(row.name)):
                    checked.note(
                        row.seq, f"{quoted(row.name)} is no tag: one short line was expected"
                    )
        if table is outcome:
            _references(checked, connection, rows, stored)
            if place.objects is not None:
                _origins(
                    checked, connection, ObjectStore(Path(place.objects), writable=False), rows
                )
    for seq, (kind, _) in claimed.items():
        checked.note(seq, f"{kind} row is missing")
    if place.revision >= STANDING:
        for seq, true, kept in derived.wrong(connection, start, end):
            checked.note(seq, f"is {true}, but `standing` says {kept!r}: `lingshu ledger migrate`")
    return checked


def _rows(
    checked: Checked,
    name: str,
    columns: tuple[str, ...],
    rows: Sequence[Row[Any]],
    claimed: dict[int, tuple[str, str]],
) -> None:
    """Take out of `claimed` what a table holds, and note what is not what was claimed."""
    for row in rows:
        seq: int = row[0]
        kind, expected = claimed.get(seq, (None, None))
        if kind != name:
            checked.note(seq, f"{name} row that is not in the chain")
            continue
        del claimed[seq]
        if (actual := rehash(name, columns, row)) != expected:
            checked.note(seq, f"{name} row hashes to {actual}, not {expected}: it was changed")


def _before(connection: Connection, start: int) -> str:
    query = select(chain.c.hash).where(chain.c.seq < start).order_by(chain.c.seq.desc()).limit(1)
    return connection.scalar(query) or EMPTY.hash


def _references(
    checked: Checked, connection: Connection, rows: Sequence[Row[Any]], stored: set[str]
) -> None:
    """Note artifacts without a row; those `stored` in this stretch, which is most, have one."""
    named: dict[str, tuple[int, str]] = {}
    for row in rows:
        for role, digest in json.loads(row.artifacts).items():
            if digest not in stored:
                named[digest] = (row.seq, role)
    if not named:
        return
    known = select(artifact.c.digest).where(artifact.c.digest.in_(list(named)))
    for digest in named.keys() - set(connection.scalars(known)):
        seq, role = named[digest]
        checked.note(seq, f"its {role} {digest} has no artifact row")


def _objects(checked: Checked, objects: ObjectStore, rows: Sequence[Row[Any]]) -> None:
    for row in rows:
        checked.objects += 1
        try:
            objects.checked(row.digest)
        except (LingshuError, OSError) as error:
            checked.note(row.seq, str(error))


def _origins(
    checked: Checked, connection: Connection, objects: ObjectStore, rows: Sequence[Row[Any]]
) -> None:
    """Note outcomes whose cells say that they answer another request."""
    columns = experiment.c.id, experiment.c.tool, experiment.c.request
    about = {row.experiment_id for row in rows}
    query = select(*columns).where(experiment.c.id.in_(about))
    arguments = {name: (tool, request) for name, tool, request in connection.execute(query)}
    for row in rows:
        if row.experiment_id in arguments:
            for role, digest, what in foreign_cells(
                objects, *arguments[row.experiment_id], row.artifacts
            ):
                checked.note(row.seq, f"its {role} {digest} {what}: replay {row.experiment_id}")


def _between(connection: Connection, table: Table, start: int, end: int) -> Sequence[Row[Any]]:
    return connection.execute(select(table).where(table.c.seq.between(start, end))).all()


def main() -> None:
    """Check the stretches asked for, until there are no more."""
    with protect_streams():
        place = Place(**json.loads(sys.stdin.readline()))
        engine = place.engine()
        for line in sys.stdin:
            checked = check(engine, place, *json.loads(line))
            problems = [[p.seq, p.what] for p in checked.problems]
            sys.stdout.write(json.dumps([checked.rows, checked.objects, problems]) + "\n")
            sys.stdout.flush()
