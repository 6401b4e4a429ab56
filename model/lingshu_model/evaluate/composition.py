"""Whether cells of a context are recognised as its type, and whether they show its markers.

Control cells alone: what an intervention does to them is judged elsewhere. The classifier is
trained on training cells: linear discriminants along the frame's axes. Knows nothing of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.changes import Floats
from lingshu_model.evaluate.frame import Frame
from lingshu_model.evaluate.sample import Sample
from lingshu_model.evaluate.sparse import is_expression
from lingshu_model.evaluate.study import ENOUGH, Population

REAL = "real_held_out_cells"
MARKERS = 50
RIDGE = 1e-3


@dataclass(frozen=True)
class Classifier:
    """Linear discriminants: which type a cell is of.

    Attributes:
        types: the type of each class.
        weights: float64 [components, classes].
        offsets: float64 [classes].
    """

    types: tuple[str, ...]
    weights: Floats
    offsets: Floats

    @classmethod
    def fit(cls, scores: Sequence[Floats], types: Sequence[str]) -> "Classifier":
        """Return the classifier of training cells.

        Args:
            scores: one matrix per class, [cells, components].
            types: the type each class counts as.
        """
        centres = np.stack([part.mean(axis=0) for part in scores])
        within = np.concatenate([part - c for part, c in zip(scores, centres, strict=True)])
        covariance = within.T @ within / max(len(within) - len(scores), 1)
        covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        weights = np.linalg.solve(covariance, centres.T)
        # Equal priors: how often a type occurs in training must not decide what a cell is.
        return cls(tuple(types), weights, -0.5 * (centres * weights.T).sum(axis=1))

    def types_of(self, scores: Floats) -> list[str]:
        """Return the type of each cell."""
        best = (scores @ self.weights + self.offsets).argmax(axis=1)
        return [self.types[i] for i in best]


@dataclass(frozen=True)
class Composition:
    """What the cells of each source are taken for, all at one number of cells per condition.

    Attributes:
        n_cells: held-out cells by type.
        recognised: by source and type, the share of its cells recognised as such.
        distance: by source, the total variation distance of what its cells are taken for from
            what the held-out cells are taken for.
        markers: by source and type, the share of the training markers recovered.
    """

    n_cells: Mapping[str, int]
    recognised: Mapping[str, Mapping[str, float]]
    distance: Mapping[str, float]
    markers: Mapping[str, Mapping[str, float]]


def compose(
    population: Population, sources: Mapping[str, Sequence[Mapping[str, Any]]], frame: Frame
) -> Composition | None:
    """Return whether each source's control cells are recognised; None with fewer than two types.

    Args:
        population: the real cells.
        sources: counts by condition, one mapping per seed.
        frame: what was fixed on training cells.
    """
    observed, types = population.observed, population.types
    names = [n for n in population.controls if observed.n_test(n) >= ENOUGH]
    if len({types[n] for n in names}) < 2:
        return None
    sizes = {name: observed.n_test(name) for name in names}
    known = {n: Sample.of(observed.train[n], frame) for n in names}
    classifier = Classifier.fit([s.scores for s in known.values()], [types[n] for n in names])
    real = {n: Sample.of(observed.test[n], frame) for n in names}
    drawn = {
        source: [
            {
                n: Sample.of(arms[n][: sizes[n]], frame)
                for n in names
                if n in arms and not is_expression(arms[n])
            }
            for arms in seeds
        ]
        for source, seeds in sources.items()
    }
    drawn = {REAL: [real]} | {
        k: v for k, v in drawn.items() if all(len(a) == len(names) for a in v)
    }
    taken = {k: [_taken_for(classifier, arms, types) for arms in v] for k, v in drawn.items()}
    return Composition(
        n_cells={types[n]: sizes[n] for n in names},
        recognised={k: _averaged([_recognised(t) for t in v]) for k, v in taken.items()},
        distance={
            k: float(np.mean([_distance(t, taken[REAL][0]) for t in v])) for k, v in taken.items()
        },
        markers={
            k: _averaged([_recovered(arms, known, types) for arms in v]) for k, v in drawn.items()
        },
    )


Taken = Mapping[str, Sequence[str]]
"""By true type, what each of its cells is taken for."""


def _taken_for(
    classifier: Classifier, cells: Mapping[str, Sample], types: Mapping[str, str]
) -> dict[str, list[str]]:
    return {types[name]: classifier.types_of(sample.scores) for name, sample in cells.items()}


def _recognised(taken: Taken) -> dict[str, float]:
    return {kind: sum(t == kind for t in found) / len(found) for kind, found in taken.items()}


def _distance(a: Taken, b: Taken) -> float:
    shares = [_shares(taken) for taken in (a, b)]
    return sum(abs(shares[0][kind] - shares[1][kind]) for kind in a) / 2


def _shares(taken: Taken) -> dict[str, float]:
    every = [kind for found in taken.values() for kind in found]
    return {kind: every.count(kind) / len(every) for kind in taken}


def _recovered(
    cells: Mapping[str, Sample], known: Mapping[str, Sample], types: Mapping[str, str]
) -> dict[str, float]:
    mine, training = (
        {types[name]: sample.means for name, sample in each.items()} for each in (cells, known)
    )
    return marker_recovery(mine, training)


def _averaged(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def markers(means: Floats, others: Floats, n: int = MARKERS) -> NDArray[np.int64]:
    """Return the `n` genes whose mean exceeds that of the other types most, the best first.

    Args:
        means: of the type, log1p_cp10k [genes].
        others: of every other type, [types, genes]; their mean is what is exceeded.
        n: how many.
    """
    return np.argsort(others.mean(axis=0) - means, kind="stable")[:n]


def marker_recovery(
    means: Mapping[str, Floats], known: Mapping[str, Floats], n: int = MARKERS
) -> dict[str, float]:
    """Return, by type, the share of its training markers among those of other cells.

    Args:
        means: of cells of each type, log1p_cp10k [genes].
        known: training means of each type.
        n: markers per type.
    """
    return {kind: len(set(_of(means, kind, n)) & set(_of(known, kind, n))) / n for kind in means}


def _of(means: Mapping[str, Floats], kind: str, n: int) -> list[int]:
    others = np.stack([values for other, values in means.items() if other != kind])
    return markers(means[kind], others, n).tolist()
