"""How far predicted log bulks are from real ones, and whether they tell perturbations apart.

Knows nothing of cells: rows are perturbations, columns genes, and the noise of a row is the
sampling variance of its entries, summed. `own` holds the column of each row's own gene, −1 for
none.
"""

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.scoring.cells import Floats

Columns = NDArray[np.int64]


def discrimination(real: Floats, predicted: Floats, own: Columns) -> Floats:
    """Return 1 − rank / (n − 1): how far up each prediction's own real change is, by cosine.

    All rows' own genes are left out everywhere. Equal distances share the mean of their ranks, so
    a row without any change scores 0.5. 1 for a single row.

    Raises:
        ValueError: no gene is left.
    """
    kept = np.ones(real.shape[1], bool)
    kept[own[own >= 0]] = False
    if not kept.any():
        message = f"each of the {real.shape[1]} genes is some perturbation's own: none is left"
        raise ValueError(message)
    distances = _cosine(predicted[:, kept], real[:, kept])
    nearest = np.diagonal(distances)[:, None]
    nearer = (distances < nearest).sum(axis=1)
    level = (distances == nearest).sum(axis=1)
    return 1 - (nearer + (level - 1) / 2) / max(len(real) - 1, 1)


def errors(
    real: Floats, real_noise: Floats, predicted: Floats, noise: Floats, own: Columns
) -> Floats:
    """Return the mean squared error per gene with the sampling noise of both sides taken off.

    A prediction's noise is credited up to that of the real row, and over all rows up to what its
    rows differ among themselves: noise that means do not show was not drawn.
    """
    weights = 1 / _counted(predicted.shape[1], own)
    credit = np.minimum(noise, real_noise)
    claimed = float((credit * weights).sum())
    if claimed > 0:
        credit = credit * min(1.0, _spread(predicted, own, weights) / claimed)
    return (_squared(predicted, real, own) - credit - real_noise) * weights


def distances(
    real: Floats, noise: Floats, control: Floats, control_noise: float, own: Columns
) -> Floats:
    """Return the mean squared change per gene with the sampling noise taken off."""
    squared = _squared(real, np.broadcast_to(control, real.shape), own)
    return (squared - noise - control_noise) / _counted(real.shape[1], own)


def ratio_of_sums(top: Floats, bottom: Floats) -> float:
    """Return Σ top / Σ bottom over rows where both are finite; NaN unless Σ bottom is positive."""
    finite = np.isfinite(top) & np.isfinite(bottom)
    total = float(bottom[finite].sum())
    return float(top[finite].sum()) / total if total > 0 else float("nan")


def _cosine(a: Floats, b: Floats) -> Floats:
    """Return 1 − cosine; 1 where either has no length."""
    scale = np.sqrt((a * a).sum(axis=1))[:, None] * np.sqrt((b * b).sum(axis=1))
    cosine = np.divide(a @ b.T, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.clip(1 - cosine, 0.0, 2.0)


def _counted(n_genes: int, own: Columns) -> Floats:
    """Return how many genes count for each row."""
    return n_genes - (own >= 0).astype(np.float64)


def _squared(a: Floats, b: Floats, own: Columns) -> Floats:
    """Return squared distances row by row, each without its own gene."""
    squared = (a - b) ** 2
    has = np.flatnonzero(own >= 0)
    squared[has, own[has]] = 0.0
    return squared.sum(axis=1)


def _spread(values: Floats, own: Columns, weights: Floats) -> float:
    """Return the weighted sum of squares around the weighted mean, over genes.

    A row has no say on its own gene, and a gene with fewer than two rows has none at all.
    """
    share = np.broadcast_to(weights[:, None], values.shape).copy()
    has = np.flatnonzero(own >= 0)
    share[has, own[has]] = 0.0
    total = share.sum(axis=0)
    judged = (share > 0).sum(axis=0) >= 2
    values, share, total = values[:, judged], share[:, judged], total[judged]
    around = values - (share * values).sum(axis=0) / total
    return float((share * around**2).sum())
