"""Where the tilts of a network start: each condition's shrunken effect on each gene.

A mean over a hundred cells is mostly noise, so effects are shrunk by empirical Bayes. A target met
in one context: its effect on gene g is normal around 0 with variance a_c b_g, both by the method of
moments, so that targets that move many genes and genes that many targets move are believed sooner.
A target met in several contexts: around what the other contexts say, the more alike their control
cells the more they count (`train.effect_offsets.related_contexts`), which
also tells contexts in which the target was never seen. Effects are changes of mean ln(1 + UMI at
the median depth). Knows nothing of training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.train.data.cells import TrainingCells, controls
from lingshu_model.train.data.expression import (
    LEVELS,
    Floats,
    Levels,
    largest_tokens,
    log_frequencies,
)
from lingshu_model.train.effect_offsets.related_contexts import carry_over, distances

LARGEST = 8.0
"""Bound of |theta|: a gene that vanishes under a knock-out would have it at minus infinity."""
NEWTON_STEPS = 60
PSEUDOCELLS = 3.0
Context = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Goal:
    """What a tilt is there to bring about: `change` [genes] of the mean level in one context."""

    target: str
    context: Context
    change: Floats


Row = tuple[Mapping[str, Any], Floats, Goal]


@dataclass(frozen=True)
class Tilts:
    """The tilt table: what each row from 1 on is about, theta [rows, genes], and its goal.

    Row 0 is zero and has no goal.
    """

    about: tuple[Mapping[str, Any], ...]
    theta: NDArray[np.float32]
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Effects:
    """Mean changes of one context's single perturbations against its control cells.

    Attributes:
        targets: one per row.
        value: float64 [targets, genes], NaN where not measured on both sides.
        noise: squared standard errors, the same shape.
        informs: bool [targets]; shams tell nothing of what perturbations do.
    """

    targets: tuple[str, ...]
    value: Floats
    noise: Floats
    informs: NDArray[np.bool_]


@dataclass(frozen=True)
class Laws:
    """How counts of each gene are distributed over all control cells.

    Attributes:
        parts: genes that have the same number of values, int64 [n], and their laws, [n, values].
    """

    parts: tuple[tuple[NDArray[np.int64], Floats], ...]

    @classmethod
    def of(cls, counts: NDArray[np.int64], ceiling: NDArray[np.int64] | None = None) -> "Laws":
        """Return the laws of `counts` [genes, 281], up to each gene's `ceiling` [genes].

        The ceiling is the largest token, of these counts by default; up to it nothing is
        impossible.
        """
        largest = largest_tokens(counts) if ceiling is None else ceiling
        edges = np.array([0, 1, 3, 7, 15, 31, 63, 127, counts.shape[1] - 1])
        width = edges[np.searchsorted(edges, largest)] + 1
        law = np.exp(log_frequencies(counts).astype(np.float64))
        law[np.arange(law.shape[1]) > largest[:, None]] = 0.0
        law /= law.sum(axis=1, keepdims=True)
        genes = [np.flatnonzero(width == w) for w in np.unique(width)]
        return cls(tuple((g, law[g, : width[g[0]]]) for g in genes))

    def among(self, drawn: NDArray[np.int64], share: float) -> "Laws":
        """Return the laws of tokens [cells, genes], as if `share` cells of these were among them.

        No token is above what these laws allow.
        """

        def mixed(genes: NDArray[np.int64], law: Floats) -> Floats:
            width = law.shape[1]
            flat = np.arange(len(genes)) * width + drawn[:, genes]
            counts = np.bincount(flat.ravel(), minlength=law.size).reshape(law.shape)
            return (counts + share * law) / (len(drawn) + share)

        return Laws(tuple((genes, mixed(genes, law)) for genes, law in self.parts))

    @cached_property
    def mean(self) -> Floats:
        """Mean ln(1 + count) of each gene."""
        return self.mean_of()

    def mean_of(self, scale: float = 1.0, power: int = 1) -> Floats:
        """Return each gene's mean of ln(1 + scale x count), to a power."""
        return self._each(lambda _, law: law @ _levels(law, scale) ** power)

    def tilt_to(self, goal: Floats, scale: float = 1.0) -> Floats:
        """Return theta [genes] under which law x exp(theta ln(1 + count)) has the mean `goal`.

        The mean is that of ln(1 + scale x count). Newton's method within +-LARGEST; 0 where a gene
        has one value only.
        """
        return self._each(lambda genes, law: _tilt_to(goal[genes], law, scale))

    def _each(self, of: Callable[[NDArray[np.int64], Floats], Floats]) -> Floats:
        out = np.zeros(sum(len(genes) for genes, _ in self.parts))
        for genes, law in self.parts:
            out[genes] = of(genes, law)
        return out

    def tilt_by(self, change: Floats, control: Levels) -> Floats:
        """Return theta [genes] that moves the mean level of `control` cells by `change`.

        A gene that some dozen control cells happen to lack is not therefore impossible: their means
        count as if a few cells of the average law were among them.
        """
        n = np.nan_to_num(control.n)
        mean = np.nan_to_num(control.mean)
        base = (n * mean + PSEUDOCELLS * self.mean) / (n + PSEUDOCELLS)
        goal = np.maximum(base + change, 0.02 * base)
        theta = self.tilt_to(goal) - self.tilt_to(base)
        return np.where(change != 0, np.clip(theta, -LARGEST, LARGEST), 0.0)


def _levels(law: Floats, scale: float) -> Floats:
    return np.log1p(scale * np.expm1(LEVELS[: law.shape[1]]))


def _tilt_to(goal: Floats, law: Floats, scale: float) -> Floats:
    levels, outcome = LEVELS[: law.shape[1]], _levels(law, scale)
    theta = np.zeros(len(goal))
    for _ in range(NEWTON_STEPS):
        weight = law * np.exp(theta[:, None] * levels)
        weight /= weight.sum(axis=1, keepdims=True)
        mean = weight @ outcome
        spread = np.maximum(weight @ (levels * outcome) - (weight @ levels) * mean, 1e-6)
        theta = np.clip(theta + np.clip((goal - mean) / spread, -0.5, 0.5), -LARGEST, LARGEST)
    several = (law > 0).sum(axis=1) > 1
    return np.where(np.isfinite(theta) & several, theta, 0.0)


def tilts(cells: TrainingCells, levels: Levels, laws: Laws) -> Tilts:
    """Return the tilts of all single perturbations; row order is that of the vocabulary's search.

    Rows of one context come first, so that the first row that fits a condition is its own.
    """
    home = controls(cells)
    measured = {
        context: found
        for context, control in home.items()
        if (found := effects_of(cells, levels, context, control)) is not None
    }
    met: dict[str, list[Context]] = {}
    for context, found in measured.items():
        for target in found.targets:
            met.setdefault(target, []).append(context)
    several = {target for target, contexts in met.items() if len(contexts) > 1}
    rows: list[Row] = []
    for target in sorted(several):
        rows += _in_all_contexts(cells, levels, laws, target, measured)
    for context, found in measured.items():
        shrunk = shrink(found.value, found.noise, found.informs)
        base = levels.rows(cells.rows(home[context]))
        rows += [
            (
                {"target": target, "context": {}},
                laws.tilt_by(change, base),
                Goal(target, context, change),
            )
            for target, change in zip(found.targets, shrunk, strict=True)
            if target not in several
        ]
    zero = np.zeros((1, len(cells.panel)))
    theta = np.concatenate([zero, *(theta[None] for _, theta, _ in rows)])
    about, goals = tuple(row[0] for row in rows), tuple(row[2] for row in rows)
    return Tilts(about, theta.astype(np.float32), goals)


def _in_all_contexts(
    cells: TrainingCells,
    levels: Levels,
    laws: Laws,
    target: str,
    measured: Mapping[Context, Effects],
) -> list[Row]:
    """Return a row for every context that has control cells, seen with the target or not."""
    home = controls(cells)
    contexts = [c for c, control in home.items() if len(cells.rows(control))]
    rows = [cells.rows(home[context]) for context in contexts]
    bases = [levels.rows(r) for r in rows]
    profiles = np.stack([one.mean for one in bases])
    distance = distances(profiles, np.array([cells.source[r[0]] for r in rows]))
    met = [c for c in contexts if c in measured and target in measured[c].targets]
    found = [(measured[c], measured[c].targets.index(target)) for c in met]
    changes = carry_over(
        np.stack([effects.value[i] for effects, i in found]),
        np.stack([effects.noise[i] for effects, i in found]),
        distance,
        np.array([contexts.index(c) for c in met]),
    )
    return [
        (
            {"target": target, "context": dict(c)},
            laws.tilt_by(change, base),
            Goal(target, c, change),
        )
        for c, change, base in zip(contexts, changes, bases, strict=True)
    ]


def effects_of(
    cells: TrainingCells, levels: Levels, context: Context, control: int
) -> Effects | None:
    """Return the effects of the single perturbations met in one context; None without any."""
    treated = [
        i
        for i, c in enumerate(cells.conditions)
        if c.context == context and len(c.interventions) == 1 and len(cells.rows(i))
    ]
    rest = cells.rows(control)
    if not treated or not len(rest):
        return None
    base = levels.rows(rest)
    done = [cells.conditions[i].interventions[0] for i in treated]
    # One after the other: every sham has control cells of its own, which are most of them.
    pairs = (
        (levels.rows(rows), _without(cells, rest, rows, levels) if one.kind == "sham" else base)
        for one, rows in ((d, cells.rows(i)) for d, i in zip(done, treated, strict=True))
    )
    value, noise = zip(*(measure(group, other) for group, other in pairs), strict=True)
    return Effects(
        tuple(one.target for one in done),
        np.stack(value),
        np.stack(noise),
        np.array([one.kind != "sham" for one in done]),
    )


def measure(group: Levels, other: Levels) -> tuple[Floats, Floats]:
    """Return the change of mean levels from `other` to `group` and its squared standard error."""
    # A gene that thirty cells happen to lack has no variance in them; the other's is the floor.
    noise = other.variance / other.n + np.maximum(group.variance, other.variance) / group.n
    return group.mean - other.mean, noise


def _without(
    cells: TrainingCells, control: NDArray[np.int64], sham: NDArray[np.int64], levels: Levels
) -> Levels:
    """Return the control cells that are not a sham's: against these it is as noisy as any other."""
    return levels.rows(control[~np.isin(cells.index[control], cells.index[sham])])


def shrink(effect: Floats, variance: Floats, informs: NDArray[np.bool_]) -> Floats:
    """Return the posterior means of effects [targets, genes] measured with `variance`.

    The prior variance is a_c b_g: row means times column means of the excess of effect**2 over
    `variance`, over the whole mean; where that is not positive there is no effect. The columns and
    the whole are of the targets that `informs` [targets] names. NaN gives 0.
    """
    missing = ~np.isfinite(effect) | ~np.isfinite(variance)
    excess = np.ma.masked_array(effect**2 - variance, missing)
    by_target = np.maximum(excess.mean(axis=1).filled(0), 0)
    by_gene = np.maximum(excess[informs].mean(axis=0).filled(0), 0)
    whole = by_target[informs].mean() if informs.any() else 0.0
    prior = np.outer(by_target, by_gene) / max(float(whole), 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(prior > 0, prior / (prior + variance), 0.0)
        return np.where(missing, 0.0, effect * kept)
