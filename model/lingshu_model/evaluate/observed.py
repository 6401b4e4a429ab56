"""Real cells by condition, training and held out, and what the two halves of them say.

Which perturbations are strong is decided on the training cells alone. What a perfect predictor
could reach is decided on the held-out cells: their own sampling noise is all that is left between
it and a correlation of 1. Knows nothing of files or models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lingshu_model.evaluate.changes import Change, Floats, change_between, pearson
from lingshu_model.evaluate.estimates import bootstrap_means, halves
from lingshu_model.evaluate.sparse import expressed
from lingshu_model.evaluate.streams import stream

CONTROL = "control"
SPLITS = 100
ENOUGH = 50
"""Held-out cells a perturbation needs to count among the strongest."""
Score = Callable[[int, Floats, Floats], Floats]
"""A figure of a predicted and a real change: the contrast's index, [..., genes] of either."""


def whole_change(_index: int, predicted: Floats, real: Floats) -> Floats:
    """Return Pearson over all genes."""
    return pearson(predicted, real)


@dataclass(frozen=True)
class Observed:
    """Counts of real cells that measure the same genes, [cells, genes], by condition.

    Attributes:
        genes: what is measured, in order.
        train: training cells by condition, arrays or CSR.
        test: held-out cells by condition; of a held-out condition there are no others.
        contrasts: what is compared with what: names of a perturbed and of its control condition,
            by the name of the perturbation. By default every condition with `control`.
    """

    genes: list[str]
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    contrasts: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    def __post_init__(self) -> None:
        """Fill in the default contrasts."""
        if not self.contrasts and CONTROL in self.train:
            found = {name: (name, CONTROL) for name in sorted(self.train) if name != CONTROL}
            object.__setattr__(self, "contrasts", found)

    @cached_property
    def perturbations(self) -> list[str]:
        """The contrasts' names, sorted."""
        return sorted(self.contrasts)

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Perturbed and control condition of each of `perturbations`."""
        return [self.contrasts[name] for name in self.perturbations]

    @cached_property
    def conditions(self) -> list[str]:
        """The conditions with held-out cells; `control` comes first."""
        return sorted(self.test, key=lambda name: (name != CONTROL, name))

    def n_test(self, condition: str) -> int:
        """Return how many held-out cells a condition has."""
        return self.test[condition].shape[0]

    def n_train(self, condition: str) -> int:
        """Return how many training cells a condition has, 0 where it was never trained on."""
        return self.train[condition].shape[0] if condition in self.train else 0

    def only(self, names: Sequence[str]) -> "Observed":
        """Return the same cells with some of the contrasts."""
        return replace(self, contrasts={name: self.contrasts[name] for name in names})

    @cached_property
    def train_expression(self) -> dict[str, Floats]:
        """Training cells of the contrasts in log1p_cp10k."""
        return _expression(self.train, self.pairs)

    @cached_property
    def test_expression(self) -> dict[str, Floats]:
        """Held-out cells of the contrasts in log1p_cp10k."""
        return _expression(self.test, self.pairs)

    @cached_property
    def train_changes(self) -> list[Change]:
        """Changes in the training cells, in the order of `perturbations`."""
        return _changes(self.train_expression, self.pairs)

    @cached_property
    def test_changes(self) -> list[Change]:
        """Changes in the held-out cells, in the order of `perturbations`."""
        return _changes(self.test_expression, self.pairs)

    def bootstrap(self, draws: int) -> Floats:
        """Return changes over resampled held-out cells, float64 [draws, perturbations, genes].

        Within a draw perturbations of one control share the resampled control, as in the data.
        """
        means = {
            name: bootstrap_means(self.test_expression[name], draws, stream("bootstrap", name))
            for name in _in_order(self.pairs)
        }
        return np.stack([means[p] - means[c] for p, c in self.pairs], axis=1)


def strengths(observed: Observed, generator: np.random.Generator) -> Floats:
    """Return each perturbation's training effect over its noise, float64 [perturbations].

    The length of the change over the root mean square, over random split halves, of half the
    distance between the two halves' changes: about 1 for a perturbation that does nothing.
    """
    first, second = split_changes(observed.train_expression, observed.pairs, generator)
    noise = np.sqrt((((first - second) / 2) ** 2).sum(axis=-1).mean(axis=0))
    lengths = np.array([np.linalg.norm(c.value) for c in observed.train_changes])
    return lengths / noise


def choose_sets(observed: Observed, generator: np.random.Generator) -> dict[str, list[int]]:
    """Return indices into `perturbations` of the four and the twelve strongest, and of all.

    Only perturbations with at least 50 held-out cells may be among the strongest; fewer than
    twelve of those make a smaller set.
    """
    strength = strengths(observed, generator)
    tested = [observed.n_test(perturbed) for perturbed, _ in observed.pairs]
    ranked = [i for i in np.argsort(-strength).tolist() if tested[i] >= ENOUGH]
    return {
        "four strongest": ranked[:4],
        "twelve strongest": ranked[:12],
        "all": list(range(len(observed.perturbations))),
    }


def bounds(
    observed: Observed, generator: np.random.Generator, score: Score = whole_change
) -> Floats:
    """Return the Pearson a perfect predictor could reach, float64 [perturbations].

    Held-out change = truth + sampling noise, so the truth correlates with it by the square root of
    its reliability. The reliability is that of the mean correlation r between the changes of two
    random halves of the held-out cells (control split too), stepped up from half to all the cells
    by Spearman-Brown, 2r / (1 + r), and 0 where r is negative. What differs between replicates but
    not between halves of one counts as truth here, so no predictor trained on other replicates can
    quite reach it.
    """
    first, second = split_changes(observed.test_expression, observed.pairs, generator)
    r = np.stack([score(i, first[:, i], second[:, i]) for i in range(first.shape[1])], axis=1)
    r = np.maximum(r.mean(axis=0), 0.0)
    return np.sqrt(2 * r / (1 + r))


def split_changes(
    expression: Mapping[str, Floats],
    pairs: Sequence[tuple[str, str]],
    _: np.random.Generator | None = None,
) -> tuple[Floats, Floats]:
    """Return changes of two random halves, float64 [splits, perturbations, genes] each."""
    means = {n: _split_means(expression[n], stream("halves", n)) for n in _in_order(pairs)}
    first, second = np.stack([means[p] - means[c] for p, c in pairs], axis=2)
    return first, second


def _expression(cells: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Floats]:
    return {name: expressed(cells[name]) for name in _in_order(pairs) if name in cells}


def _in_order(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return the conditions of contrasts, each once, the controls first."""
    return list(dict.fromkeys([c for _, c in pairs] + [p for p, _ in pairs]))


def _changes(expression: Mapping[str, Floats], pairs: Sequence[tuple[str, str]]) -> list[Change]:
    return [change_between(expression[p], expression[c]) for p, c in pairs]


def _split_means(values: Floats, generator: np.random.Generator) -> Floats:
    """Return means of random halves, float64 [2, splits, genes]."""
    n = len(values)
    weights = np.zeros((2, SPLITS, n))
    for split in range(SPLITS):
        for side, rows in enumerate(halves(n, generator)):
            weights[side, split, rows] = 1 / max(len(rows), 1)
    return weights @ values
