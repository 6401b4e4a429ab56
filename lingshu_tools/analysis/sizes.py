"""Magnitudes without Monte Carlo noise, beside null labels as they would be with as many cells.

The squared norm of an estimated change exceeds the true one by the sum of its squared standard
errors, so M^2 = sum_g (d_g^2 - se_g^2), which is unbiased; negative is 0. Its standard error is
2 |d| times that of the norm |d|, by a jackknife over blocks of cells. With one pair of cells there
is no standard error, and nothing is taken off.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_tools.analysis.effects import Effect, Floats
from lingshu_tools.analysis.null import NullLabels
from lingshu_tools.analysis.student import t_quantile


@dataclass(frozen=True)
class Size:
    """The magnitude of an effect, log1p_cp10k.

    Attributes:
        value: without Monte Carlo noise.
        interval: its 95 % Monte Carlo interval; None of one pair.
    """

    value: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, effect: Effect) -> "Size":
        """Return the magnitude of an effect."""
        square = effect.magnitude**2 - noise(effect)
        if effect.magnitude_se is None or effect.n_cells < 2:
            return cls(_root(square), None)
        # Delta method: d(M^2) = 2 |d| d|d|. The root is taken of both ends, negative ones being 0.
        se = 2 * effect.magnitude * effect.magnitude_se
        half = t_quantile(0.975, effect.n_cells - 1) * se
        return cls(_root(square), (_root(square - half), _root(square + half)))

    @property
    def least(self) -> float:
        """The lower end of the interval; the value where there is none."""
        return self.interval[0] if self.interval else self.value


@dataclass(frozen=True)
class NullSizes:
    """Magnitudes of null labels.

    Attributes:
        median: log1p_cp10k.
        q95: 95 % quantile.
        n: how many labels there are.
        values: of each label; None where only quantiles are known.
    """

    median: float
    q95: float
    n: int
    values: Floats | None = None

    @classmethod
    def of_labels(cls, null: NullLabels, effect: Effect) -> "NullSizes":
        """Return those of sampled labels, as they would be with as many cells as `effect` has.

        The noise of a label's squared norm goes with one over its number of cells, and is taken
        for that of `effect` scaled so.
        """
        # A label's own standard errors are not stored; variance goes with 1 / number of cells.
        taken_off = noise(effect) * effect.n_cells / null.n_cells if null.n_cells else 0.0
        values = np.sqrt(np.maximum(null.magnitudes**2 - taken_off, 0.0))
        return cls(float(np.median(values)), float(np.quantile(values, 0.95)), len(values), values)

    @classmethod
    def of_check(cls, check: Mapping[str, Any], effect: Effect) -> "NullSizes":
        """Return those of the closed-form check of a checkpoint (`matched_check`).

        These have no Monte Carlo noise. That of `effect`, relative to its norm, widens their upper
        quantile.
        """
        quantiles = check["magnitude_quantiles"]
        se, size = effect.magnitude_se, effect.magnitude
        # 1.645: the 95 % quantile of a normal variable, one-sided.
        wider = 1.0 + (1.645 * se / size if se is not None and size > 0 else 0.0)
        return cls(quantiles["0.5"], quantiles["0.95"] * wider, check["n_labels"])

    def p(self, size: Size) -> float | None:
        """Return the rank p of a magnitude; None where only quantiles are known.

        The lower end of its interval is ranked, so that few cells do not make an effect large.
        """
        if self.values is None:
            return None
        larger = int((self.values >= size.least).sum())
        return (1 + larger) / (1 + self.n)

    def sentence(self, size: Size) -> str:
        """Return how a magnitude compares with the labels'."""
        if self.values is None:
            beyond = size.least > self.q95
            said = "is beyond" if beyond else "is not beyond"
            return f"its magnitude {size.value:.2g} {said} 95 % of {self.n} null labels"
        below = int((self.values < size.least).sum())
        return f"its magnitude exceeds {below} of {self.n} null labels"


def noise(effect: Effect) -> float:
    """Return the Monte Carlo noise in the squared norm of a change; 0 of one pair."""
    return 0.0 if effect.change_se is None else float(np.nansum(effect.change_se**2))


def matched_check(
    evidence: Mapping[str, Any], context: Mapping[str, str], n_cells: int
) -> Mapping[str, Any] | None:
    """Return the check by null labels of a context whose number of cells is nearest.

    Args:
        evidence: of the checkpoint.
        context: of the question.
        n_cells: training cells of the condition; 0 where it has none: the fewest cells count.
    """
    here = [c for c in evidence.get("null_labels") or [] if c["context"] == dict(context)]
    if not here:
        return None
    # As a ratio: 50 cells are as far from 100 as 200 are.
    distances = [abs(math.log(check["n_cells"] / max(n_cells, 1))) for check in here]
    return here[int(np.argmin(distances))]


def _root(square: float) -> float:
    return math.sqrt(max(square, 0.0))
