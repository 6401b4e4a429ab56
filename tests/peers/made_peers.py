"""A made split folder and made peers' scripts."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

GENES = ["A", "B", "C", "D"]
CELLS = {
    "train.h5ad": {"T, one": 6, "T, one, IFN": 5, "B, one": 4, "B, two": 3},
    "validation.h5ad": {"T, one": 2, "B, two": 2},
    "test.h5ad": {"T, one": 3, "B, two": 2},
    "unseen.h5ad": {"B, one, IFN": 7},
}
"""By file: cells of each condition, named by its cell type, data set and perturbation."""


def cells(sizes: dict[str, int], seed: int) -> anndata.AnnData:
    names = [name for name, n in sizes.items() for _ in range(n)]
    labels = [[*name.split(", "), "control"][:3] for name in names]
    obs = pd.DataFrame(labels, columns=["cell_type", "dataset", "perturbation"], dtype=str)
    obs["condition"] = names
    obs.index = [f"{seed}-{i}" for i in range(len(names))]
    counts = np.random.default_rng(seed).poisson(2, (len(names), len(GENES)))
    var = pd.DataFrame({"measured:two": [True, True, False, True]}, index=GENES)
    return anndata.AnnData(sparse.csr_matrix(counts, dtype=np.int32), obs, var)


def split_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for seed, (name, sizes) in enumerate(CELLS.items()):
        cells(sizes, seed).write_h5ad(folder / name)
    return folder


GOOD = """
import json
import sys

import numpy as np
from scipy import sparse

place = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
seed = place["--seed"]
wanted = json.load(open(place["--stage"] + "/wanted.json"))["conditions"]
from pathlib import Path
print("seen", sorted(p.name for p in Path(place["--stage"]).iterdir()))
for folder in ("made", "made-means"):
    here = Path(place["--out"]) / folder / f"seed-{seed}"
    here.mkdir(parents=True)
    (here / "notes.json").write_text('{"training_cells": 1200, "training_seconds": 12.5}')
    for name, told in wanted.items():
        if folder == "made":
            rows = sparse.csr_matrix(np.full((told["n"], 4), int(seed) + 1))
            arrays = {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}
            np.savez(here / f"{name}.npz", shape=rows.shape, **arrays)
        else:
            np.savez(here / f"{name}.npz", log1p_cp10k=np.full((told["n"], 4), 0.5, np.float32))
"""
BAD = "raise SystemExit('the data are not to my taste')"
