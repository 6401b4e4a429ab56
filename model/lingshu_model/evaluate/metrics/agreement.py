"""How far a predicted change agrees with a held-out one: one small function per metric.

`AGREEMENT` is the registry. A function takes predicted and real changes [..., genes] that broadcast
against each other and returns [...]. To add a metric, write the function and register it; the
tables, intervals, verdicts and the evidence follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lingshu_model.evaluate.metrics.changes import pearson
from lingshu_model.evaluate.metrics.matrices import Floats, Indices

Better = Literal["higher", "lower", "nearer 0"]
"""Which value is better."""
PEARSON, MSE, SQUARED_LENGTH = "pearson_of_change", "mse_of_change", "squared_length_of_change"
TOP, OVERLAP = 100, 20


@dataclass(frozen=True)
class Agreement:
    """A metric of a predicted change.

    Attributes:
        compute: (predicted, real) -> [...].
        better: which value is better.
        genes: (change of other contexts, real change) -> the genes that count; None = all.
        has_ceiling: whether the square root of the truth's reliability limits it, as it does a
            correlation.
    """

    compute: Callable[[Floats, Floats], Floats]
    better: Better = "higher"
    genes: Callable[[Floats, Floats], Indices] | None = None
    has_ceiling: bool = False

    def over(self, others: Floats, real: Floats) -> Callable[[Floats, Floats], Floats]:
        """Return the function over the genes that count for one contrast."""
        if self.genes is None:
            return self.compute
        columns = self.genes(others, real)
        return lambda p, r: self.compute(p[..., columns], r[..., columns])


def largest(change: Floats, n: int) -> Indices:
    """Return the `n` genes of largest absolute change over the last axis, in no order."""
    return np.argpartition(-np.abs(change), min(n, change.shape[-1] - 1), axis=-1)[..., :n]


def mse(predicted: Floats, real: Floats) -> Floats:
    """Return the mean over genes of the squared difference, log1p_cp10k squared.

    The noise of the held-out change is in it, for every predictor alike.
    """
    return ((predicted - real) ** 2).mean(axis=-1)


def overlap(predicted: Floats, real: Floats) -> Floats:
    """Return the share of the real 20 most changed genes among the predicted 20, either sign.

    A prediction of no change has no most changed genes: 0.
    """
    mine, theirs = _among_largest(predicted), _among_largest(real)  # bool [..., genes]
    shared = (mine & theirs).sum(axis=-1) / OVERLAP
    return np.where(predicted.any(axis=-1), shared, 0.0)


def _among_largest(change: Floats) -> np.ndarray:
    chosen = np.zeros(change.shape, bool)
    np.put_along_axis(chosen, largest(change, OVERLAP), values=True, axis=-1)
    return chosen


AGREEMENT: dict[str, Agreement] = {
    PEARSON: Agreement(pearson, has_ceiling=True),
    f"{PEARSON}_top_{TOP}_by_other_contexts": Agreement(
        pearson, genes=lambda others, _real: largest(others, TOP), has_ceiling=True
    ),
    f"{PEARSON}_top_{TOP}_by_truth": Agreement(
        pearson, genes=lambda _others, real: largest(real, TOP), has_ceiling=True
    ),
    f"overlap_of_top_{OVERLAP}": Agreement(overlap),
    MSE: Agreement(mse, better="lower"),
}
