"""Agreement of a predicted and a held-out change: one small function per metric.

`AGREEMENT` is the registry. A function takes real changes [..., genes] and returns a function that
takes predicted ones that broadcast against them and returns [...]. To add a metric, write the
function and register it; the tables, intervals, verdicts and the evidence follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lingshu_model.evaluate.metrics.matrices import Floats, Indices

Better = Literal["higher", "lower", "nearer 0"]
"""Which value is better."""
PEARSON, MSE, SQUARED_LENGTH = "pearson_of_change", "mse_of_change", "squared_length_of_change"
TOP, OVERLAP = 100, 20
"""Number of most changed genes for the correlations and for the overlap."""


Score = Callable[[Floats], Floats]
"""Predicted changes to what a metric says of them against given real ones."""


@dataclass(frozen=True)
class Agreement:
    """A metric of a predicted change.

    Attributes:
        against: real changes -> `Score`, so that what depends on them alone is computed once for
            all predictions.
        better: which value is better.
        genes: (change of other contexts, real change) -> the genes that count; None = all.
        has_ceiling: whether the square root of the truth's reliability limits it, as it does a
            correlation.
    """

    against: Callable[[Floats], Score]
    better: Better = "higher"
    genes: Callable[[Floats, Floats], Indices] | None = None
    has_ceiling: bool = False

    def over(self, others: Floats, real: Floats) -> Callable[[Floats], Score]:
        """Return `against` over the genes that count for one contrast."""
        if self.genes is None:
            return self.against
        columns = self.genes(others, real)

        def against(real: Floats) -> Score:
            score = self.against(real[..., columns])
            return lambda predicted: score(predicted[..., columns])

        return against


def largest(change: Floats, n: int) -> Indices:
    """Return the `n` genes of largest absolute change over the last axis, in no order."""
    # Linear in the number of genes: it is called for every bootstrap draw.
    return np.argpartition(-np.abs(change), min(n, change.shape[-1] - 1), axis=-1)[..., :n]


def pearson_with(real: Floats) -> Score:
    """Return Pearson's correlation with real changes (`changes.pearson`)."""
    b = real - real.mean(axis=-1, keepdims=True)
    squares = (b * b).sum(axis=-1)

    def score(predicted: Floats) -> Floats:
        a = predicted - predicted.mean(axis=-1, keepdims=True)
        scale = np.sqrt((a * a).sum(axis=-1) * squares)
        # One prediction of many real changes is a product of a matrix and a vector.
        product = b @ a if a.ndim == 1 else (a * b).sum(axis=-1)
        # Constant on either side: no direction, 0.
        return np.divide(product, scale, out=np.zeros_like(product), where=scale > 1e-12)

    return score


def mse_with(real: Floats) -> Score:
    """Return the mean over genes of the squared difference, log1p_cp10k squared.

    It includes the noise of the held-out change, which is the same for every predictor.
    """
    return lambda predicted: ((predicted - real) ** 2).mean(axis=-1)


def overlap_with(real: Floats) -> Score:
    """Return the share of the real 20 most changed genes among the predicted 20, either sign.

    A prediction of no change has no most changed genes: 0.
    """
    theirs = _among_largest(real)  # bool [..., genes]

    def score(predicted: Floats) -> Floats:
        shared = (_among_largest(predicted) & theirs).sum(axis=-1) / OVERLAP
        # argpartition would pick 20 arbitrary genes of a prediction of zeros.
        return np.where(predicted.any(axis=-1), shared, 0.0)

    return score


def _among_largest(change: Floats) -> np.ndarray:
    chosen = np.zeros(change.shape, bool)
    np.put_along_axis(chosen, largest(change, OVERLAP), values=True, axis=-1)
    return chosen


AGREEMENT: dict[str, Agreement] = {
    PEARSON: Agreement(pearson_with, has_ceiling=True),
    f"{PEARSON}_top_{TOP}_by_other_contexts": Agreement(
        pearson_with, genes=lambda others, _real: largest(others, TOP), has_ceiling=True
    ),
    f"{PEARSON}_top_{TOP}_by_truth": Agreement(
        pearson_with, genes=lambda _others, real: largest(real, TOP), has_ceiling=True
    ),
    f"overlap_of_top_{OVERLAP}": Agreement(overlap_with),
    MSE: Agreement(mse_with, better="lower"),
}
