"""Predicted against held-out changes: Pearson and magnitude, for the model and its baselines.

Predictors: `model` (paired sampled cells), `control_mean` (no change at all: Pearson undefined,
scored 0), `mean_shift` (the mean training change over all perturbations, the judged one included,
which favours it), `resampled_training_cells` (as many training cells as the model sampled, drawn
with replacement) and `replicate_reference` (all the training cells). All face the same bootstrap
draws of the held-out cells, so differences are paired. Knows nothing of samplers or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_model.evaluate.changes import (
    Change,
    Counts,
    Floats,
    log1p_cp10k,
    magnitude_ratio,
    mean_change,
    paired_change,
    pearson,
    pooled_magnitude_ratio,
    resampled_change,
)
from lingshu_model.evaluate.estimates import Estimate, Verdict, estimate, verdict
from lingshu_model.evaluate.observed import CONTROL, Observed, bounds, choose_sets

MODEL = "model"
BASELINES = ("control_mean", "mean_shift", "resampled_training_cells", "replicate_reference")
TRIVIAL = ("control_mean", "mean_shift")
DRAWS = 500
Arms = Mapping[str, Counts]


@dataclass(frozen=True)
class EffectTable:
    """Every predictor's changes and how they correlate with the held-out ones.

    Attributes:
        observed: the real cells.
        sets: perturbation indices by the name of the set.
        predicted: changes by predictor, then seed, then perturbation; one seed where a predictor
            draws nothing.
        draws: bootstrapped held-out changes, [draws, perturbations, genes].
        bound: the noise-corrected bound, [perturbations].
        points: Pearson by predictor, [seeds, perturbations].
        spreads: the same against each draw, [seeds, draws, perturbations].
    """

    observed: Observed
    sets: Mapping[str, list[int]]
    predicted: Mapping[str, list[list[Change]]]
    draws: Floats
    bound: Floats
    points: Mapping[str, Floats]
    spreads: Mapping[str, Floats]

    def pearson(self, predictor: str, chosen: str, *, seed: int | None = None) -> Estimate:
        """Return the mean Pearson over a set, of the seed at one position or over all seeds."""
        value, draws = self._score(predictor, chosen, seed)
        return estimate(value, draws)

    def difference(self, baseline: str, chosen: str, *, seed: int | None = None) -> Estimate:
        """Return model − baseline, paired by bootstrap draw."""
        value, draws = self._score(MODEL, chosen, seed)
        other, other_draws = self._score(baseline, chosen, seed)
        return estimate(value - other, draws - other_draws)

    def verdict(self, baseline: str, chosen: str, *, seed: int | None = None) -> Verdict:
        """Return win, tie or loss of the model against a baseline over a set."""
        return verdict(self.difference(baseline, chosen, seed=seed))

    def magnitude(self, predictor: str, chosen: str, *, seed: int | None = None) -> Estimate:
        """Return the pooled, noise-corrected magnitude ratio over a set."""
        indices = self.sets[chosen]
        rows = self._seeds(predictor, seed)
        real = [self.observed.test_changes[i] for i in indices]
        values = [pooled_magnitude_ratio([row[i] for i in indices], real) for row in rows]
        value = float(np.mean(values))
        # A resampled change carries the sampling noise twice.
        lengths = (self.draws[:, indices] ** 2).sum(axis=(1, 2))
        lengths = lengths - 2 * sum(float(c.noise.sum()) for c in real)
        scale = np.sqrt(
            sum(c.squared_length for c in real) / np.where(lengths > 0, lengths, np.nan)
        )
        return estimate(value, value * scale)

    def pearson_of(self, predictor: str, index: int) -> Estimate:
        """Return one perturbation's Pearson, averaged over seeds."""
        point, spread = self.points[predictor], self.spreads[predictor]
        return estimate(float(point[:, index].mean()), spread[:, :, index].mean(axis=0))

    def mean_prediction(self, index: int) -> Change:
        """Return the model's change for one perturbation, averaged over seeds."""
        return mean_change([row[index] for row in self.predicted[MODEL]])

    def _score(self, predictor: str, chosen: str, seed: int | None) -> tuple[float, Floats]:
        indices = self.sets[chosen]
        point = self.points[predictor][:, indices].mean(axis=1)
        spread = self.spreads[predictor][:, :, indices].mean(axis=2)
        if seed is None or len(point) == 1:
            return float(point.mean()), spread.mean(axis=0)
        return float(point[seed]), spread[seed]

    def _seeds(self, predictor: str, seed: int | None) -> Sequence[list[Change]]:
        rows = self.predicted[predictor]
        return rows if seed is None or len(rows) == 1 else [rows[seed]]


def compare_effects(
    observed: Observed, sampled: Sequence[Arms], generator: np.random.Generator
) -> EffectTable:
    """Return the model's changes beside its baselines'.

    Args:
        observed: the real cells.
        sampled: one mapping per seed: sampled counts by condition, every perturbation's paired row
            by row with `control`.
        generator: for the bootstrap, the splits and the resampled baseline.
    """
    predicted = _predictions(observed, sampled, generator)
    draws = observed.bootstrap(DRAWS, generator)
    real = np.stack([c.value for c in observed.test_changes])
    values = {name: np.stack([_matrix(row) for row in rows]) for name, rows in predicted.items()}
    return EffectTable(
        observed=observed,
        sets=choose_sets(observed, generator),
        predicted=predicted,
        draws=draws,
        bound=bounds(observed, generator),
        points={name: pearson(value, real) for name, value in values.items()},
        spreads={
            name: np.stack([pearson(one, draws) for one in value]) for name, value in values.items()
        },
    )


def _predictions(
    observed: Observed, sampled: Sequence[Arms], generator: np.random.Generator
) -> dict[str, list[list[Change]]]:
    names, train = observed.perturbations, observed.train_expression
    nothing = Change(np.zeros(len(observed.genes)), np.zeros(len(observed.genes)))
    return {
        MODEL: [_model_changes(arms, names) for arms in sampled],
        "control_mean": [[nothing] * len(names)],
        "mean_shift": [[mean_change(observed.train_changes)] * len(names)],
        "resampled_training_cells": [
            [
                resampled_change(train[name], train[CONTROL], len(arms[name]), generator)
                for name in names
            ]
            for arms in sampled
        ],
        "replicate_reference": [observed.train_changes],
    }


def _model_changes(arms: Arms, names: list[str]) -> list[Change]:
    control = log1p_cp10k(arms[CONTROL])
    return [paired_change(log1p_cp10k(arms[name]), control) for name in names]


def _matrix(changes: list[Change]) -> Floats:
    return np.stack([change.value for change in changes])


def perturbation_rows(table: EffectTable) -> dict[str, dict[str, Any]]:
    """Return one row of figures per perturbation, by name.

    `magnitude_ratio` is NaN where the model's or the real change is lost in its noise.
    """
    observed = table.observed
    rows: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(observed.perturbations):
        ratio = magnitude_ratio(table.mean_prediction(i), observed.test_changes[i])
        mine = table.pearson_of(MODEL, i)
        rows[name] = {
            "pearson": mine.value,
            "interval": list(mine.interval),
            "reference": table.pearson_of("replicate_reference", i).value,
            "bound": float(table.bound[i]),
            "magnitude_ratio": ratio,
            "n_test_cells": len(observed.test[name]),
            "n_train_cells": len(observed.train[name]),
        }
    return rows
