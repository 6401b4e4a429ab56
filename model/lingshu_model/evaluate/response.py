"""The response to an intervention that was held out of a context: every figure of it.

Beside Pearson over all genes: over the 100 genes that moved most (chosen by the other contexts'
training shift, which knows nothing of the truth, and by the truth itself), the overlap of the top
20, single genes and a gene set, and how far predicted cells are from the real ones. A baseline
that predicts a change predicts cells too: the context's training control cells, moved by it. Knows
nothing of samplers or files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_model.evaluate import distances
from lingshu_model.evaluate.changes import (
    Change,
    Floats,
    change_between,
    mean_change,
    paired_change,
    pearson,
)
from lingshu_model.evaluate.effects import MODEL, EffectTable
from lingshu_model.evaluate.estimates import Estimate, Verdict, estimate, halves, verdict
from lingshu_model.evaluate.frame import Frame
from lingshu_model.evaluate.observed import Observed, Score, split_changes
from lingshu_model.evaluate.sparse import expressed
from lingshu_model.evaluate.streams import stream

TOP, OVERLAP = 100, 20
TOP_BY_TRAINING = f"pearson_of_change_top_{TOP}_by_other_contexts"
TOP_BY_TRUTH = f"pearson_of_change_top_{TOP}_by_truth"
OVERLAP_FIGURE = f"overlap_of_top_{OVERLAP}"
HALF = "split_half_reference"
SPLITS = 30
CELL_METRICS = ("energy_distance", "mmd2", "ilisi")
Cells = Mapping[str, Sequence[Any]]


def response_scores(observed: Observed, shifts: Sequence[Floats]) -> dict[str, Score]:
    """Return the figures besides Pearson over all genes.

    Args:
        observed: the held-out contrasts.
        shifts: the mean training shift of the other contexts for each, [genes].
    """
    by_training = [_largest(shift, TOP) for shift in shifts]
    by_truth = [_largest(change.value, TOP) for change in observed.test_changes]

    def over(chosen: list[Any]) -> Score:
        return lambda i, p, r: pearson(p[..., chosen[i]], r[..., chosen[i]])

    return {
        TOP_BY_TRAINING: over(by_training),
        TOP_BY_TRUTH: over(by_truth),
        OVERLAP_FIGURE: overlap,
    }


def overlap(_index: int, predicted: Floats, real: Floats) -> Floats:
    """Return the share of the real 20 most changed genes among the predicted 20, either sign.

    A prediction of no change at all has no top genes: 0.
    """
    predicted, real = np.broadcast_arrays(predicted, real)
    genes = predicted.shape[-1]
    mine, theirs = predicted.reshape(-1, genes), real.reshape(-1, genes)
    shares = [
        len(np.intersect1d(_largest(p, OVERLAP), _largest(r, OVERLAP))) / OVERLAP
        if p.any()
        else 0.0
        for p, r in zip(mine, theirs, strict=True)
    ]
    return np.array(shares).reshape(predicted.shape[:-1])


def _largest(change: Floats, n: int) -> Any:
    return np.argpartition(-np.abs(change), min(n, len(change) - 1))[:n]


@dataclass(frozen=True)
class HalfReference:
    """What one random half of the real cells says of the other, beside the model's at that half.

    Attributes:
        n: perturbed and control cells of a half.
        value: the half's figure.
        model: the model's figure against the same halves.
        difference: model − half.
        verdict: win, tie or loss against the half.
    """

    n: tuple[int, int]
    value: Estimate
    model: Estimate
    difference: Estimate
    verdict: Verdict


def half_reference(
    table: EffectTable, score: Score, generator: np.random.Generator, index: int = 0
) -> HalfReference:
    """Return the split-half reference of one contrast and figure, with intervals over splits."""
    observed = table.observed
    pair = observed.pairs[index]
    first, second = split_changes(observed.test_expression, [pair], generator)
    half = score(index, first[:, 0], second[:, 0])
    rows = [seed[index].value for seed in table.predicted[MODEL]]
    model = np.mean([score(index, np.asarray(row), second[:, 0]) for row in rows], axis=0)
    difference = estimate(float((model - half).mean()), model - half)
    return HalfReference(
        n=(observed.n_test(pair[0]) // 2, observed.n_test(pair[1]) // 2),
        value=estimate(float(half.mean()), half),
        model=estimate(float(model.mean()), model),
        difference=difference,
        verdict=verdict(difference),
    )


@dataclass(frozen=True)
class CellDistances:
    """How far cells of each source are from one half of the real perturbed cells.

    Attributes:
        n_cells: on either side.
        points: by source and metric, [splits].
        draws: the same, the reference half resampled.
    """

    n_cells: int
    points: Mapping[str, Mapping[str, Floats]]
    draws: Mapping[str, Mapping[str, Floats]]

    def figure(self, source: str, metric: str) -> Estimate:
        """Return a metric of a source with its interval."""
        return estimate(float(self.points[source][metric].mean()), self.draws[source][metric])

    def against(self, source: str, metric: str) -> tuple[Estimate, Verdict]:
        """Return model − source, and win, tie or loss."""
        value = float((self.points[MODEL][metric] - self.points[source][metric]).mean())
        difference = estimate(value, self.draws[MODEL][metric] - self.draws[source][metric])
        return difference, verdict(difference, higher_is_better=metric == "ilisi")


def cell_distances(
    table: EffectTable,
    sampled: Cells,
    frame: Frame,
    generator: np.random.Generator,
    index: int = 0,
) -> CellDistances:
    """Return distances along the frame's axes, at as many cells as a half of the real ones has.

    Args:
        table: the contrast's predictions, whose baselines move the training control cells.
        sampled: counts of perturbed cells of the model and of peers, by name, one per seed.
        frame: what was fixed on training cells.
        generator: for splits and resampling.
        index: of the contrast.
    """
    observed = table.observed
    perturbed, control = observed.pairs[index]
    real = frame.scores(observed.test_expression[perturbed])
    start = frame.scores(expressed(observed.train[control]))
    drawn = {name: [_scores(c, frame) for c in seeds] for name, seeds in sampled.items()}
    moved = {
        name: start + rows[0][index].value @ frame.axes
        for name, rows in table.predicted.items()
        if name not in drawn
    }
    n = min(len(real) // 2, *(len(c) for seeds in drawn.values() for c in seeds))
    points: dict[str, dict[str, list[float]]] = {}
    draws: dict[str, dict[str, list[float]]] = {}
    for k in range(SPLITS):
        generator = stream("split", perturbed, k)
        reference, other = (real[rows[:n]] for rows in halves(len(real), generator))
        resampled = reference[generator.integers(n, size=n)]
        for name, cells in _sources(drawn, moved, other, n, (perturbed, k)):
            for against, kept in ((reference, points), (resampled, draws)):
                each = [_distances(c, against, frame) for c in cells]
                for metric, values in zip(CELL_METRICS, np.mean(each, axis=0), strict=True):
                    kept.setdefault(name, {}).setdefault(metric, []).append(float(values))
    return CellDistances(n, _arrays(points), _arrays(draws))


def _sources(
    drawn: Mapping[str, list[Floats]],
    moved: Mapping[str, Floats],
    other: Floats,
    n: int,
    key: tuple[str, int],
) -> Iterator[tuple[str, list[Floats]]]:
    for name, seeds in drawn.items():
        generator = stream("cells", *key, name)
        yield name, [cells[generator.permutation(len(cells))[:n]] for cells in seeds]
    # One set of control cells for all of them: they differ in where they are moved alone.
    rows = (
        stream("moved", *key).integers(len(next(iter(moved.values()))), size=n) if moved else None
    )
    for name, cells in moved.items():
        yield name, [cells[rows]]
    yield HALF, [other]


def _distances(cells: Floats, reference: Floats, frame: Frame) -> list[float]:
    return [
        distances.energy_distance(cells, reference),
        distances.mmd2(cells, reference, frame.squared_distance),
        distances.ilisi(cells, reference),
    ]


def _scores(counts: Any, frame: Frame) -> Floats:
    return frame.scores(expressed(counts))


def _arrays(found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, Floats]]:
    return {name: {m: np.array(v) for m, v in each.items()} for name, each in found.items()}


@dataclass(frozen=True)
class SetChange:
    """The mean change of some genes, beside the real one, log1p_cp10k.

    Attributes:
        genes: how many of them are measured.
        real: of the held-out cells, with its sampling interval.
        model: with its Monte Carlo interval.
        baselines: what the others predict, averaged over their seeds.
    """

    genes: int
    real: Estimate
    model: Estimate
    baselines: Mapping[str, float]


def set_change(
    table: EffectTable, arms: Sequence[Mapping[str, Any]], genes: Sequence[str], index: int = 0
) -> SetChange | None:
    """Return the mean change of a gene set over its measured genes; None where there are none.

    Args:
        table: the contrast's predictions.
        arms: the model's counts by condition, one mapping per seed, paired row by row.
        genes: symbols.
        index: of the contrast.
    """
    observed = table.observed
    columns = [i for i, gene in enumerate(observed.genes) if gene in set(genes)]
    if not columns:
        return None

    def mean(counts: Any) -> Floats:
        return expressed(counts)[:, columns].mean(axis=1, keepdims=True)

    perturbed, control = observed.pairs[index]
    real = change_between(mean(observed.test[perturbed]), mean(observed.test[control]))
    model = mean_change([paired_change(mean(a[perturbed]), mean(a[control])) for a in arms])
    return SetChange(
        genes=len(columns),
        real=_normal(real),
        model=_normal(model),
        baselines={
            name: float(np.mean([row[index].value[columns].mean() for row in rows]))
            for name, rows in table.predicted.items()
            if name != MODEL
        },
    )


def _normal(change: Change) -> Estimate:
    value, spread = float(change.value[0]), 1.96 * float(np.sqrt(change.noise[0]))
    return Estimate(value, (value - spread, value + spread))
