"""Quality against steps on cells that may choose settings: one line per number of steps.

Knows nothing of how a default is chosen from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.evaluate.distribution import (
    HALF,
    MODEL,
    TRAINING,
    DistributionError,
    compare_distributions,
    summarise,
)
from lingshu_model.evaluate.effects import PEARSON, compare_effects
from lingshu_model.evaluate.estimates import Estimate
from lingshu_model.evaluate.evidence import groups_of
from lingshu_model.evaluate.frame import Frame
from lingshu_model.evaluate.report import Each, check_trained, sample
from lingshu_model.evaluate.sample import METRICS
from lingshu_model.evaluate.study import Study

ALL = "all"


@dataclass(frozen=True)
class Point:
    """What one number of steps gives.

    Attributes:
        steps: sampling steps.
        seconds_per_cell: of all arms together.
        metrics: the model's errors, averaged over the pools of the first group.
        pearson: of the change, over all contrasts; None where there are none.
        magnitude: ratio of the change's length to the real one's; None where there are none.
    """

    steps: int
    seconds_per_cell: float
    metrics: Mapping[str, Estimate]
    pearson: Estimate | None
    magnitude: Estimate | None


@dataclass(frozen=True)
class Curve:
    """The points, and what a real half and training cells reach beside them.

    Attributes:
        points: by number of steps.
        beside: errors of real halves and of resampled training cells, by source and metric.
    """

    points: Sequence[Point]
    beside: Mapping[str, Mapping[str, Estimate]]


def n_curve_arms(study: Study, steps: Sequence[int], n_cells: int) -> int:
    """Return how many arms `make_curve` asks for."""
    return len(steps) * len(study.sizes(n_cells))


def make_curve(store: ArmStore, study: Study, steps: Sequence[int], seed: int, each: Each) -> Curve:
    """Return quality against steps.

    Args:
        store: where the model's cells come from.
        study: cells that may choose settings.
        steps: numbers of steps.
        seed: of the sampled cells; splits and bootstrap draws are the same at every point.
        each: called after every arm.
    """
    sizes = study.sizes(store.n_cells)
    check_trained(store, study, sizes)
    frames = [Frame.fit(p.observed.train.values()) for p in study.populations]
    points: list[Point] = []
    errors: list[DistributionError] = []
    for n in steps:
        arms = sample(store, study, sizes, seed, each, steps=n)
        requests = [
            store.request(study.conditions[name], seed, n=size, steps=n)
            for name, size in sizes.items()
        ]
        seconds = sum(note["seconds"] for note in store.notes(requests)) / sum(sizes.values())
        errors = _errors(study, arms, frames)
        points.append(Point(n, seconds, _metrics(errors, MODEL), *_changes(study, arms)))
    sources = [s for s in (TRAINING, HALF) if all(s in e.point for e in errors)]
    return Curve(points, {source: _metrics(errors, source) for source in sources})


def _errors(
    study: Study, arms: Mapping[str, Any], frames: Sequence[Frame]
) -> list[DistributionError]:
    found = {
        population.name: compare_distributions(
            population.observed,
            {MODEL: [population.cut(arms)]},
            population.pools,
            frame,
            np.random.default_rng(0),
        )
        for population, frame in zip(study.populations, frames, strict=True)
    }
    joint = {population.name for population in study.populations if population.joint}
    return next(iter(groups_of(found, joint).values()))


def _metrics(errors: Sequence[DistributionError], source: str) -> dict[str, Estimate]:
    return {metric: summarise(errors, source, metric) for metric in METRICS}


def _changes(study: Study, arms: Mapping[str, Any]) -> tuple[Estimate | None, Estimate | None]:
    """Return Pearson and the magnitude ratio of the changes, of the source with most of them."""
    judged = max(study.populations, key=lambda p: len(p.observed.pairs))
    if not judged.observed.pairs:
        return None, None
    sets = {ALL: list(range(len(judged.observed.pairs)))}
    generator = np.random.default_rng(0)
    table = compare_effects(judged.observed, [judged.cut(arms)], {}, sets, generator)
    return table.score(MODEL, ALL, figure=PEARSON), table.magnitude(MODEL, ALL)
