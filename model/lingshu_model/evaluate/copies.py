"""Whether sampled cells copy training cells more often than real held-out cells do.

Small cells are alike by chance, real ones included: in a few hundred genes with a few hundred
counts even two honest cells may be equal. So the model's cells are matched to the held-out cells
condition by condition, and their distances to the nearest training cell are set side by side.
Knows nothing of effects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import hypergeom

from lingshu_model.evaluate.changes import Counts, Floats
from lingshu_model.evaluate.observed import Observed

NEAR = 0.01
"""A near copy lies among this share of the smallest distances of both kinds of cells pooled."""
ALPHA = 0.01
QUERIES = 1200
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
Metric = Literal["cityblock", "hamming"]
METRICS: tuple[Metric, ...] = ("cityblock", "hamming")


@dataclass(frozen=True)
class CopyCheck:
    """Sampled and real cells against the training cells.

    The kinds of cells are `sampled`, `real` (held out) and, to tell copying from a shift between
    replicates, `training` (training cells against all the others); only the first two are tested.

    Attributes:
        n_cells: cells compared of either kind.
        exact: exact copies by kind.
        near: shares of near copies by distance and kind.
        p: one-sided permutation p of sampled cells copying more, by test.
        quantiles: quantiles of the distance to the nearest training cell, by distance and kind.
    """

    n_cells: int
    exact: Mapping[str, int]
    near: Mapping[Metric, Mapping[str, float]]
    p: Mapping[str, float]
    quantiles: Mapping[Metric, Mapping[str, list[float]]]

    @property
    def copies(self) -> bool:
        """Whether sampled cells copy more often than real ones: p < 0.01, Bonferroni over tests."""
        return min(self.p.values()) < ALPHA / len(self.p)

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "n_cells": self.n_cells,
            "exact_copies": dict(self.exact),
            "near_copies": {m: dict(kinds) for m, kinds in self.near.items()},
            "p": dict(self.p),
            "distance_quantiles": {m: dict(kinds) for m, kinds in self.quantiles.items()},
            "quantiles": list(QUANTILES),
            "more_than_real": self.copies,
        }


def copy_check(
    observed: Observed, sampled: Mapping[str, Counts], generator: np.random.Generator
) -> CopyCheck:
    """Return how sampled and held-out cells compare in their distance to the training cells.

    Up to 1,200 held-out cells are drawn over all conditions, and as many sampled ones of the same
    conditions; either is compared with all the training cells. Under the null the two kinds are
    exchangeable, which makes the number of copies among the sampled ones hypergeometric: the
    permutation test in closed form.
    """
    mine, real = _matched(observed, sampled, generator)
    pool = np.concatenate(list(observed.train.values()))
    own = generator.permutation(len(pool))[: len(mine)]
    distances = {
        metric: {
            "sampled": _nearest(mine, pool, metric),
            "real": _nearest(real, pool, metric),
            "training": _nearest(pool[own], pool, metric, itself=True),
        }
        for metric in METRICS
    }
    near = {metric: _near(kinds) for metric, kinds in distances.items()}
    exact = {kind: int((d == 0).sum()) for kind, d in distances["cityblock"].items()}
    tests = {"exact": exact} | {f"near_{m}": kinds for m, kinds in near.items()}
    n = len(mine)
    return CopyCheck(
        n_cells=n,
        exact=exact,
        near={m: {kind: count / n for kind, count in near[m].items()} for m in METRICS},
        p={test: _more_than_chance(k["sampled"], k["real"], n) for test, k in tests.items()},
        quantiles={
            m: {kind: np.quantile(d, QUANTILES).tolist() for kind, d in distances[m].items()}
            for m in METRICS
        },
    )


def _matched(
    observed: Observed, sampled: Mapping[str, Counts], generator: np.random.Generator
) -> tuple[Counts, Counts]:
    """Return equally many sampled and held-out cells, condition by condition."""
    total = sum(len(cells) for cells in observed.test.values())
    mine: list[Counts] = []
    real: list[Counts] = []
    for name, cells in observed.test.items():
        n = min(-(-len(cells) * QUERIES // max(total, QUERIES)), len(sampled[name]), len(cells))
        mine.append(sampled[name][generator.permutation(len(sampled[name]))[:n]])
        real.append(cells[generator.permutation(len(cells))[:n]])
    return np.concatenate(mine), np.concatenate(real)


def _nearest(cells: Counts, pool: Counts, metric: Metric, *, itself: bool = False) -> Floats:
    """Return each cell's distance to its nearest training cell.

    Cityblock counts UMI, Hamming is a share of genes. With `itself` the cells are of the pool and
    the second nearest is meant.
    """
    parts = np.array_split(cells.astype(np.float64), max(1, len(cells) // 200))
    training = pool.astype(np.float64)
    rank = int(itself)
    distances = (cdist(part, training, metric=metric) for part in parts)
    nearest = [np.partition(d, rank, axis=1)[:, rank] for d in distances]
    return np.concatenate(nearest).astype(np.float64)


def _near(distances: Mapping[str, Floats]) -> dict[str, int]:
    """Return how many of each kind lie within the `NEAR` quantile of sampled and real pooled."""
    threshold = np.quantile(np.concatenate([distances["sampled"], distances["real"]]), NEAR)
    return {kind: int((d <= threshold).sum()) for kind, d in distances.items()}


def _more_than_chance(mine: int, real: int, n: int) -> float:
    """Return P(at least `mine` of the copies fall among n of 2n exchangeable cells)."""
    return float(hypergeom.sf(mine - 1, 2 * n, mine + real, n))
