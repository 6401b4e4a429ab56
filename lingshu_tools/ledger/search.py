"""Which experiments may hold a text: an index in a file of its own, which anybody may delete.

`experiments.db.search` holds the trigrams of each experiment's id and request, for rows up to a
mark: a `seq` and the chain's hash there, so that an index of another ledger is never used. What it
offers is checked again by the caller, so it can at worst leave a row out. It is brought up to
date a little at a time by those who search.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, select

from lingshu_model.system.private import make_private
from lingshu_tools.ledger.chain import head_of
from lingshu_tools.ledger.connections import connect
from lingshu_tools.ledger.schema import chain, experiment

_BATCH = 500
_PATIENCE_S = 0.1
_CREATE = (
    "CREATE TABLE mark (seq INTEGER NOT NULL, hash TEXT NOT NULL)",
    "INSERT INTO mark VALUES (0, '')",
    "CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='trigram', detail='none')",
)
Read = Callable[[], AbstractContextManager[Connection]]


class Search:
    """The index beside a database; where it cannot be used, every row counts as not indexed."""

    def __init__(self, database: Path, read: Read, *, writable: bool) -> None:
        self.path = database.with_name(database.name + ".search")
        self._read = read
        self._writable = writable

    def mark(self) -> int:
        """Return up to which `seq` the index can be relied on; 0 where there is none to use."""
        with suppress(sqlite3.Error), closing(self._open()) as index:
            seq, digest = index.execute("SELECT seq, hash FROM mark").fetchone()
            with self._read() as connection:
                if connection.scalar(select(chain.c.hash).where(chain.c.seq == seq)) == digest:
                    return seq
        return 0

    def covers(self, text: str) -> bool:
        """Return whether a text can be looked up: trigrams need three characters."""
        return len(text) >= 3 and "\0" not in text

    def candidates(self, text: str, before: int) -> Iterator[list[int]]:
        """Yield experiments up to the mark that may hold a text, newest first, in batches.

        Args:
            text: one that it `covers`.
            before: the first `seq` that is too new.

        Raises:
            sqlite3.Error: the index is damaged.
        """
        query = "SELECT rowid FROM words WHERE words MATCH ? AND rowid < ? ORDER BY rowid DESC"
        with closing(self._open()) as index:
            cursor = index.execute(query, (_match(text), before))
            while rows := cursor.fetchmany(_BATCH):
                yield [seq for (seq,) in rows]

    def update(self, patience_s: float = _PATIENCE_S) -> bool:
        """Return whether everything is indexed, after working on it for a while.

        One process at a time does; the others search what is not indexed yet row by row.
        """
        if not self._writable:
            return False
        deadline = time.monotonic() + patience_s
        try:
            with closing(self._open()) as index:
                while not (complete := self._add(index)) and time.monotonic() < deadline:
                    pass
        except sqlite3.OperationalError:  # somebody else is at it, or the disk takes nothing
            return False
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)
            return False
        return complete

    def _add(self, index: sqlite3.Connection) -> bool:
        index.execute("BEGIN IMMEDIATE")
        with index:
            if not index.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _CREATE:
                    index.execute(statement)
            (mark,) = index.execute("SELECT seq FROM mark").fetchone()
            query = select(experiment.c.seq, experiment.c.id + " " + experiment.c.request)
            query = query.where(experiment.c.seq > mark).order_by(experiment.c.seq).limit(_BATCH)
            with self._read() as connection:
                rows = [tuple(row) for row in connection.execute(query)]
                head = head_of(connection)
                if len(rows) == _BATCH:
                    last = rows[-1][0]
                    digest = connection.scalar(select(chain.c.hash).where(chain.c.seq == last))
                else:
                    last, digest = head.seq, head.hash
            index.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
            index.execute("UPDATE mark SET seq = ?, hash = ?", (last, digest))
        return len(rows) < _BATCH

    def _open(self) -> sqlite3.Connection:
        if self._writable:
            try:
                make_private(self.path)
            except OSError as error:
                raise sqlite3.OperationalError(str(error)) from error
        mode = "rwc" if self._writable else "ro"
        name = f"file:{quote(str(self.path))}?mode={mode}"
        return connect(name, timeout=0)


def _match(text: str) -> str:
    grams = {text[at : at + 3] for at in range(len(text) - 2)}
    return " AND ".join('"' + gram.replace('"', '""') + '"' for gram in sorted(grams))
