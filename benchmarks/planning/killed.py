"""Must-show 7: a screen that is killed at random points goes on, with the same ranking.

    python -m benchmarks.planning.killed --kills 10 --out benchmarks/results

`lingshu screen` is begun, and its process killed (SIGKILL) after a random time; every third time
the engine's process too. The same command is begun again, until it ends. Then the next seed is
screened, until there were as many kills as wanted. Every ranking must equal that of an
uninterrupted run in another home; every candidate and cell range has one outcome; no cell range
overlaps another of its condition; and the engine's sampler, which counts its tiles, has ended no
tile of an arm twice.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.planning.counted import VARIABLE
from lingshu_tools.app import App
from lingshu_tools.errors import EngineError

SCREEN = ["--checkpoint", "thp1-crispr", "--lower", "PSMB9", "--lower", "STAT1",
          "--lower", "UBE2L6", "--top", "2000", "--json"]  # fmt: skip
RACE = ["--candidates", "pairs_of all_seen", "--candidates", "all_seen", "--top-n", "10"]
EQUAL = ["--candidates", "all_seen", "--n-cells", "1024"]
"""Candidates of screens with even and odd seeds: a race, and equal shares of cells."""
START_S = 300.0
ENGINE_EVERY = 3
"""Of so many kills one is of the engine too."""


@dataclass
class Lab:
    """A home with an engine whose sampler counts tiles."""

    home: Path
    engine: subprocess.Popen[bytes] | None = None

    @property
    def tiles(self) -> Path:
        """The file of tiles."""
        return self.home.with_suffix(".tiles")

    def start_engine(self) -> None:
        """Start the engine and wait until it answers."""
        self.home.mkdir(exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", "lingshu_model.engine", "--home", str(self.home),
                   "--sampler", "benchmarks.planning.counted:CountedSampler"]  # fmt: skip
        environ = {**os.environ, VARIABLE: str(self.tiles)}
        with self.home.with_suffix(".log").open("ab") as log:
            self.engine = subprocess.Popen(command, env=environ, stderr=log, stdout=log)
        end = time.monotonic() + START_S
        with closing(App(self.home)) as app:
            while time.monotonic() < end:
                with suppress(EngineError):
                    if app.engine.info() is not None:
                        return
                time.sleep(0.2)
        raise TimeoutError(str(self.home))

    def begin(self, seed: int) -> subprocess.Popen[bytes]:
        """Begin the screen, or go on with it."""
        command = [sys.executable, "-m", "lingshu_tools.cli", "screen", "--home", str(self.home)]
        return subprocess.Popen(
            [*command, *SCREEN, *(EQUAL if seed % 2 else RACE), "--seed", str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def kill_engine(self) -> None:
        """Kill the engine."""
        if self.engine:
            self.engine.kill()
            self.engine.wait()

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """Return how often each tile of each arm was begun and ended."""
        lines = self.tiles.read_text().splitlines()
        pairs = [line.split(" ", 1) for line in lines]
        begun, ended = (Counter(b for a, b in pairs if a == w) for w in ("begin", "end"))
        return begun, ended


def ranking(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("perturbation", "score", "mc_interval", "closed_form", "in_top", "lfsr")
    return [tuple(str(row.get(name)) for name in names) for row in result["ranking"]]


def whole(lab: Lab, seed: int) -> tuple[dict[str, Any], float]:
    """Return the result of an uninterrupted screen, and its seconds."""
    begin = time.monotonic()
    out, _ = lab.begin(seed).communicate(timeout=1800)
    return json.loads(out), time.monotonic() - begin


def interrupted(
    lab: Lab, seed: int, seconds: float, left: int, rng: random.Random
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the result of a screen that is killed at most `left` times, and the kills."""
    kills: list[dict[str, Any]] = []
    while True:
        process, begin = lab.begin(seed), time.monotonic()
        if len(kills) >= left:
            out, _ = process.communicate(timeout=1800)
            return json.loads(out), kills
        after = rng.uniform(0.1, 0.7) * seconds
        with suppress(subprocess.TimeoutExpired):
            out, _ = process.communicate(timeout=after)
            return json.loads(out), kills
        process.send_signal(signal.SIGKILL)
        process.wait()
        engine = len(kills) % ENGINE_EVERY == ENGINE_EVERY - 1
        if engine:
            lab.kill_engine()
            lab.start_engine()
        begun, _ = lab.counts()
        kills.append({"seed": seed, "after_s": round(time.monotonic() - begin, 1),
                      "engine_too": engine, "tiles_begun": sum(begun.values())})  # fmt: skip
        print(kills[-1], flush=True)


def checked(lab: Lab, screen_id: str) -> dict[str, Any]:
    """Return what the ledger of a killed screen says."""
    with closing(App(lab.home)) as app:
        ledger = app.ledger
        children = ledger.children(screen_id)
        outcomes = ledger.outcomes([c.id for c in children])
        ranges: dict[str, list[tuple[int, int]]] = {}
        for child in children:
            first, n = child.request["first_cell"], child.request["n_cells"]
            ranges.setdefault(str(child.request["interventions"]), []).append((first, first + n))
        overlaps = sum(
            a[1] > b[0]
            for each in ranges.values()
            for a, b in zip(sorted(each), sorted(each)[1:], strict=False)
        )
        return {
            "experiments": len(children),
            "succeeded": sum(o.kind == "succeeded" for o in outcomes.values()),
            "overlapping_ranges": overlaps,
            "ledger_ok": ledger.verify().ok,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        labs = [Lab(Path(folder) / name) for name in ("whole", "killed")]
        try:
            for lab in labs:
                lab.start_engine()
            n_kills, seed = 0, 0
            while n_kills < arguments.kills:
                reference, seconds = whole(labs[0], seed)
                left = arguments.kills - n_kills
                result, kills = interrupted(labs[1], seed, seconds, left, rng)
                n_kills += len(kills)
                same = ranking(result) == ranking(reference)
                rows.append({"seed": seed, "kills": len(kills), "status": result["status"],
                             "candidates": len(result["ranking"]), "same_ranking": same,
                             "whole_s": round(seconds, 1),
                             **checked(labs[1], result["screen_id"])})  # fmt: skip
                print(rows[-1], flush=True)
                seed += 1
            begun, ended = labs[1].counts()
            whole_begun, _ = labs[0].counts()
        finally:
            for lab in labs:
                lab.kill_engine()
    total = {"all_kills": n_kills, "tiles": len(ended),
             "tiles_ended_twice": sum(n > 1 for n in ended.values()),
             "begun_again_after_engine_kill": sum(begun.values()) - len(ended),
             "tiles_uninterrupted": sum(whole_begun.values())}  # fmt: skip
    print(total)
    for row in rows:
        row |= total if row is rows[-1] else dict.fromkeys(total, "")
    with (arguments.out / "planning-killed.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
