"""Peak memory of the engine and of its client against the number of cells.

Each n has an engine, a client and a home of its own. The client calls perturb_cells through the
real tools and ledger (two arms of n cells), then export_experiment.

    python -m benchmarks.memory                          # 18,080 genes, a sampler of sparse noise
    python -m benchmarks.memory --real thp1-crispr --cells 256 2048
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint, digest_json
from lingshu_model.contracts.catalogue import FORMAT, pin
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.system.interpreter import output_of

GENES = 18_080
COUNTS_PER_CELL = 900
CONTEXT = {"cell_type": "made"}
KNOCKOUT = {"kind": "knockout", "target": "G0"}


class SparseSampler:
    """Draws a few genes of each cell at random: as many counts as a PBMC has, and no network."""

    tile = 64

    def __init__(self, checkpoint: Checkpoint, *, dtype: str, threads: int) -> None:
        del dtype, threads
        self._genes = len(checkpoint.panel)

    def profile(self) -> dict[str, Any]:
        return {"device": "none"}

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        del arm
        return np.ones(self._genes, bool)

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool]
    ) -> NDArray[np.int32]:
        del should_stop
        what = digest_json(arm.model_dump(mode="json", include={"seed", "interventions"}))
        key = np.array([int(what[-16:], 16), tile_index], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        shape = self.tile, COUNTS_PER_CELL
        counts = np.zeros((self.tile, self._genes), np.int32)
        columns = rng.integers(0, self._genes, shape)
        counts[np.arange(self.tile)[:, None], columns] = 1 + rng.poisson(1.0, shape)
        return counts


def make_checkpoint(root: Path) -> str:
    """Return the name of a made checkpoint of 18,080 genes under `root`."""
    folder = root / "made"
    folder.mkdir(parents=True)
    seen = [{"context": CONTEXT, "interventions": i, "n_cells": 9} for i in ([], [KNOCKOUT])]
    config = {
        "format": FORMAT,
        "contexts": [{"context": CONTEXT}],
        "seen": seen,
        "sampler": {"steps": 1, "guidance": 0.0},
    }
    panel = [
        {"symbol": f"G{i}", "ensembl": None, "aliases": [], "previous": []} for i in range(GENES)
    ]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "panel.json").write_text(json.dumps({"genes": panel}))
    zero_rate = np.full(2, 1 - COUNTS_PER_CELL / GENES)
    save_file({"zero_rate": zero_rate}, folder / "reference.safetensors")
    pin(folder)
    return folder.name


def measure(n_cells: int, real: str | None, target: str, workers: int) -> dict[str, Any]:
    """Return the peaks of one n, in MB; for a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        roots = [Path(place) / "checkpoints"]
        name = real or make_checkpoint(roots[0])
        arguments = ["--workers", str(workers)]
        arguments += [] if real else ["--sampler", "benchmarks.memory:SparseSampler"]
        path = os.pathsep.join(entry or "." for entry in sys.path)
        environ = {**os.environ, "PYTHONPATH": path, "LINGSHU_CHECKPOINTS": str(roots[0])}
        home = Path(place) / "home"
        engine = Engine(home, arguments=tuple(arguments), environ=environ)
        catalogue = None if real else Catalogue(roots)
        with closing(App(home, engine=engine, catalogue=catalogue)) as app:
            return _measured(app, name, n_cells, target)


def _measured(app: App, name: str, n_cells: int, target: str) -> dict[str, Any]:
    pid = app.engine.ensure().pid
    idle = _peak(os.getpid()), _peak(pid)
    began = time.perf_counter()
    knockout = {"kind": "knockout", "target": target}
    request = {"interventions": [knockout], "n_cells": n_cells, "checkpoint": name, "wait_s": 45}
    result = call(app, "perturb_cells", request)
    while result.status not in ("succeeded", "failed"):
        result = call(app, "get_experiment", {"id": result.experiment_id, "wait_s": 45})
    assert result.status == "succeeded", result.summary
    seconds = time.perf_counter() - began
    peaks = _peak(os.getpid()), _peak(pid)
    outcome = app.ledger.outcome(result.experiment_id)
    size = app.ledger.object_file(outcome.artifacts["control"]).stat().st_size
    exported = call(app, "export_experiment", {"id": result.experiment_id, "wait_s": 45})
    while exported.status != "succeeded":
        exported = call(app, "export_experiment", {"id": result.experiment_id, "wait_s": 45})
    # Linux counts the parent's peak too, from before the child was another program.
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    app.engine.shutdown()
    return {
        "cells": n_cells,
        "arm_mb": size / 1e6,
        "dense_mb": n_cells * len(app.catalogue.load(name).panel) * 4 / 1e6,
        "client_idle_mb": idle[0],
        "client_mb": peaks[0],
        "engine_idle_mb": idle[1],
        "engine_mb": peaks[1],
        "export_at_most_mb": child,
        "seconds": seconds,
    }


def _peak(pid: int) -> float:
    """Return the largest resident size that a process has had, in MB; Linux alone tells."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--real", metavar="CHECKPOINT", help="its own network instead")
    parser.add_argument("--target", default=None, help="knocked out (default: STAT1, or G0)")
    parser.add_argument("--workers", type=int, default=1, help="tiles at a time, in the engine")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    target = options.target or ("STAT1" if options.real else "G0")
    if options.one:
        sys.stdout.write(json.dumps(measure(options.one, options.real, target, options.workers)))
        return
    for place, n_cells in enumerate(options.cells):
        command = ["-m", "benchmarks.memory", "--one", str(n_cells)]
        command += ["--target", target, "--workers", str(options.workers)]
        command += ["--real", options.real] if options.real else []
        row = json.loads(output_of(command))
        if not place:
            print(*(f"{key:>17}" for key in row))
        print(*(f"{value:>17,.0f}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
