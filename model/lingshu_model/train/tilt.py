"""Where the tilts of a network start: each condition's shrunken effect on each gene.

A mean over a hundred cells is mostly noise, so effects are shrunk by empirical Bayes. A target met
in one context: its effect on gene g is normal around 0 with variance a_c b_g, both by the method of
moments, so that targets that move many genes and genes that many targets move are believed sooner.
A target met in several contexts: around what the other contexts say, the more alike their control
cells the more they count (`lingshu_model.train.related`), which also tells contexts in which the
target was never seen. Effects are changes of mean ln(1 + UMI at the median depth). Knows nothing of
training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.train.cells import TrainingCells, controls
from lingshu_model.train.expression import LEVELS, Floats, Levels, histogram
from lingshu_model.train.related import carry_over, distances

LARGEST = 3.0
"""Bound of |theta|: a gene that vanishes under a knock-out would have it at minus infinity."""
NEWTON_STEPS = 30
Context = tuple[tuple[str, str], ...]
Row = tuple[Mapping[str, Any], Floats]


@dataclass(frozen=True)
class Tilts:
    """The tilt table: what each row from 1 on is about, and theta [rows, genes]; row 0 is zero."""

    about: tuple[Mapping[str, Any], ...]
    theta: NDArray[np.float32]


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


def tilts(cells: TrainingCells, levels: Levels) -> Tilts:
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
        rows += _in_all_contexts(cells, levels, target, measured)
    for context, found in measured.items():
        shrunk = shrink(found.value, found.noise, found.informs)
        base = frequency(cells, home[context])
        rows += [
            ({"target": target, "context": {}}, tilt_by(change, base))
            for target, change in zip(found.targets, shrunk, strict=True)
            if target not in several
        ]
    zero = np.zeros((1, len(cells.panel)))
    theta = np.concatenate([zero, *(theta[None] for _, theta in rows)])
    return Tilts(tuple(about for about, _ in rows), theta.astype(np.float32))


def _in_all_contexts(
    cells: TrainingCells, levels: Levels, target: str, measured: Mapping[Context, Effects]
) -> list[Row]:
    """Return a row for every context that has control cells, seen with the target or not."""
    home = controls(cells)
    contexts = [c for c, control in home.items() if len(cells.rows(control))]
    rows = [cells.rows(home[context]) for context in contexts]
    profiles = np.stack([levels.rows(r).mean for r in rows])
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
        ({"target": target, "context": dict(c)}, tilt_by(change, frequency(cells, home[c])))
        for c, change in zip(contexts, changes, strict=True)
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
    pairs = [
        (levels.rows(rows), _without(cells, rest, rows, levels) if one.kind == "sham" else base)
        for one, rows in ((d, cells.rows(i)) for d, i in zip(done, treated, strict=True))
    ]
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
    own = {_cell(cells, row) for row in sham}
    return levels.rows(np.array([row for row in control if _cell(cells, row) not in own], np.int64))


def _cell(cells: TrainingCells, row: int) -> bytes:
    low, high = cells.tokens.indptr[row], cells.tokens.indptr[row + 1]
    return cells.tokens.indices[low:high].tobytes() + cells.tokens.data[low:high].tobytes()


def frequency(cells: TrainingCells, condition: int) -> Floats:
    """Return how often each gene has each token in a condition's cells, [genes, 281]."""
    counts = histogram(cells, cells.rows(condition)).astype(np.float64)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


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


def tilt_by(change: Floats, frequency: Floats) -> Floats:
    """Return theta [genes] that moves the mean of `frequency` x exp(theta LEVELS) by `change`.

    Newton's method within +-LARGEST; 0 where nothing changes or the frequencies have no spread.
    """
    width = int(np.flatnonzero(frequency.any(axis=0)).max(initial=0)) + 1
    frequency, levels = frequency[:, :width], LEVELS[:width]
    goal = frequency @ levels + change
    theta = np.zeros(len(change))
    for _ in range(NEWTON_STEPS):
        weight = frequency * np.exp(theta[:, None] * levels)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        mean = weight @ levels
        spread = np.maximum(weight @ levels**2 - mean**2, 1e-6)
        theta = np.clip(theta + np.clip((goal - mean) / spread, -0.5, 0.5), -LARGEST, LARGEST)
    spreads = (frequency > 0).sum(axis=1) > 1
    return np.where(np.isfinite(theta) & (change != 0) & spreads, theta, 0.0)
