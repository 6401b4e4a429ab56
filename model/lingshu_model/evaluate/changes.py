"""Mean changes of expression and how much of their length is noise.

A *change* is the mean over cells of log1p_cp10k minus the control's mean, one value per gene. Its
squared length overstates the true one by the summed sampling variance of its entries, so each
change carries that variance and `Change.length` takes it off. Knows nothing of files or models.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Change:
    """A mean change and its sampling variance.

    Attributes:
        value: float64 [genes], log1p_cp10k.
        noise: float64 [genes], squared standard error of each entry.
    """

    value: Floats
    noise: Floats

    @property
    def squared_length(self) -> float:
        """The squared length with the noise taken off: unbiased, so it may fall below 0."""
        return float(self.value @ self.value - self.noise.sum())


def log1p_cp10k(counts: Counts) -> Floats:
    """Return ln(1 + count / cell total × 10,000), float64 [cells, genes]; an empty cell stays 0."""
    totals = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.log1p(counts * (1e4 / np.maximum(totals, 1.0)))


def change_between(perturbed: Floats, control: Floats) -> Change:
    """Return the change between two independent samples of log1p_cp10k, [cells, genes] each."""
    value = perturbed.mean(axis=0) - control.mean(axis=0)
    return Change(value, standard_error2(perturbed) + standard_error2(control))


def resampled_change(
    perturbed: Floats, control: Floats, n: int, generator: np.random.Generator
) -> Change:
    """Return the change between `n` cells drawn with replacement from each sample.

    Its noise is that of the drawing and of the samples drawn from.
    """
    drawn = [cells[generator.integers(len(cells), size=n)] for cells in (perturbed, control)]
    noise = sum(cells.var(axis=0) * (1 / n + 1 / len(cells)) for cells in (perturbed, control))
    return Change(drawn[0].mean(axis=0) - drawn[1].mean(axis=0), np.asarray(noise))


def paired_change(perturbed: Floats, control: Floats) -> Change:
    """Return the change of cells paired row by row; the noise is that of their differences."""
    difference = paired_differences(perturbed, control)
    return Change(difference.mean(axis=0), standard_error2(difference))


def paired_differences(perturbed: Floats, control: Floats) -> Floats:
    """Return perturbed minus control cells, row by row.

    Cell i of either is of one pair, so where one has more cells the rest have no partner.
    """
    n = min(len(perturbed), len(control))
    return perturbed[:n] - control[:n]


def standard_error2(values: Floats) -> Floats:
    """Return the squared standard error of each column's mean; 0 for a single row."""
    n = len(values)
    return values.var(axis=0, ddof=1) / n if n > 1 else np.zeros(values.shape[1])


def mean_change(changes: list[Change]) -> Change:
    """Return the mean of several changes, their noise taken as independent."""
    n = len(changes)
    return Change(
        np.mean([c.value for c in changes], axis=0),
        np.sum([c.noise for c in changes], axis=0) / n**2,
    )


def magnitude_ratio(predicted: Change, observed: Change) -> float:
    """Return the ratio of noise-corrected lengths; NaN where either is lost in its noise."""
    top, bottom = predicted.squared_length, observed.squared_length
    return float(np.sqrt(top / bottom)) if top > 0 and bottom > 0 else float("nan")


def pooled_magnitude_ratio(predicted: list[Change], observed: list[Change]) -> float:
    """Return the ratio of root summed squared lengths over several perturbations.

    Squared lengths are unbiased and add up, so weak perturbations may be pooled where their single
    ratios are undefined; the strongest weigh most. A negative predicted sum counts as 0.
    """
    top = sum(c.squared_length for c in predicted)
    bottom = sum(c.squared_length for c in observed)
    return float(np.sqrt(max(top, 0.0) / bottom)) if bottom > 0 else float("nan")


def pearson(a: Floats, b: Floats) -> Floats:
    """Return Pearson over the last axis, broadcasting the others; 0 where either is constant."""
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    product = (a * b).sum(axis=-1)
    return np.divide(product, scale, out=np.zeros_like(product), where=scale > 1e-12)
