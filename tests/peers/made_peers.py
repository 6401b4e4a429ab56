"""A made split folder and made peers' scripts."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

LABELS = ["cell_type", "dataset", "perturbation"]
GENES = ["A", "B", "C", "D"]
CELLS = {
    "train.h5ad": {"T, one": 6, "T, one, IFN": 5, "B, one": 4, "B, two": 3},
    "validation.h5ad": {"T, one": 2, "B, two": 2},
    "test.h5ad": {"T, one": 3, "B, two": 2},
    "unseen.h5ad": {"B, one, IFN": 7},
}
"""By file: cells of each condition, named by its cell type, data set and perturbation."""


Sizes = dict[str, dict[str, int]]


def cells(sizes: dict[str, int], seed: int, genes: list[str]) -> anndata.AnnData:
    names = [name for name, n in sizes.items() for _ in range(n)]
    labels = [[*name.split(", "), "control"][:3] for name in names]
    obs = pd.DataFrame(labels, columns=LABELS, dtype=str)
    obs["condition"] = names
    obs.index = [f"{seed}-{i}" for i in range(len(names))]
    counts = np.random.default_rng(seed).poisson(2, (len(names), len(genes)))
    obs["source"] = np.where(obs["dataset"] == "two", "1", "0")
    whole = anndata.AnnData(
        sparse.csr_matrix(counts, dtype=np.int32), obs, pd.DataFrame(index=genes)
    )
    whole.varm["measured"] = np.ones((len(genes), 2), bool)
    whole.varm["measured"][2, 1] = False
    return whole


def split_folder(folder: Path, built: Sizes = CELLS, genes: list[str] = GENES) -> Path:
    folder.mkdir(parents=True)
    for seed, (name, sizes) in enumerate(built.items()):
        cells(sizes, seed, genes).write_h5ad(folder / name)
    messages = {
        name: {**dict(zip(LABELS, [*name.split(", "), "control"], strict=False)), "n_cells": n}
        for file in ("test.h5ad", "unseen.h5ad")
        for name, n in built[file].items()
    }
    (folder / "wanted.json").write_text(json.dumps(messages))
    return folder


GOOD = """
import json
import sys
from pathlib import Path

import numpy as np

place = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
stage, seed = Path(place["--stage"]), int(place["--seed"])
print("seen", sorted(path.name for path in stage.iterdir()))
for folder in ("made", "made-means"):
    here = Path(place["--out"]) / folder / f"seed-{seed}"
    here.mkdir(parents=True)
    (here / "notes.json").write_text('{"training_cells": 1200, "training_seconds": 12.5}')
    for name, told in json.loads((stage / "wanted.json").read_text()).items():
        n = told["n_cells"]
        arrays = {"log1p_cp10k": np.full((n, 4), 0.5, np.float32)}
        if folder == "made":
            arrays = {"data": np.full(4 * n, seed + 1), "indices": np.tile(np.arange(4), n)}
            arrays |= {"indptr": np.arange(0, 4 * n + 1, 4), "shape": (n, 4)}
        np.savez(here / f"{name}.npz", **arrays)
"""
BAD = "raise SystemExit('the data are not to my taste')"
