"""Features of target genes that are known without perturbing them, in blocks.

    expression      mean level of the gene in control cells, standardised
    co-expression   its loadings on the leading principal components of control cells
    gene sets       membership (one block for each collection)
    transcription factor   whether it is one

Rows of a block other than `expression` have length 1, or 0 where nothing is known of the gene, so a
gene in many sets has no larger features than a gene in few.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lingshu_model.effects.moments import Floats, Rows, canonical, expression_levels

COMPONENTS = 10
"""Principal components of the `co-expression` block."""
CELLS = 5000
"""Control cells that they are computed from, about."""
Blocks = Mapping[str, Floats]


def expression_blocks(
    controls: Rows, genes: Sequence[str], targets: Sequence[str]
) -> dict[str, Floats]:
    """Return `expression` and `co-expression` of targets, [targets, features] each.

    Args:
        controls: counts of control cells, [cells, genes].
        genes: names of the columns.
        targets: genes that are perturbed, whether or not among `genes`.
    """
    # Every n-th cell: without a random draw the features are a function of the cells alone.
    few = controls[:: max(controls.shape[0] // CELLS, 1)]
    levels = expression_levels(canonical(few))
    mean = np.asarray(levels.mean(axis=0), np.float64).ravel()
    squares = np.asarray(levels.multiply(levels).mean(axis=0), np.float64).ravel()
    # 0.1 keeps genes with hardly a count from being scaled up to the variance of others.
    scale = np.sqrt(np.maximum(squares - mean**2, 0.0)) + 0.1
    loadings = _loadings(levels, mean, scale)
    place = {gene: i for i, gene in enumerate(genes)}
    rows = np.array([place.get(target, -1) for target in targets])
    level = (mean - mean.mean()) / max(float(mean.std()), 1e-12)
    return {
        "expression": np.where(rows >= 0, level[rows], 0.0)[:, None],
        "co-expression": _unit(np.where(rows[:, None] >= 0, loadings[rows], 0.0)),
    }


def set_block(sets: Mapping[str, Collection[str]], targets: Sequence[str]) -> Floats:
    """Return membership of targets in sets with at least two of them, [targets, sets]."""
    # A set with one target cannot say anything of another.
    members = np.array([[t in genes for genes in sets.values()] for t in targets], float)
    return _unit(members[:, members.sum(axis=0) >= 2])


def flag_block(genes: Collection[str], targets: Sequence[str]) -> Floats:
    """Return 1 for targets among `genes`, -1 for the others, [targets, 1]."""
    return np.array([[1.0 if target in genes else -1.0] for target in targets])


def _loadings(levels: Rows, mean: Floats, scale: Floats) -> Floats:
    """Return loadings [genes, components] of standardised levels, by the cells' Gram matrix.

    For Z = (levels - mean) / scale, the eigenvectors U of Z Z' [cells, cells] give Z' U. There are
    fewer cells than genes, and Z itself, which is dense, is never formed.
    """
    scaled = levels.multiply(1.0 / scale).tocsr()
    middle = mean / scale
    cross = np.asarray((scaled @ scaled.T).todense(), np.float64)
    edge = scaled @ middle
    # (A - 1 m')(A - 1 m')' = A A' - (A m) 1' - 1 (A m)' + m'm 1 1'.
    gram = cross - edge[:, None] - edge[None, :] + middle @ middle
    values, vectors = np.linalg.eigh(gram)
    # eigh is in ascending order.
    kept = vectors[:, ::-1][:, :COMPONENTS]
    loadings = scaled.T @ kept - np.outer(middle, kept.sum(axis=0))
    # With few cells the last components are rounding.
    return loadings * (values[::-1][:COMPONENTS] > 1e-9)


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
