"""Cells for the Python blocks of the pages that train on `adata`."""

from typing import Any


def made_cells() -> Any:
    """Return an AnnData of 960 cells and 120 genes: two cell types, three knock-outs and NT."""
    import anndata
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    genes = ["STAT1", "JAK2", "IRF1", *(f"GENE{i}" for i in range(117))]
    rates = rng.gamma(0.6, 2.0, len(genes)) + 0.2
    blocks: list[Any] = []
    rows: list[tuple[str, str]] = []
    for cell_type in ("A", "B"):
        for name in ("NT", "STAT1", "JAK2", "IRF1"):
            effect = np.zeros(len(genes)) if name == "NT" else rng.normal(0, 0.5, len(genes))
            blocks.append(rng.poisson(rates * np.exp(effect), (120, len(genes))))
            rows += [(name, cell_type)] * 120
    obs = pd.DataFrame(rows, columns=["gene", "cell_type"])
    obs.index = obs.index.astype(str)
    counts = np.vstack(blocks).astype(np.float32)
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))
