"""Values by perturbation and metric, and their means.

Knows nothing of how the values came about.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lingshu_model.evaluate.scoring.cells import Floats


class Row(NamedTuple):
    """One value of a tidy table."""

    perturbation: str
    metric: str
    value: float


@dataclass(frozen=True)
class Scores:
    """What one prediction scored.

    Attributes:
        by_metric: values by metric and perturbation. A perturbation that a metric has no word on,
            because the real cells give it nothing to judge, is absent; NaN is undefined.
        aggregate: one number per metric.
    """

    by_metric: Mapping[str, Mapping[str, float]]
    aggregate: Mapping[str, float]

    def rows(self) -> Iterator[Row]:
        """Yield the values one by one."""
        for metric, values in self.by_metric.items():
            for perturbation, value in values.items():
                yield Row(perturbation, metric, value)


def named(names: list[str], values: Floats) -> dict[str, float]:
    """Return values by perturbation."""
    return dict(zip(names, map(float, values), strict=True))


def mean(values: Mapping[str, float]) -> float:
    """Return the mean; NaN where any value is or there is none."""
    return math.fsum(values.values()) / len(values) if values else math.nan


def mean_of_defined(values: Mapping[str, float]) -> float:
    """Return the mean of the values that are not NaN; NaN where none is."""
    return mean({name: value for name, value in values.items() if not math.isnan(value)})
