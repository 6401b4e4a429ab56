"""Where combinations start: what two interventions do beyond the sum of their tilts.

Two things, both fitted on the trained combinations and both none where they do not help. The sum
saturates: of k tilts it is divided by 1 + s (k - 1). What is left of a combination is a sum over
its pairs, each a bilinear function of what the two targets do alone: with u a target's scores on
the leading directions of all tilts, and a constant, theta_ab = <W, u_a u_b>. So targets that act
alike alone are taken to act alike together, and a pair never met has its share; three and more
interventions need nothing new. W is a ridge regression; its penalty, the number of directions and
the constant are chosen by leaving one combination out. A target's own gene neither saturates nor
interacts: what was done to it was done. Knows nothing of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingshu_model.train.data.cells import Condition, TrainingCells
from lingshu_model.train.data.expression import Floats, Levels
from lingshu_model.train.effect_offsets.estimates import Laws, measure

SATURATIONS = np.linspace(0, 2, 101)
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
CONSTANTS = (0.0, 1.0, 2.0, 4.0)
FEWEST = 4
"""Trained combinations below which none is left out and nothing is fitted."""


@dataclass(frozen=True)
class Pairs:
    """What the network is told.

    Attributes:
        saturation: s, at least 0.
        scores: u of every row of the tilt table, its constant first, [rows, 1 + rank].
        effects: W, [(1 + rank) squared, genes].
        left: share of the squared residual that is left when a combination is left out; 1 = pairs
            tell nothing of one another.
    """

    saturation: float
    scores: NDArray[np.float32]
    effects: NDArray[np.float32]
    left: float


@dataclass(frozen=True)
class Combinations:
    """The trained combinations.

    Attributes:
        rows: rows of the tilt table, one list each.
        tilt: float64 [combinations, genes], unshrunken.
        parts: the sum of the targets' tilts, unshrunken too where they were met alone there: beside
            a shrunken sum a measured combination would seem to do more than its parts.
        noise: variance of `tilt`, [combinations, genes].
        own: bool [combinations, genes], the targets' own genes.
    """

    rows: Sequence[Sequence[int]]
    tilt: Floats
    parts: Floats
    noise: Floats
    own: NDArray[np.bool_]


def combinations_of(
    cells: TrainingCells,
    levels: Levels,
    laws: Laws,
    theta: NDArray[np.floating],
    rows_of: Callable[[Condition], Sequence[int]],
) -> Combinations | None:
    """Return the combinations whose targets all have rows of `theta`; None of too few."""
    measured = _Measured(cells, levels, laws)
    found: list[tuple[Sequence[int], Floats, Floats, Floats, NDArray[np.bool_]]] = []
    for condition in cells.conditions:
        done, about = condition.interventions, rows_of(condition)
        whole = measured.tilt(condition) if len(done) > 1 and all(about) else None
        if whole is None:
            continue
        alone = [measured.tilt(Condition(condition.context, (one,))) for one in done]
        parts = np.sum(
            [theta[row] if one is None else one[0] for row, one in zip(about, alone, strict=True)],
            axis=0,
        )
        own = np.isin(cells.panel, [one.target for one in done])
        found.append((about, whole[0], parts, whole[1], own))
    if len(found) < FEWEST:
        return None
    rows, tilt, parts, noise, own = zip(*found, strict=True)
    return Combinations(rows, np.stack(tilt), np.stack(parts), np.stack(noise), np.stack(own))


class _Measured:
    """Unshrunken tilts of trained conditions and their noise, each made once."""

    def __init__(self, cells: TrainingCells, levels: Levels, laws: Laws) -> None:
        self._cells, self._levels, self._laws = cells, levels, laws
        self._number = {condition: i for i, condition in enumerate(cells.conditions)}
        self._made: dict[Condition, tuple[Floats, Floats] | None] = {}

    def tilt(self, condition: Condition) -> tuple[Floats, Floats] | None:
        """Return theta and its variance; None without cells of it or of its control."""
        if condition not in self._made:
            self._made[condition] = self._tilt(condition)
        return self._made[condition]

    def _tilt(self, condition: Condition) -> tuple[Floats, Floats] | None:
        control = self._number.get(Condition(condition.context))
        rows = self._rows(self._number.get(condition))
        if control is None or not len(rows) or not len(self._rows(control)):
            return None
        base = self._levels.rows(self._rows(control))
        change, noise = measure(self._levels.rows(rows), base)
        theta = self._laws.tilt_by(np.nan_to_num(change), base)
        # A tilt moves the mean level by its variance, so a level's error is so much of a tilt's.
        return theta, np.nan_to_num(noise / np.maximum(base.variance, 1e-6) ** 2, nan=np.inf)

    def _rows(self, condition: int | None) -> NDArray[np.int64]:
        return np.zeros(0, np.int64) if condition is None else self._cells.rows(condition)


def fit_pairs(
    theta: NDArray[np.floating], informs: NDArray[np.bool_], trained: Combinations, rank: int
) -> Pairs:
    """Return what the trained combinations say beyond the tilts `theta` [rows, genes].

    `informs` [rows] are the rows that say what perturbations do: not control's, not the shams'.
    """
    with np.errstate(divide="ignore"):
        weight = 1 / trained.noise.mean(axis=0)
    weight = np.where(np.isfinite(weight), weight, 0.0)
    weight /= max(float(weight.mean()), 1e-12)
    many = np.array([len(rows) for rows in trained.rows])[:, None]

    def rest(s: float) -> Floats:
        return np.where(trained.own, 0.0, trained.tilt - trained.parts / (1 + s * (many - 1)))

    saturation = float(min(SATURATIONS, key=lambda s: (weight * rest(s) ** 2).sum()))
    residual = rest(saturation)
    scores = _scores(theta, informs, weight, rank)
    chosen = min(
        (
            (_left_out(_products(u, trained.rows), residual, weight, ridge), u, ridge)
            for u in _candidates(scores, informs)
            for ridge in RIDGES
        ),
        key=lambda each: each[0],
    )
    left, u, ridge = chosen
    effects = np.zeros((u.shape[1] ** 2, theta.shape[1]))
    if left < 1:
        x = _products(u, trained.rows)
        kernel, scale = _kernel(x)
        effects = x.T @ np.linalg.solve(kernel + ridge * np.eye(len(x)), residual) / scale
    return Pairs(saturation, u.astype(np.float32), effects.astype(np.float32), min(left, 1.0))


def _scores(
    theta: NDArray[np.floating], informs: NDArray[np.bool_], weight: Floats, rank: int
) -> Floats:
    """Return scores [rows, rank] on the leading directions of the informing rows, size 1."""
    left, singular, _ = np.linalg.svd(theta[informs] * np.sqrt(weight), full_matrices=False)
    kept = min(rank, len(singular))
    scores = np.zeros((len(theta), rank))
    scores[informs, :kept] = left[:, :kept] * singular[:kept]
    return scores / max(float(np.sqrt((scores[informs] ** 2).sum(axis=1).mean())), 1e-12)


def _candidates(scores: Floats, informs: NDArray[np.bool_]) -> list[Floats]:
    """Return scores with a constant before them, of fewer directions and other constants."""
    rank = scores.shape[1]
    found: list[Floats] = []
    for kept in sorted({max(1, rank // 4), max(1, rank // 2), rank}):
        cut = scores * (np.arange(rank) < kept)
        for constant in CONSTANTS:
            first = np.where(informs, constant, 0.0)[:, None]
            found.append(np.concatenate([first, cut], axis=1).astype(np.float64))
    return found


def _products(u: Floats, combinations: Sequence[Sequence[int]]) -> Floats:
    """Return the sum over pairs of u_a u_b, symmetric, [combinations, (1 + rank) squared].

    `lingshu_model.network.cell_network.Tilt` does the same with tensors.
    """
    found = []
    for rows in combinations:
        mine = u[list(rows)]
        whole = mine.sum(axis=0)
        found.append((np.outer(whole, whole) - mine.T @ mine).ravel() / 2)
    return np.stack(found)


def _kernel(x: Floats) -> tuple[Floats, float]:
    kernel = x @ x.T
    scale = max(float(np.trace(kernel)) / len(kernel), 1e-12)
    return kernel / scale, scale


def _left_out(x: Floats, residual: Floats, weight: Floats, ridge: float) -> float:
    """Return the squared error of leaving one out over the squared residual, both weighted."""
    kernel, _ = _kernel(x)
    hat = kernel @ np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
    error = (residual - hat @ residual) / (1 - np.diag(hat))[:, None]
    whole = float((weight * residual**2).sum())
    return float((weight * error**2).sum()) / whole if whole else 1.0
