"""Checkpoints of kang2018 that never saw a donor, nor a cell type of any donor."""

from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np

from lingshu_model.finishing.finish import Finish, Finished
from lingshu_model.sampling.delivery import TRAINING_CELLS
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.spec import TrainingSpec

FILE = "kang2018_pbmc_ifnb.h5ad"
UNKNOWN = "unknown"


def training_file(data: Path, out: Path, donor: str, cell_type: str | None) -> Path:
    """Return a file without a donor, cells of unknown donors, and a cell type where one is named.

    Cells of unknown donors may be of the donor that is left out.
    """
    cells = anndata.read_h5ad(data / FILE)
    kept = ~cells.obs["donor"].astype(str).isin([donor, UNKNOWN])
    kept &= ~cells.obs["cell_type8"].astype(str).isin([UNKNOWN, cell_type or UNKNOWN])
    part = cells[kept.to_numpy()].copy()
    path = out / "train.h5ad"
    out.mkdir(parents=True, exist_ok=True)
    part.write_h5ad(path)
    return path


def trained(data: Path, out: Path, name: str, donor: str, cell_type: str | None) -> Finished:
    """Return a checkpoint of effects in closed form, without a network."""
    file = training_file(data, out, donor, cell_type)
    spec = TrainingSpec.model_validate(
        {
            "name": name,
            "sources": [
                {
                    "file": file.name,
                    "context": {"cell_type": "obs:cell_type8"},
                    "perturbation": {
                        "column": "stim",
                        "control": "CTRL",
                        "kind": "cytokine",
                        "targets": {"STIM": "IFN-beta"},
                    },
                }
            ],
            "recipe": "effects",
            "aliases": "shipped",
            "shams": 0,
            "sampler": {"steps": 2, "tile": 32},
        }
    )
    cells = read_cells(spec, out)
    nothing = cells.take(np.zeros(0, np.int64))
    finish = Finish(spec, cells, nothing, None)
    return finish.run(out, lambda *_: (TRAINING_CELLS, {"reason": "no network"}), rotate=False)


def simple_predictors(
    file: Path, genes: Sequence[str], control: np.ndarray, cell_type: str
) -> dict[str, np.ndarray]:
    """Return the change that each simple predictor gives for cells with a control mean, [genes].

    Args:
        file: training cells.
        genes: names, in the order of the result.
        control: mean log1p_cp10k of the user's cells, [genes].
        cell_type: of the user's cells.
    """
    cells = anndata.read_h5ad(file)
    place = {gene: i for i, gene in enumerate(cells.var_names)}
    columns = [place[gene] for gene in genes]
    counts = cells.X[:, columns].toarray()
    levels = np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))
    types, stim = (cells.obs[c].astype(str).to_numpy() for c in ("cell_type8", "stim"))
    changes: dict[str, np.ndarray] = {}
    perturbed: list[np.ndarray] = []
    for each in np.unique(types):
        arms = [levels[(types == each) & (stim == arm)] for arm in ("CTRL", "STIM")]
        if min(map(len, arms)) >= 3:
            changes[each] = arms[1].mean(0) - arms[0].mean(0)
            perturbed.append(arms[1].mean(0))
    result = {
        "no change": np.zeros(len(genes)),
        "mean shift": np.mean(list(changes.values()), axis=0),
        "mean of perturbed cells": np.mean(perturbed, axis=0) - control,
    }
    if cell_type in changes:
        result["same type, other donors"] = changes[cell_type]
    return result
