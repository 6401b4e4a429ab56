"""Makes a ledger of any size that verifies: `python -m benchmarks.ledger.generate --help`.

Rows look as the tools write them: requests of the same shape, results copied from the reference
ledger's experiments (about 3.7 kB each), ids and digests at random, one link of the chain per row.
Per thousand experiments 940 succeeded, 40 failed, 10 were cancelled, 5 were interrupted and 5 are
queued; half belong to screens of 100; there are 50 perturbations in 4 contexts with 2 checkpoints;
one in ten has the tag `pilot`, one in a thousand `to repeat`.
There are no object files, so `verify` judges such a ledger by its rows alone.

They are written past the ledger's own code, without syncs, triggers or indexes, which are put back
at the end: an interrupted run leaves no ledger.
"""

import argparse
import base64
import json
import random
import shutil
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lingshu_tools.ledger import Head, Ledger, canonical_json, digest_bytes
from lingshu_tools.ledger.chain import hash_link, hash_row
from lingshu_tools.ledger.schema import TABLES, chain

REFERENCE = Path(__file__).parent.parent.parent / "experiments.db"
BATCH = 5_000
SCREEN = 100
TOOLS = ("perturb_cells", "perturb_cells", "perturb_cells", "sample_cells", "complete_cells")
CHECKPOINTS = ("thp1-crispr", "pbmc")
CONTEXTS = tuple({"cell_line": "THP-1", "stimulus": s} for s in ("IFN-gamma", "LPS", "TNF", "none"))
TARGETS = tuple(f"GENE{n:02}" for n in range(50))
TAGS = {"pilot": 10, "to repeat": 1000}
"""Tag to how many experiments have it: one in so many."""
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


class Writer:
    """Links rows and writes them in batches."""

    def __init__(self, connection: sqlite3.Connection, head: Head) -> None:
        self._connection = connection
        self._seq, self._hash = head.seq, head.hash
        self._rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self._columns = {name: [c.name for c in t.c] for name, t in TABLES.items()}

    def add(self, table: str, /, **values: Any) -> int:
        """Return the `seq` of one row, appended to a table and to the chain."""
        self._seq += 1
        values = {name: values.get(name) for name in self._columns[table]} | {"seq": self._seq}
        row_hash = hash_row(table, values)
        self._hash = hash_link(self._hash, self._seq, row_hash)
        self._rows[table].append(tuple(values.values()))
        self._rows[chain.name].append((self._seq, table, row_hash, self._hash))
        return self._seq

    def flush(self) -> None:
        """Write what was added."""
        for table, rows in self._rows.items():
            marks = ", ".join("?" * len(rows[0]))
            self._connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        self._rows.clear()


class Maker:
    """Makes experiments with all their rows."""

    def __init__(self, writer: Writer, seed: int) -> None:
        self._add = writer.add
        self._random = random.Random(seed)
        self._results = _results()
        self._panel = self._digest()
        self._checkpoints = {name: self._digest() for name in CHECKPOINTS}
        self._clock = BEGUN
        self._screen = None
        self._request = 0
        self._server = self._id("srv")
        document = canonical_json({"profile": {"device": "cpu", "dtype": "bfloat16"}}).decode()
        self._environment = digest_bytes(document.encode())
        created = self._time()
        self._add(
            "server", id=self._server, pid=1, host="h", boot="b", versions="{}", created_at=created
        )
        self._add("environment", digest=self._environment, document=document, created_at=created)

    def experiment(self, number: int) -> None:
        """Add one experiment, and every so often a screen for those that follow."""
        place = number % (2 * SCREEN)
        if place == 0:
            self._screen = self._new_screen()
        in_screen = self._screen is not None and place < SCREEN
        identifier = self._id("exp")
        self._ask(identifier, number, place if in_screen else None)
        for name, every in TAGS.items():
            if number % every == every - 1:
                self._tag(name)
        standing = number % 1000
        if standing >= 995:
            return
        attempt = self._id("att")
        self._add(
            "attempt",
            id=attempt,
            experiment_id=identifier,
            server_id=self._server,
            created_at=self._time(),
        )
        if standing < 990:
            self._end(identifier, attempt, standing)

    def _ask(self, identifier: str, number: int, position: int | None) -> None:
        pick = self._random
        tool, checkpoint = pick.choice(TOOLS), pick.choice(CHECKPOINTS)
        context, target = pick.choice(CONTEXTS), pick.choice(TARGETS)
        request = {
            "checkpoint": checkpoint,
            "checkpoint_digest": self._checkpoints[checkpoint],
            "context": context,
            "first_cell": 0,
            "guidance": 0.0,
            "interventions": [{"dose": None, "kind": "knockout", "target": target}],
            "n_cells": 256,
            "seed": number,
            "steps": 4,
        }
        text = canonical_json(request).decode()
        self._request = self._add(
            "experiment",
            id=identifier,
            tool=tool,
            request=text,
            request_digest=digest_bytes(text.encode()),
            checkpoint=checkpoint,
            checkpoint_digest=self._checkpoints[checkpoint],
            panel_digest=self._panel,
            seed=number,
            context=", ".join(f"{k}={v}" for k, v in context.items()),
            perturbation=f"{target} knockout",
            principal="local",
            door="mcp",
            parent=None if position is None else self._screen,
            position=position,
            created_at=self._time(),
        )

    def _tag(self, name: str) -> None:
        created = self._time()
        self._add(
            "tag", name=name, experiment_seq=self._request, principal="local", created_at=created
        )

    def _end(self, identifier: str, attempt: str, standing: int) -> None:
        kind = "succeeded" if standing < 940 else "failed" if standing < 980 else "cancelled"
        finished = kind == "succeeded"
        artifacts = {role: self._digest() for role in ("control", "perturbed")} if finished else {}
        for digest in artifacts.values():
            self._add("artifact", digest=digest, size=20_000, created_at=self._time())
        self._add(
            "outcome",
            experiment_id=identifier,
            attempt_id=attempt,
            kind=kind,
            result=self._random.choice(self._results) if finished else None,
            error="the engine ran out of memory" if kind == "failed" else None,
            environment_digest=self._environment if finished else None,
            artifacts=canonical_json(artifacts).decode(),
            seconds=self._random.random() if finished else None,
            created_at=self._time(),
        )

    def _new_screen(self) -> str:
        identifier = self._id("scr")
        plan = canonical_json({"objective": {"lower": ["STAT1"]}, "targets": list(TARGETS)})
        self._add(
            "screen",
            id=identifier,
            plan=plan.decode(),
            digest=self._digest(),
            principal="local",
            created_at=self._time(),
        )
        return identifier

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{base64.b32encode(self._random.randbytes(10)).decode().lower()}"

    def _digest(self) -> str:
        return "sha256:" + self._random.randbytes(32).hex()

    def _time(self) -> str:
        self._clock += timedelta(milliseconds=311)
        return self._clock.isoformat(timespec="microseconds").replace("+00:00", "Z")


def generate(experiments: int, out: Path, *, seed: int = 0, quiet: bool = False) -> Path:
    """Return `out`, a new ledger file with this many experiments."""
    if out.exists():
        message = f"{out} exists: name a new file"
        raise FileExistsError(message)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as home:
        ledger = Ledger.open(Path(home))
        connection = sqlite3.connect(ledger.database, isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-2000000"):
            connection.execute(f"PRAGMA {pragma}")
        aside = _put_aside(connection)
        connection.execute("BEGIN")
        _fill(connection, ledger.head(), experiments, seed, quiet=quiet)
        for statement in aside:
            connection.execute(statement)
        connection.execute(
            "INSERT INTO standing SELECT e.seq, coalesce(o.kind, 'open') FROM experiment e"
            " LEFT JOIN outcome o ON o.experiment_id = e.id"
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.close()
        shutil.move(ledger.database, out)
    return out


def _fill(
    connection: sqlite3.Connection, head: Head, experiments: int, seed: int, *, quiet: bool
) -> None:
    writer = Writer(connection, head)
    maker = Maker(writer, seed)
    for number in tqdm(range(experiments), unit=" experiments", disable=quiet or None):
        maker.experiment(number)
        if number % BATCH == BATCH - 1:
            writer.flush()
    writer.flush()


def _put_aside(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger')"
    result = [row for row in connection.execute(query).fetchall() if row[2]]
    for kind, name, _ in result:
        connection.execute(f"DROP {kind} {name}")
    return [sql for _, _, sql in result]


def _results() -> list[str]:
    connection = sqlite3.connect(f"file:{REFERENCE}?mode=ro", uri=True)
    rows: Iterator[tuple[str]] = connection.execute("SELECT result FROM outcome ORDER BY seq")
    result = [text for (text,) in rows if text]
    connection.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("out", type=Path, help="the file to make, such as big.db")
    parser.add_argument("--experiments", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    request = parser.parse_args()
    started = time.monotonic()
    out = generate(request.experiments, request.out, seed=request.seed)
    created = {"experiments": request.experiments, "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(created | {"file": str(out), "bytes": out.stat().st_size}))


if __name__ == "__main__":
    main()
