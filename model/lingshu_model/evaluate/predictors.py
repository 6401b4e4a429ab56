"""Simple predictors: changes computed from training cells alone.

`PREDICTORS` is the registry. A predictor takes the training side of a population and a contrast and
returns a change, or None where the training side does not have what it needs. To add one, write the
function and register it: it becomes a row of every table and of the evidence.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lingshu_model.contracts import Checkpoint
from lingshu_model.contracts.effects import NoEffectError
from lingshu_model.evaluate.metrics.changes import (
    Change,
    change_between,
    column_means,
    mean_change,
    resampled_change,
)
from lingshu_model.evaluate.metrics.matrices import (
    Floats,
    Sparse,
    expression_levels,
    stacked,
    standard_error2,
)
from lingshu_model.evaluate.metrics.resampling import stream
from lingshu_model.evaluate.study import Contrast, Population

EFFECTS = "effects"
"""The closed form that a checkpoint stores."""
RESAMPLED = "resampled_training_cells"
TRAINING_MEAN = "replicate_reference"
"""The mean change of the training cells of the same condition; its name in evidence files."""
FEWEST_IN_MEANS = 10
"""Smallest number of training cells in each arm of a contrast in a mean over contrasts: all count
equally, and the change of a few cells is mostly noise."""


@dataclass(frozen=True)
class Training:
    """The training side of a population.

    Attributes:
        population: its `trained` contrasts and `train` cells are used, nothing that is held out.
        families: contexts that are related, by how their names begin.
    """

    population: Population
    families: Sequence[Sequence[str]] = ()

    @cached_property
    def expression(self) -> dict[str, Sparse]:
        """Training cells in log1p_cp10k, CSR [cells, genes], by condition."""
        return {name: expression_levels(cells) for name, cells in self.population.train.items()}

    @cached_property
    def changes(self) -> dict[str, Change]:
        """The change of every trained contrast, by name."""
        cells = self.expression
        return {
            c.name: change_between(cells[c.perturbed], cells[c.control])
            for c in self.population.trained
        }

    @cached_property
    def control_means(self) -> dict[str, Floats]:
        """The mean of the control cells of every contrast, by the condition's name."""
        contrasts = [*self.population.trained, *self.population.contrasts]
        return {
            name: column_means(self.expression[name]) for name in {c.control for c in contrasts}
        }

    @cached_property
    def measured(self) -> list[Contrast]:
        """The trained contrasts with enough cells to count in a mean over contrasts."""
        count = self.population.n_train
        trained = self.population.trained
        return [c for c in trained if min(map(count, (c.perturbed, c.control))) >= FEWEST_IN_MEANS]

    def elsewhere(self, contrast: Contrast) -> list[Contrast]:
        """Return the measured contrasts with the same interventions in other contexts."""
        return [
            c
            for c in self.measured
            if c.condition.interventions == contrast.condition.interventions
            # Contexts are compared, not names: the same one in another population is no other
            # context.
            and c.condition.context != contrast.condition.context
        ]

    def here(self, contrast: Contrast) -> list[Contrast]:
        """Return the measured contrasts of the same context, the contrast itself among them."""
        context = contrast.condition.context
        return [c for c in self.measured if c.condition.context == context]

    def related(self, contrast: Contrast) -> list[Contrast]:
        """Return which of the contrasts elsewhere are of contexts of the same family."""
        families = [tuple(f) for f in self.families if contrast.name.startswith(tuple(f))]
        return [c for c in self.elsewhere(contrast) if any(map(c.name.startswith, families))]

    def mean_of(self, contrasts: Sequence[Contrast]) -> Change | None:
        """Return the mean of several contrasts' changes, each counting once."""
        return mean_change([self.changes[c.name] for c in contrasts]) if contrasts else None


Predictor = Callable[[Training, Contrast], Change | None]


def control_mean(training: Training, _contrast: Contrast) -> Change:
    """Return no change. Pearson with it is undefined and counts as 0."""
    return Change.zero(len(training.population.genes))


def context_mean(training: Training, contrast: Contrast) -> Change:
    """Return the mean change of the other perturbations of the context; none: no change."""
    others = [c for c in training.here(contrast) if c.name != contrast.name]
    return training.mean_of(others) or control_mean(training, contrast)


def mean_shift(training: Training, contrast: Contrast) -> Change | None:
    """Return the mean change of the interventions over other contexts, each counting once.

    Where there is no other context, the mean over all perturbations of this one, the evaluated one
    included, which favours the predictor.
    """
    here = training.here(contrast)
    # With one perturbation the mean would be that of the evaluated contrast itself.
    return training.mean_of(training.elsewhere(contrast) or (here if len(here) > 1 else []))


def mean_shift_by_cells(training: Training, contrast: Contrast) -> Change | None:
    """Return the mean change over other contexts, each counting as its perturbed cells."""
    others = training.elsewhere(contrast)
    if not others:
        return None
    sizes = [training.population.n_train(c.perturbed) for c in others]
    return mean_change([training.changes[c.name] for c in others], sizes)


def related_mean_shift(training: Training, contrast: Contrast) -> Change | None:
    """Return the mean change over related contexts; over all others where none is related."""
    if not training.families:
        return None
    return training.mean_of(training.related(contrast) or training.elsewhere(contrast))


def nearest_context_shift(training: Training, contrast: Contrast) -> Change | None:
    """Return the change in the other context whose control mean is nearest, Euclidean."""
    others = training.elsewhere(contrast)
    if not others:
        return None
    means = training.control_means
    # Between mean profiles in log1p_cp10k, over all genes of the population.
    distances = [np.linalg.norm(means[c.control] - means[contrast.control]) for c in others]
    return training.changes[others[int(np.argmin(distances))].name]


def perturbed_mean(training: Training, contrast: Contrast) -> Change | None:
    """Return the mean of all perturbed cells of other contexts less this context's control mean.

    It mixes the difference between contexts with the effect: a predictor of the perturbed state.
    """
    others = training.elsewhere(contrast)
    if not others:
        return None
    perturbed = stacked(training.expression[c.perturbed] for c in others)
    control = training.expression[contrast.control]
    value = column_means(perturbed) - training.control_means[contrast.control]
    # The two arms are independent, so their variances add up.
    return Change(value, standard_error2(perturbed) + standard_error2(control))


def additive(training: Training, contrast: Contrast) -> Change | None:
    """Return the sum of the single interventions' changes in the context, for combinations."""
    parts, context = contrast.condition.interventions, contrast.condition.context
    here = [c for c in training.population.trained if c.condition.context == context]
    # All trained contrasts, however few their cells: a sum needs each of its parts.
    known = {c.condition.interventions: training.changes[c.name] for c in here}
    changes = [known[(part,)] for part in parts if (part,) in known]
    if len(parts) < 2 or len(changes) < len(parts):
        return None
    value = np.sum([c.value for c in changes], axis=0)
    return Change(value, np.sum([c.noise for c in changes], axis=0))


def training_mean(training: Training, contrast: Contrast) -> Change | None:
    """Return the change of the training cells of this very condition."""
    return training.changes.get(contrast.name)


def stored_effects(checkpoint: Checkpoint) -> Mapping[str, Predictor]:
    """Return the predictor `effects`: the stored posterior mean, which no cell is sampled for."""
    effects = checkpoint.effects
    if effects is None:
        return {}

    def predict(training: Training, contrast: Contrast) -> Change | None:
        condition = contrast.condition
        try:
            stored = effects.effect(dict(condition.context), condition.interventions)
        except NoEffectError:
            return None
        mean = stored.posterior.mean[training.population.columns]
        # Shrunk already: its length is not inflated by noise.
        return Change(mean, np.zeros(len(mean)))

    return {EFFECTS: predict}


PREDICTORS: dict[str, Predictor] = {
    "control_mean": control_mean,
    "context_mean": context_mean,
    "mean_shift": mean_shift,
    "mean_shift_by_cells": mean_shift_by_cells,
    "related_mean_shift": related_mean_shift,
    "nearest_context_shift": nearest_context_shift,
    "perturbed_mean": perturbed_mean,
    "additive": additive,
    TRAINING_MEAN: training_mean,
}
SIMPLE = (*PREDICTORS, RESAMPLED)
"""All simple predictors."""
TRIVIAL = ("control_mean", "mean_shift")
"""Simple predictors that a model must beat to be useful."""


def predictions(
    training: Training,
    contrast: Contrast,
    sizes: Sequence[tuple[int | None, int]],
    further: Mapping[str, Predictor] | None = None,
) -> Iterator[tuple[str, int | None, Change]]:
    """Yield name, seed and change of every simple predictor that applies to a contrast.

    Args:
        training: the training side.
        contrast: what is predicted.
        sizes: seeds of the model and how many perturbed cells it sampled with each.
        further: predictors besides the registered ones.
    """
    for name, predict in {**PREDICTORS, **(further or {})}.items():
        if (change := predict(training, contrast)) is not None:
            yield name, None, change
    if contrast.name in training.changes:
        cells = training.expression
        for i, (seed, n) in enumerate(sizes):
            # Keyed by the position of the seed: the same draws whatever seeds the model has.
            generator = stream("training cells", contrast.perturbed, i)
            arms = (cells[contrast.perturbed], cells[contrast.control])
            yield RESAMPLED, seed, resampled_change(*arms, n, generator)
