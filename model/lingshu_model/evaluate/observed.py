"""Real cells by condition, training and held out, and what the two halves of them say.

Which perturbations are strong is decided on the training cells alone. What a perfect predictor
could reach is decided on the held-out cells: their own sampling noise is all that is left between
it and a correlation of 1. Knows nothing of files or models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lingshu_model.evaluate.changes import (
    Change,
    Counts,
    Floats,
    change_between,
    log1p_cp10k,
    pearson,
)
from lingshu_model.evaluate.estimates import bootstrap_means, halves

CONTROL = "control"
SPLITS = 100
ENOUGH = 50
"""Held-out cells a perturbation needs to count among the strongest."""


@dataclass(frozen=True)
class Observed:
    """Counts of real cells, [cells, genes], by condition; the control is called `control`.

    Attributes:
        genes: the panel, in order.
        train: training cells by condition.
        test: held-out cells of the same conditions.
    """

    genes: list[str]
    train: Mapping[str, Counts]
    test: Mapping[str, Counts]

    @cached_property
    def perturbations(self) -> list[str]:
        """The perturbations, sorted by name; the control is none of them."""
        return sorted(name for name in self.train if name != CONTROL)

    @cached_property
    def train_expression(self) -> dict[str, Floats]:
        """Training cells in log1p_cp10k."""
        return {name: log1p_cp10k(counts) for name, counts in self.train.items()}

    @cached_property
    def test_expression(self) -> dict[str, Floats]:
        """Held-out cells in log1p_cp10k."""
        return {name: log1p_cp10k(counts) for name, counts in self.test.items()}

    @cached_property
    def train_changes(self) -> list[Change]:
        """Changes in the training cells, in the order of `perturbations`."""
        return _changes(self.train_expression, self.perturbations)

    @cached_property
    def test_changes(self) -> list[Change]:
        """Changes in the held-out cells, in the order of `perturbations`."""
        return _changes(self.test_expression, self.perturbations)

    def bootstrap(self, draws: int, generator: np.random.Generator) -> Floats:
        """Return changes over resampled held-out cells, float64 [draws, perturbations, genes].

        Within a draw all perturbations share one resampled control, as they do in the data.
        """
        control = bootstrap_means(self.test_expression[CONTROL], draws, generator)
        means = [
            bootstrap_means(self.test_expression[p], draws, generator) for p in self.perturbations
        ]
        return np.stack([m - control for m in means], axis=1)


def strengths(observed: Observed, generator: np.random.Generator) -> Floats:
    """Return each perturbation's training effect over its noise, float64 [perturbations].

    The length of the change over the root mean square, over random split halves, of half the
    distance between the two halves' changes: about 1 for a perturbation that does nothing.
    """
    first, second = _split_changes(observed.train_expression, observed.perturbations, generator)
    noise = np.sqrt((((first - second) / 2) ** 2).sum(axis=-1).mean(axis=0))
    lengths = np.array([np.linalg.norm(c.value) for c in observed.train_changes])
    return lengths / noise


def choose_sets(observed: Observed, generator: np.random.Generator) -> dict[str, list[int]]:
    """Return indices into `perturbations` of the four and the twelve strongest, and of all.

    Only perturbations with at least 50 held-out cells may be among the strongest; fewer than
    twelve of those make a smaller set.
    """
    strength = strengths(observed, generator)
    names = observed.perturbations
    ranked = [i for i in np.argsort(-strength).tolist() if len(observed.test[names[i]]) >= ENOUGH]
    return {
        "four strongest": ranked[:4],
        "twelve strongest": ranked[:12],
        "all": list(range(len(names))),
    }


def bounds(observed: Observed, generator: np.random.Generator) -> Floats:
    """Return the Pearson a perfect predictor could reach, float64 [perturbations].

    Held-out change = truth + sampling noise, so the truth correlates with it by the square root of
    its reliability. The reliability is that of the mean correlation r between the changes of two
    random halves of the held-out cells (control split too), stepped up from half to all the cells
    by Spearman-Brown, 2r / (1 + r), and 0 where r is negative. What differs between replicates but
    not between halves of one counts as truth here, so no predictor trained on other replicates can
    quite reach it.
    """
    first, second = _split_changes(observed.test_expression, observed.perturbations, generator)
    r = np.maximum(pearson(first, second).mean(axis=0), 0.0)
    return np.sqrt(2 * r / (1 + r))


def _changes(expression: Mapping[str, Floats], names: list[str]) -> list[Change]:
    return [change_between(expression[name], expression[CONTROL]) for name in names]


def _split_changes(
    expression: Mapping[str, Floats], names: list[str], generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return changes of two random halves, float64 [splits, perturbations, genes] each."""
    control = _split_means(expression[CONTROL], generator)
    means = np.stack([_split_means(expression[name], generator) for name in names], axis=2)
    first, second = means - control[:, :, None]
    return first, second


def _split_means(values: Floats, generator: np.random.Generator) -> Floats:
    """Return means of random halves, float64 [2, splits, genes]."""
    n = len(values)
    weights = np.zeros((2, SPLITS, n))
    for split in range(SPLITS):
        for side, rows in enumerate(halves(n, generator)):
            weights[side, split, rows] = 1 / len(rows)
    return weights @ values
