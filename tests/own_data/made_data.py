"""Made AnnData as users bring them, and specifications for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.spec import TrainingSpec

LABELS = ("ctrl", "A", "B")


def adata_of(
    n: int = 120, genes: int = 24, labels: Sequence[Any] = LABELS, **columns: Sequence[Any]
) -> anndata.AnnData:
    """Return Poisson counts; obs has `condition`, the labels in turn, `cell_type` and `columns`."""
    generator = np.random.Generator(np.random.Philox(3))
    counts = generator.poisson(2.0, (n, genes)).astype(np.float32)
    obs: dict[str, Any] = {
        "condition": [labels[i % len(labels)] for i in range(n)],
        "cell_type": ["T"] * n,
        **columns,
    }
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=[*"AB", *(f"G{i}" for i in range(2, genes))][:genes])
    return anndata.AnnData(sparse.csr_matrix(counts), frame, var)


def spec_for(
    *,
    control: Any = "ctrl",
    file: str = "d.h5ad",
    source: Any = None,
    rule: Any = None,
    **more: Any,
) -> TrainingSpec:
    """Return a specification for `adata_of` cells."""
    perturbation = {"column": "condition", "control": control, "kind": "knockout", **(rule or {})}
    first = {
        "file": "d.h5ad",
        "context": {"cell_type": "obs:cell_type"},
        "perturbation": perturbation,
        **(source or {}),
    }
    whole = {"name": "t", "sources": [first], "network": "lingshu-tiny", "epochs": 1, **more}
    return TrainingSpec.of(whole, "spec")


def read(adata: anndata.AnnData, folder: Path, **options: Any) -> tuple[TrainingCells, list[str]]:
    """Return what training reads of cells, and the notes that it prints."""
    adata.write_h5ad(folder / "d.h5ad")
    return read_file(folder, **options)


def read_file(folder: Path, **options: Any) -> tuple[TrainingCells, list[str]]:
    """Return what training reads of `d.h5ad`, and the notes that it prints."""
    notes: list[str] = []
    cells = read_cells(spec_for(**options), folder, note=notes.append)
    return cells, notes


def seen(cells: TrainingCells) -> dict[str, int]:
    """Return `context: targets` to the number of its cells."""
    return {
        ", ".join(v for _, v in c.context)
        + ": "
        + "+".join(i.target for i in c.interventions): len(cells.rows(i))
        for i, c in enumerate(cells.conditions)
    }
