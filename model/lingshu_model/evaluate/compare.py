"""Means over units, differences between predictors, and verdicts.

There are two kinds of interval. *Over cells*: the variation over other held-out cells of the same
contrasts (bootstrap draws, paired by draw). *Over units*: the variation over other contrasts or
folds (Student's t over the units' paired differences).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from lingshu_model.evaluate.metrics.agreement import AGREEMENT, MSE, PEARSON, Better
from lingshu_model.evaluate.metrics.matrices import Floats
from lingshu_model.evaluate.metrics.samples import DISTRIBUTION
from lingshu_model.evaluate.rows import NO_DRAWS, Row

Verdict = Literal["win", "tie", "loss"]
LEVEL = 0.95
"""Of all intervals."""
ROUNDING = 1e-12
"""Differences below this come from the order of sums, not from predictions."""
MAGNITUDE = "magnitude_ratio"
MARGINS = {PEARSON: (0.03, 0.0), MSE: (0.0, 0.05)}
"""Absolute margin, and margin as a share of the other's figure, within which a predictor is not
inferior."""


def better(metric: str) -> Better | None:
    """Return which value of a metric is better; None where the metric decides nothing."""
    known = {**AGREEMENT, **DISTRIBUTION}
    return known[metric].better if metric in known else None


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; NaN where undefined."""

    value: float
    interval: tuple[float, float]

    def as_json(self) -> dict[str, object]:
        """Return `{"value", "interval"}`."""
        return {"value": self.value, "interval": list(self.interval)}


def estimate(value: float, draws: Floats) -> Estimate:
    """Return `value` with the interval of `draws`, centred on it; NaN draws are left out.

    Resampling held-out cells adds their sampling noise a second time, which lowers correlations and
    lengthens distances. The spread of the draws is right, their centre is not: the percentiles are
    shifted so that the draws' mean is the value.
    """
    # A metric may be undefined at some resamplings only.
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(draws):
        return Estimate(float(value), (float("nan"), float("nan")))
    # Offsets from the draws' mean, added to the value.
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - draws.mean()
    return Estimate(float(value), (float(value + low), float(value + high)))


def of_row(row: Row) -> Estimate:
    """Return a row's value with its interval."""
    return estimate(row.value, row.draws)


def mean_row(rows: Sequence[Row], name: str, *, seed: int | None = None) -> Row:
    """Return the mean of rows of one metric and predictor as the row of a named set.

    Units count equally, whatever their number of seeds: seeds are averaged first. There are no
    draws where a row has none.
    """
    units: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        # A set has the same name in several folds and populations, and each is a unit of the mean.
        units.setdefault((row.fold, row.population, row.set), []).append(row)
    # Seeds within a unit and fold first, then units and folds.
    value = _mean([_mean([row.value for row in each]) for each in units.values()])
    whole = all(len(row.draws) for row in rows)
    parts = [_mean_draws(each) for each in units.values() if whole]
    folds = {row.fold for row in rows}
    populations = {row.population for row in rows}
    return replace(
        rows[0],
        population=populations.pop() if len(populations) == 1 else "",
        set=name,
        seed=seed,
        fold=folds.pop() if len(folds) == 1 else f"{len(folds)} folds",
        value=value,
        draws=np.mean(parts, axis=0) if whole else NO_DRAWS,
    )


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(values) == 1 else float(np.mean(values))


def _mean_draws(rows: Sequence[Row]) -> Floats:
    return rows[0].draws if len(rows) == 1 else np.mean([row.draws for row in rows], axis=0)


def difference(row: Row, other: Row) -> Row:
    """Return `row` less `other`, paired by draw; of biases the absolute values are compared."""
    sign = np.abs if better(row.metric) == "nearer 0" else np.asarray
    whole = len(row.draws) == len(other.draws)
    return replace(
        row,
        predictor=f"{row.predictor} - {other.predictor}",
        value=float(sign(row.value) - sign(other.value)),
        draws=sign(row.draws) - sign(other.draws) if whole else NO_DRAWS,
    )


def verdict(difference: Row) -> Verdict | None:
    """Return the verdict on the first predictor of a difference.

    None where neither direction of the metric is better or the difference has no interval.
    """
    direction = better(difference.metric)
    interval = of_row(difference).interval
    if direction is None or not np.isfinite(interval).all():
        return None
    return verdict_of(interval, higher=direction == "higher")


def verdict_of(interval: tuple[float, float], *, higher: bool = True) -> Verdict:
    """Return the verdict of the interval of a difference; `tie` where it contains 0."""
    # Less is better: the interval of the negated difference.
    low, high = interval if higher else (-interval[1], -interval[0])
    if low > ROUNDING:
        return "win"
    return "loss" if high < -ROUNDING else "tie"


def pooled_magnitude(rows: Sequence[Row], predicted: Sequence[Row], name: str) -> Row:
    """Return the ratio of predicted to real magnitude over a set, and its draws.

        ratio = sqrt(sum of predicted / sum of real squared lengths), mean over seeds

    Squared lengths are noise-corrected, so they add up without bias: weak perturbations are pooled
    where their single ratios are undefined, and the strongest weigh most. A negative predicted sum
    counts as 0; a negative real one leaves the ratio undefined.

    Args:
        rows: squared lengths of the held-out changes, with draws.
        predicted: squared lengths of one predictor's changes.
        name: of the set.
    """
    real = sum(row.value for row in rows)
    # Seeds share the real lengths, so the ratio is taken seed by seed.
    seeds = sorted({row.seed for row in predicted}, key=lambda s: (s is None, s))
    tops = [sum(row.value for row in predicted if row.seed == seed) for seed in seeds]
    value = float(np.mean([np.sqrt(max(t, 0.0) / real) if real > 0 else np.nan for t in tops]))
    # Only the real lengths are resampled: the interval is over held-out cells, [draws].
    lengths = np.sum([row.draws for row in rows], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = value * np.sqrt(real / np.where(lengths > 0, lengths, np.nan))
    average = mean_row(predicted, name)
    return replace(average, metric=MAGNITUDE, value=value, draws=draws)


@dataclass(frozen=True)
class UnitComparison:
    """One predictor against another over contrasts as units.

    Attributes:
        difference: mean over units of the paired difference; positive is better, for every metric.
        n_units: number of units.
        worst: the unit with the lowest difference, and that difference.
        p: one-sided p of the null hypothesis "worse by the margin or more"; NaN with one unit.
    """

    difference: Estimate
    n_units: int
    worst: tuple[str, float]
    p: float


def compare_units(rows: Sequence[Row], others: Sequence[Row]) -> UnitComparison:
    """Return how a predictor compares with another over the units that both have.

    Student's t over units, n - 1 degrees of freedom. With paired differences d_i, their mean m, the
    standard error s of d_i + margin_i, and `MARGINS` of the metric,

        p = P(t > mean of (d_i + margin_i) / s).

    Args:
        rows: of one metric and predictor.
        others: of the same metric and another predictor.

    Raises:
        ValueError: no unit is shared.
    """
    first, second = _by_unit(rows), _by_unit(others)
    units = [unit for unit in first if unit in second]
    if not units:
        message = f"{rows[0].metric}: {rows[0].predictor} and {others[0].predictor} share no unit"
        raise ValueError(message)
    sign = 1.0 if better(rows[0].metric) == "higher" else -1.0
    # [units], positive where the first is better
    d = np.array([sign * (first[unit] - second[unit]) for unit in units])
    absolute, relative = MARGINS.get(rows[0].metric, (0.0, 0.0))
    margins = absolute + relative * np.abs([second[unit] for unit in units])
    interval = (float("nan"), float("nan"))
    if len(d) > 1:
        # sem divides by n - 1, so half is t times the standard error of the mean of d.
        half = stats.t.ppf((1 + LEVEL) / 2, len(d) - 1) * stats.sem(d)
        interval = (float(d.mean() - half), float(d.mean() + half))
    worst = int(d.argmin())
    estimate = Estimate(float(d.mean()), interval)
    return UnitComparison(estimate, len(d), (units[worst], float(d[worst])), _p(d + margins))


def _by_unit(rows: Iterable[Row]) -> dict[str, float]:
    """Return the value of each unit, the mean over its folds and seeds."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(f"{row.population}: {row.set}", []).append(row.value)
    return {unit: _mean(each) for unit, each in values.items()}


def _p(d: Floats) -> float:
    """Return the one-sided p of the null hypothesis that the mean is at most 0."""
    if len(d) < 2:
        return float("nan")
    # Equal differences have a standard error of 0.
    if np.ptp(d) < ROUNDING:
        return 0.0 if d.mean() > 0 else 1.0
    return float(stats.t.sf(d.mean() / stats.sem(d), len(d) - 1))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for all comparisons by Holm's step-down method (1979).

    A comparison without a p (NaN) stays without one and does not count.
    """
    known = sorted((value, name) for name, value in p.items() if np.isfinite(value))
    adjusted = {name: value for name, value in p.items() if not np.isfinite(value)}
    largest = 0.0
    for rank, (value, name) in enumerate(known):
        # Monotone: an adjusted p is not below that of a smaller p.
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[name] = largest
    return adjusted
