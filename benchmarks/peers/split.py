"""Split folders: what a peer is trained on, what it is judged on, and what it is told.

A folder holds `train.h5ad`, `validation.h5ad` and files of held-out cells, over one panel. X: raw
counts, CSR. obs: `condition` (a name, also a file's), `cell_type`, `dataset`, `perturbation`
(`control` for none). var: one column `measured:DATASET` per data set; without such columns a data
set measures the whole panel. `wanted.json`: of each condition its labels and how many cells to
make. Knows nothing of peers or models.
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

from lingshu_model.evaluate.data import Split, load_observed
from lingshu_model.evaluate.observed import CONTROL
from lingshu_model.train import data as training
from lingshu_model.train.spec import TrainingSpec

LABELS = ("cell_type", "dataset", "perturbation")
OWN = ("train.h5ad", "validation.h5ad")
THP1 = "papalexi2021"
MEASURED = "measured:"


def split_thp1(spec_path: Path, data: Path, out: Path, n_cells: int) -> None:
    """Write the split of the THP-1 knock-outs that `spec_path` trains on.

    Training and validation cells are the specification's own; held out is replicate 3, of which
    the conditions with training cells count. Of each condition `n_cells` are wanted.
    """
    spec = TrainingSpec.read(spec_path)
    cells = training.read_cells(spec, data)
    names = [
        "+".join(i.target for i in condition.interventions) or CONTROL
        for condition in cells.conditions
    ]
    out.mkdir(parents=True, exist_ok=True)
    parts = training.split(cells, spec)
    for name, rows in zip(OWN, (parts.train, parts.validation), strict=True):
        labels = [names[i] for i in cells.condition[rows]]
        _thp1_cells(cells.counts(rows), labels, cells.panel).write_h5ad(out / name)
    observed = load_observed(data / spec.sources[0].file, cells.panel, Split())
    conditions = [CONTROL, *observed.perturbations]
    counts = np.concatenate([observed.test[name] for name in conditions])
    labels = [name for name in conditions for _ in observed.test[name]]
    _thp1_cells(counts, labels, cells.panel).write_h5ad(out / "test.h5ad")
    want(out, n_cells)


def _thp1_cells(counts: NDArray[Any], labels: list[str], panel: Iterable[str]) -> anndata.AnnData:
    obs = pd.DataFrame({"condition": labels, "perturbation": labels})
    obs["cell_type"], obs["dataset"] = "THP-1", THP1
    obs.index = obs.index.astype(str)
    return anndata.AnnData(
        sparse.csr_matrix(counts, dtype=np.int32), obs, pd.DataFrame(index=list(panel))
    )


def want(folder: Path, n_cells: int | None = None) -> dict[str, dict[str, Any]]:
    """Write `wanted.json` and return it: `n_cells` of each held-out condition, or as many as held.

    Control conditions of the held-out conditions' data sets and cell types are wanted too, since a
    change needs its control: as many as of the perturbed condition where none is held out.

    Raises:
        ValueError: no cell is held out, or a condition's name cannot be a file's.
    """
    files = [path for path in sorted(folder.glob("*.h5ad")) if path.name not in OWN]
    if not files:
        message = f"{folder} holds no held-out cells: no h5ad besides {', '.join(OWN)}"
        raise ValueError(message)
    held = pd.concat([_annotations(path)[0] for path in files])
    wanted: dict[str, dict[str, Any]] = {}
    for condition, part in held.groupby("condition", observed=True):
        _check(str(condition))
        wanted[str(condition)] = {label: str(part[label].iloc[0]) for label in LABELS}
        wanted[str(condition)]["n"] = len(part) if n_cells is None else n_cells
    _add_controls(folder, wanted)
    text = json.dumps({"conditions": wanted}, indent=1, sort_keys=True)
    (folder / "wanted.json").write_text(text + "\n", "utf-8")
    return wanted


def stage(folder: Path, out: Path) -> None:
    """Make `out` what a peer's script may see of a split: nothing that is held out."""
    if not (folder / "wanted.json").is_file():
        want(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name in (*OWN, "wanted.json"):
        shutil.copyfile(folder / name, out / name)


def measured(folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Return which genes of the panel each data set measures, bool [genes]."""
    obs, var = _annotations(folder / "train.h5ad")
    every = pd.Series(data=True, index=var.index)
    return {
        str(name): var.get(f"{MEASURED}{name}", every).to_numpy(bool)
        for name in obs["dataset"].unique()
    }


def _add_controls(folder: Path, wanted: dict[str, dict[str, Any]]) -> None:
    train, _ = _annotations(folder / "train.h5ad")
    controls = train[train["perturbation"] == CONTROL]
    for told in [each for each in wanted.values() if each["perturbation"] != CONTROL]:
        alike = (controls["cell_type"] == told["cell_type"]) & (
            controls["dataset"] == told["dataset"]
        )
        names = controls["condition"][alike].unique()
        for name in map(str, names):
            _check(name)
            control = {**told, "perturbation": CONTROL}
            known = wanted.setdefault(name, control)
            known["n"] = max(known["n"], told["n"])


def _annotations(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what a file says of its cells and of its genes; the counts stay on disk."""
    cells = anndata.read_h5ad(path, backed="r")
    try:
        return cells.obs, cells.var
    finally:
        cells.file.close()


def _check(condition: str) -> None:
    if not condition or condition.startswith(".") or any(c in condition for c in "/\\\0"):
        message = f"condition {condition!r} cannot name a file: no slashes, no leading dot"
        raise ValueError(message)
