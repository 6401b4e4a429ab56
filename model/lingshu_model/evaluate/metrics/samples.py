"""A set of cells, its summaries, and the metrics that compare two sets.

`DISTRIBUTION` is the registry. A metric takes the predicted and the real set, both with the same
number of cells. Some metrics need counts; a source without counts (cells moved by a change, a model
that predicts expression) has no rows of these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lingshu_model.evaluate.metrics import distances
from lingshu_model.evaluate.metrics.agreement import Better
from lingshu_model.evaluate.metrics.changes import pearson
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.evaluate.metrics.matrices import Floats, Sparse

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of UMI per cell, for `library_quantiles`."""


@dataclass(frozen=True)
class Sample:
    """A set of cells and its summaries, each computed at most once.

    Attributes:
        frame: what was fixed on training cells.
        scores: float64 [cells, components], along the frame's axes.
        counts: UMI, CSR [cells, genes]; None of cells without counts.
        expression: the same cells in log1p_cp10k, CSR; None of cells known by scores alone.
    """

    frame: Frame
    scores: Floats
    counts: Sparse | None = None
    expression: Sparse | None = None

    def rows(self, index: NDArray[np.int64]) -> "Sample":
        """Return the sample of these cells."""
        parts = (self.counts, self.expression)
        counts, expression = (None if part is None else part[index] for part in parts)
        return Sample(self.frame, self.scores[index], counts, expression)

    @cached_property
    def umi(self) -> NDArray[np.int32]:
        """UMI, [cells, genes]."""
        assert self.counts is not None  # noqa: S101 - a metric applies to samples that have what it needs
        return self.counts.toarray().astype(np.int32, copy=False)

    @cached_property
    def values(self) -> Floats:
        """log1p_cp10k, [cells, genes]."""
        assert self.expression is not None  # noqa: S101 - as above
        return self.expression.toarray()

    @cached_property
    def means(self) -> Floats:
        """The mean per gene, log1p_cp10k."""
        return self.values.mean(axis=0)

    @cached_property
    def zeros(self) -> Floats:
        """The share of zeros per gene."""
        return (self.umi == 0).mean(axis=0)

    @cached_property
    def totals(self) -> NDArray[np.int64]:
        """UMI per cell, the library sizes."""
        return self.umi.sum(axis=1)

    @cached_property
    def variances(self) -> Floats:
        """The variance per gene, log1p_cp10k."""
        return self.values.var(axis=0)

    @cached_property
    def sorted_counts(self) -> NDArray[np.int32]:
        """UMI sorted within genes, [genes, cells]."""
        return np.sort(np.ascontiguousarray(self.umi.T))

    @cached_property
    def sorted_values(self) -> NDArray[np.float32]:
        """log1p_cp10k sorted within genes, [genes, cells]."""
        return np.sort(np.ascontiguousarray(self.values.T, np.float32))

    @cached_property
    def correlations(self) -> NDArray[np.float32]:
        """Pearson between the frame's variable genes, log1p_cp10k [variable, variable].

        0 on the diagonal and where a gene never varies.
        """
        values = self.values[:, self.frame.variable]
        # [cells, genes] centred and scaled to unit length, so that products are correlations.
        centred = (values - values.mean(axis=0)).astype(np.float32)
        scale = np.sqrt((centred**2).sum(axis=0))
        scaled = centred / np.where(scale > 0, scale, 1.0)
        matrix = scaled.T @ scaled
        np.fill_diagonal(matrix, 0.0)
        return matrix


def mean_pearson(a: Sample, b: Sample) -> float:
    """Return Pearson over genes of the genes' means."""
    return float(pearson(a.means, b.means))


def mean_spearman(a: Sample, b: Sample) -> float:
    """Return Spearman over genes of the genes' means."""
    return float(pearson(rankdata(a.means), rankdata(b.means)))


def wasserstein(a: Sample, b: Sample) -> float:
    """Return the 1-Wasserstein distance per gene, averaged over genes, log1p_cp10k.

    For samples of one size it is the mean absolute difference of their order statistics.
    """
    return float(np.abs(a.sorted_values - b.sorted_values).mean())


def wasserstein_count(a: Sample, b: Sample) -> float:
    """Return the 1-Wasserstein distance per gene, averaged over genes, UMI."""
    return float(np.abs(a.sorted_counts - b.sorted_counts).mean())


def correlation(a: Sample, b: Sample) -> float:
    """Return the mean absolute difference of gene-gene Pearson over pairs of variable genes."""
    genes = len(a.correlations)  # the diagonal is 0 on both sides and does not count
    return float(np.abs(a.correlations - b.correlations).sum() / max(genes * (genes - 1), 1))


def zero_rate(a: Sample, b: Sample) -> float:
    """Return the mean over genes of the absolute difference in the share of zeros."""
    return float(np.abs(a.zeros - b.zeros).mean())


def library_quantiles(a: Sample, b: Sample) -> float:
    """Return the mean absolute relative difference of five quantiles of UMI per cell."""
    mine, real = (np.quantile(s.totals, QUANTILES) for s in (a, b))
    return float(np.abs(mine / np.maximum(real, 1) - 1).mean())


def variance(a: Sample, b: Sample) -> float:
    """Return the summed absolute difference of gene variances over the reference's sum."""
    return float(np.abs(a.variances - b.variances).sum() / b.variances.sum())


@dataclass(frozen=True)
class Distribution:
    """A metric of two samples.

    Attributes:
        compute: (predicted, real) -> value.
        better: which value is better.
        needs: the least a sample must have: `scores`, `expression` or `counts`.
    """

    compute: Callable[[Sample, Sample], float]
    better: Better = "lower"
    needs: str = "expression"

    def applies_to(self, sample: Sample) -> bool:
        """Return whether the sample has what the metric needs."""
        return getattr(sample, self.needs) is not None


DISTRIBUTION: dict[str, Distribution] = {
    "pearson_of_means": Distribution(mean_pearson, "higher"),
    "spearman_of_means": Distribution(mean_spearman, "higher"),
    "mmd2": Distribution(
        lambda a, b: distances.mmd2(a.scores, b.scores, a.frame.squared_distance), needs="scores"
    ),
    "energy_distance": Distribution(
        lambda a, b: distances.energy_distance(a.scores, b.scores), needs="scores"
    ),
    "ilisi": Distribution(
        lambda a, b: distances.ilisi(a.scores, b.scores), "higher", needs="scores"
    ),
    "wasserstein_log1p_cp10k": Distribution(wasserstein),
    "wasserstein_count": Distribution(wasserstein_count, needs="counts"),
    "correlation_error": Distribution(correlation),
    "zero_rate_error": Distribution(zero_rate, needs="counts"),
    # Signed: difference in the share of zeros, relative differences in mean UMI and in variance.
    "zero_rate_bias": Distribution(
        lambda a, b: float(a.zeros.mean() - b.zeros.mean()), "nearer 0", needs="counts"
    ),
    "library_quantile_error": Distribution(library_quantiles, needs="counts"),
    "library_mean_bias": Distribution(
        lambda a, b: float(a.totals.mean() / b.totals.mean() - 1), "nearer 0", needs="counts"
    ),
    "variance_error": Distribution(variance),
    "variance_bias": Distribution(
        lambda a, b: float(a.variances.sum() / b.variances.sum() - 1), "nearer 0"
    ),
}
