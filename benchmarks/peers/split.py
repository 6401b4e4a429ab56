"""Split folders: what a peer is trained on, and which cells it is to sample.

A folder is what `lingshu_model.train.split` writes: `train.h5ad`, `validation.h5ad`, files of
held-out cells, and `wanted.json`, by condition: `cell_type`, `dataset`, `perturbation` (`control`
for none) and `n_cells`. Cells have raw counts in X and in obs `condition`, `source` and the same
fields; `varm["measured"]` says which genes each source measures. The THP-1 knock-outs' folder is
written here, since what is held out there is a replicate.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.evaluate.data import by_field
from lingshu_model.evaluate.study import CONTROL
from lingshu_model.train.data import sources as training
from lingshu_model.train.data.cells import Condition
from lingshu_model.train.spec import TrainingSpec

WRITTEN = ("train.h5ad", "validation.h5ad")
REPLICATE = "bio_rep=rep_3"
THP1 = {"cell_type": "THP-1", "dataset": "papalexi2021"}
LEAST = 300
Wanted = dict[str, dict[str, Any]]


def split_thp1(spec_path: Path, data: Path, out: Path, n_cells: int) -> None:
    """Write the split of the THP-1 knock-outs that `spec_path` trains on.

    Training and validation cells are the specification's; held out is replicate 3, of which the
    conditions with training cells count. Of each condition `n_cells` are wanted, or as many as are
    held out.
    """
    spec = TrainingSpec.read(spec_path)
    cells = training.read_cells(spec, data)
    names = [condition_name(condition) for condition in cells.conditions]
    out.mkdir(parents=True, exist_ok=True)
    parts = training.split(cells, spec)
    for name, rows in zip(WRITTEN, (parts.train, parts.validation), strict=True):
        labels = [names[i] for i in cells.condition[rows]]
        _thp1_cells(cells.counts(rows), labels, cells.panel).write_h5ad(out / name)
    both = by_field(spec, cells.panel, data, REPLICATE)
    trained = {condition for _, condition in both.train}
    held_out = {
        condition_name(condition): counts.toarray()
        for (_, condition), counts in both.test.items()
        if condition in trained
    }
    ordered = sorted(held_out, key=lambda name: (name != CONTROL, name))
    counts = np.concatenate([held_out[name] for name in ordered])
    labels = [name for name in ordered for _ in held_out[name]]
    _thp1_cells(counts, labels, cells.panel).write_h5ad(out / "test.h5ad")
    wanted = {
        name: {**THP1, "perturbation": name, "n_cells": max(n_cells, len(held_out[name]))}
        for name in ordered
    }
    (out / "wanted.json").write_text(json.dumps(wanted, indent=1) + "\n", "utf-8")


def condition_name(condition: Condition) -> str:
    """Return the targets of a condition, or `control`."""
    return "+".join(each.target for each in condition.interventions) or CONTROL


def _thp1_cells(counts: NDArray[Any], labels: list[str], panel: Iterable[str]) -> anndata.AnnData:
    obs = pd.DataFrame({"condition": labels, "perturbation": labels})
    obs[list(THP1)], obs["source"] = list(THP1.values()), "0"
    obs.index = obs.index.astype(str)
    return anndata.AnnData(
        sparse.csr_matrix(counts, dtype=np.int32), obs, pd.DataFrame(index=list(panel))
    )


def wanted(folder: Path) -> Wanted:
    """Return what a folder wants, and as many control cells for each perturbed condition.

    Of both arms of a perturbation that was trained on at least 300, as the evaluation samples of
    the model: a mean change of fewer cells would be a noisier one.

    Raises:
        ValueError: a condition's name cannot be a file's.
    """
    wanted: Wanted = json.loads((folder / "wanted.json").read_text("utf-8"))
    train, _, _ = _annotations(folder / "train.h5ad")
    controls, trained = train[train["perturbation"] == CONTROL], set(train["condition"])
    for name in trained & wanted.keys():
        if wanted[name]["perturbation"] != CONTROL:
            wanted[name]["n_cells"] = max(wanted[name]["n_cells"], LEAST)
    for each in [w for w in wanted.values() if w["perturbation"] != CONTROL]:
        alike = (controls["cell_type"] == each["cell_type"]) & (
            controls["dataset"] == each["dataset"]
        )
        for name in map(str, controls["condition"][alike].unique()):
            control = wanted.setdefault(name, {**each, "perturbation": CONTROL})
            control["n_cells"] = max(control["n_cells"], each["n_cells"])
    for name in wanted:
        if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
            message = f"condition {name!r} cannot name a file: no slashes, no leading dot"
            raise ValueError(message)
    return wanted


def stage(folder: Path, out: Path) -> None:
    """Make `out` what a peer's script may see of a split: nothing that is held out."""
    out.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:
        shutil.copyfile(folder / name, out / name)
    text = json.dumps(wanted(folder), indent=1, sort_keys=True)
    (out / "wanted.json").write_text(text + "\n", "utf-8")


def measured(folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Return which genes of the panel each data set measures, bool [genes]."""
    obs, genes, by_source = _annotations(folder / "train.h5ad")
    sources = obs.groupby("dataset", observed=True)["source"].first().astype(int)
    every = np.ones(genes, bool)
    return {
        str(name): every if by_source is None else by_source[:, source].astype(bool)
        for name, source in sources.items()
    }


def _annotations(path: Path) -> tuple[pd.DataFrame, int, NDArray[Any] | None]:
    """Return a file's obs, its number of genes and which of them each source measures."""
    cells = anndata.read_h5ad(path, backed="r")
    try:
        of_sources = cells.varm.get("measured")
        return cells.obs, cells.n_vars, None if of_sources is None else np.asarray(of_sources)
    finally:
        cells.file.close()
