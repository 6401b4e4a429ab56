"""How far the composition of a donor is from that pooled over all other donors: labels alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import anndata
import numpy as np

from benchmarks.mixed_populations.judging import DRAWS, Labels, distance
from benchmarks.mixed_populations.sets import ATLASES

FEWEST = 10
"""Cells of a donor that is compared."""
KANG = "cells/kang2018_pbmc_ifnb.h5ad"
SEED = 43


def donors(data: Path) -> Iterator[dict[str, object]]:
    """Yield a row for each set: distances of left-out donors from the pooled composition."""
    for name, this in ATLASES.items():
        cells = anndata.read_h5ad(data / this.file, backed="r")
        types, donor = (cells.obs[c].astype(str).to_numpy() for c in (this.types, this.donors))
        yield _row(name, types, donor)
    obs = anndata.read_h5ad(data / KANG, backed="r").obs
    for arm in ("CTRL", "STIM"):
        known = (
            (obs["stim"] == arm) & (obs["donor"] != "unknown") & (obs["cell_type8"] != "unknown")
        )
        part = obs[known]
        yield _row(f"kang2018 {arm}", *(part[c].astype(str).to_numpy()
                                        for c in ("cell_type8", "donor")))  # fmt: skip


def _row(name: str, types: Labels, donor: Labels) -> dict[str, object]:
    rng = np.random.Generator(np.random.Philox(key=[0, SEED]))
    real: list[float] = []
    alike: list[float] = []
    farthest: Mapping[str, float] = {}
    names, counted = np.unique(donor, return_counts=True)
    chosen = names[counted >= FEWEST]
    for each in chosen.tolist():
        mine, others = types[donor == each], types[donor != each]
        real.append(distance(mine, others))
        # What as many cells that came from the pooled composition would be off by.
        drawn = (rng.choice(others, len(mine)) for _ in range(DRAWS))
        alike.append(float(np.mean([distance(labels, others) for labels in drawn])))
    farthest = dict(zip(chosen.tolist(), real, strict=True))
    worst = max(farthest, key=lambda each: farthest[each])
    return {
        "set": name,
        "donors": len(chosen),
        "median cells of a donor": int(np.median(counted[counted >= FEWEST])),
        "types": len(np.unique(types)),
        "distance to pooled, mean over donors": round(float(np.mean(real)), 3),
        "of as many cells of the pooled composition": round(float(np.mean(alike)), 3),
        "largest distance": round(farthest[worst], 3),
        "donor of it": worst,
    }
