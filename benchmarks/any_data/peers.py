"""scVI and scGen on the folds of the suite: `python -m benchmarks.any_data.peers --help`.

Each fold's training cells are staged for the scripts of `benchmarks.peers`, which run in
separate environments; a tenth of the cells is their validation set. A peer samples `CELLS`
cells of either arm of each judged contrast, and its change is the difference of the means. scVI
runs on the tiers `seen`, scGen on `carried`, what each was published for. Rows are scored as all
others and lie beside them in --out, where `python -m benchmarks.any_data` puts them into its table.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import click
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks import environments
from benchmarks.any_data import sets
from benchmarks.any_data.predictors import CARRIED, SEEN
from benchmarks.any_data.run import folds, score, write
from benchmarks.any_data.sets import CONTROL, Cells, Floats, Fold, generator
from benchmarks.peers.driver import PEERS, REQUIREMENTS, SCRIPTS
from lingshu_model.effects.moments import expression_levels

CELLS = 512
"""Cells sampled of each arm."""
BATCH = 128
"""Both peers' batches are multiples of it."""
VALIDATION = 10
"""One of this many training cells is a validation cell."""
OPTIONS = {
    "scvi": ("--batch", "256", "--lr", "2e-3", "--warmup", "10", "--epochs", "100"),
    "scgen": ("--batch", "128"),
}
RUNS = (
    ("gbm", CARRIED, "scgen"),
    ("pbmc", CARRIED, "scgen"),
    ("gbm", SEEN, "scvi"),
    ("jurkat", SEEN, "scvi"),
    ("thp1", SEEN, "scvi"),
    ("pbmc", SEEN, "scvi"),
    ("pig", SEEN, "scvi"),
)


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/any_data"))
@click.option("--envs", type=click.Path(path_type=Path), default=Path("runs/envs"))
@click.option("--set", "chosen", multiple=True, help="Only these sets.")
def main(data: Path, out: Path, envs: Path, chosen: tuple[str, ...]) -> None:
    """Train and sample a peer on every fold that has no file of it yet."""
    out.mkdir(parents=True, exist_ok=True)
    for name, tier, peer in RUNS:
        if chosen and name not in chosen:
            continue
        environment = PEERS[peer].environment
        required = REQUIREMENTS / f"{environment}.txt"
        python = environments.python_of(f"peers-{environment}", required, envs)
        for fold in folds(name, tier, sets.read(name, data)):
            file = out / f"{name}.{tier}.{fold.name}.{peer}.json"
            if not file.exists() and "shared control" not in {j.variant for j in fold.judged}:
                write(file, peer, _rows(fold, peer, python, out / f"{peer}.log"))
                click.echo(file.name)


def _rows(fold: Fold, peer: str, python: Path, log: Path) -> list[dict[str, Any]]:
    """Return the scores of a peer on a fold."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix=f"peer-{peer}-") as scratch:
        folder = Path(scratch)
        for name in ("stage", "cells", "scratch"):
            (folder / name).mkdir()
        names = _stage(fold, folder / "stage")
        command: list[Any] = [python, "-P", SCRIPTS / PEERS[peer].script, "--seed", "0"]
        for option, name in (("--stage", "stage"), ("--out", "cells"), ("--scratch", "scratch")):
            command += [option, folder / name]
        with log.open("a") as said:
            subprocess.run(
                [*command, *OPTIONS[peer]],
                check=True,
                cwd=folder,
                env=environments.surroundings()
                | {"TQDM_DISABLE": "1", "PYTHONPATH": str(SCRIPTS.absolute())},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        cells = folder / "cells" / peer / "seed-0"
        for judged in fold.judged:
            perturbed, control = (
                _mean(cells / f"{names[c, judged.context]}.npz")
                for c in (judged.condition, CONTROL)
            )
            about = {"unit": judged.unit, "variant": judged.variant, "predictor": peer}
            rows.append(about | score(perturbed - control, judged.truth))
    return rows


def _stage(fold: Fold, folder: Path) -> dict[tuple[str, str], str]:
    """Write what a peer may see; return the name of each wanted condition and context."""
    validation = generator(7).permutation(len(fold.train)) % VALIDATION == 0
    if (~validation).sum() % BATCH == 1:
        # Batch normalisation fails on a last batch of one cell.
        validation[np.flatnonzero(~validation)[0]] = True
    for name, rows in (("train", ~validation), ("validation", validation)):
        _annotated(fold.train.take(np.flatnonzero(rows))).write_h5ad(folder / f"{name}.h5ad")
    wanted = sorted({(c, j.context) for j in fold.judged for c in (j.condition, CONTROL)})
    names = {key: f"condition-{i}" for i, key in enumerate(wanted)}
    described = {
        name: {
            "cell_type": context,
            "dataset": "suite",
            "perturbation": condition,
            "n_cells": CELLS,
        }
        for (condition, context), name in names.items()
    }
    (folder / "wanted.json").write_text(json.dumps(described), "utf-8")
    return names


def _annotated(cells: Cells) -> anndata.AnnData:
    obs = pd.DataFrame({"perturbation": cells.condition, "cell_type": cells.context})
    obs["condition"] = obs["perturbation"] + " in " + obs["cell_type"]
    obs["dataset"], obs["source"] = "suite", "0"
    obs.index = obs.index.astype(str)
    # Some files repeat a gene's name; peers need one each.
    genes: Sequence[str] = [f"{i}-{gene}" for i, gene in enumerate(cells.genes)]
    counts = sparse.csr_matrix(cells.counts, dtype=np.int32)
    return anndata.AnnData(counts, obs, pd.DataFrame(index=genes))


def _mean(path: Path) -> Floats:
    """Return the mean log1p_cp10k of sampled cells, [genes]."""
    with np.load(path, allow_pickle=False) as arrays:
        if "log1p_cp10k" in arrays:
            return arrays["log1p_cp10k"].mean(axis=0, dtype=np.float64)
        parts = (arrays["data"].astype(np.float64), arrays["indices"], arrays["indptr"])
        counts = sparse.csr_matrix(parts, shape=tuple(arrays["shape"]))
    return np.asarray(expression_levels(counts).mean(axis=0), np.float64).ravel()


if __name__ == "__main__":
    main()
