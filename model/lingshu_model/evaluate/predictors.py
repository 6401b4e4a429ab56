"""What baselines predict: changes made of training cells alone.

Knows nothing of the model, nor of what the held-out cells did.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lingshu_model.evaluate.changes import (
    Change,
    Floats,
    mean_change,
    resampled_change,
    standard_error2,
)
from lingshu_model.evaluate.effects import Predictions
from lingshu_model.evaluate.observed import Observed
from lingshu_model.evaluate.sparse import expressed
from lingshu_model.evaluate.streams import stream


def seen_predictions(
    observed: Observed, sizes: Sequence[Mapping[str, int]], generator: np.random.Generator
) -> Predictions:
    """Return baselines for perturbations that were trained on.

    `control_mean` (no change at all: Pearson undefined, scored 0), `mean_shift` (the mean training
    change over all perturbations, the judged one included, which favours it),
    `resampled_training_cells` (as many training cells as the model sampled, drawn with replacement)
    and `replicate_reference` (all the training cells).

    Args:
        observed: the real cells.
        sizes: one mapping per seed: how many cells the model sampled by condition.
        generator: for resampling.
    """
    n = len(observed.pairs)
    return {
        "control_mean": [[_nothing(observed)] * n],
        "mean_shift": [[mean_change(observed.train_changes)] * n],
        **training_cells(observed, sizes, generator),
    }


def training_cells(
    observed: Observed, sizes: Sequence[Mapping[str, int]], _: np.random.Generator
) -> Predictions:
    """Return what training cells of the very conditions predict, resampled and all of them."""
    train = observed.train_expression
    return {
        "resampled_training_cells": [
            [
                resampled_change(train[p], train[c], n[p], stream("training cells", p, seed))
                for p, c in observed.pairs
            ]
            for seed, n in enumerate(sizes)
        ],
        "replicate_reference": [observed.train_changes],
    }


def _nothing(observed: Observed) -> Change:
    return Change(np.zeros(len(observed.genes)), np.zeros(len(observed.genes)))


class Contexts:
    """The same intervention in several contexts, some of them trained on, of one set of cells.

    Names are those of `Observed.contrasts`: one per context. A prediction for a context never uses
    perturbed cells of it.
    """

    def __init__(self, trained: Observed, related: Mapping[str, Sequence[str]]) -> None:
        """Take the contrasts that were trained on, and which contexts are related to which."""
        self.trained, self.related = trained, related
        self.shifts = dict(zip(trained.perturbations, trained.train_changes, strict=True))

    def others(self, context: str) -> list[str]:
        """Return the other contexts the intervention was trained in."""
        return [name for name in self.trained.perturbations if name != context]

    def nearest(self, context: str, control: Floats) -> str:
        """Return the other context whose training control cells have the nearest mean."""
        distances = {
            name: float(np.linalg.norm(self._control(name).mean(axis=0) - control.mean(axis=0)))
            for name in self.others(context)
        }
        return min(distances, key=lambda name: distances[name])

    def predictions(self, judged: Observed) -> dict[str, list[list[Change]]]:
        """Return what the other contexts predict for each contrast of `judged`, one seed each.

        `control_mean`: no change. `context_mean`: the mean change of all that was done to this
        context in training, which is nothing, so no change either. `mean_shift`: the mean training
        change over all other contexts, each counting once. `mean_shift_by_cells`: each counting as
        its perturbed cells. `related_mean_shift`: over the related contexts, over all others where
        there are none. `nearest_context_shift`: of the context with the nearest control mean.
        `perturbed_mean`: the mean profile of all perturbed training cells of other contexts, minus
        this context's control mean.
        """
        found = [
            self._predict(name, control, judged)
            for name, (_, control) in zip(judged.perturbations, judged.pairs, strict=True)
        ]
        shared = [key for key in found[0] if all(key in row for row in found)]
        return {key: [[row[key] for row in found]] for key in shared}

    def _predict(self, context: str, control: str, judged: Observed) -> dict[str, Change]:
        others = self.others(context)
        cells = expressed(judged.train[control])
        related = [name for name in self.related.get(context, ()) if name in others] or others
        found = {"control_mean": _nothing(judged), "context_mean": _nothing(judged)}
        if not others:
            return found
        found |= {
            "mean_shift": mean_change([self.shifts[o] for o in others]),
            "mean_shift_by_cells": self._weighted(others),
            "related_mean_shift": mean_change([self.shifts[o] for o in related]),
            "nearest_context_shift": self.shifts[self.nearest(context, cells)],
            "perturbed_mean": self._perturbed_mean(others, cells),
        }
        return found

    def _weighted(self, names: Sequence[str]) -> Change:
        sizes = np.array([self.trained.n_train(self.trained.contrasts[n][0]) for n in names], float)
        weights = sizes / sizes.sum()
        return Change(
            np.sum([w * self.shifts[n].value for w, n in zip(weights, names, strict=True)], axis=0),
            np.sum(
                [w**2 * self.shifts[n].noise for w, n in zip(weights, names, strict=True)], axis=0
            ),
        )

    def _perturbed_mean(self, names: Sequence[str], control: Floats) -> Change:
        expression = self.trained.train_expression
        perturbed = np.concatenate([expression[self.trained.contrasts[n][0]] for n in names])
        return Change(
            perturbed.mean(axis=0) - control.mean(axis=0),
            standard_error2(perturbed) + standard_error2(control),
        )

    def _control(self, name: str) -> Floats:
        return self.trained.train_expression[self.trained.contrasts[name][1]]
