"""Runs one peer: its environment, its script on a staged split, its cells as blobs."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import python_of, surroundings
from benchmarks.peers import cells, split

HERE = Path(__file__).parent
SCRIPTS, REQUIREMENTS = HERE / "scripts", HERE / "requirements"


@dataclass(frozen=True)
class Peer:
    """The environment and the script of a peer, and which options it always gets."""

    environment: str
    script: str
    options: tuple[str, ...] = ()


PEERS = {
    "scvi": Peer("scvi", "scvi_peer.py"),
    "scgen": Peer("scgen", "scgen_peer.py"),
    "state": Peer("state", "state_peer.py"),
    "state-baselines": Peer("state", "state_peer.py", ("--models", "perturb_mean,context_mean")),
}

RECIPES: dict[str, dict[str, tuple[str, ...]]] = {
    "thp1": {
        "scvi": ("--batch", "512", "--lr", "2e-3"),
        "state-baselines": (),
        "state": ("--steps", "300", "--check-every", "50"),
    },
    "pbmc": {
        "scgen": (),
        "scvi": ("--batch", "256", "--lr", "2e-3", "--warmup", "10", "--epochs", "60"),
    },
}
"""By split: the peers of the published tables and their settings, sized for two cores."""


@dataclass(frozen=True)
class Places:
    """The split folder, the folder of the peers' cells, and that of their environments."""

    split: Path
    out: Path
    envs: Path


def run_peer(peer: str, places: Places, seeds: Sequence[int], options: Sequence[str]) -> list[Path]:
    """Train and sample a peer once per seed; return the folders that hold its cells.

    A seed that was run with the same options is not run again.

    Raises:
        subprocess.CalledProcessError: its script failed; what it said stands in its `log.txt`.
    """
    name = PEERS[peer].environment
    python = python_of(f"peers-{name}", REQUIREMENTS / f"{name}.txt", places.envs)
    genes = split.measured(places.split)
    names: list[str] = []
    for seed in seeds:
        record = places.out / peer / f"done-{seed}.json"
        known = json.loads(record.read_text("utf-8")) if record.is_file() else {}
        if known.get("options") != list(options):
            record.unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(prefix=f"peer-{peer}-") as scratch:
                _run_seed(peer, python, places, seed, options, Path(scratch))
                collected = _collect(Path(scratch) / "cells", places, seed, genes)
            known = {"options": list(options), "names": collected}
            record.write_text(json.dumps(known) + "\n", "utf-8")
        names = known["names"]
    return [places.out / name for name in names]


def _run_seed(
    peer: str, python: Path, places: Places, seed: int, options: Sequence[str], scratch: Path
) -> None:
    split.stage(places.split, scratch / "stage")
    log = places.out / peer / f"log-{seed}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    command: list[str | os.PathLike[str]] = [
        python,
        SCRIPTS / PEERS[peer].script,
        "--seed",
        str(seed),
    ]
    for name in ("stage", "cells", "scratch"):
        (scratch / name).mkdir(exist_ok=True)
        command += [f"--{'out' if name == 'cells' else name}", scratch / name]
    with log.open("w") as said:
        subprocess.run(
            [*command, *PEERS[peer].options, *options],
            check=True,
            cwd=scratch,
            env=surroundings(),
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def _collect(left: Path, places: Places, seed: int, genes: dict[str, object]) -> list[str]:
    """Move what a script left to where it belongs, its arrays as blobs; return the peers' names."""
    wanted = split.wanted(places.split)
    names = sorted(path.name for path in left.iterdir())
    for name in names:
        here = left / name / f"seed-{seed}"
        for path in sorted(here.glob("*.npz")):
            cells.convert(path, genes[wanted[path.stem]["dataset"]])
        there = places.out / name / f"seed-{seed}"
        shutil.rmtree(there, ignore_errors=True)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(here, there)
    return names


COSTS = (
    "training_cells",
    "epochs",
    "steps",
    "training_seconds",
    "training_seconds_of_processor",
    "cells_per_second",
)
THOUSAND = 1000


def cost_table(out: Path) -> str:
    """Return one line per peer and seed: what was trained, for how long, and cells per second.

    Raises:
        ValueError: no run has left its notes there.
    """
    paths = sorted(out.glob("*/seed-*/notes.json"))
    if not paths:
        message = f"{out} has no PEER/seed-N/notes.json: run `python -m benchmarks.peers run` first"
        raise ValueError(message)
    lines = [["peer", "seed", *(name.replace("_", " ") for name in COSTS)]]
    lines.append(["---"] * len(lines[0]))
    for path in paths:
        notes = json.loads(path.read_text("utf-8"))
        seed = path.parent.name.removeprefix("seed-")
        figures = [_short(notes[name]) if name in notes else "" for name in COSTS]
        lines.append([path.parent.parent.name, seed, *figures])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= THOUSAND else f"{value:.4g}"
