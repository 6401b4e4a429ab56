"""Replays experiments in every way that must not matter, and in some that do.

`python -m benchmarks.ledger.matrix --help`. A few experiments with a shipped checkpoint are run
once, then replayed from their rows: by one rank or two, by an engine that has been running or one
started for it, one tile and one experiment at a time or several, forwards and backwards, and from
another process. All of it is one numerics profile, so each verdict must be `exact`. Then by an
engine of another dtype, and one of two threads a tile: those must be `same_kind` where the cells
are the same and otherwise `equivalent`, and name the one thing that differs. Exits with 1 where a
verdict is not as it must be.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.errors import EngineError
from lingshu_tools.experiments.replays import CELL_ROLES
from lingshu_tools.system.interpreter import output_of, start

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sample_cells", {"n_cells": 70, "seed": 11}),
    ("perturb_cells", {"interventions": ("STAT1",), "n_cells": 100, "seed": 12}),
    ("perturb_cells", {"interventions": ("IRF1", "JAK2"), "n_cells": 64, "seed": 13}),
    ("perturb_cells", {"interventions": ("CD86",), "n_cells": 30, "seed": 14, "first_cell": 50}),
)
PATIENCE_S = 3600


@dataclass(frozen=True)
class Interface:
    """One way of replaying them all."""

    ranks: int = 1
    fresh: bool = False
    several: bool = False
    backwards: bool = False
    dtype: str = "auto"
    threads: int = 1

    @property
    def arguments(self) -> tuple[str, ...]:
        """What its engine is started with."""
        workers = "2" if self.several else "1"
        return ("--workers", workers, "--dtype", self.dtype, "--threads", str(self.threads))

    @property
    def cells(self) -> tuple[str, ...]:
        """Its columns in the table."""
        return (
            str(self.ranks),
            "started for it" if self.fresh else "kept",
            "2 tiles, all experiments" if self.several else "1 tile, 1 experiment",
            "backwards" if self.backwards else "forwards",
        )


class Lab:
    """One home, its experiments, and whichever engine is running."""

    def __init__(self, home: Path, checkpoint: str) -> None:
        self.home = home
        self._checkpoint = checkpoint
        self._interface: Interface | None = None
        self.app = self._open(())

    def _open(self, arguments: tuple[str, ...]) -> App:
        return App(self.home, engine=Engine(self.home, arguments=arguments))

    def prepare(self, path: Interface) -> None:
        """See that the engine that runs is the one for `way`: the same, or another."""
        if self._interface and not path.fresh and _same_engine(self._interface, path):
            return
        self.stop()
        self.app = self._open(path.arguments)
        if path.ranks > 1:
            self._group(path)
        _until(self._started, "an engine starts")
        self._interface = path

    def _started(self) -> bool:
        try:
            self.app.engine.ensure()
        except EngineError:
            return False  # on starved cores one may not answer in time: asked again
        return True

    def stop(self) -> None:
        """End the engine."""
        if self._interface:
            self.app.engine.shutdown()
            _until(lambda: self.app.engine.info() is None, "the engine ends")
        self.app.close()
        self._interface = None

    def _group(self, path: Interface) -> None:
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0"]
        launch += ["--num_processes", str(path.ranks), "--num_machines", "1"]
        launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        engine = ["-m", "lingshu_model.engine", "--home", str(self.home)]
        engine += ["--ranks", str(path.ranks), *path.arguments]
        environ = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(path.threads)}
        with (self.home / "group.log").open("a") as log:
            group = start([*launch, *engine], environ=environ, stdout=log, stderr=log)

        def answers() -> bool:
            if group.poll() is not None:
                raise SystemExit((self.home / "group.log").read_text())
            with suppress(EngineError):
                return self.app.engine.info() is not None
            return False

        _until(answers, "two ranks start")

    def originals(self) -> list[str]:
        """Run the experiments for the first time; return their ids."""
        return [self._ask(tool, dict(request)) for tool, request in CALLS]

    def _ask(self, tool: str, request: dict[str, Any]) -> str:
        if "interventions" in request:
            named = request["interventions"]
            request["interventions"] = [{"kind": "knockout", "target": t} for t in named]
        created = call(self.app, tool, request | {"checkpoint": self._checkpoint, "wait_s": 45})
        name = str(created.experiment_id)
        _until(lambda: self._get(name).status == "succeeded", f"{name} succeeds")
        return name

    def _get(self, name: str) -> Any:
        return call(self.app, "get_experiment", {"id": name, "wait_s": 45})

    def replay(self, path: Interface, ids: Sequence[str]) -> list[Any]:
        """Return the judged replays of these experiments, in their order."""
        self.prepare(path)
        ranks = self.app.engine.ensure().ranks
        if ranks != path.ranks:
            raise SystemExit(f"{ranks} ranks answer where {path.ranks} were started")
        order = list(ids)[::-1] if path.backwards else list(ids)
        result: dict[str, Any] = {}
        begun: dict[str, str] = {}
        for name in order:
            request = {"id": name, "wait_s": 0 if path.several else 45}
            begun[name] = str(call(self.app, "replay_experiment", request).experiment_id)
            if not path.several:
                result[name] = self._judged(begun[name])
        return [result.get(name) or self._judged(begun[name]) for name in ids]

    def _judged(self, replay: str) -> Any:
        _until(lambda: self._get(replay).replay is not None, f"{replay} is judged")
        return self._get(replay).replay

    def same_cells(self, of: str) -> bool:
        """Return whether the newest replay has the cells of its original, by their digests."""
        before = self.app.ledger.outcome(of)
        after = self.app.ledger.outcome(self.app.ledger.children(of)[-1].id)
        if before is None or after is None:
            raise SystemExit(f"{of} has no outcome to compare")
        return all(before.artifacts.get(r) == after.artifacts.get(r) for r in CELL_ROLES)


def _same_engine(item: Interface, other: Interface) -> bool:
    return (item.ranks, item.arguments) == (other.ranks, other.arguments)


def _until(true: Any, what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"waited {PATIENCE_S} s in vain: {what}")
        time.sleep(0.05)


def interfaces() -> list[Interface]:
    """Return the ways that must not matter; those that share an engine come together."""
    created = product((1, 2), (False, True), (False, True), (False, True))
    return [
        Interface(ranks, fresh, several, backwards) for ranks, fresh, several, backwards in created
    ]


def elsewhere(lab: Lab, ids: Sequence[str]) -> list[str]:
    """Return the verdicts of replays that a process of its own asked for, each one's."""
    result: list[str] = []
    for name in ids:
        command = ["-m", "lingshu_tools.cli", "replay", name, "--json", "--home", str(lab.home)]
        # A replay that differs exits with 1 and prints its verdict all the same.
        messages = json.loads(output_of(command, check=False))
        result.append(messages.get("verdict") or messages["replay"]["verdict"])
    return result


def counted(verdicts: Sequence[str]) -> str:
    return ", ".join(f"{n} {v}" for v, n in Counter(verdicts).most_common())


@contextmanager
def opened(checkpoint: str) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="matrix") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        lab = Lab(home, checkpoint)
        try:
            yield lab
        finally:
            lab.stop()


def indifferent(lab: Lab, ids: Sequence[str], chosen: Sequence[Interface]) -> bool:
    """Print a row for each way that must not matter; return whether all verdicts are exact."""
    print("| ranks | engine | at a time | order | verdicts |\n| --- | --- | --- | --- | --- |")
    good = True
    for path in tqdm(chosen, unit=" ways", disable=None):
        verdicts = [judged.verdict for judged in lab.replay(path, ids)]
        good &= set(verdicts) == {"exact"}
        print(f"| {' | '.join((*path.cells, counted(verdicts)))} |", flush=True)
    lab.prepare(Interface())
    verdicts = elsewhere(lab, ids)
    good &= set(verdicts) == {"exact"}
    print(f"| 1 | kept | asked by another process each | forwards | {counted(verdicts)} |\n")
    return good


def different(lab: Lab, ids: Sequence[str]) -> bool:
    """Print a row for each way that matters; return whether every verdict is the right one."""
    print("| other | verdicts | same cells | identical counts | named |")
    print("| --- | --- | --- | --- | --- |")
    profile = lab.app.engine.ensure().profile
    dtype = "float32" if profile["dtype"] == "bfloat16" else "bfloat16"
    good = True
    others = {
        "dtype": replace(Interface(), dtype=dtype),
        "threads": replace(Interface(), threads=2),
    }
    for key, path in others.items():
        verdicts: list[str] = []
        shares: list[float] = []
        named: set[str] = set()
        same = 0
        for name, judged in zip(ids, lab.replay(path, ids), strict=True):
            alike = lab.same_cells(name)
            same += alike
            names = {k for k in judged.differs["environment"] if k.startswith("profile.")}
            named |= names
            right = {"same_kind"} if alike else {"equivalent"}
            good &= judged.verdict in right and names == {f"profile.{key}"}
            counts = (judged.differs.get("counts") or {}).values()
            shares += [each["identical_share"] for each in counts if each]
            verdicts.append(judged.verdict)
        least = f"{min(shares):.6f} or more" if shares else "all"
        row = (key, counted(verdicts), f"{same} of {len(ids)}", least, ", ".join(sorted(named)))
        print(f"| {' | '.join(row)} |", flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--checkpoint", default="thp1-crispr")
    parser.add_argument("--one-rank", action="store_true", help="leave out the ways with two ranks")
    parser.add_argument("--others-only", action="store_true", help="only other dtype and threads")
    request = parser.parse_args()
    chosen = [path for path in interfaces() if path.ranks == 1 or not request.one_rank]
    started = time.monotonic()
    with opened(request.checkpoint) as lab:
        lab.prepare(Interface())
        ids = lab.originals()
        profile = lab.app.engine.ensure().profile
        print(f"profile: {json.dumps(profile, sort_keys=True)}\n")
        good = request.others_only or indifferent(lab, ids, chosen)
        good &= different(lab, ids)
    print(
        f"\n{'as it must be' if good else 'NOT AS IT MUST BE'}, {time.monotonic() - started:.0f} s"
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()
