"""Genes that are to stay as they are: which combinations keep them, in closed form.

A gene stays where the 95 % interval of its change in a new experiment, mean +- 1.96 sd, is within
a bound. The sd is that of the combination (`lingshu_model.contracts.combining`), widened by the
held-out error model of the support tier (`lingshu_model.contracts.error_model`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.combining import POWER, SCATTER
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_model.contracts.posterior import Floats, Posterior

Integers = NDArray[np.intp]
NORMAL = 1.959964
"""Half width of a 95 % interval, in standard deviations."""


@dataclass(frozen=True)
class Keep:
    """Genes that are to stay.

    Attributes:
        genes: panel symbols.
        within: bound of the 95 % interval of a change, log1p_cp10k.
        single, combined: error models of single perturbations, and of combinations.
    """

    genes: tuple[str, ...]
    within: float
    single: ErrorModel
    combined: ErrorModel


@dataclass(frozen=True)
class Guard:
    """What is known of single perturbations on genes that are to stay.

    Attributes:
        means, variances: of their posteriors, [perturbations, genes].
        targeted: whether a gene is the perturbation's target, whose change is wanted.
        lowest, highest: how far trained conditions take each gene, [genes].
        gene_variance: between cells, [genes].
        keep: what is to stay.
    """

    means: Floats
    variances: Floats
    targeted: NDArray[np.bool_]
    lowest: Floats
    highest: Floats
    gene_variance: Floats
    keep: Keep

    def subset(self, rows: Integers) -> Guard:
        """Return the same of some of the perturbations."""
        return replace(
            self,
            means=self.means[rows],
            variances=self.variances[rows],
            targeted=self.targeted[rows],
        )

    def stays(self, members: Integers, factor: float) -> NDArray[np.bool_]:
        """Return whether combinations keep all genes, [combinations].

        Args:
            members: numbers of the perturbations of each, [combinations, size].
            factor: what the sum of their changes is multiplied with.
        """
        return self.farthest(members, factor) <= self.keep.within

    def farthest(self, members: Integers, factor: float = 1.0) -> Floats:
        """Return the far end of the widest interval of each, log1p_cp10k, [combinations]."""
        mean, variance = total_of(self.means, members), total_of(self.variances, members)
        model = self.keep.single
        if members.shape[1] > 1:
            model = self.keep.combined
            mean = np.clip(factor * mean, self.lowest, self.highest)
            size2 = total_of(self.means**2, members)
            variance = factor**2 * variance + (SCATTER * size2 ** (POWER / 2)) ** 2
        posterior = Posterior(mean, np.sqrt(variance), np.zeros_like(mean))
        ends = interval_end(posterior, model, self.gene_variance)
        return np.where(any_of(self.targeted, members), 0.0, ends).max(axis=1)


def interval_end(posterior: Posterior, model: ErrorModel, gene_variance: Floats) -> Floats:
    """Return |mean| + 1.96 sd of a change in a new experiment, the shape of the posterior."""
    return np.abs(posterior.mean) + NORMAL * model.sd(posterior, gene_variance)


def total_of(values: Floats, members: Integers) -> Floats:
    """Return the sum over members, [combinations, genes]; of `values` [perturbations, genes]."""
    total = values[members[:, 0]]
    for column in range(1, members.shape[1]):
        total = total + values[members[:, column]]
    return total


def any_of(flags: NDArray[np.bool_], members: Integers) -> NDArray[np.bool_]:
    """Return whether any member has a flag, [combinations, genes]."""
    result = flags[members[:, 0]]
    for column in range(1, members.shape[1]):
        result = result | flags[members[:, column]]
    return result
