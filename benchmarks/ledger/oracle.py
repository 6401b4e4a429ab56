"""What was acknowledged, and whether a ledger still has exactly that.

Rows are read with plain SQL, not through the library that is on trial.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.ledger.writer import outcome_digest
from lingshu_tools.ledger import Head, Ledger, digest_file

_WITNESSES = 20
_TABLES = ("experiment", "outcome", "screen", "measurement", "verification")


class Oracle:
    """The acknowledgements of one ledger's writers; `faults` are what was found wrong with it."""

    def __init__(self, home: Path) -> None:
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self._home = home
        self._begun: dict[str, str | None] = {}
        self._keys: dict[str, str] = {}
        self._sealed: dict[str, str] = {}
        self._others: dict[str, str] = {}
        self._children: dict[str, list[str]] = {}
        self._heads: list[Head] = []
        self._whole: set[Path] = set()

    def hear(self, line: bytes) -> None:
        """Take in one thing that a writer said."""
        messages: dict[str, Any] = json.loads(line)
        self.counts[messages["what"]] += 1
        if head := messages.get("head"):
            self._heads = [*self._heads[1 - _WITNESSES :], Head.parse(head)]
        getattr(self, f"_hear_{messages['what']}")(messages["id"], messages)

    def check(self) -> None:
        """Open the ledger as the next server would, and note every fault."""
        ledger = Ledger.open(self._home)
        for problem in ledger.verify(anchors=self._heads).problems:
            self._fault("chain", str(problem))
        database = self._home / "experiments.db"
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            connection.execute("BEGIN")
            self._lost(connection)
            self._duplicated(connection)
            self._half_written(connection)
        for path in (self._home / "objects").glob("??/[!.]*"):
            self._object(path)

    def at_rest(self) -> None:
        """Note what is still open after every writer has gone and the rest was finished."""
        ledger = Ledger.open(self._home)
        for item in ledger.find(limit=500).items:
            if item.status not in ("succeeded", "failed", "cancelled"):
                self._fault("unfinished", f"{item.experiment.id} is {item.status}")
        if any((self._home / "spool").glob("*")):
            self._fault("unfinished", "an outcome is left in the spool")

    def _fault(self, kind: str, what: str) -> None:
        self.counts[f"fault: {kind}"] += 1
        self.faults.append(f"{kind}: {what}")

    # What writers say

    def _hear_begun(self, about: str, messages: dict[str, Any]) -> None:
        self._begun[about] = messages.get("digest") or self._begun.get(about)
        if (key := messages.get("key")) and self._keys.setdefault(key, about) != about:
            self._fault("duplicated", f"{key} stands for {self._keys[key]} and {about}")

    def _hear_sealed(self, about: str, messages: dict[str, Any]) -> None:
        if self._sealed.setdefault(about, messages["digest"]) != messages["digest"]:
            self._fault("duplicated", f"{about} had another outcome before")

    def _hear_seen(self, _: str, __: dict[str, Any]) -> None:
        """Its head is a witness, and that is all."""

    def _hear_replayed(self, about: str, messages: dict[str, Any]) -> None:
        if messages["verdict"] not in ("exact", None):
            self._fault("wrong", f"{about}, a replay of {messages['of']}, is {messages['verdict']}")
        self._begun.setdefault(about, None)

    def _hear_screen(self, about: str, _: dict[str, Any]) -> None:
        self._others[about] = "screen"

    def _hear_measured(self, about: str, _: dict[str, Any]) -> None:
        self._others[about] = "measurement"

    def _hear_children(self, about: str, messages: dict[str, Any]) -> None:
        self._children[about] = messages["ids"]

    def _hear_broken(self, _: str, messages: dict[str, Any]) -> None:
        self._fault("error", messages["error"])

    # What the ledger has

    def _lost(self, connection: sqlite3.Connection) -> None:
        there = dict(connection.execute("SELECT id, request_digest FROM experiment"))
        for about, digest in self._begun.items():
            if about not in there or digest not in (None, there[about]):
                self._fault("lost", f"{about} was begun")
        query = "SELECT experiment_id, kind, result, artifacts FROM outcome"
        sealed = {row[0]: _outcome(*row[1:]) for row in connection.execute(query)}
        for about, digest in self._sealed.items():
            if sealed.get(about) != digest:
                self._fault("lost", f"{about} was sealed")
        for about, table in self._others.items():
            if not connection.execute(f"SELECT 1 FROM {table} WHERE id = ?", [about]).fetchone():
                self._fault("lost", f"{about} was recorded")
        for screen, children in self._children.items():
            if not set(children) <= there.keys():
                self._fault("lost", f"a child of {screen} was begun")

    def _duplicated(self, connection: sqlite3.Connection) -> None:
        for what, table, key in (
            ("outcomes", "outcome", "experiment_id"),
            ("experiments", "experiment", "principal || client_key"),
            ("places in a screen", "experiment", "parent || ':' || position"),
            ("verdicts", "verification", "replay_id"),
        ):
            query = f"SELECT {key} AS k FROM {table} WHERE k IS NOT NULL GROUP BY k"
            for (result,) in connection.execute(f"{query} HAVING count(*) > 1"):
                self._fault("duplicated", f"{what} of {result}")

    def _half_written(self, connection: sqlite3.Connection) -> None:
        query = "SELECT parent, count(*) FROM experiment WHERE position IS NOT NULL GROUP BY parent"
        for screen, count in connection.execute(query):
            if count != 3:
                self._fault("half-written", f"{screen} has {count} of 3 experiments")
        query = "SELECT experiment_id, artifacts FROM outcome WHERE kind = 'succeeded'"
        for about, artifacts in connection.execute(query):
            for digest in json.loads(artifacts).values():
                if not self._path(digest).is_file():
                    self._fault("half-written", f"{about} lacks {digest}")

    def _object(self, path: Path) -> None:
        # Unreferenced ones too: whatever has a digest for a name is whole.
        if path not in self._whole:
            self._whole.add(path)
            if digest_file(path) != f"sha256:{path.parent.name}{path.name}":
                self._fault("half-written", f"{path} is not what its name says")

    def _path(self, digest: str) -> Path:
        digits = digest.removeprefix("sha256:")
        return self._home / "objects" / digits[:2] / digits[2:]


def rows(database: Path) -> Iterator[int]:
    """Yield the number of experiments and of links."""
    with closing(sqlite3.connect(database)) as connection:
        for table in ("experiment", "chain"):
            yield connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def _outcome(kind: str, result: str | None, artifacts: str) -> str:
    return outcome_digest(kind, result and json.loads(result), json.loads(artifacts))
