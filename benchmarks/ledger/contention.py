"""Many writers on one new ledger: `python -m benchmarks.ledger.contention`.

Each process opens the ledger at the same moment and takes its experiments from `begin` to their
seal as fast as it can. Reported: errors, experiments per second, and how long one commit took,
waiting for the others included. `--journal wal` forces a write-ahead log where the ledger itself
would not dare: see `lingshu_tools/ledger/sqlite.py`.
"""

import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np

from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, sqlite

COMMITS = ("begin", "attempt", "seal")


def request(process: int, n: int) -> NewExperiment:
    return NewExperiment(
        tool="perturb_cells",
        request={"process": process, "n": n, "n_cells": 256},
        checkpoint="tiny",
        checkpoint_digest="sha256:" + "1" * 64,
        panel_digest="sha256:" + "2" * 64,
        seed=n,
        client_key=f"{process}-{n}",
    )


@contextmanager
def journal(mode: sqlite.Mode | None) -> Iterator[sqlite.Mode]:
    """Force a journal on the ledgers opened meanwhile; None leaves the choice to them."""
    if mode is None:
        yield sqlite.journal_for(Path("none")).mode
        return
    with patch.object(sqlite, "journal_for", lambda _: sqlite.Journal(mode, "forced")):
        yield mode


def write(home: Path, process: int, experiments: int) -> dict[str, Any]:
    """Return this process's commit times by kind, and its errors."""
    seconds: dict[str, list[float]] = {kind: [] for kind in COMMITS}
    errors: list[str] = []

    def timed(kind: str, act: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        created = act()
        seconds[kind].append(time.perf_counter() - start)
        return created

    ledger = Ledger.open(home)
    for n in range(experiments):
        try:
            created = timed("begin", lambda n=n: ledger.begin(request(process, n)))
            attempt = timed("attempt", lambda created=created: ledger.attempt(created.id))
            outcome = NewOutcome(kind="succeeded", result={"n": n}, environment={"cpu": "x"})
            timed("seal", lambda attempt=attempt, o=outcome: ledger.seal(attempt, o))
        except Exception as error:  # noqa: BLE001 - counted, whatever it is
            errors.append(f"{type(error).__name__}: {error}")
    return {"seconds": seconds, "errors": errors}


def contend(home: Path, *, processes: int, experiments: int) -> dict[str, Any]:
    """Return what so many processes with so many experiments each came to."""
    gun = os.pipe()
    children = [_fork(home, i, experiments, gun) for i in range(processes)]
    began = time.perf_counter()
    for end in gun:
        os.close(end)
    messages = [_answer(pid, pipe) for pid, pipe in children]
    seconds = time.perf_counter() - began
    ledger = Ledger.open(home)
    report = ledger.verify()
    count = processes * experiments
    errors = [e for item in messages for e in item["errors"]]
    return {
        "errors": len(errors),
        "first_errors": errors[:5],
        "missing": count - _sealed(ledger),
        "problems": [str(p) for p in report.problems],
        "experiments": count,
        "rows": report.rows,
        "seconds": round(seconds, 2),
        "experiments_per_second": round(count / seconds, 1),
        "commits_per_second": round(3 * count / seconds, 1),
        "commit_ms": {kind: _quantiles(messages, (kind,)) for kind in COMMITS}
        | {"all": _quantiles(messages, COMMITS)},
    }


def _fork(home: Path, process: int, experiments: int, gun: tuple[int, int]) -> tuple[int, int]:
    read, out = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(gun[1])
            # The shot is the end of the pipe: nobody holds its other end any more.
            os.read(gun[0], 1)
            with os.fdopen(out, "w") as file:
                json.dump(write(home, process, experiments), file)
        finally:
            os._exit(0)
    os.close(out)
    return pid, read


def _answer(pid: int, pipe: int) -> dict[str, Any]:
    with os.fdopen(pipe) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else {"seconds": {}, "errors": ["it died"]}


def _sealed(ledger: Ledger) -> int:
    sealed, page = 0, ledger.find(status="succeeded", limit=500)
    while True:
        sealed += len(page.items)
        if page.next_before is None:
            return sealed
        page = ledger.find(status="succeeded", limit=500, before=page.next_before)


def _quantiles(messages: list[dict[str, Any]], kinds: tuple[str, ...]) -> dict[str, float]:
    times = [s for item in messages for kind in kinds for s in item["seconds"].get(kind, [])]
    p50, p99, most = np.quantile(times or [0.0], [0.5, 0.99, 1.0]) * 1000
    return {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(most, 2)}


@click.command()
@click.option("--processes", default=8, show_default=True)
@click.option("--experiments", default=200, show_default=True, help="Of each process.")
@click.option("--journal", "forced", type=click.Choice(["wal", "truncate"]), help="Force one.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where; a temporary one else.")
def main(processes: int, experiments: int, forced: sqlite.Mode | None, folder: Path | None) -> None:
    """Let many processes write one new ledger; print JSON; exit with 1 if anything was wrong."""
    place = Path(tempfile.mkdtemp(prefix="contention-", dir=folder))
    with journal(forced) as mode:
        result = contend(place / "home", processes=processes, experiments=experiments)
    shutil.rmtree(place)
    settings = {"journal": mode, "forced": forced is not None, "sqlite": sqlite3.sqlite_version}
    click.echo(json.dumps({"processes": processes, **settings, **result}, indent=2))
    if result["errors"] or result["missing"] or result["problems"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
