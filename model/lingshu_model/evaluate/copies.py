"""Whether sampled cells copy training cells more often than real held-out cells do.

Small cells are alike by chance, real ones included: in a few hundred genes with a few hundred
counts even two honest cells may be equal. So the model's cells are matched to the held-out cells
condition by condition, and their distances to the nearest training cell are set side by side.
Knows nothing of effects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from lingshu_model.evaluate.changes import Counts, Floats
from lingshu_model.evaluate.observed import Observed
from lingshu_model.evaluate.sparse import (
    Sparse,
    csr,
    one_hot,
    presence,
    stacked,
    thermometer,
)

NEAR = 0.01
"""A near copy lies among this share of the smallest distances of both kinds of cells pooled."""
ALPHA = 0.01
QUERIES = 600
"""Cells of either kind whose distances are measured."""
PART = 100
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
Metric = Literal["cityblock", "hamming"]
METRICS: tuple[Metric, ...] = ("cityblock", "hamming")


@dataclass(frozen=True)
class CopyCheck:
    """Sampled and real cells against the training cells.

    The kinds of cells are `sampled`, `real` (held out) and, to tell copying from a shift between
    replicates, `training` (training cells against all the others); only the first two are tested.

    Attributes:
        n_cells: cells of either kind searched for exact copies.
        n_measured: those of them whose distances were measured.
        exact: exact copies by kind, sampled and real.
        near: shares of near copies by distance and kind.
        p: one-sided permutation p of sampled cells copying more, by test.
        quantiles: quantiles of the distance to the nearest training cell, by distance and kind.
    """

    n_cells: int
    n_measured: int
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
            "n_measured": self.n_measured,
            "exact_copies": dict(self.exact),
            "near_copies": {m: dict(kinds) for m, kinds in self.near.items()},
            "p": dict(self.p),
            "distance_quantiles": {m: dict(kinds) for m, kinds in self.quantiles.items()},
            "quantiles": list(QUANTILES),
            "more_than_real": self.copies,
        }


def copy_check(
    observed: Observed, sampled: Sequence[Mapping[str, Counts]], generator: np.random.Generator
) -> list[CopyCheck]:
    """Return, for each seed's cells, how they and held-out cells lie to the training cells.

    Held-out cells and as many sampled ones of the same conditions are searched for exact copies of
    any training cell; up to 600 of either are measured. Under the null the two kinds are
    exchangeable, which makes the number of copies among the sampled ones hypergeometric: the
    permutation test in closed form.
    """
    sizes = {name: min(arms[name].shape[0] for arms in sampled) for name in observed.test}
    sizes = {name: min(n, observed.n_test(name)) for name, n in sizes.items()}
    real = _draw(observed.test, sizes, generator)
    pool = _Pool(stacked(observed.train.values()))
    n = real.shape[0]
    rows = generator.permutation(n)[:QUERIES]
    own = generator.permutation(pool.counts.shape[0])[: len(rows)]
    known = {
        metric: {
            "real": pool.nearest(real[rows], metric),
            "training": pool.nearest(pool.counts[own], metric, itself=True),
        }
        for metric in METRICS
    }
    exact = pool.copies(real)
    checks: list[CopyCheck] = []
    for arms in sampled:
        mine = _draw(arms, sizes, generator)
        distances: dict[Metric, Mapping[str, Floats]] = {
            m: known[m] | {"sampled": pool.nearest(mine[rows], m)} for m in METRICS
        }
        checks.append(_check(distances, {"sampled": pool.copies(mine), "real": exact}, n))
    return checks


def _check(
    distances: Mapping[Metric, Mapping[str, Floats]], exact: Mapping[str, int], n: int
) -> CopyCheck:
    near = {metric: _near(kinds) for metric, kinds in distances.items()}
    measured = len(distances["cityblock"]["sampled"])
    p = {f"near_{m}": _more_than_chance(k["sampled"], k["real"], measured) for m, k in near.items()}
    return CopyCheck(
        n_cells=n,
        n_measured=measured,
        exact=exact,
        near={m: {kind: count / measured for kind, count in near[m].items()} for m in METRICS},
        p=p | {"exact": _more_than_chance(exact["sampled"], exact["real"], n)},
        quantiles={
            m: {kind: np.quantile(d, QUANTILES).tolist() for kind, d in distances[m].items()}
            for m in METRICS
        },
    )


def _draw(
    arms: Mapping[str, Any], sizes: Mapping[str, int], generator: np.random.Generator
) -> Sparse:
    """Return up to that many random cells of each condition, condition after condition."""
    return stacked(
        arms[name][generator.permutation(arms[name].shape[0])[:n]] for name, n in sizes.items()
    )


class _Pool:
    """Training cells that others are held against."""

    def __init__(self, counts: Sparse) -> None:
        """Take the cells as CSR counts without stored zeros."""
        self.counts = counts
        self.rows = {_row(counts, i) for i in range(counts.shape[0])}

    def copies(self, cells: Sparse) -> int:
        """Return how many of the cells equal a training cell in every gene."""
        return sum(_row(cells, i) in self.rows for i in range(cells.shape[0]))

    def nearest(self, cells: Sparse, metric: Metric, *, itself: bool = False) -> Floats:
        """Return each cell's distance to its nearest training cell.

        Cityblock counts UMI, Hamming is a share of genes. With `itself` the cells are of the pool
        and the second nearest is meant.
        """
        rank = int(itself)
        width = int(max(cells.data.max(initial=1), self.counts.data.max(initial=1)))
        distances = (_Cityblock if metric == "cityblock" else _Hamming)(self.counts, width)
        # A part of the cells at a time: their products with the pool are nearly dense.
        parts = [csr(cells[i : i + PART]) for i in range(0, cells.shape[0], PART)]
        found = [np.partition(distances.of(part), rank, axis=1)[:, rank] for part in parts]
        return np.concatenate(found).astype(np.float64)


def _row(cells: Sparse, i: int) -> bytes:
    """Return the bytes of one cell: equal cells have equal bytes."""
    part = slice(cells.indptr[i], cells.indptr[i + 1])
    genes, counts = cells.indices[part], cells.data[part]
    return genes.astype(np.int64).tobytes() + counts.astype(np.int64).tobytes()


class _Cityblock:
    """Summed absolute differences of counts: both totals less twice what is shared."""

    def __init__(self, pool: Sparse, width: int) -> None:
        self.width, self.shared = width, thermometer(pool, width).T.tocsr()
        self.totals = np.asarray(pool.sum(axis=1), np.int64)

    def of(self, cells: Sparse) -> NDArray[np.int64]:
        totals = np.add.outer(np.asarray(cells.sum(axis=1), np.int64), self.totals)
        return totals - 2 * (thermometer(cells, self.width) @ self.shared).toarray()


class _Hamming:
    """The share of genes in which the counts differ."""

    def __init__(self, pool: Sparse, width: int) -> None:
        self.width, self.equal = width, one_hot(pool, width).T.tocsr()
        self.both, self.present = presence(pool).T.tocsr(), np.diff(pool.indptr)

    def of(self, cells: Sparse) -> Floats:
        present = np.add.outer(np.diff(cells.indptr), self.present)
        both = (presence(cells) @ self.both).toarray()
        return (present - both - (one_hot(cells, self.width) @ self.equal).toarray()) / cells.shape[
            1
        ]


def _near(distances: Mapping[str, Floats]) -> dict[str, int]:
    """Return how many of each kind lie within the `NEAR` quantile of sampled and real pooled."""
    threshold = np.quantile(np.concatenate([distances["sampled"], distances["real"]]), NEAR)
    return {kind: int((d <= threshold).sum()) for kind, d in distances.items()}


def _more_than_chance(mine: int, real: int, n: int) -> float:
    """Return P(at least `mine` of the copies fall among n of 2n exchangeable cells)."""
    return float(hypergeom.sf(mine - 1, 2 * n, mine + real, n))
