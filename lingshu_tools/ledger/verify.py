"""An audit: every hash derived again, every object read, every anchor looked for.

A long ledger is shared out to processes, a stretch of the chain at a time. Reads in short
transactions, so writers need not wait. What it cannot see: a tail cut off when no earlier head is
known, and a whole chain forged by somebody who could also replace every anchor.
"""

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import IO, cast

from sqlalchemy import Connection, func, select

from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger.chain import EMPTY, head_of
from lingshu_tools.ledger.checking import MAX_PROBLEMS, Checked, Place, check
from lingshu_tools.ledger.database import UNREADABLE, Database, revision_of, why
from lingshu_tools.ledger.objects import ObjectStore
from lingshu_tools.ledger.records import Head, Problem, VerifyReport
from lingshu_tools.ledger.schema import artifact, chain, tables_at
from lingshu_tools.system.interpreter import PIPE, Process, start

BATCH = 2000
# A process takes as long to start as this many rows take to check.
ALONE = 30_000
Progress = Callable[[int, int], None]
Stretch = tuple[int, int]


class Audit:
    """One pass over a ledger; `run` returns what it found. With no objects, rows alone are read."""

    def __init__(
        self, database: Database, objects: ObjectStore | None, progress: Progress | None
    ) -> None:
        folder = None if objects is None else str(objects.root)
        self._place = Place(database.backend.address, database.writable, folder, database.revision)
        self._engine = database.reader
        self._flaws = database.backend.flaws
        self._progress = progress or _silent
        self._checked = Checked()

    def run(self, anchors: Iterable[Head], others: Iterable[Problem] = ()) -> VerifyReport:
        """Return the report; `others` are problems found elsewhere."""
        head = EMPTY
        try:
            head = self._everything(anchors)
        except UNREADABLE as error:
            self._checked.note(None, f"the database cannot be read: {why(error)}")
        problems = [*others, *self._checked.problems]
        problems = sorted(problems, key=lambda p: (p.seq is None, p.seq or 0))
        objects = None if self._place.objects is None else self._checked.objects
        return VerifyReport(head, self._checked.rows, objects, tuple(problems[:MAX_PROBLEMS]))

    def _everything(self, anchors: Iterable[Head]) -> Head:
        whole = Checked()
        with self._engine.begin() as connection:
            # It may have been migrated since it was opened.
            self._place = replace(self._place, revision=revision_of(connection))
            head = head_of(connection)
            total = head.seq
            if self._place.objects is not None:
                total += connection.scalar(select(func.count(artifact.c.seq))) or 0
            self._anchors(whole, connection, head, anchors)
            self._strays(whole, connection, head)
            # A forged head could claim any number of rows: this far, enough of them are missing.
            links = connection.scalar(select(func.count(chain.c.seq))) or 0
        last = min(head.seq, links + MAX_PROBLEMS)
        ends = range(BATCH, last + BATCH, BATCH)
        stretches = [(end - BATCH + 1, min(end, last)) for end in ends]
        # The database looks itself through while the rows are hashed.
        with ThreadPoolExecutor(1) as beside, self._checkers(last) as checked:
            file = beside.submit(self._file)
            for part in checked(stretches):
                self._checked += part
                self._progress(self._checked.rows + self._checked.objects, total)
            self._checked += whole
            self._checked += file.result()
        return head

    @contextmanager
    def _checkers(self, rows: int) -> Generator[Callable[[Iterable[Stretch]], Iterator[Checked]]]:
        processes = min(_cores(), rows // ALONE)
        if processes < 2:
            yield lambda stretches: (check(self._engine, self._place, *s) for s in stretches)
            return
        with _workers(self._place, processes) as ask, ThreadPoolExecutor(processes) as pool:
            yield lambda stretches: pool.map(ask, stretches)

    def _file(self) -> Checked:
        whole = Checked()
        try:
            with self._engine.begin() as connection:
                for row, what in self._flaws(connection, revision=self._place.revision):
                    whole.note(row, what)
        except UNREADABLE as error:
            whole.note(None, f"the database cannot be read: {why(error)}")
        return whole

    def _anchors(
        self, whole: Checked, connection: Connection, head: Head, anchors: Iterable[Head]
    ) -> None:
        for anchor in anchors:
            query = select(chain.c.hash).where(chain.c.seq == anchor.seq)
            digest = connection.scalar(query)
            if digest is None:
                what = f"once was the head, but the chain ends at {head.seq}: cut off"
                whole.note(anchor.seq, what)
            elif digest != anchor.hash:
                what = f"had the hash {anchor.hash}, now {digest}: history rewritten"
                whole.note(anchor.seq, what)

    def _strays(self, whole: Checked, connection: Connection, head: Head) -> None:
        for table in (chain, *tables_at(self._place.revision).values()):
            outside = select(table.c.seq).where((table.c.seq < 1) | (table.c.seq > head.seq))
            for seq in connection.scalars(outside.limit(MAX_PROBLEMS)):
                whole.note(seq, f"{table.name} row that is not in the chain")


@contextmanager
def _workers(place: Place, count: int) -> Generator[Callable[[Stretch], Checked]]:
    """Give a function that has a stretch checked by whichever process is free."""
    free: SimpleQueue[Process[bytes]] = SimpleQueue()
    started: list[Process[bytes]] = []

    def ask(stretch: Stretch) -> Checked:
        process = free.get()
        answer = _answer(process, json.dumps(stretch))
        free.put(process)
        if not answer:
            message = "a process of the audit ended early; run `lingshu ledger verify` again"
            raise LedgerError(message)
        rows, objects, problems = json.loads(answer)
        return Checked(rows, objects, [Problem(seq, what) for seq, what in problems])

    try:
        for _ in range(count):
            started.append(_start(place))
            free.put(started[-1])
        yield ask
    except BaseException:
        for process in started:
            process.kill()
        raise
    finally:
        for process in started:
            # Closes its pipe, and it ends.
            process.communicate()


def _start(place: Place) -> Process[bytes]:
    # Not -m, which warns of a module that its own package has imported already.
    code = "from lingshu_tools.ledger.checking import main; main()"
    process = start(["-c", code], stdin=PIPE, stdout=PIPE)
    # Not an argument: a URL may hold a password, and arguments are seen by everybody.
    _tell(process, json.dumps(asdict(place)))
    return process


def _answer(process: Process[bytes], line: str) -> str:
    """Return the line that a process answers; nothing where it has ended."""
    _tell(process, line)
    return cast("IO[bytes]", process.stdout).readline().decode()


def _tell(process: Process[bytes], line: str) -> None:
    pipe = cast("IO[bytes]", process.stdin)
    with suppress(BrokenPipeError):
        pipe.write(line.encode() + b"\n")
        pipe.flush()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _silent(rows: int, total: int) -> None:
    del rows, total
