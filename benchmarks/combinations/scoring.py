"""Predicted against true changes of combinations, and what each predictor adds to the singles.

*Pearson* of a combination's change is over the genes but its targets, whose own change nobody needs
a model for. An *interaction* is the change less the sum of the predictor's own changes of the
singles; its sign counts where the true one is at least `LEAST` and three of its standard errors as
a measurement. Intervals are over combinations drawn with replacement, the same draws for every
predictor; combinations that share a target are not independent, so they are a little too narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.combinations.truth import Floats, Targets, Truth
from lingshu_model.evaluate.compare import Estimate, estimate, verdict_of
from lingshu_model.evaluate.metrics.changes import pearson
from lingshu_tools.analysis import expected

Changes = Mapping[Targets, Floats]
LEAST = 0.1
ERRORS = 3.0
DRAWS = 2_000


@dataclass(frozen=True)
class Scores:
    """One predictor on one set of combinations; every array is [combinations].

    Attributes:
        pearson: of the change.
        interaction: Pearson of the interaction; 0 of a predictor that has none.
        right: genes with a true interaction whose predicted one has its sign.
        compared: genes with a true interaction.
        error: root mean squared error of the change.
    """

    pearson: Floats
    interaction: Floats
    right: Floats
    compared: Floats
    error: Floats


@dataclass(frozen=True)
class Scorer:
    """Scores predictors on some of the truth's combinations.

    `order` says what an interaction is beyond: 1 the singles, 2 the pairs as well.
    """

    truth: Truth
    conditions: Sequence[Targets]
    order: int = 1

    @cached_property
    def changes(self) -> Changes:
        """The true change of every condition."""
        return self.truth.changes()

    @cached_property
    def noise(self) -> Changes:
        """Its variance as a measurement."""
        return self.truth.change_noise()

    def score(self, predicted: Changes, parts: Changes | None = None) -> Scores:
        """Return the scores of `predicted`, which has every condition.

        `parts` are the predictor's own changes of singles (and pairs, where `order` is 2); without
        them it has no interactions.
        """
        rows = [self._scores(c, predicted[c], parts) for c in self.conditions]
        return Scores(*(np.array(column, np.float64) for column in zip(*rows, strict=True)))

    def _scores(self, condition: Targets, predicted: Floats, parts: Changes | None) -> list[float]:
        other = ~np.isin(self.truth.genes, list(condition))
        true = self.changes[condition]
        beyond = true - expected(self.changes, condition, self.order)
        interaction = np.zeros_like(true)
        if parts is not None:
            interaction = predicted - expected(parts, condition, self.order)
        real = other & (np.abs(beyond) >= np.maximum(LEAST, ERRORS * self._error_of(condition)))
        return [
            float(pearson(predicted[other], true[other])),
            float(pearson(interaction[other], beyond[other])),
            float((np.sign(interaction) == np.sign(beyond))[real].sum()),
            float(real.sum()),
            float(np.sqrt(np.mean((predicted - true)[other] ** 2))),
        ]

    def _error_of(self, condition: Targets) -> Floats:
        singles = [self.noise[frozenset((t,))] for t in condition]
        return np.sqrt(self.noise[condition] + np.sum(singles, axis=0))

    def reliability(self) -> Floats:
        """Return the share of each true change's variance over genes that is not its noise.

        It is what another measurement of the same size would correlate with this one; its square
        root is what a perfect predictor would.
        """
        shares: list[float] = []
        for condition in self.conditions:
            other = ~np.isin(self.truth.genes, list(condition))
            noise = self.noise[condition][other].mean()
            shares.append(max(0.0, 1 - noise / self.changes[condition][other].var()))
        return np.array(shares)


@dataclass(frozen=True)
class Bootstrap:
    """The same draws of combinations for every figure."""

    n: int
    seed: int = 0

    @cached_property
    def weights(self) -> Floats:
        """How often each combination was drawn, [draws, n]."""
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(self.n, np.full(self.n, 1 / self.n), size=DRAWS).astype(np.float64)

    def mean(self, values: Floats) -> Estimate:
        """Return the mean over combinations."""
        return estimate(float(values.mean()), self.weights @ values / self.n)

    def share(self, part: Floats, of: Floats) -> Estimate:
        """Return a pooled share, NaN of nothing."""
        if not of.sum():
            return Estimate(float("nan"), (float("nan"), float("nan")))
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = (self.weights @ part) / (self.weights @ of)
        return estimate(float(part.sum() / of.sum()), draws)

    def difference(self, values: Floats, other: Floats) -> tuple[Estimate, str]:
        """Return the mean of `values` less `other`, and win, tie or loss."""
        less = self.mean(values - other)
        return less, verdict_of(less.interval)
