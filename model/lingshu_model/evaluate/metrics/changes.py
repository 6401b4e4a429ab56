"""The mean change of expression between two sets of cells, and its sampling variance.

The change of gene g is

    d_g = mean of log1p_cp10k over perturbed cells - the same over control cells.

Its squared length sum_g d_g^2 overstates the true one by the summed sampling variance of its
entries, so a change carries those variances and `Change.squared_length` subtracts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lingshu_model.evaluate.metrics.matrices import (
    Floats,
    Sparse,
    column_means,
    moments,
    standard_error2,
)


@dataclass(frozen=True)
class Change:
    """A mean change.

    Attributes:
        value: float64 [genes], log1p_cp10k.
        noise: float64 [genes], squared standard error of each entry.
    """

    value: Floats
    noise: Floats

    @classmethod
    def zero(cls, genes: int) -> "Change":
        """Return no change at all."""
        return cls(np.zeros(genes), np.zeros(genes))

    @property
    def squared_length(self) -> float:
        """Squared length less the summed noise: unbiased, so it may be negative."""
        return float(self.value @ self.value - self.noise.sum())


def change_between(perturbed: Sparse, control: Sparse) -> Change:
    """Return the change between independent samples of log1p_cp10k, [cells, genes] each."""
    value = column_means(perturbed) - column_means(control)
    return Change(value, standard_error2(perturbed) + standard_error2(control))


def paired_differences(perturbed: Sparse, control: Sparse) -> Sparse:
    """Return perturbed less control cells, row by row, [pairs, genes].

    Row i of both shares a random stream; rows without a partner are left out.
    """
    n = min(perturbed.shape[0], control.shape[0])
    return perturbed[:n] - control[:n]


def paired_change(perturbed: Sparse, control: Sparse) -> Change:
    """Return the change of cells paired row by row; its noise is that of the differences."""
    differences = paired_differences(perturbed, control)
    return Change(column_means(differences), standard_error2(differences))


def resampled_change(
    perturbed: Sparse, control: Sparse, n: int, generator: np.random.Generator
) -> Change:
    """Return the change between `n` cells drawn with replacement from each sample.

    Its noise is that of drawing and of the samples drawn from.
    """
    arms = (perturbed, control)
    # Both arms are drawn anew: without that the control would have less noise than the model's.
    drawn = [column_means(a[generator.integers(a.shape[0], size=n)]) for a in arms]
    # Variance v: v / n of drawing n cells and v / N of the N cells drawn from.
    noise = sum(moments(a)[1] * (1 / n + 1 / a.shape[0]) for a in arms)
    return Change(drawn[0] - drawn[1], np.asarray(noise))


def mean_change(changes: Sequence[Change], weights: Sequence[float] | None = None) -> Change:
    """Return the weighted mean of changes (equal weights by default), their noise independent."""
    w = np.full(len(changes), 1.0) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    value = np.sum([a * c.value for a, c in zip(w, changes, strict=True)], axis=0)
    # The squared standard error of a weighted sum.
    noise = np.sum([a**2 * c.noise for a, c in zip(w, changes, strict=True)], axis=0)
    return Change(value, noise)


def pearson(a: Floats, b: Floats) -> Floats:
    """Return Pearson's correlation over the last axis, other axes broadcast.

    0 where either side is constant: a prediction of no change has no direction.
    """
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    product = (a * b).sum(axis=-1)
    return np.divide(product, scale, out=np.zeros_like(product), where=scale > 1e-12)
