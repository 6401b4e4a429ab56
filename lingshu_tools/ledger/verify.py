"""An audit: every hash derived again, every object read, every anchor looked for.

Reads in short transactions, so writers need not wait. What it cannot see: a tail cut off when no
earlier head is known, and a whole chain forged by somebody who could also replace every anchor.
Knows nothing of locks or of what rows mean.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, Engine, Table, select
from sqlalchemy.exc import DatabaseError

from lingshu_tools.errors import LingshuError
from lingshu_tools.ledger.chain import EMPTY, hash_link, head_of, rehash
from lingshu_tools.ledger.objects import ObjectStore
from lingshu_tools.ledger.records import Head, Problem, VerifyReport
from lingshu_tools.ledger.schema import TABLES, artifact, chain, outcome
from lingshu_tools.ledger.sqlite import triggers

BATCH = 1000
MAX_PROBLEMS = 100
Progress = Callable[[int, int], None]


class Audit:
    """One pass over a ledger; `run` returns what it found. With no objects, rows alone are read."""

    def __init__(
        self, engine: Engine, objects: ObjectStore | None, progress: Progress | None
    ) -> None:
        self._engine = engine
        self._objects = objects
        self._progress = progress or _silent
        self._problems: list[Problem] = []
        self._rows = self._checked = 0
        self._known: set[str] = set()

    def run(self, anchors: Iterable[Head], others: Iterable[Problem] = ()) -> VerifyReport:
        """Return the report; `others` are problems found elsewhere."""
        self._problems.extend(others)
        head = EMPTY
        try:
            head = self._everything(anchors)
        except DatabaseError as error:
            self._note(None, f"the database cannot be read: {error.orig}")
        problems = sorted(self._problems, key=lambda p: (p.seq is None, p.seq or 0))
        objects = None if self._objects is None else self._checked
        return VerifyReport(head, self._rows, objects, tuple(problems))

    def _everything(self, anchors: Iterable[Head]) -> Head:
        with self._engine.begin() as connection:
            self._file(connection)
            head = head_of(connection)
            digests = list(connection.execute(select(artifact.c.seq, artifact.c.digest)))
            self._anchors(connection, head, anchors)
            self._strays(connection, head)
        self._known = {digest for _, digest in digests}
        total = head.seq + len(digests)
        previous = EMPTY.hash
        for start in range(1, head.seq + 1, BATCH):
            end = min(start + BATCH - 1, head.seq)
            with self._engine.begin() as connection:
                previous = self._batch(connection, start, end, previous)
            if len(self._problems) >= MAX_PROBLEMS:
                # Enough is known; and a forged head could claim any number of rows.
                return head
            self._progress(self._rows, total)
        if self._objects is not None:
            for seq, digest in digests:
                self._object(self._objects, seq, digest)
                self._progress(self._rows + self._checked, total)
        return head

    def _file(self, connection: Connection) -> None:
        for (text,) in connection.exec_driver_sql("PRAGMA integrity_check(10)"):
            if text != "ok":
                self._note(None, f"SQLite's integrity check says: {text}")
        for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            self._note(row, f"{table} refers to a {parent} that is not there")
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        found = dict(tuple(row) for row in connection.exec_driver_sql(query))
        for name, statement in triggers().items():
            if found.get(name) != statement:
                self._note(None, f"trigger {name} is missing or changed: rows were not protected")
        for name in found.keys() - triggers().keys():
            self._note(
                None, f"trigger {name} is none of the ledger's: it may change what is written"
            )

    def _anchors(self, connection: Connection, head: Head, anchors: Iterable[Head]) -> None:
        for anchor in anchors:
            query = select(chain.c.hash).where(chain.c.seq == anchor.seq)
            found = connection.scalar(query)
            if found is None:
                self._note(
                    anchor.seq, f"once was the head, but the chain ends at {head.seq}: cut off"
                )
            elif found != anchor.hash:
                self._note(
                    anchor.seq, f"had the hash {anchor.hash}, now {found}: history rewritten"
                )

    def _strays(self, connection: Connection, head: Head) -> None:
        for table in (chain, *TABLES.values()):
            outside = select(table.c.seq).where((table.c.seq < 1) | (table.c.seq > head.seq))
            for seq in connection.scalars(outside.limit(MAX_PROBLEMS)):
                self._note(seq, f"{table.name} row that is not in the chain")

    def _batch(self, connection: Connection, start: int, end: int, previous: str) -> str:
        links = {row["seq"]: row for row in _between(connection, chain, start, end)}
        rows = [
            (name, row)
            for name, table in TABLES.items()
            for row in _between(connection, table, start, end)
        ]
        for seq in range(start, end + 1):
            if seq not in links:
                self._note(seq, "is missing from the chain")
                continue
            link = links[seq]
            if hash_link(previous, seq, link["row_hash"]) != link["hash"]:
                self._note(seq, "the chain breaks here: this link or the one before was changed")
            previous = link["hash"]
        self._match(links, rows)
        self._rows += end - start + 1
        return previous

    def _match(
        self, links: dict[int, dict[str, Any]], rows: list[tuple[str, dict[str, Any]]]
    ) -> None:
        claimed = {seq: (link["kind"], link["row_hash"]) for seq, link in links.items()}
        for name, row in rows:
            seq = row["seq"]
            kind, expected = claimed.get(seq, (None, None))
            if kind != name:
                self._note(seq, f"{name} row that is not in the chain")
                continue
            del claimed[seq]
            if (found := rehash(name, row)) != expected:
                self._note(seq, f"{name} row hashes to {found}, not {expected}: it was changed")
            elif name == outcome.name:
                self._refers(seq, row["artifacts"])
        for seq, (kind, _) in claimed.items():
            self._note(seq, f"{kind} row is missing")

    def _refers(self, seq: int, artifacts: str) -> None:
        for role, digest in json.loads(artifacts).items():
            if digest not in self._known:
                self._note(seq, f"its {role} {digest} has no artifact row")

    def _object(self, objects: ObjectStore, seq: int, digest: str) -> None:
        self._checked += 1
        try:
            objects.get(digest)
        except (LingshuError, OSError) as error:
            self._note(seq, str(error))

    def _note(self, seq: int | None, what: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(seq, what))


def _silent(done: int, total: int) -> None:
    del done, total


def _between(connection: Connection, table: Table, start: int, end: int) -> list[dict[str, Any]]:
    query = select(table).where(table.c.seq.between(start, end))
    return [dict(row) for row in connection.execute(query).mappings()]
