"""The rows of held-out contrasts: predicted changes against the change of the held-out cells.

Every metric of every predictor is computed against the same bootstrap draws of the held-out cells,
so that differences between predictors are paired. One contrast is in memory at a time: 500 draws of
18,000 genes are 72 MB.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from lingshu_model.evaluate.metrics.agreement import AGREEMENT, SQUARED_LENGTH
from lingshu_model.evaluate.metrics.changes import (
    Change,
    change_between,
    mean_change,
    paired_differences,
)
from lingshu_model.evaluate.metrics.matrices import Floats, Sparse, expression_levels
from lingshu_model.evaluate.metrics.resampling import Draws, bootstrap_means, half_means, stream
from lingshu_model.evaluate.predictors import Predictor, Training, predictions
from lingshu_model.evaluate.rows import (
    AT_HALF,
    HELD_OUT,
    MODEL,
    MONTE_CARLO,
    NO_DRAWS,
    NOISE_CEILING,
    SPLIT_HALF,
    HeldOut,
    Row,
)
from lingshu_model.evaluate.sources import Sources
from lingshu_model.evaluate.study import Contrast

Predicted = list[tuple[str, int | None, Change]]
"""Predictor, seed (None = it has none) and change."""


@dataclass(frozen=True)
class Arm:
    """Held-out cells of one condition, with their resampled means.

    Attributes:
        values: log1p_cp10k, CSR [cells, genes].
        means: bootstrap means, [draws, genes].
        halves: means of random halves, [2, splits, genes].
    """

    values: Sparse
    means: Floats
    halves: Floats

    @classmethod
    def of(cls, name: str, counts: Sparse, draws: Draws) -> "Arm":
        """Return the arm of these cells; its streams are keyed by the condition's name."""
        values = expression_levels(counts)
        return cls(
            values,
            bootstrap_means(values, draws.bootstrap, stream("bootstrap", name)),
            half_means(values, draws.halves, stream("halves", name)),
        )


@dataclass(frozen=True)
class Truth:
    """The change of the held-out cells.

    Attributes:
        change: of all cells.
        draws: of resampled cells, [draws, genes].
        halves: of random halves of both arms, [2, splits, genes].
    """

    change: Change
    draws: Floats
    halves: Floats


@dataclass(frozen=True)
class Result:
    """One contrast: its rows, its held-out change and every prediction of it."""

    contrast: Contrast
    rows: list[Row]
    held_out: HeldOut
    predicted: Predicted


def contrast_results(
    training: Training,
    sources: Sources,
    fold: str,
    draws: Draws,
    further: Mapping[str, Predictor],
) -> Iterator[Result]:
    """Yield the result of each contrast of a population.

    Args:
        training: the population's training side.
        sources: the model and peers, over the population's genes.
        fold: what was held out.
        draws: how often each random step is repeated.
        further: predictors besides the registered ones.
    """
    test = training.population.test
    # Contrasts of one control follow each other, so that its resampled means are computed once.
    ordered = sorted(training.population.contrasts, key=lambda c: (c.control, c.name))
    for name, group in groupby(ordered, key=lambda c: c.control):
        control = Arm.of(name, test[name], draws)
        for contrast in group:
            perturbed = Arm.of(contrast.perturbed, test[contrast.perturbed], draws)
            # The same random halves and draws of the control for all its contrasts.
            truth = Truth(
                change_between(perturbed.values, control.values),
                # Draws of the two arms are independent of each other, [draws, genes].
                perturbed.means - control.means,
                perturbed.halves - control.halves,
            )
            predicted = _predicted(training, contrast, sources, further)
            resampled = _model_draws(contrast, sources, draws)
            held_out = _held_out(training, contrast, fold, truth, predicted)
            rows = [*_rows(held_out, truth, predicted, resampled)]
            yield Result(contrast, rows, held_out, predicted)


def _predicted(
    training: Training, contrast: Contrast, sources: Sources, further: Mapping[str, Predictor]
) -> Predicted:
    """Return the changes of the sources that have the perturbed cells, then the simple ones."""
    population = training.population
    predicted: Predicted = [
        (name, seed, source.change(i, contrast, population))
        for name, source in sources.items()
        if source.has(contrast.perturbed)
        for i, seed in enumerate(source.seeds)
    ]
    sizes: list[tuple[int | None, int]] = [(None, population.n_test(contrast.perturbed))]
    model = sources.get(MODEL)
    # As many resampled training cells as the model sampled, so that their noise is alike.
    if model and model.has(contrast.perturbed):
        cells = zip(model.seeds, model.arms, strict=True)
        sizes = [(seed, arms[contrast.perturbed].shape[0]) for seed, arms in cells]
    return [*predicted, *predictions(training, contrast, sizes, further)]


def _model_draws(contrast: Contrast, sources: Sources, draws: Draws) -> dict[int, Floats]:
    """Return the model's changes over resampled pairs of its cells, [draws, genes] by seed."""
    names = (contrast.perturbed, contrast.control)
    model = sources.get(MODEL)
    if model is None or not all(map(model.has, names)):
        return {}
    resampled: dict[int, Floats] = {}
    for i, (seed, arms) in enumerate(zip(model.seeds, model.arms, strict=True)):
        differences = paired_differences(*(expression_levels(arms[n]) for n in names))
        generator = stream("monte carlo", contrast.perturbed, i)
        resampled[seed] = bootstrap_means(differences, draws.monte_carlo, generator)
    return resampled


def _rows(
    held_out: HeldOut, truth: Truth, predicted: Predicted, resampled: Mapping[int, Floats]
) -> Iterator[Row]:
    """Yield the rows of one contrast: every metric of every predictor, then references."""

    def row(
        metric: str, predictor: str, seed: int | None, value: object, draws: Floats = NO_DRAWS
    ) -> Row:
        place = (held_out.tier, held_out.population, held_out.name)
        return Row(metric, *place, predictor, seed, held_out.fold, float(np.asarray(value)), draws)

    real = truth.change.value
    model = {seed: c.value for name, seed, c in predicted if name == MODEL}
    # Where no mean shift is known all genes are equal, and their choice is arbitrary.
    others = next((c.value for name, _, c in predicted if name == "mean_shift"), 0 * real)
    for metric, agreement in AGREEMENT.items():
        against = agreement.over(others, real)
        with_real, with_draws = against(real), against(truth.draws)
        for name, seed, change in predicted:
            value = change.value  # [genes], against [genes] and against [draws, genes]
            yield row(metric, name, seed, with_real(value), with_draws(value))
        for seed, draws in resampled.items():
            yield row(metric, MONTE_CARLO, seed, with_real(model[seed]), with_real(draws))
        with_half = against(truth.halves[1])
        half = with_half(truth.halves[0])  # [splits]
        yield row(metric, SPLIT_HALF, None, half.mean(), half)
        if model:
            # The model's cells are not split: it is compared with the same second halves.
            at_half = np.mean([with_half(m) for m in model.values()], axis=0)
            yield row(metric, AT_HALF, None, at_half.mean(), at_half)
        if agreement.has_ceiling:
            yield row(metric, NOISE_CEILING, None, noise_ceiling(half))
    for name, seed, change in predicted:
        yield row(SQUARED_LENGTH, name, seed, change.squared_length)
    # A resampled change has the sampling noise twice: once from the cells, once from resampling.
    lengths = (truth.draws**2).sum(axis=1) - 2 * truth.change.noise.sum()
    yield row(SQUARED_LENGTH, HELD_OUT, None, truth.change.squared_length, lengths)


def noise_ceiling(half: Floats) -> float:
    """Return the correlation that a perfect predictor is expected to reach.

    The held-out change is truth + noise, and its correlation with the truth is the square root of
    its reliability. With r the mean correlation of random halves, not below 0, the reliability of
    all cells is 2 r / (1 + r) (Spearman 1910, Brown 1910). Differences between replicates count as
    truth here, because they are common to both halves: a predictor trained on other replicates
    cannot reach this value.

    Args:
        half: correlations of random halves, [splits].
    """
    r = max(float(half.mean()), 0.0)
    return float(np.sqrt(2 * r / (1 + r)))


def _held_out(
    training: Training, contrast: Contrast, fold: str, truth: Truth, predicted: Predicted
) -> HeldOut:
    population = training.population
    model = [change for name, _, change in predicted if name == MODEL]
    condition = contrast.condition
    return HeldOut(
        name=contrast.name,
        tier=contrast.tier,
        population=population.name,
        fold=fold,
        context=dict(condition.context),
        interventions=[
            i.model_dump(mode="json", exclude_none=True) for i in condition.interventions
        ],
        n_cells=(
            population.n_test(contrast.perturbed),
            population.n_test(contrast.control),
            population.n_train(contrast.perturbed),
        ),
        genes=population.genes,
        predicted=mean_change(model).value if model else None,
        observed=truth.change.value,
        noise=truth.change.noise,
    )


def strengths(training: Training, draws: Draws) -> dict[str, float]:
    """Return each trained contrast's change over its noise, from training cells alone.

    The length of the change over its noise, which is half the distance between the changes of two
    random halves (root mean square over splits). It is about 1 for a perturbation without effect.
    """
    strong: dict[str, float] = {}
    controls: dict[str, Floats] = {}
    for contrast in training.population.trained:
        halves = [
            half_means(training.expression[name], draws.halves, stream("halves", name))
            for name in (contrast.perturbed, contrast.control)
            if name not in controls
        ]
        control = controls.setdefault(contrast.control, halves[-1])
        # The control's halves are subtracted half by half, so noise of both arms is in the
        # difference.
        first, second = halves[0] - control  # [splits, genes]
        noise = np.sqrt((((first - second) / 2) ** 2).sum(axis=-1).mean())
        strong[contrast.name] = float(np.linalg.norm(training.changes[contrast.name].value) / noise)
    return strong
