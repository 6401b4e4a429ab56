"""`lingshu data inspect` and `lingshu train` on files as they are: time, memory, what was printed.

    python -m benchmarks.own_data run FILE.h5ad … --out runs/own-data
    python -m benchmarks.own_data run FILE.h5ad --recipe default --out runs/own-data
    python -m benchmarks.own_data make --cells 7500 --genes 2000 --conditions 20 made.h5ad
    python -m benchmarks.own_data effects made.h5ad

`run` appends a row to `own-data.csv` for each command and keeps what it printed beside it. Held-out
figures are among what is printed; none of them is in the table. `effects` estimates the effects
alone: no solving, no checks, no rotation.
"""

import csv
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import anndata
import click
import numpy as np
import pandas as pd
from scipy import sparse

from lingshu_model.finishing.estimate import EffectFit
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.plan import planned
from lingshu_model.train.scratch import scratch

COLUMNS = ("file", "command", "exit status", "wall, s", "CPU, s", "peak, MiB", "said", "load")
FEWEST_CONTROLS = 5
"""Control cells of made data, in cells of a condition."""


@click.group()
def main() -> None:
    """Measure the commands for a user's own data."""


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--recipe", type=click.Choice(["effects", "default"]), default="effects")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def run(files: Sequence[Path], recipe: str, out: Path) -> None:
    """Inspect FILES and train on each, nothing said but --yes."""
    out.mkdir(parents=True, exist_ok=True)
    lingshu = Path(sys.executable).with_name("lingshu")
    for file in files:
        name = re.sub(r"[^a-z0-9]+", "-", f"{file.stem}-{recipe}".lower())
        train = ["train", file, "--recipe", recipe, "--yes", "--name", name, "--out", out / "runs"]
        _measured(file, [lingshu, "data", "inspect", file], out, f"{name}-inspect")
        _measured(file, [lingshu, *train], out, name)


def _measured(file: Path, command: Sequence[object], out: Path, name: str) -> None:
    """Run a command, keep what it prints, and append its row."""
    log = out / f"{name}.txt"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("wb") as text:
        line = [str(word) for word in command]
        status = subprocess.run(line, stdout=text, stderr=text, check=False).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    said = re.search(r"^model .*about (.+) on", log.read_text("utf-8"), re.MULTILINE)
    # ru_maxrss is that of the largest child so far: of the training, where inspection comes first.
    row = (
        file.name,
        " ".join(line[1:3]) if line[1] == "data" else f"train --recipe {line[4]}",
        status,
        f"{time.perf_counter() - began:.0f}",
        f"{cpu:.0f}",
        used.ru_maxrss // 1024,
        said[1] if said else "",
        f"{os.getloadavg()[0]:.0f}",
    )
    table = out / "own-data.csv"
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerows([COLUMNS, row] if new else [row])
    click.echo(" ".join(map(str, row)))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--cells", type=int, default=7500)
@click.option("--genes", type=int, default=2000)
@click.option("--conditions", type=int, default=20)
@click.option("--contexts", type=int, default=2)
@click.option("--counts", type=int, default=1100, help="Mean counts of a cell.")
def make(path: Path, cells: int, genes: int, conditions: int, contexts: int, counts: int) -> None:
    """Make a file of multinomial cells in which every condition changes 200 genes."""
    generator = np.random.Generator(np.random.Philox(5))
    share = np.exp(generator.normal(0, 2, genes))
    weights = np.ones(conditions + 1)
    weights[0] = FEWEST_CONTROLS
    labels = np.sort(generator.choice(conditions + 1, cells, p=weights / weights.sum()))
    kinds = np.exp(generator.normal(0, 0.4, (contexts, genes)))
    where = np.arange(cells) % contexts
    parts: list[sparse.csr_matrix] = []
    order: list[np.ndarray] = []
    for label in range(conditions + 1):
        changed = share.copy()
        if label:
            some = generator.choice(genes, min(200, genes // 4), replace=False)
            changed[some] *= np.exp(generator.normal(0, 0.8, len(some)))
        for kind in range(contexts):
            mine = np.flatnonzero((labels == label) & (where == kind))
            # Genes of single molecules, drawn by the inverse of their distribution function.
            reached = np.cumsum(changed * kinds[kind])
            n = generator.poisson(counts * np.exp(generator.normal(0, 0.3, len(mine))))
            gene = np.searchsorted(reached, generator.random(int(n.sum())) * reached[-1])
            cell = np.repeat(np.arange(len(mine)), n)
            molecules = np.ones(len(gene), np.float32)
            place = (cell, np.minimum(gene, genes - 1))
            parts.append(sparse.csr_matrix((molecules, place), (len(mine), genes)))
            order.append(mine)
    rows = np.concatenate(order)
    names = np.array(["NT", *(f"G{i}" for i in range(1, conditions + 1))])
    obs = pd.DataFrame(
        {"gene": names[labels[rows]], "cell_type": [f"type {k}" for k in where[rows]]},
        index=pd.Index([f"c{i}" for i in rows.tolist()]),
    )
    var = pd.DataFrame(index=pd.Index([f"G{i}" for i in range(genes)]))
    anndata.AnnData(sparse.vstack(parts, "csr"), obs, var).write_h5ad(path)
    click.echo(f"{path}: {cells:,} x {genes:,}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
def effects(file: Path) -> None:
    """Read FILE and estimate its effects, those of unseen targets too."""
    understanding = inspect(file)
    spec = planned(understanding, "measured", file.name, recipe="effects").spec
    with scratch(file.parent, ".cells-") as store:
        began = _say("", (time.perf_counter(), time.process_time()))
        cells = read_cells(spec, file.parent, store)
        began = _say("read", began)
        fitted = EffectFit(cells).run()
        _say(f"{len(fitted.rows)} effects of {len(cells):,} cells", began)


def _say(what: str, began: tuple[float, float]) -> tuple[float, float]:
    now = time.perf_counter(), time.process_time()
    if what:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        wall, cpu = (b - a for a, b in zip(began, now, strict=True))
        click.echo(f"{what}: {wall:.1f} s, {cpu:.1f} s of CPU, peak {peak:.2f} GB")
    return now


if __name__ == "__main__":
    main()
