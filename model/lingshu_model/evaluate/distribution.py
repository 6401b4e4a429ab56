"""How far a set of cells is from real ones as a distribution, at equal numbers of cells.

Every distance between samples grows as they shrink, so all sources are compared at one n. Held-out
cells are split in halves, condition by condition; one half is the reference, and as many cells of
each condition from each source (the model, its peers, resampled training cells, the other real
half) are held against it. A *pool* is the conditions that are compared together. Knows nothing of
perturbation effects.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.changes import Floats
from lingshu_model.evaluate.estimates import Estimate, Verdict, estimate, halves, verdict
from lingshu_model.evaluate.frame import Frame
from lingshu_model.evaluate.observed import Observed
from lingshu_model.evaluate.sample import HIGHER_IS_BETTER, METRICS, Sample
from lingshu_model.evaluate.sparse import dense, is_expression
from lingshu_model.evaluate.streams import stream

MODEL, TRAINING, HALF = "model", "resampled_training_cells", "real_split_half"
ENOUGH = 100
"""Held-out cells a condition needs to be a pool of its own, so that a half has 50."""
SPLITS = 30
Arms = Mapping[str, Any]
Pools = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class DistributionError:
    """One pool's errors.

    Attributes:
        n_cells: cells on either side of every comparison.
        point: by source, [seeds, metrics], averaged over splits.
        draws: by source, [seeds, splits, metrics], the reference half resampled in each.
    """

    n_cells: int
    point: Mapping[str, Floats]
    draws: Mapping[str, Floats]


@dataclass(frozen=True)
class _Pool:
    """The cells of a pool: of each condition those held out, to train on, and by source and seed.

    `train` is None where one of the conditions was never trained on.
    """

    test: list[Sample]
    train: list[Any] | None
    sources: Mapping[str, list[list[Sample]]]
    frame: Frame

    @cached_property
    def sizes(self) -> list[int]:
        """Cells of each condition on either side of a comparison."""
        drawn = [arms for seeds in self.sources.values() for arms in seeds]
        return [
            min(len(cells.counts) // 2, *(len(arms[i].counts) for arms in drawn))
            for i, cells in enumerate(self.test)
        ]


def single_pools(observed: Observed) -> dict[str, list[str]]:
    """Return every condition with at least 100 held-out cells as a pool of its own."""
    return {n: [n] for n in observed.conditions if observed.n_test(n) >= ENOUGH}


def compare_distributions(
    observed: Observed,
    sources: Mapping[str, Sequence[Arms]],
    pools: Pools,
    frame: Frame,
    _: np.random.Generator,
    *,
    splits: int = SPLITS,
) -> dict[str, DistributionError]:
    """Return the errors of every pool.

    Args:
        observed: the real cells.
        sources: `model` and peers, by name: one mapping per seed, counts by condition, at least one
            cell each. A peer is left out of a pool of which it lacks counts.
        pools: conditions with held-out cells, by the pool's name.
        frame: what was fixed on training cells.
        generator: for splits, resampling and the bootstrap.
        splits: how many.
    """
    return {
        pool: _compare(_gather(observed, sources, names, frame), pool, splits)
        for pool, names in pools.items()
    }


def summarise(errors: Sequence[DistributionError], source: str, metric: str) -> Estimate:
    """Return one metric of one source, averaged over pools and seeds."""
    value, draws = _average(errors, source, metric)
    return estimate(value, draws)


def compare_sources(
    errors: Sequence[DistributionError], baseline: str, metric: str
) -> tuple[Estimate, Verdict]:
    """Return model − baseline and win, tie or loss; of signed metrics the absolute value counts."""
    value, draws = _average(errors, MODEL, metric)
    other, other_draws = _average(errors, baseline, metric)
    higher = metric in HIGHER_IS_BETTER
    if not higher:
        value, other, draws, other_draws = (
            abs(value),
            abs(other),
            np.abs(draws),
            np.abs(other_draws),
        )
    difference = estimate(value - other, draws - other_draws)
    return difference, verdict(difference, higher_is_better=higher)


def shared_sources(errors: Sequence[DistributionError]) -> list[str]:
    """Return the sources that every pool has, the model first."""
    return [name for name in errors[0].point if all(name in e.point for e in errors)]


def _average(errors: Sequence[DistributionError], source: str, metric: str) -> tuple[float, Floats]:
    column = list(METRICS).index(metric)
    points = [e.point[source][:, column].mean() for e in errors]
    draws = [e.draws[source][:, :, column].mean(axis=0) for e in errors]
    return float(np.mean(points)), np.mean(draws, axis=0)


def _gather(
    observed: Observed, sources: Mapping[str, Sequence[Arms]], names: Sequence[str], frame: Frame
) -> _Pool:
    trained = all(name in observed.train for name in names)
    return _Pool(
        test=[Sample.of(observed.test[name], frame) for name in names],
        train=[observed.train[name] for name in names] if trained else None,
        sources={
            source: [[Sample.of(arms[name], frame) for name in names] for arms in seeds]
            for source, seeds in sources.items()
            if all(_comparable(arms, names) for arms in seeds)
        },
        frame=frame,
    )


def _comparable(arms: Arms, names: Sequence[str]) -> bool:
    """Return whether a source has counts of every condition."""
    return all(name in arms and not is_expression(arms[name]) for name in names)


def _compare(pool: _Pool, title: str, splits: int) -> DistributionError:
    n = sum(pool.sizes)
    points: dict[str, list[list[Floats]]] = {}
    draws: dict[str, list[list[Floats]]] = {}
    for k in range(splits):
        generator = stream("split", title, k)
        reference, other = _halves(pool, generator)
        resampled = reference.rows(generator.integers(n, size=n))
        for source, cells in _drawn(pool, other, (title, k)):
            for against, kept in ((reference, points), (resampled, draws)):
                kept.setdefault(source, []).append([_errors(each, against) for each in cells])
    return DistributionError(
        n_cells=n,
        point={source: np.array(found).mean(axis=0) for source, found in points.items()},
        draws={source: np.array(found).swapaxes(0, 1) for source, found in draws.items()},
    )


def _errors(cells: Sample, reference: Sample) -> Floats:
    return np.array([metric(cells, reference) for metric in METRICS.values()])


def _halves(pool: _Pool, generator: np.random.Generator) -> tuple[Sample, Sample]:
    """Return two random halves of the held-out cells, every condition halved."""
    rows = [halves(len(cells.counts), generator) for cells in pool.test]
    first, second = zip(*rows, strict=True)
    return _take(pool, pool.test, first), _take(pool, pool.test, second)


def _drawn(pool: _Pool, other: Sample, key: tuple[str, int]) -> Iterator[tuple[str, list[Sample]]]:
    """Yield each source's cells, one sample per seed; the other half has no seeds."""
    for source, seeds in pool.sources.items():
        generator = stream("cells", *key, source)
        yield source, [_take(pool, arms, _shuffled(arms, generator)) for arms in seeds]
    if pool.train is not None:
        generator = stream("cells", *key, TRAINING)
        yield TRAINING, [_resample(pool, generator) for _ in pool.sources[MODEL]]
    yield HALF, [other]


def _shuffled(arms: list[Sample], generator: np.random.Generator) -> list[NDArray[np.int64]]:
    return [generator.permutation(len(cells.counts)) for cells in arms]


def _take(pool: _Pool, arms: list[Sample], rows: Sequence[NDArray[np.int64]]) -> Sample:
    """Return one sample of the first of `rows` of each condition, as many as the pool compares."""
    parts = [cells.rows(r[:n]) for cells, r, n in zip(arms, rows, pool.sizes, strict=True)]
    counts, values, scores = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("counts", "expression", "scores")
    )
    return Sample(counts, values, scores, pool.frame)


def _resample(pool: _Pool, generator: np.random.Generator) -> Sample:
    """Return training cells of the pool's conditions, drawn with replacement."""
    cells = zip(pool.train or [], pool.sizes, strict=True)
    drawn = [dense(train[generator.integers(train.shape[0], size=n)]) for train, n in cells]
    return Sample.of(np.concatenate(drawn), pool.frame)
