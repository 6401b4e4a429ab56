"""Non-inferiority of one predictor to each simple one, with units as what was drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

PEARSON_MARGIN = 0.03
MSE_MARGIN = 1.05
LEVEL = 0.05
FEW = 6
"""Units below which the mean decides, since no test could."""
Floats = NDArray[np.float64]
Scores = Mapping[str, Mapping[str, tuple[float, float]]]
"""Pearson and MSE by predictor and unit."""


@dataclass(frozen=True)
class Comparison:
    """One predictor against one simple predictor.

    Attributes:
        simple: its name.
        metric: pearson or mse.
        difference: mean over units of Pearson minus Pearson, or of the ratio of mean MSEs less 1.
        p: one-sided, of being worse by the margin or more; Holm-adjusted within the set.
        worst: lowest difference of a unit, and which.
        unit: the unit of `worst`.
        units: how many.
        verdict: non-inferior, inferior beyond margin, undecided, or either with `few units`.
    """

    simple: str
    metric: str
    difference: float
    p: float
    worst: float
    unit: str
    units: int
    verdict: str


def compare(scores: Scores, ours: str, simple: Sequence[str]) -> list[Comparison]:
    """Return `ours` against each simple predictor, p not yet adjusted."""
    result = []
    for name in simple:
        units = sorted(scores[ours])
        mine, other = (np.array([scores[p][u] for u in units]) for p in (ours, name))
        gap = mine[:, 0] - other[:, 0]
        result.append(
            _comparison(name, "pearson", gap, gap + PEARSON_MARGIN, units, float(gap.mean()))
        )
        excess = mine[:, 1] / np.maximum(other[:, 1], 1e-300) - 1.0
        ratio = float(mine[:, 1].mean() / max(float(other[:, 1].mean()), 1e-300)) - 1.0
        result.append(
            _comparison(name, "mse", -excess, MSE_MARGIN * other[:, 1] - mine[:, 1], units, ratio)
        )
    return result


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons of a set with p adjusted by Holm (1979) and the verdicts."""
    order = sorted(range(len(comparisons)), key=lambda i: comparisons[i].p)
    adjusted = [1.0] * len(comparisons)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, comparisons[i].p * (len(comparisons) - rank)))
        adjusted[i] = largest
    return [
        Comparison(**{**asdict(c), "p": p, "verdict": _verdict(c, p)})
        for c, p in zip(comparisons, adjusted, strict=True)
    ]


def _comparison(
    simple: str, metric: str, gap: Floats, shifted: Floats, units: list[str], mean: float
) -> Comparison:
    """Return a comparison; `shifted` [units] is above 0 on average where the margin is kept."""
    p = 1.0
    if len(units) > 1:
        spread = float(shifted.std(ddof=1)) / np.sqrt(len(units))
        p = float(stats.t.sf(shifted.mean() / max(spread, 1e-300), len(units) - 1))
    worst = int(gap.argmin())
    return Comparison(simple, metric, mean, p, float(gap[worst]), units[worst], len(units), "")


def _verdict(comparison: Comparison, p: float) -> str:
    d = comparison.difference
    within = d > -PEARSON_MARGIN if comparison.metric == "pearson" else d < MSE_MARGIN - 1.0
    if comparison.units < FEW:
        return "within the margin (few units)" if within else "beyond the margin (few units)"
    if p < LEVEL:
        return "non-inferior"
    return "undecided, mean within the margin" if within else "beyond the margin"
