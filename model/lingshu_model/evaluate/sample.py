"""A set of cells, its summaries, and what two sets differ in: one function per metric.

Every metric takes the set that is judged and the real one. Knows nothing of where cells come from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate import distances
from lingshu_model.evaluate.changes import Counts, Floats, log1p_cp10k, pearson
from lingshu_model.evaluate.frame import Frame
from lingshu_model.evaluate.sparse import dense

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Sample:
    """A set of cells and its summaries, each made once.

    Attributes:
        counts: UMI, [cells, genes].
        expression: the same cells in log1p_cp10k.
        scores: the same cells along the frame's axes.
        frame: what was fixed on training cells.
    """

    counts: Counts
    expression: Floats
    scores: Floats
    frame: Frame

    @classmethod
    def of(cls, counts: Any, frame: Frame) -> "Sample":
        """Return the sample of these counts, an array or CSR."""
        counts = dense(counts)
        values = log1p_cp10k(counts)
        return cls(counts, values, frame.scores(values), frame)

    def rows(self, index: NDArray[np.int64]) -> "Sample":
        """Return the sample of these cells."""
        return Sample(self.counts[index], self.expression[index], self.scores[index], self.frame)

    @cached_property
    def means(self) -> Floats:
        """The mean per gene, log1p_cp10k."""
        return self.expression.mean(axis=0)

    @cached_property
    def ranks(self) -> Floats:
        """The ranks of the genes' means."""
        return distances.rank(self.means)

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
        """Pearson between the frame's variable genes, log1p_cp10k.

        0 on the diagonal and where a gene never varies.
        """
        values = self.expression[:, self.frame.variable]
        centred = (values - values.mean(axis=0)).astype(np.float32)
        scale = np.sqrt((centred**2).sum(axis=0))
        scaled = centred / np.where(scale > 0, scale, 1.0)
        matrix = scaled.T @ scaled
        np.fill_diagonal(matrix, 0.0)
        return matrix


def mean_pearson(a: Sample, b: Sample) -> float:
    """Return Pearson over genes of the genes' means, log1p_cp10k."""
    return float(pearson(a.means, b.means))


def mean_spearman(a: Sample, b: Sample) -> float:
    """Return Spearman over genes of the genes' means, log1p_cp10k."""
    return float(pearson(a.ranks, b.ranks))


def mmd2(a: Sample, b: Sample) -> float:
    """Return MMD² along the frame's axes."""
    return distances.mmd2(a.scores, b.scores, a.frame.squared_distance)


def energy_distance(a: Sample, b: Sample) -> float:
    """Return the energy distance along the frame's axes, log1p_cp10k."""
    return distances.energy_distance(a.scores, b.scores)


def ilisi(a: Sample, b: Sample) -> float:
    """Return how well the two mix along the frame's axes, 0 to 1."""
    return distances.ilisi(a.scores, b.scores)


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
    """Return the mean absolute difference of gene-gene Pearson over pairs of variable genes."""
    genes = len(a.correlations)
    return float(np.abs(a.correlations - b.correlations).sum() / max(genes * (genes - 1), 1))


METRICS: dict[str, Callable[[Sample, Sample], float]] = {
    "pearson_of_means": mean_pearson,
    "spearman_of_means": mean_spearman,
    "mmd2": mmd2,
    "energy_distance": energy_distance,
    "ilisi": ilisi,
    "wasserstein_log1p_cp10k": wasserstein,
    "wasserstein_count": wasserstein_count,
    "correlation_error": correlation,
    "zero_rate_error": zero_rate,
    "zero_rate_bias": zero_rate_bias,
    "library_quantile_error": library_quantiles,
    "library_mean_bias": library_bias,
    "variance_error": variance,
    "variance_bias": variance_bias,
}
HIGHER_IS_BETTER = frozenset({"pearson_of_means", "spearman_of_means", "ilisi"})
SIGNED = frozenset({"zero_rate_bias", "library_mean_bias", "variance_bias"})
