"""Training on a file larger than the memory it may take: peak memory against the file's size.

    python -m benchmarks.speed.training_memory --cells 150000 --limit-mib 2048 --folder DIR

Makes an h5ad of sparse counts over 18,080 genes block by block, then trains on it with the real
command in a process of its own, from reading to the written checkpoint; only the steps are few.
That process may hold `--limit-mib` of memory of its own and no more (`RLIMIT_DATA`: the heap and
private mappings). Mapped pages of the token store are the kernel's to take back and count for
neither the limit nor the peak, which is anonymous memory (`RssAnon`), sampled all the while.
"""

import json
import resource
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import click
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

from lingshu_tools.system.interpreter import output_of

GENES = 18_080
BATCH = 32
UMI = 6_000
BLOCK = 2_000
DRAWN = 10
"""Blocks that are the same cells: drawing them is what takes long."""


def make(path: Path, cells: int) -> None:
    """Write an h5ad of `cells` cells, about 3,700 non-zero counts each, never all in memory."""
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
            if first % (DRAWN * BLOCK) == 0 or n < BLOCK:
                counts = rng.poisson(chance * UMI, (n, GENES))
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
    "batch": BATCH,
    "micro_batch": BATCH,
    "shams": 4,
    "validation": 0.001,
}


def anonymous() -> int:
    """Return this process's anonymous resident memory in KiB."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    return 0


@contextmanager
def watched(peak: list[int]) -> Generator[None]:
    """Keep in `peak` the most anonymous memory that this process has had meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak.append(max(peak.pop(), anonymous()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def train(folder: Path, steps: int) -> dict[str, float]:
    """Train for a few steps on cells from all over the file; return what was seen."""
    import torch

    from lingshu_model.train import loop
    from lingshu_model.train.__main__ import main as command

    whole, read = loop.train, list[float]()

    def short(network: Any, cells: loop.CellBatches, *rest: Any) -> Any:
        read.append(time.perf_counter() - began)
        rows = np.linspace(0, len(cells) - 1, steps * BATCH).astype(np.int64)
        few = replace(cells, cells=cells.cells.take(rows), depth=cells.depth[torch.tensor(rows)])
        return whole(network, few, *rest)

    spec, peak, began = folder / "spec.json", [0], time.perf_counter()
    spec.write_text(json.dumps(SPEC), "utf-8")
    arguments = [str(spec), "--data", str(folder), "--out", str(folder / "runs"), "--threads", "1"]
    with watched(peak), patch.object(loop, "train", short):
        command.main(arguments, standalone_mode=False)
    return {
        "read_s": read[0],
        "all_s": time.perf_counter() - began,
        "peak_mib": peak[0] / 1024,
    }


def measured(cells: int, folder: Path | None, steps: int, limit: int | None) -> list[float]:
    """Make a file and train on it; return its MiB, seconds to make, read and end, peak in MiB."""
    with TemporaryDirectory(dir=folder) as created:
        file = Path(created) / "large.h5ad"
        began = time.perf_counter()
        make(file, cells)
        took = time.perf_counter() - began
        command = ["-m", "benchmarks.speed.training_memory"]
        command += ["--inside", created, "--steps", str(steps)]
        command += ["--limit-mib", str(limit)] if limit else []
        result = json.loads(output_of(command).splitlines()[-1])
        size = file.stat().st_size / 2**20
        return [size, took, result["read_s"], result["all_s"], result["peak_mib"]]


@click.command(help=__doc__)
@click.option("--cells", multiple=True, type=int, default=(20_000, 150_000))
@click.option("--limit-mib", type=int, help="Memory of its own that training may have.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where there is room.")
@click.option("--steps", default=3)
@click.option("--inside", type=click.Path(path_type=Path), hidden=True)
def main(
    cells: tuple[int, ...],
    limit_mib: int | None,
    folder: Path | None,
    steps: int,
    inside: Path | None,
) -> None:
    if inside is not None:
        if limit_mib:
            resource.setrlimit(resource.RLIMIT_DATA, (limit_mib << 20, limit_mib << 20))
        print(json.dumps(train(inside, steps)))
        return
    head = "cells", "file, MiB", "made, s", "to the steps, s", "all, s", "peak, MiB", "limit, MiB"
    print(f"| {' | '.join(head)} |\n{'| --- ' * len(head)}|", flush=True)
    for n in cells:
        row = " | ".join(f"{x:,.0f}" for x in measured(n, folder, steps, limit_mib))
        print(f"| {n:,} | {row} | {limit_mib or 'none'} |", flush=True)


if __name__ == "__main__":
    main()
