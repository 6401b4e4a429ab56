"""Whether sampled cells copy training cells more often than real held-out cells do.

Small cells are similar by chance: with a few hundred genes and a few hundred counts even two
unrelated cells may be equal. So sampled cells are matched to held-out cells by condition, and the
distances of both to the nearest training cell are compared.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import hypergeom

from lingshu_model.evaluate.metrics.matrices import Floats, Sparse, csr, stacked
from lingshu_model.evaluate.metrics.resampling import stream
from lingshu_model.evaluate.rows import HELD_OUT, MODEL, Row
from lingshu_model.evaluate.sources import Source
from lingshu_model.evaluate.study import Population

EXACT, NEAR, DISTANCE = "exact_copies", "near_copies", "distance_to_training"
P = "p_of_copies"
NEAREST = 0.01
"""Quantile of the pooled distances of both kinds of cells below which a cell is a near copy."""
MEASURED = 600
"""Largest number of cells of each kind whose distances are computed."""
BLOCK = 100
"""Cells whose distances to all training cells are in memory at a time."""
TRAINING = "training_cells"
"""Training cells against other training cells: distinguishes copying from replicate shifts."""


def copy_rows(population: Population, model: Source, fold: str) -> Iterator[Row]:
    """Yield copies, tests and the median distance for each seed of the model's cells.

    Held-out cells and as many sampled ones of the same conditions are searched for exact copies of
    any training cell; up to 600 of either are measured. Under the null hypothesis the two kinds are
    exchangeable, so the number of copies among the sampled ones is hypergeometric: the permutation
    test in closed form.
    """
    generator = stream("copies", population.name)
    # Conditions in the same proportions on both sides.
    sizes = {
        name: min(population.n_test(name), *(arms[name].shape[0] for arms in model.arms))
        for name in population.test
    }
    real = _drawn(population.test, sizes, generator)
    pool = stacked(population.train.values())
    rows = generator.permutation(real.shape[0])[:MEASURED]
    # As many training cells as are measured of the other kinds, chosen without regard to condition.
    others = pool[generator.permutation(pool.shape[0])[: len(rows)]]
    known = {
        HELD_OUT: nearest_distance(real[rows], pool),
        # rank 1: a training cell's nearest training cell is itself.
        TRAINING: nearest_distance(others, pool, rank=1),
    }
    training = {_bytes(pool, i) for i in range(pool.shape[0])}

    def exact(cells: Sparse) -> int:
        return sum(_bytes(cells, i) in training for i in range(cells.shape[0]))

    # Held-out cells are the same for every seed, so they are searched once.
    n_real = exact(real)
    for seed, arms in zip(model.seeds, model.arms, strict=True):
        sampled = _drawn(arms, sizes, generator)
        distances = {**known, MODEL: nearest_distance(sampled[rows], pool)}
        pooled = np.concatenate([distances[MODEL], distances[HELD_OUT]])
        # One threshold for all kinds: the lowest 1 % of sampled and held-out cells together.
        near = {k: int((d <= np.quantile(pooled, NEAREST)).sum()) for k, d in distances.items()}
        n = exact(sampled)
        values = {
            (EXACT, MODEL): n,
            (EXACT, HELD_OUT): n_real,
            (f"{P}_exact", MODEL): _more_than_chance(n, n_real, real.shape[0]),
            (f"{P}_near", MODEL): _more_than_chance(near[MODEL], near[HELD_OUT], len(rows)),
            **{(NEAR, kind): count / len(rows) for kind, count in near.items()},
            **{(DISTANCE, kind): np.median(d) for kind, d in distances.items()},
        }
        for (metric, kind), value in values.items():
            place = ("", population.name, population.name, kind, seed, fold)
            yield Row(metric, *place, float(value))


def _drawn(
    arms: Mapping[str, Any], sizes: Mapping[str, int], generator: np.random.Generator
) -> Sparse:
    """Return up to that many random cells of each condition, condition after condition."""
    return stacked(
        arms[name][generator.permutation(arms[name].shape[0])[:n]] for name, n in sizes.items()
    )


def _bytes(cells: Sparse, i: int) -> bytes:
    """Return the bytes of one cell: equal cells have equal bytes."""
    # Indices are sorted and zeros not stored (`csr`), so equal cells have the same two arrays.
    part = slice(cells.indptr[i], cells.indptr[i + 1])
    genes, counts = cells.indices[part], cells.data[part]
    return genes.astype(np.int64).tobytes() + counts.astype(np.int64).tobytes()


def nearest_distance(cells: Sparse, pool: Sparse, rank: int = 0) -> Floats:
    """Return each cell's distance to its nearest cell of the pool, UMI, [cells].

    The distance is the summed absolute difference of counts: both totals less twice the shared
    counts, which a product of thermometer codes gives without making the cells dense.

    Args:
        cells: counts, [cells, genes].
        pool: counts, [pool, genes].
        rank: 0 = the nearest, 1 = the second nearest.
    """
    # Columns per gene: the largest count of either side.
    width = int(max(cells.data.max(initial=1), pool.data.max(initial=1)))
    code = thermometer(pool, width).T.tocsr()
    totals = np.asarray(pool.sum(axis=1), np.int64)  # UMI per training cell
    nearest: list[Floats] = []
    for start in range(0, cells.shape[0], BLOCK):
        block = csr(cells[start : start + BLOCK])
        both = np.add.outer(np.asarray(block.sum(axis=1), np.int64), totals)
        # |a - b| summed over genes = sum a + sum b - 2 sum min(a, b), [block, pool]
        distances = both - 2 * (thermometer(block, width) @ code).toarray()
        nearest.append(np.partition(distances, rank, axis=1)[:, rank].astype(np.float64))
    return np.concatenate(nearest)


def thermometer(counts: Sparse, width: int) -> Sparse:
    """Return a 0/1 CSR array in which the product of two rows is their shared UMI.

    A count c of a gene becomes c ones among the gene's `width` columns, so the product is the sum
    over genes of the smaller count.
    """
    repeats = np.asarray(counts.data, np.int64)
    # 0, 1, ... c - 1 for every count c, in one array.
    # Position in the array less the position at which the count's ones begin.
    level = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    columns = np.repeat(np.asarray(counts.indices, np.int64), repeats) * width + level
    indptr = np.concatenate([[0], np.cumsum(repeats)])[counts.indptr]
    shape = (counts.shape[0], counts.shape[1] * width)
    return sparse.csr_array((np.ones(len(columns), np.int32), columns, indptr), shape)


def _more_than_chance(sampled: int, real: int, n: int) -> float:
    """Return P(at least `sampled` of the copies are among n of 2n exchangeable cells)."""
    # sf is P(more than), hence one less.
    return float(hypergeom.sf(sampled - 1, 2 * n, sampled + real, n))
