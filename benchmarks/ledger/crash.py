"""Writers killed at random, thousands of times: `python -m benchmarks.ledger.crash --kills 300`.

Two or more processes use one ledger through the real tools and the ledger's own calls. Each is
killed at a random moment, or at a marked place (see `trips`): inside a page that SQLite writes, in
the middle of an artifact, between an artifact and its row, before and after a commit. After every
kill the ledger is opened again and held against all that was acknowledged; then work goes on.
Every `--per-ledger` kills, all writers are killed, what they left is finished, and the next ledger
begins. With `--results FILE` a line is kept of every ledger, and a run that was stopped goes on
where it was. SIGKILL is not a power cut: see `tests/ledger/test_ledger_faults.py` for disks that
fail.
"""

import json
import os
import random
import select
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from benchmarks.ledger import writer
from benchmarks.ledger.compiled import compiled_once
from benchmarks.ledger.kept import Kept
from benchmarks.ledger.oracle import Oracle, rows
from benchmarks.ledger.trips import PLACES, Trips, wired
from lingshu_model.contracts import Catalogue
from lingshu_testing import make_checkpoint

TOO_LONG_S = 300
# A random moment: so many acknowledgements, and then so long on average.
_MANY_WORDS = 40
_LINGER_S = 0.01
# How far into a place's visits a writer may get: SQLite writes many pages in one transaction.
_DEPTH = {"write": 400, "sync": 60, "open": 20, "delete": 20}
_DEPTH_OTHERS = 12


@dataclass
class Child:
    """A writer and its fate: where it kills itself, or after how many words and when."""

    pid: int
    pipe: int
    place: str | None
    words: int
    kill_at: float
    heard: bytes = b""


@dataclass
class Tally:
    """What has happened so far, over all ledgers."""

    kills: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    faults: list[str] = field(default_factory=list[str])
    ledgers: int = 0
    experiments: int = 0
    rows: int = 0
    cpu_seconds: float = 0.0
    seconds: float = 0.0

    def __iadd__(self, other: "Tally") -> "Tally":
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "Tally":
        """Return the tally that these are the fields of."""
        return cls(**values | {name: Counter(values[name]) for name in ("kills", "counts")})


class Round:
    """One ledger, from nothing to its last kill."""

    def __init__(self, stage: writer.Stage, rng: random.Random, tally: Tally) -> None:
        self._stage = stage
        self._rng = rng
        self._tally = tally
        self._oracle = Oracle(stage.home)
        self._children: dict[int, Child] = {}
        self._names = 0

    def run(self, kills: int, writers: int, until: float, bar: Any) -> None:
        """Kill this often, or until then; then finish what is left and judge the whole."""
        left = kills
        while left:
            left = left - 1 if time.monotonic() < until else max(len(self._children) - 1, 0)
            while len(self._children) < min(writers, left + 1):
                self._start(None)
            self._tally.kills[self._next_death()] += 1
            self._oracle.check()
            bar.update()
        self._start(["recover_all"], fated=False)
        self._next_death()
        self._oracle.check()
        self._oracle.at_rest()
        self._add_up()

    def _start(self, acts: Iterable[str] | None, *, fated: bool = True) -> None:
        self._names += 1
        name, seed = f"w{self._names}", self._rng.getrandbits(32)
        place, k = self._fate() if fated else (None, 0)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            self._be(write, acts, name, seed, place, k)
        os.close(write)
        # A marked place that is never reached must not stop the show.
        words = 0 if not fated else _MANY_WORDS if place else self._rng.randint(1, 6)
        until = time.monotonic() + TOO_LONG_S
        self._children[read] = Child(pid, read, place, words, until)

    def _fate(self) -> tuple[str | None, int]:
        if self._rng.random() < 0.4:
            return None, 0
        place = self._rng.choice(PLACES)
        return place, self._rng.randint(1, _DEPTH.get(place, _DEPTH_OTHERS))

    def _be(
        self, pipe: int, acts: Iterable[str] | None, name: str, seed: int, place: str | None, k: int
    ) -> None:
        try:
            trips = Trips(lambda: os.kill(os.getpid(), signal.SIGKILL))
            trips.arm(place or "", k)
            with wired(trips):
                writer.run(self._stage, pipe, acts, name=name, seed=seed)
        finally:
            os._exit(2)

    def _next_death(self) -> str:
        """Listen until a writer is dead; return where it died."""
        while True:
            next_ = min(self._children.values(), key=lambda child: child.kill_at)
            if dead := self._listen(next_.kill_at):
                return dead
            # Its pipe ends with it, and what it said before is read first.
            os.kill(next_.pid, signal.SIGKILL)
            next_.kill_at, next_.place = time.monotonic() + TOO_LONG_S, None

    def _listen(self, until: float) -> str | None:
        """Return where a writer died, once one has; None when it is time to kill one."""
        while (left := until - time.monotonic()) > 0:
            for pipe in select.select(list(self._children), [], [], left)[0]:
                child = self._children[pipe]
                said = os.read(pipe, 1 << 16)
                *lines, child.heard = (child.heard + said).split(b"\n")
                for line in lines:
                    self._oracle.hear(line)
                if not said:
                    return self._bury(child)
                child.words -= len(lines)
                if -len(lines) < child.words <= 0:
                    child.kill_at = time.monotonic() + self._rng.expovariate(1 / _LINGER_S)
                    until = min(until, child.kill_at)
        return None

    def _bury(self, child: Child) -> str:
        del self._children[child.pipe]
        os.close(child.pipe)
        _, status = os.waitpid(child.pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return child.place or "random moment"
        return "not killed"

    def _add_up(self) -> None:
        experiments, links = rows(self._stage.home / "experiments.db")
        self._tally.counts += self._oracle.counts
        self._tally.faults += self._oracle.faults
        self._tally.ledgers += 1
        self._tally.experiments += experiments
        self._tally.rows += links


def crash(
    kills: int,
    *,
    writers: int,
    per_ledger: int,
    folder: Path,
    seed: int,
    minutes: float = 1e9,
    results: Path | None = None,
) -> dict[str, Any]:
    """Return the summary of so many kills; ledgers that went wrong are left in `folder`.

    Ledgers of which `results` has a line are not made again; each other one adds its line.
    """
    tally, until = Tally(), time.monotonic() + 60 * minutes
    kept = Kept(results)
    checkpoint = make_checkpoint(folder / "checkpoints")
    catalogue = Catalogue([checkpoint.path.parent])
    os.environ["LINGSHU_REFERENCE_LEDGER"] = str(folder / "none.db")
    # No thread may live beside a fork: tqdm would start one.
    tqdm.monitor_interval = 0
    with compiled_once(), tqdm(total=kills, unit=" kills", disable=not sys.stderr.isatty()) as bar:
        writer.warm_up(writer.Stage(folder / "warm", catalogue, checkpoint))
        for first in range(0, kills, per_ledger):
            count = min(per_ledger, kills - first)
            name = f"seed {seed}, kills {first} to {first + count}, {writers} writers"
            if result := kept.get(name):
                tally += Tally.parse(result)
                bar.update(count)
            elif time.monotonic() < until:
                stage = writer.Stage(folder / f"home-{first}", catalogue, checkpoint)
                item = _part(stage, random.Random(name), count, writers, until, bar)
                tally += item
                # A ledger that time ran out on is begun anew by the next run.
                if time.monotonic() < until:
                    kept.add(name, vars(item))
    return _summary(tally)


def _part(
    stage: writer.Stage, rng: random.Random, kills: int, writers: int, until: float, bar: Any
) -> Tally:
    tally, started, cpu = Tally(), time.monotonic(), sum(os.times()[:4])
    Round(stage, rng, tally).run(kills, writers, until, bar)
    tally.seconds = time.monotonic() - started
    tally.cpu_seconds = sum(os.times()[:4]) - cpu
    if not tally.faults:
        shutil.rmtree(stage.home)
    return tally


def _summary(tally: Tally) -> dict[str, Any]:
    def faults(kind: str) -> int:
        return tally.counts[f"fault: {kind}"]

    kills = tally.kills.total() - tally.kills["not killed"]
    return {
        "kills": kills,
        "acknowledged_lost": faults("lost"),
        "half_written": faults("half-written"),
        "duplicated": faults("duplicated"),
        "chain_broken": faults("chain"),
        "other_faults": len(tally.faults)
        - sum(map(faults, ("lost", "half-written", "duplicated", "chain"))),
        "acknowledged": {k: n for k, n in sorted(tally.counts.items()) if ":" not in k},
        "killed_at": dict(tally.kills.most_common()),
        "ledgers": tally.ledgers,
        "experiments": tally.experiments,
        "rows": tally.rows,
        "cpu_seconds": round(tally.cpu_seconds, 1),
        "seconds": round(tally.seconds, 1),
        "sqlite": sqlite3.sqlite_version,
        "faults": tally.faults[:20],
    }


@click.command()
@click.option("--kills", default=300, show_default=True, help="How many writers are killed.")
@click.option("--engine", type=click.Choice(["fake", "real"]), default="fake", show_default=True)
@click.option("--writers", default=2, show_default=True, help="Processes at work at once.")
@click.option("--per-ledger", default=50, show_default=True, help="Kills before a new ledger.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of who dies where.")
@click.option("--minutes", type=float, default=1e9, help="Stop after so long.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="A line for each ledger; a run that was stopped goes on after them.",
)
@click.option("--folder", type=click.Path(path_type=Path), help="Where; a temporary one else.")
def main(
    kills: int,
    engine: str,
    writers: int,
    per_ledger: int,
    seed: int,
    minutes: float,
    results: Path | None,
    folder: Path | None,
) -> None:
    """Kill ledger writers at random; print one JSON object; exit with 1 if anything was wrong."""
    home = Path(tempfile.mkdtemp(prefix="crash-", dir=folder))
    if engine == "real":
        from benchmarks.ledger.real import crash_real

        summary = crash_real(kills, folder=home, seed=seed, per_home=per_ledger, results=results)
    else:
        summary = crash(
            kills,
            writers=writers,
            per_ledger=per_ledger,
            folder=home,
            seed=seed,
            minutes=minutes,
            results=results,
        )
    click.echo(json.dumps(summary, indent=2))
    if summary["faults"]:
        click.echo(f"the ledgers that went wrong are in {home}", err=True)
        sys.exit(1)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
