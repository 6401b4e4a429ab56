"""Predicted against held-out changes, for the model and its baselines.

Every figure of a predicted change (Pearson over all genes, over some, the overlap of the top) is
taken against one and the same set of bootstrap draws of the held-out cells, so differences between
predictors are paired. Knows nothing of samplers or files, nor of how baselines predict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_model.evaluate.changes import (
    Change,
    Floats,
    change_between,
    magnitude_ratio,
    mean_change,
    paired_change,
    paired_differences,
    pooled_magnitude_ratio,
)
from lingshu_model.evaluate.estimates import Estimate, Verdict, bootstrap_means, estimate, verdict
from lingshu_model.evaluate.observed import Observed, Score, bounds, whole_change
from lingshu_model.evaluate.sparse import expressed
from lingshu_model.evaluate.streams import stream

MODEL = "model"
NOTHING = ("control_mean", "context_mean")
"""Predictors of no change at all: Pearson is undefined and scored 0."""
TRIVIAL = ("control_mean", "mean_shift")
PEARSON = "pearson_of_change"
DRAWS = 500
MC_DRAWS = 200
Arms = Mapping[str, Any]
Predictions = Mapping[str, Sequence[Sequence[Change]]]
"""Changes by predictor, then seed (one where a predictor draws nothing), then perturbation."""


@dataclass(frozen=True)
class Figures:
    """One figure of every prediction.

    Attributes:
        bound: the noise-corrected bound, [perturbations]; NaN where the figure has none.
        points: by predictor, [seeds, perturbations].
        spreads: the same against each draw of held-out cells, [seeds, draws, perturbations].
        wobble: the model's against each draw of its own cells, [seeds, draws, perturbations].
    """

    bound: Floats
    points: Mapping[str, Floats]
    spreads: Mapping[str, Floats]
    wobble: Floats


@dataclass(frozen=True)
class EffectTable:
    """Every predictor's changes and how they agree with the held-out ones.

    Attributes:
        observed: the real cells.
        sets: perturbation indices by the name of the set.
        predicted: every predictor's changes.
        lengths: squared lengths of the bootstrapped held-out changes, [draws, perturbations].
        figures: by the name of the figure; `pearson_of_change` is always there.
    """

    observed: Observed
    sets: Mapping[str, list[int]]
    predicted: Predictions
    lengths: Floats
    figures: Mapping[str, Figures]

    @property
    def baselines(self) -> list[str]:
        """The predictors the model is compared with."""
        return [name for name in self.predicted if name != MODEL]

    @property
    def bound(self) -> Floats:
        """The noise-corrected bound of Pearson over all genes, [perturbations]."""
        return self.figures[PEARSON].bound

    def score(
        self, predictor: str, chosen: str, *, seed: int | None = None, figure: str = PEARSON
    ) -> Estimate:
        """Return a figure's mean over a set, of the seed at one position or over all seeds."""
        value, draws = self._score(predictor, chosen, seed, figure)
        return estimate(value, draws)

    def difference(
        self, baseline: str, chosen: str, *, seed: int | None = None, figure: str = PEARSON
    ) -> Estimate:
        """Return model − baseline, paired by bootstrap draw."""
        value, draws = self._score(MODEL, chosen, seed, figure)
        other, other_draws = self._score(baseline, chosen, seed, figure)
        return estimate(value - other, draws - other_draws)

    def verdict(
        self, baseline: str, chosen: str, *, seed: int | None = None, figure: str = PEARSON
    ) -> Verdict:
        """Return win, tie or loss of the model against a baseline over a set."""
        return verdict(self.difference(baseline, chosen, seed=seed, figure=figure))

    def monte_carlo(self, chosen: str, *, figure: str = PEARSON) -> Estimate:
        """Return the model's figure with the interval that its own finite cells leave."""
        indices = self.sets[chosen]
        found = self.figures[figure]
        value = float(found.points[MODEL][:, indices].mean())
        return estimate(value, found.wobble[:, :, indices].mean(axis=(0, 2)))

    def magnitude(self, predictor: str, chosen: str, *, seed: int | None = None) -> Estimate:
        """Return the pooled, noise-corrected magnitude ratio over a set."""
        indices = self.sets[chosen]
        rows = self._seeds(predictor, seed)
        real = [self.observed.test_changes[i] for i in indices]
        values = [pooled_magnitude_ratio([row[i] for i in indices], real) for row in rows]
        value = float(np.mean(values))
        # A resampled change carries the sampling noise twice.
        lengths = self.lengths[:, indices].sum(axis=1)
        lengths = lengths - 2 * sum(float(c.noise.sum()) for c in real)
        with np.errstate(invalid="ignore"):
            scale = np.sqrt(
                sum(c.squared_length for c in real) / np.where(lengths > 0, lengths, np.nan)
            )
        return estimate(value, value * scale)

    def score_of(self, predictor: str, index: int) -> Estimate:
        """Return one perturbation's Pearson, averaged over seeds."""
        found = self.figures[PEARSON]
        point, spread = found.points[predictor], found.spreads[predictor]
        return estimate(float(point[:, index].mean()), spread[:, :, index].mean(axis=0))

    def mean_prediction(self, index: int) -> Change:
        """Return the model's change for one perturbation, averaged over seeds."""
        return mean_change([row[index] for row in self.predicted[MODEL]])

    def _score(
        self, predictor: str, chosen: str, seed: int | None, figure: str
    ) -> tuple[float, Floats]:
        indices = self.sets[chosen]
        found = self.figures[figure]
        point = found.points[predictor][:, indices].mean(axis=1)
        spread = found.spreads[predictor][:, :, indices].mean(axis=2)
        if seed is None or len(point) == 1:
            return float(point.mean()), spread.mean(axis=0)
        return float(point[seed]), spread[seed]

    def _seeds(self, predictor: str, seed: int | None) -> Sequence[Sequence[Change]]:
        rows = self.predicted[predictor]
        return rows if seed is None or len(rows) == 1 else [rows[seed]]


def compare_effects(
    observed: Observed,
    sampled: Sequence[Arms],
    predicted: Predictions,
    sets: Mapping[str, list[int]],
    generator: np.random.Generator,
    *,
    scores: Mapping[str, Score] | None = None,
) -> EffectTable:
    """Return the model's changes beside its baselines'.

    Args:
        observed: the real cells.
        sampled: one mapping per seed: the model's counts by condition, perturbed and control cells
            paired row by row.
        predicted: the baselines' changes.
        sets: perturbation indices by the name of the set.
        generator: for the bootstrap and the splits.
        scores: further figures; `pearson_of_change` comes first.
    """
    changes: Predictions = {MODEL: [sampled_changes(arms, observed.pairs) for arms in sampled]}
    changes = {**changes, **predicted}
    draws = observed.bootstrap(DRAWS)
    own = _resampled(sampled, observed.pairs)
    values = {name: _matrix(rows) for name, rows in changes.items()}
    figures = {
        name: _figures(observed, score, values, draws, own, generator)
        for name, score in {PEARSON: whole_change, **(scores or {})}.items()
    }
    return EffectTable(observed, sets, changes, (draws**2).sum(axis=2), figures)


def sampled_changes(
    arms: Arms, pairs: Sequence[tuple[str, str]], *, paired: bool = True
) -> list[Change]:
    """Return the changes of sampled cells; paired ones share their streams row by row."""
    between = paired_change if paired else change_between
    return [between(expressed(arms[p]), expressed(arms[c])) for p, c in pairs]


def perturbation_rows(table: EffectTable) -> dict[str, dict[str, Any]]:
    """Return one row of figures per perturbation, by name.

    `magnitude_ratio` is NaN where the model's or the real change is lost in its noise; `reference`
    is None where there are no training cells of the condition.
    """
    observed = table.observed
    rows: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(observed.perturbations):
        perturbed, control = observed.pairs[i]
        mine = table.score_of(MODEL, i)
        known = "replicate_reference" in table.predicted
        rows[name] = {
            "pearson": mine.value,
            "interval": list(mine.interval),
            "reference": table.score_of("replicate_reference", i).value if known else None,
            "bound": float(table.bound[i]),
            "magnitude_ratio": magnitude_ratio(table.mean_prediction(i), observed.test_changes[i]),
            "n_test_cells": observed.n_test(perturbed),
            "n_test_control_cells": observed.n_test(control),
            "n_train_cells": observed.n_train(perturbed),
        }
    return rows


def _figures(
    observed: Observed,
    score: Score,
    values: Mapping[str, Floats],
    draws: Floats,
    own: Floats,
    generator: np.random.Generator,
) -> Figures:
    real = np.stack([c.value for c in observed.test_changes])
    each = range(len(real))
    return Figures(
        bound=bounds(observed, generator, score),
        points={
            name: np.stack([score(i, rows[:, i], real[i]) for i in each], axis=1)
            for name, rows in values.items()
        },
        spreads={
            name: np.stack([score(i, rows[:, None, i], draws[:, i]) for i in each], axis=2)
            for name, rows in values.items()
        },
        wobble=np.stack([score(i, own[:, :, i], real[i]) for i in each], axis=2),
    )


def _resampled(sampled: Sequence[Arms], pairs: Sequence[tuple[str, str]]) -> Floats:
    """Return the model's changes over resampled pairs, float64 [seeds, draws, changes, genes]."""

    def means(seed: int, arms: Arms, perturbed: str, control: str) -> Floats:
        paired = paired_differences(expressed(arms[perturbed]), expressed(arms[control]))
        return bootstrap_means(paired, MC_DRAWS, stream("monte carlo", perturbed, seed))

    return np.stack(
        [
            np.stack([means(seed, arms, *pair) for pair in pairs], axis=1)
            for seed, arms in enumerate(sampled)
        ]
    )


def _matrix(rows: Sequence[Sequence[Change]]) -> Floats:
    """Return the values of changes, float64 [seeds, perturbations, genes]."""
    return np.stack([np.stack([change.value for change in row]) for row in rows])
