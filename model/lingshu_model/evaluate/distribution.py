"""How far a set of cells is from real ones as a distribution, at equal numbers of cells.

Every distance between samples grows as they shrink, so all sources are compared at one n: the
held-out cells of a condition are split in halves of n, one half is the reference, and n cells of
each source (the model, resampled training cells, the other real half) are held against it. Knows
nothing of perturbation effects.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.changes import Counts, Floats, log1p_cp10k
from lingshu_model.evaluate.estimates import Estimate, Verdict, estimate, halves, verdict
from lingshu_model.evaluate.observed import CONTROL, Observed

MODEL, TRAINING, HALF = "model", "resampled_training_cells", "real_split_half"
SOURCES = (MODEL, TRAINING, HALF)
ENOUGH = 100
"""Held-out cells a condition needs, so that a half has 50."""
SPLITS = 30
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Arms = Mapping[str, Counts]


@dataclass(frozen=True)
class Sample:
    """A set of cells and its summaries, each made once.

    Attributes:
        counts: UMI, [cells, genes].
        expression: the same cells in log1p_cp10k.
    """

    counts: Counts
    expression: Floats

    @classmethod
    def of(cls, counts: Counts) -> "Sample":
        """Return the sample of these counts."""
        return cls(counts, log1p_cp10k(counts))

    def rows(self, index: NDArray[np.int64]) -> "Sample":
        """Return the sample of these cells."""
        return Sample(self.counts[index], self.expression[index])

    @cached_property
    def zeros(self) -> Floats:
        """The share of zeros per gene."""
        return (self.counts == 0).mean(axis=0)

    @cached_property
    def totals(self) -> NDArray[np.int64]:
        """UMI per cell, the library sizes."""
        return self.counts.sum(axis=1)

    @cached_property
    def total_quantiles(self) -> Floats:
        """The 5, 25, 50, 75 and 95 % quantiles of UMI per cell."""
        return np.quantile(self.totals, QUANTILES)

    @cached_property
    def variances(self) -> Floats:
        """The variance per gene, log1p_cp10k."""
        return self.expression.var(axis=0)

    @cached_property
    def sorted_counts(self) -> NDArray[np.int32]:
        """UMI sorted within genes, [genes, cells]."""
        return np.sort(np.ascontiguousarray(self.counts.T, np.int32))

    @cached_property
    def sorted_expression(self) -> NDArray[np.float32]:
        """log1p_cp10k sorted within genes, [genes, cells]."""
        return np.sort(np.ascontiguousarray(self.expression.T, np.float32))

    @cached_property
    def correlations(self) -> NDArray[np.float32]:
        """Gene-gene Pearson, log1p_cp10k; 0 on the diagonal and where a gene never varies."""
        centred = (self.expression - self.expression.mean(axis=0)).astype(np.float32)
        scale = np.sqrt((centred**2).sum(axis=0))
        scaled = centred / np.where(scale > 0, scale, 1.0)
        matrix = scaled.T @ scaled
        np.fill_diagonal(matrix, 0.0)
        return matrix


def zero_rate(a: Sample, b: Sample) -> float:
    """Return the mean over genes of the absolute difference in the share of zeros."""
    return float(np.abs(a.zeros - b.zeros).mean())


def zero_rate_bias(a: Sample, b: Sample) -> float:
    """Return the difference in the share of zeros over all genes, signed."""
    return float(a.zeros.mean() - b.zeros.mean())


def library_bias(a: Sample, b: Sample) -> float:
    """Return the relative difference in mean UMI per cell, signed."""
    return float(a.totals.mean() / b.totals.mean() - 1)


def library_quantiles(a: Sample, b: Sample) -> float:
    """Return the mean absolute relative difference over the five library quantiles."""
    return float(np.abs(a.total_quantiles / np.maximum(b.total_quantiles, 1) - 1).mean())


def variance(a: Sample, b: Sample) -> float:
    """Return the summed absolute difference of gene variances over the reference's sum."""
    return float(np.abs(a.variances - b.variances).sum() / b.variances.sum())


def variance_bias(a: Sample, b: Sample) -> float:
    """Return the relative difference in summed gene variance, signed."""
    return float(a.variances.sum() / b.variances.sum() - 1)


def wasserstein(a: Sample, b: Sample) -> float:
    """Return the 1-Wasserstein distance per gene, averaged over genes, log1p_cp10k."""
    return float(np.abs(a.sorted_expression - b.sorted_expression).mean())


def wasserstein_count(a: Sample, b: Sample) -> float:
    """Return the 1-Wasserstein distance per gene, averaged over genes, UMI."""
    return float(np.abs(a.sorted_counts - b.sorted_counts).mean())


def correlation(a: Sample, b: Sample) -> float:
    """Return the mean absolute difference of gene-gene Pearson over gene pairs."""
    genes = len(a.correlations)
    return float(np.abs(a.correlations - b.correlations).sum() / (genes * (genes - 1)))


METRICS: dict[str, Callable[[Sample, Sample], float]] = {
    "zero_rate_error": zero_rate,
    "zero_rate_bias": zero_rate_bias,
    "library_mean_bias": library_bias,
    "library_quantile_error": library_quantiles,
    "variance_error": variance,
    "variance_bias": variance_bias,
    "wasserstein_log1p_cp10k": wasserstein,
    "wasserstein_count": wasserstein_count,
    "correlation_error": correlation,
}


@dataclass(frozen=True)
class DistributionError:
    """One condition's errors.

    Attributes:
        n_cells: cells on either side of every comparison.
        point: by source, [seeds, metrics], averaged over splits.
        draws: by source, [seeds, splits, metrics], the reference half resampled in each.
    """

    n_cells: int
    point: Mapping[str, Floats]
    draws: Mapping[str, Floats]


def compare_distributions(
    observed: Observed, sampled: Sequence[Arms], generator: np.random.Generator
) -> dict[str, DistributionError]:
    """Return the errors of every condition with at least 100 held-out cells, the control included.

    Args:
        observed: the real cells.
        sampled: one mapping per seed: sampled counts by condition, at least one cell each.
        generator: for splits, resampling and the bootstrap.
    """
    names = [CONTROL, *observed.perturbations]
    return {
        name: _compare(observed, name, [arms[name] for arms in sampled], generator)
        for name in names
        if len(observed.test[name]) >= ENOUGH
    }


def summarise(errors: Sequence[DistributionError], source: str, metric: str) -> Estimate:
    """Return one metric of one source, averaged over conditions and seeds."""
    value, draws = _average(errors, source, metric)
    return estimate(value, draws)


def compare_sources(
    errors: Sequence[DistributionError], baseline: str, metric: str
) -> tuple[Estimate, Verdict]:
    """Return model − baseline in absolute error, and win, tie or loss (smaller is better)."""
    value, draws = _average(errors, MODEL, metric)
    other, other_draws = _average(errors, baseline, metric)
    difference = estimate(abs(value) - abs(other), np.abs(draws) - np.abs(other_draws))
    return difference, verdict(difference, higher_is_better=False)


def _average(errors: Sequence[DistributionError], source: str, metric: str) -> tuple[float, Floats]:
    column = list(METRICS).index(metric)
    points = [e.point[source][:, column].mean() for e in errors]
    draws = [e.draws[source][:, :, column].mean(axis=0) for e in errors]
    return float(np.mean(points)), np.mean(draws, axis=0)


def _compare(
    observed: Observed, name: str, sampled: Sequence[Counts], generator: np.random.Generator
) -> DistributionError:
    test, train = Sample.of(observed.test[name]), Sample.of(observed.train[name])
    models = [Sample.of(counts) for counts in sampled]
    n = min(len(test.counts) // 2, *(len(m.counts) for m in models))
    shape = (len(models), SPLITS, len(METRICS))
    draws = {source: np.empty(shape) for source in SOURCES}
    points = {source: np.empty(shape) for source in SOURCES}
    for split in range(SPLITS):
        reference, other = (test.rows(half[:n]) for half in halves(len(test.counts), generator))
        resampled = reference.rows(generator.integers(n, size=n))
        for seed, model in enumerate(models):
            mine = model.rows(generator.permutation(len(model.counts))[:n])
            training = train.rows(generator.integers(len(train.counts), size=n))
            for source, cells in zip(SOURCES, (mine, training, other), strict=True):
                points[source][seed, split] = [m(cells, reference) for m in METRICS.values()]
                draws[source][seed, split] = [m(cells, resampled) for m in METRICS.values()]
    return DistributionError(n, {s: p.mean(axis=1) for s, p in points.items()}, draws)
