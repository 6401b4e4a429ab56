"""Which genes a prediction calls, in which direction and how strongly, against the real calls.

Knows nothing of cells: it is given differential expression of both sides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.scoring.cells import Floats

LEVEL = 0.05
PURITY = 0.9
FEWEST = 10
"""Significant genes a perturbation needs for its fold changes to be judged."""


@dataclass(frozen=True)
class Differential:
    """Differential expression of every perturbation against one control.

    Attributes:
        tested: which genes are, [genes].
        fold: log2 fold change, [perturbations, genes].
        p: two-sided p of the rank-sum test.
        adjusted: the same, adjusted over the tested genes; 1 elsewhere.
        u: Mann-Whitney U of the perturbed cells.
    """

    tested: NDArray[np.bool_]
    fold: Floats
    p: Floats
    adjusted: Floats
    u: Floats


@dataclass(frozen=True)
class Call:
    """One perturbation's genes, its own left out.

    Attributes:
        real: real fold changes.
        predicted: predicted ones.
        real_called: tested and significant in the real cells.
        called: the same of the predicted ones.
        both: tested on both sides.
        predicted_tested: tested on the predicted side.
        confidence: what orders genes from the prediction's most to its least confident one, the
            last key first.
    """

    real: Floats
    predicted: Floats
    real_called: NDArray[np.bool_]
    called: NDArray[np.bool_]
    both: NDArray[np.bool_]
    predicted_tested: NDArray[np.bool_]
    confidence: tuple[NDArray[Any], ...]

    @property
    def directed(self) -> NDArray[np.bool_]:
        """Which genes have a real direction to agree with, tested on both sides."""
        return self.both & (self.real != 0)

    @property
    def agreed(self) -> NDArray[np.bool_]:
        """Which of these the prediction has in the same direction."""
        return self.directed & (np.sign(self.predicted) == np.sign(self.real))


@dataclass(frozen=True)
class Calls:
    """Real and predicted calls of every perturbation."""

    each: Sequence[Call]

    def __iter__(self) -> Iterator[Call]:
        return iter(self.each)

    @classmethod
    def of(
        cls, genes: Sequence[str], real: Differential, predicted: Differential, own: Any
    ) -> "Calls":
        """Return the calls; a perturbation's own gene is left out if the real side tested it."""
        alphabet = np.argsort(np.argsort(np.array(genes)))
        return cls([_call(real, predicted, alphabet, i, int(own[i])) for i in range(len(own))])


def fidelity_yield(calls: Calls) -> Floats:
    """Return right directions among called genes over the larger of both sides' calls.

    NaN where neither side calls any.
    """
    return np.array([_fidelity_yield(call) for call in calls])


def reach(calls: Calls) -> Floats:
    """Return how far down the prediction's order at least 90 % of the directions are right.

    Counted over the genes significant in the real cells, as a share of them: the longest beginning
    of the order that is that pure. NaN where there are none.
    """
    return np.array([_reach(call) for call in calls])


def jaccard(calls: Calls) -> Floats:
    """Return the genes both sides call over those either calls; 1 where neither calls any."""
    either = [float((call.real_called | call.called).sum()) for call in calls]
    shared = [float((call.real_called & call.called).sum()) for call in calls]
    return np.array([s / e if e else 1.0 for s, e in zip(shared, either, strict=True)])


def fold_error(calls: Calls) -> Floats:
    """Return Σ |predicted − real| / Σ |real| of the fold changes of really significant genes.

    A gene not tested on the predicted side counts as unchanged. NaN with fewer than ten genes.
    """
    return np.array([_fold_error(call) for call in calls])


def gate(call: Call) -> NDArray[np.bool_]:
    """Return the genes whose fold changes are judged: none unless there are ten."""
    return call.real_called & (call.real_called.sum() >= FEWEST)


def defined(names: Sequence[str], values: Floats) -> dict[str, float]:
    """Return values by perturbation, those that are NaN left out."""
    pairs = zip(names, values, strict=True)
    return {name: float(value) for name, value in pairs if not np.isnan(value)}


def _call(real: Differential, predicted: Differential, alphabet: Any, i: int, own: int) -> Call:
    counted = np.ones(len(real.tested), bool)
    if own >= 0 and real.tested[own]:
        counted[own] = False
    real_tested, predicted_tested = real.tested & counted, predicted.tested & counted
    adjusted, p, fold = predicted.adjusted[i], predicted.p[i], predicted.fold[i]
    return Call(
        real=real.fold[i],
        predicted=fold,
        real_called=real_tested & (real.adjusted[i] < LEVEL),
        called=predicted_tested & (adjusted < LEVEL),
        both=real_tested & predicted_tested,
        predicted_tested=predicted_tested,
        confidence=(alphabet, -np.abs(fold), p, adjusted),
    )


def _fidelity_yield(call: Call) -> float:
    called = call.called & call.directed
    most = max(int(called.sum()), int(call.real_called.sum()))
    return float((called & call.agreed).sum()) / most if most else float("nan")


def _reach(call: Call) -> float:
    wanted = int(call.real_called.sum())
    if not wanted:
        return float("nan")
    judged = np.flatnonzero(call.real_called & call.directed)
    judged = judged[np.lexsort([key[judged] for key in call.confidence])]
    so_far = np.arange(1, len(judged) + 1)
    pure = np.flatnonzero(np.cumsum(call.agreed[judged]) / so_far >= PURITY)
    return float(so_far[pure[-1]]) / wanted if len(pure) else 0.0


def _fold_error(call: Call) -> float:
    judged = gate(call)
    size = np.abs(call.real[judged]).sum()
    if not size > 0:
        return float("nan")
    predicted = np.where(call.predicted_tested, call.predicted, 0.0)
    return float(np.abs(predicted[judged] - call.real[judged]).sum() / size)
