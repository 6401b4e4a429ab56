"""Training on a file larger than the memory it takes: peak memory against the file's size.

    python -m benchmarks.speed.training_memory --cells 50000 200000 --folder DIR

Makes an h5ad of sparse counts over 18,080 genes block by block, then reads, splits, starts a
network and takes a few steps in a process of its own. Mapped pages of the token store are the
kernel's to take back, so what counts is anonymous memory (`RssAnon`), sampled all the while.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

GENES = 18_080
PER_CELL = 1_500
BLOCK = 2_000


def make(path: Path, cells: int) -> None:
    """Write an h5ad of `cells` cells, about 1,500 non-zero counts each, never all in memory."""
    rng = np.random.Generator(np.random.Philox(1))
    chance = rng.dirichlet(np.full(GENES, 0.3))
    with h5py.File(path, "w") as file:
        x = file.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        x.attrs["shape"] = np.array([cells, GENES])
        data = x.create_dataset("data", (0,), "f4", maxshape=(None,), chunks=(1 << 20,))
        indices = x.create_dataset("indices", (0,), "i4", maxshape=(None,), chunks=(1 << 20,))
        lengths = [np.zeros(1, np.int64)]
        for first in range(0, cells, BLOCK):
            n = min(BLOCK, cells - first)
            counts = rng.poisson(chance * 4 * PER_CELL, (n, GENES))
            row, column = counts.nonzero()
            for dataset, values in ((data, counts[row, column]), (indices, column)):
                dataset.resize(len(dataset) + len(values), 0)
                dataset[-len(values) :] = values
            lengths.append(np.bincount(row, minlength=n))
        x["indptr"] = np.cumsum(np.concatenate(lengths))
        names = pd.Index([f"c{i}" for i in range(cells)])
        label = pd.Categorical.from_codes(np.arange(cells) % 3, ["control", "A", "B"])
        write_elem(file, "obs", pd.DataFrame({"guide": label}, index=names))
        write_elem(file, "var", pd.DataFrame(index=[f"G{i}" for i in range(GENES)]))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


SPEC = {
    "name": "large",
    "sources": [
        {
            "file": "large.h5ad",
            "context": {"cell_line": "made"},
            "perturbation": {"column": "guide", "control": "control", "kind": "knockout"},
        }
    ],
    "network": "lingshu-7m-s128",
    "epochs": 1,
    "batch": 32,
    "micro_batch": 32,
    "shams": 4,
    "validation": 0.01,
}


def anonymous() -> int:
    """Return this process's anonymous resident memory in KiB."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    return 0


def train(folder: Path, steps: int) -> dict[str, float]:
    """Read, start and train for a few steps; return what was seen."""
    import torch
    from accelerate import Accelerator

    from lingshu_model import numerics
    from lingshu_model.train import build, data, loop
    from lingshu_model.train.cells import add_shams
    from lingshu_model.train.spec import TrainingSpec
    from lingshu_model.vocabulary import stack

    peak, over = [anonymous()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak.append(max(peak[-1], anonymous()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    numerics.prepare(1)
    spec = TrainingSpec.model_validate(SPEC)
    began = time.perf_counter()
    cells = data.read_cells(spec, folder, folder / "store")
    read = time.perf_counter() - began
    parts = data.split(cells, spec)
    birth = build.Birth(spec, add_shams(cells.take(parts.train), spec.shams, 0))
    network, vocabulary = birth.network(), birth.vocabulary
    conditions = stack(
        [vocabulary.conditions(dict(c.context), c.interventions) for c in birth.cells.conditions]
    )
    batches = loop.CellBatches.of(birth.cells, conditions, torch.device("cpu"))
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    model = loop.BoundLoss(network)
    for step in range(steps):
        for batch in batches.batches(step, spec, 0, 1):
            with accelerator.autocast():
                model(batch).backward()
    over.set()
    watcher.join()
    return {"read_s": read, "peak_mib": peak[-1] / 1024, "cells": len(cells)}


@click.command(help=__doc__)
@click.option("--cells", multiple=True, type=int, default=(20_000, 100_000))
@click.option("--folder", type=click.Path(path_type=Path), help="Where there is room.")
@click.option("--steps", default=3)
@click.option("--inside", type=click.Path(path_type=Path), hidden=True)
def main(cells: tuple[int, ...], folder: Path | None, steps: int, inside: Path | None) -> None:
    if inside is not None:
        print(json.dumps(train(inside, steps)))
        return
    print("| cells | file, MiB | read, s | peak anonymous memory, MiB |\n| --- | --- | --- | --- |")
    for n in cells:
        with TemporaryDirectory(dir=folder) as made:
            file = Path(made) / "large.h5ad"
            make(file, n)
            command = [sys.executable, "-m", "benchmarks.speed.training_memory"]
            ended = subprocess.run(
                [*command, "--inside", made, "--steps", str(steps)],
                check=True,
                stdout=subprocess.PIPE,
            )
            found = json.loads(ended.stdout)
            size = file.stat().st_size / 2**20
            print(f"| {n:,} | {size:,.0f} | {found['read_s']:.0f} | {found['peak_mib']:,.0f} |")


if __name__ == "__main__":
    main()
