"""Synthetic cells of several types with and without a cytokine, from two sources."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from fakes import write_folder
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import ArmRequest, Cells, Intervention
from lingshu_model.train.spec import TrainingSpec

GENES = ["ISG15", *(f"G{i}" for i in range(1, 60))]
ELSEWHERE = GENES[:45]
"""The genes that the second source measures."""
TYPES = ("B cell", "CD4 T cell", "CD8 T cell", "monocyte")
HELD_OUT, CYTOKINE = "CD4 T cell", "IFN-beta"
N = 80
SPEC = {
    "name": "synthetic",
    "sources": [
        {
            "file": "cells/stimulated.h5ad",
            "context": {"cell_type": "obs:type", "dataset": "stimulated"},
            "perturbation": {
                "column": "stim",
                "control": "CTRL",
                "kind": "cytokine",
                "targets": {"STIM": CYTOKINE},
            },
        },
        {
            "file": "cells/resting.h5ad",
            "context": {"cell_type": "obs:type", "dataset": "resting"},
        },
    ],
    "unseen": [{"context": {"cell_type": HELD_OUT}, "target": CYTOKINE}],
    "panel": "panel.csv",
    "network": "lingshu-tiny",
    "epochs": 1,
    "shams": 3,
    "validation": 0.2,
    "test": 0.2,
}


def rates(kind: str, *, stimulated: bool = False) -> NDArray[np.float64]:
    """Return the mean counts of a type: T cells are alike, the cytokine raises ten genes most."""
    generator = np.random.default_rng(0)
    base = generator.lognormal(1.0, 0.7, len(GENES))
    likeness = {name: generator.normal(0, 0.5, len(GENES)) for name in ("lymphoid", *TYPES)}
    shift = likeness[kind] * (0.4 if "T cell" in kind else 1.0)
    if "T cell" in kind:
        shift = shift + likeness["lymphoid"]
    effect = np.zeros(len(GENES))
    effect[:10] = 1.2 + 0.3 * generator.normal(size=10)
    special = 0.4 * np.random.default_rng(len(kind)).normal(size=len(GENES))
    if "T cell" in kind:
        special = 0.4 * np.random.default_rng(99).normal(size=len(GENES))
    return base * np.exp(shift + (effect + special) * stimulated)


def cells(kind: str, n: int, seed: int, *, stimulated: bool = False) -> NDArray[np.int32]:
    """Return n cells of a type over all genes."""
    generator = np.random.default_rng([seed, TYPES.index(kind), stimulated])
    library = generator.lognormal(0.0, 0.25, (n, 1))
    return generator.poisson(library * rates(kind, stimulated=stimulated)).astype(np.int32)


def write_data(folder: Path) -> Path:
    """Write the two sources and the panel, and return the folder."""
    (folder / "cells").mkdir(parents=True)
    (folder / "panel.csv").write_text("\n".join(GENES) + "\n", "utf-8")
    rows, blocks = [], []
    for kind in TYPES:
        for stimulated in (False, True):
            blocks.append(cells(kind, N, 1, stimulated=stimulated))
            rows += [(kind, "STIM" if stimulated else "CTRL")] * N
    _write(folder / "cells/stimulated.h5ad", np.concatenate(blocks), rows, GENES)
    resting = [cells(kind, N, 2)[:, : len(ELSEWHERE)] for kind in TYPES]
    labels = [(kind, "CTRL") for kind in TYPES for _ in range(N)]
    _write(folder / "cells/resting.h5ad", np.concatenate(resting), labels, ELSEWHERE)
    return folder


def _write(path: Path, counts: NDArray[np.int32], rows: list, genes: list[str]) -> None:
    obs = pd.DataFrame(rows, columns=["type", "stim"])
    obs.index = [f"cell{i}" for i in range(len(obs))]
    counts = sparse.csr_matrix(counts.astype(np.float32))
    anndata.AnnData(counts, obs, pd.DataFrame(index=genes)).write_h5ad(path)


def write_checkpoint(folder: Path) -> Path:
    """Write the folder of a checkpoint that was trained as SPEC says, without weights."""
    contexts = [{"cell_type": t, "dataset": d} for t in TYPES for d in ("resting", "stimulated")]
    applied = [{"kind": "cytokine", "target": CYTOKINE}]
    seen = [{"context": c, "interventions": [], "n_cells": 50} for c in contexts]
    seen += [
        {"context": c, "interventions": applied, "n_cells": 50}
        for c in contexts
        if c["dataset"] == "stimulated" and c["cell_type"] != HELD_OUT
    ]
    home = {"cell_type": "B cell", "dataset": "stimulated"}
    null_labels = [[{"kind": "sham", "target": f"sham-{i:02}"}] for i in range(3)]
    seen += [
        {"context": home, "interventions": null_label, "n_cells": 50} for null_label in null_labels
    ]
    return write_folder(folder, GENES, contexts, seen, TrainingSpec.model_validate(SPEC))


def sampled_cells(
    context: dict[str, str], interventions: tuple[Intervention, ...], n: int, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return cells of a condition over the panel as a true model would, and what is measured."""
    stimulated = any(i.target == CYTOKINE for i in interventions)
    counts = cells(context["cell_type"], n, 100 + seed, stimulated=stimulated)
    measured = np.isin(GENES, ELSEWHERE if context["dataset"] == "resting" else GENES)
    return np.where(measured, counts, 0), measured


def sampled(request: ArmRequest) -> Cells:
    """Return the cells that a model which draws from the truth gives for a request."""
    wanted = request.context, request.interventions, request.n_cells, request.seed
    return Cells(*sampled_cells(*wanted))
