"""The rows of distributions: distances between sets of cells and real cells, at equal numbers.

Held-out cells are split in halves, condition by condition. One half is the reference. As many cells
of each source are compared with it, over several random splits: the model, its peers, resampled
training cells, control cells moved by a predicted change, and the other real half.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from lingshu_model.evaluate.contrasts import Predicted
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.evaluate.metrics.matrices import (
    Floats,
    Indices,
    expression_levels,
    is_expression,
)
from lingshu_model.evaluate.metrics.resampling import Draws, halves, stream
from lingshu_model.evaluate.metrics.samples import DISTRIBUTION, Sample
from lingshu_model.evaluate.predictors import RESAMPLED
from lingshu_model.evaluate.rows import MODEL, Row
from lingshu_model.evaluate.sources import Sources
from lingshu_model.evaluate.study import Population

REAL_HALF = "real_split_half"
Key = tuple[str, str, int | None]
"""Metric, source and seed."""


@dataclass(frozen=True)
class Pool:
    """The conditions that are compared as one distribution, and every source's cells of them.

    Attributes:
        name: of the pool.
        test: held-out cells, per condition.
        sources: by source and seed, cells per condition.
        train: training cells per condition; empty where a condition was never trained on.
        moved: control cells moved by each predicted change, [cells, components] by predictor.
        most: largest number of cells on each side of a comparison.
    """

    name: str
    test: Sequence[Sample]
    sources: Mapping[str, Mapping[int, Sequence[Sample]]]
    train: Sequence[Sample]
    moved: Mapping[str, Floats]
    most: int

    @property
    def sizes(self) -> list[int]:
        """Cells of each condition on each side of a comparison: the fewest of any source."""
        sampled = [arms for seeds in self.sources.values() for arms in seeds.values()]
        # Half of the held-out cells is the reference, so no source is compared with more.
        half = [len(cells.scores) // 2 for cells in self.test]
        sizes = [min([n, *(len(a[i].scores) for a in sampled)]) for i, n in enumerate(half)]
        # Large conditions keep their proportions when the pool is cut to `most` cells.
        share = min(1.0, self.most / max(sum(sizes), 1))
        return [max(1, int(size * share)) for size in sizes]


def distribution_rows(
    population: Population,
    sources: Sources,
    predicted: Mapping[str, Predicted],
    frame: Frame,
    fold: str,
    draws: Draws,
) -> Iterator[Row]:
    """Yield every metric of every source in each pool of a population.

    Args:
        population: the real cells.
        sources: the model and peers, over the population's genes.
        predicted: the predictions of each perturbed condition.
        frame: axes and scales computed from training cells.
        fold: what was held out.
        draws: how often each random step is repeated.
    """
    for name, conditions in population.pools.items():
        trained = all(map(population.n_train, conditions))
        pool = Pool(
            name,
            test=[_sample(population.test[c], frame) for c in conditions],
            sources={
                source: {
                    seed: [_sample(arms[c], frame) for c in conditions]
                    # One sample per seed; all seeds have the same conditions.
                    for seed, arms in zip(each.seeds, each.arms, strict=True)
                }
                for source, each in sources.items()
                if all(map(each.has, conditions))
            },
            train=[_sample(population.train[c], frame) for c in conditions] if trained else [],
            moved=_moved(population, conditions, predicted, frame),
            most=draws.most_cells,
        )
        for (metric, source, seed), (value, spread) in _compare(pool, draws.splits).items():
            yield Row(metric, "", population.name, name, source, seed, fold, value, spread)


def _sample(cells: Any, frame: Frame) -> Sample:
    values = expression_levels(cells)
    return Sample(frame, frame.scores(values), None if is_expression(cells) else cells, values)


def _moved(
    population: Population,
    conditions: Sequence[str],
    predicted: Mapping[str, Predicted],
    frame: Frame,
) -> dict[str, Floats]:
    """Return the training control cells of a perturbed condition, moved by each predicted change.

    A predictor of a change predicts cells too: the context's control cells, each moved by it.
    """
    controls = {c.perturbed: c.control for c in population.contrasts}
    # A pool of several conditions has no single control to move.
    if len(conditions) != 1 or conditions[0] not in predicted:
        return {}
    # Moving every cell by a change moves its scores by the change along the axes, [k].
    start = frame.scores(expression_levels(population.train[controls[conditions[0]]]))
    # Resampled cells are compared as cells, not as a change.
    changes = [(name, change) for name, _, change in predicted[conditions[0]] if name != RESAMPLED]
    return {name: start + change.value @ frame.axes for name, change in changes}


def _compare(pool: Pool, splits: int) -> dict[Key, tuple[float, Floats]]:
    """Return the mean of each metric over splits, and its values at a resampled reference."""
    n = sum(pool.sizes)
    points: dict[Key, list[float]] = {}
    spreads: dict[Key, list[float]] = {}
    for split in range(splits):
        generator = stream("split", pool.name, split)
        rows = [halves(len(cells.scores), generator) for cells in pool.test]
        reference, other = (_take(pool, pool.test, half) for half in zip(*rows, strict=True))
        # The interval is over reference cells alone; the cells of sources are not resampled.
        resampled = reference.rows(generator.integers(n, size=n))
        for source, seed, cells in _cells(pool, other, split):
            for name, metric in DISTRIBUTION.items():
                if metric.applies_to(cells):
                    key = (name, source, seed)
                    points.setdefault(key, []).append(metric.compute(cells, reference))
                    spreads.setdefault(key, []).append(metric.compute(cells, resampled))
    return {key: (float(np.mean(v)), np.array(spreads[key])) for key, v in points.items()}


def _cells(pool: Pool, other: Sample, split: int) -> Iterator[tuple[str, int | None, Sample]]:
    """Yield source, seed and as many random cells as the reference has."""
    for source, seeds in pool.sources.items():
        # One stream per split and source: adding a source changes no other's cells.
        generator = stream("cells", pool.name, split, source)
        for seed, arms in seeds.items():
            rows = [generator.permutation(len(cells.scores)) for cells in arms]
            yield source, seed, _take(pool, arms, rows)
    if pool.train:
        generator = stream("cells", pool.name, split, RESAMPLED)
        # Once per seed of the model, so that the two are compared seed by seed.
        for seed in pool.sources.get(MODEL, [None]):
            sizes = zip(pool.train, pool.sizes, strict=True)
            rows = [generator.integers(len(cells.scores), size=n) for cells, n in sizes]
            yield RESAMPLED, seed, _take(pool, pool.train, rows)
    yield REAL_HALF, None, other
    # The same control cells for every predictor: they differ in the change alone.
    generator = stream("moved", pool.name, split)
    moved = {n: scores for n, scores in pool.moved.items() if n not in pool.sources}
    rows = generator.integers(len(next(iter(moved.values()), [0])), size=sum(pool.sizes))
    for name, scores in moved.items():
        yield name, None, Sample(other.frame, scores[rows])


def _take(pool: Pool, arms: Sequence[Sample], rows: Sequence[Indices]) -> Sample:
    """Return one sample of the first of `rows` of each condition, as many as the pool compares."""
    parts = [cells.rows(r[:n]) for cells, r, n in zip(arms, rows, pool.sizes, strict=True)]

    def joined(matrices: list[Any]) -> Any:
        # A source without counts has no counts in any condition.
        return None if any(m is None for m in matrices) else sparse.vstack(matrices, format="csr")

    scores = np.concatenate([part.scores for part in parts])
    counts = joined([part.counts for part in parts])
    return Sample(parts[0].frame, scores, counts, joined([part.expression for part in parts]))
