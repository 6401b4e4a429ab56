"""Where a metric of the 2026 challenge lies between a trivial prediction and a real replicate.

0 is the context mean: control cells drawn again, each gene scaled so that every perturbation shows
the mean response of all of them. It knows the held-out cells' mean response, which no model does,
so to beat it is to know what is particular to a perturbation. 1 is what one half of the real cells
scores against the other half, averaged over five random splits; fold changes of both halves are
compared over the genes that all the cells call. Knows nothing of who is judged.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.scoring import directions, vcc2026
from lingshu_model.evaluate.scoring.cells import Floats, Matrix, Side
from lingshu_model.evaluate.scoring.tidy import mean, mean_of_defined
from lingshu_model.evaluate.scoring.vcc2026 import Profile, Targets, own_columns

SPLITS = 5
SCORE = "score"
LOWER_IS_BETTER = (vcc2026.ERROR, vcc2026.FOLD_ERROR)
BOUNDS = {vcc2026.ERROR: (0.0, 1.0), vcc2026.FOLD_ERROR: (-6.0, math.inf)}
"""Scaled values are clipped to these; the other metrics' own range bounds them."""


@dataclass(frozen=True)
class Scale:
    """The two ends by metric."""

    baseline: Mapping[str, float]
    replicate: Mapping[str, float]

    def of(self, aggregate: Mapping[str, float]) -> dict[str, float]:
        """Return (user − baseline) / (replicate − baseline) by metric, and their mean.

        A metric whose replicate is not better than its baseline says nothing: it is NaN and left
        out of the mean. An undefined user's value counts as the worst.
        """
        scores = {m: self._one(m, aggregate[m]) for m in vcc2026.MEMBERS}
        return scores | {SCORE: mean_of_defined(scores)}

    def _one(self, metric: str, user: float) -> float:
        baseline, replicate = self.baseline[metric], self.replicate[metric]
        lower = metric in LOWER_IS_BETTER
        room = baseline - replicate if lower else replicate - baseline
        if not room > 0:
            return math.nan
        low, high = BOUNDS.get(metric, (-math.inf, math.inf))
        if math.isnan(user):
            return low if lower else -baseline / room
        gain = baseline - user if lower else user - baseline
        return min(max(gain / room, low), high)


def scale(real: Side, targets: Targets | None = None) -> Scale:
    """Return the two ends of every metric for these real cells."""
    whole = vcc2026.profile(real)
    guess = vcc2026.profile(context_mean(real, targets), whole.control)
    return Scale(
        baseline=vcc2026.compare(whole, guess, targets).aggregate,
        replicate=replicate(whole, targets),
    )


def context_mean(real: Side, targets: Targets | None = None, seed: int = 0) -> Side:
    """Return as many cells as are real, each perturbation with the mean response of all of them.

    A perturbation says nothing on its own gene.
    """
    means = np.stack([_mean(group) for group in real.groups()])
    votes = np.ones_like(means)
    own = own_columns(real, targets)
    has = np.flatnonzero(own >= 0)
    votes[has, own[has]] = 0.0
    count = votes.sum(axis=0)
    response = (means * votes).sum(axis=0) / np.where(count > 0, count, 1.0)
    return scaled_control(real, response, np.random.default_rng(seed))


def scaled_control(real: Side, response: Floats, generator: np.random.Generator) -> Side:
    """Return control cells drawn with replacement, as many as each perturbation has, scaled.

    Args:
        real: whose control and numbers of cells.
        response: the mean counts to be reached, [genes]; a gene without any in the control stays 0.
        generator: for the drawing.
    """
    control = _mean(real.control)
    factor = np.where(control > 0, response / np.where(control > 0, control, 1.0), 0.0)
    drawn = [generator.integers(0, real.control.shape[0], size=int(n)) for n in real.sizes]
    cells = real.control[np.concatenate(drawn)]
    cells.data = (cells.data * factor[cells.indices]).astype(np.float32)
    cells.eliminate_zeros()
    return replace(real, perturbed=cells)


def replicate(whole: Profile, targets: Targets | None = None) -> dict[str, float]:
    """Return what half of the real cells scores against the other half, over five splits."""
    seeds = np.random.SeedSequence(0).generate_state(SPLITS)
    splits = [_split(whole, int(seed), targets) for seed in seeds]
    return {m: mean({str(i): s[m] for i, s in enumerate(splits)}) for m in vcc2026.MEMBERS}


def _split(whole: Profile, seed: int, targets: Targets | None) -> dict[str, float]:
    first, second = map(vcc2026.profile, halves(whole.side, seed))
    values = dict(vcc2026.compare(first, second, targets).aggregate)
    values[vcc2026.FOLD_ERROR] = _fold_error(whole, first, second, targets)
    return values


def _fold_error(whole: Profile, first: Profile, second: Profile, targets: Targets | None) -> float:
    """Return the halves' difference in fold change over the size of that of all the cells."""
    kept = [whole.side.names.index(name) for name in first.side.names]
    own = own_columns(whole.side, targets)
    calls = directions.Calls.of(whole.side.genes, whole.tests, whole.tests, own)
    errors: dict[str, float] = {}
    for half, i in enumerate(kept):
        judged = directions.gate(calls.each[i])
        size = np.abs(whole.tests.fold[i, judged]).sum()
        if size > 0:
            a, b = (np.where(p.tests.tested, p.tests.fold[half], 0.0) for p in (first, second))
            errors[whole.side.names[i]] = float(np.abs(a - b)[judged].sum() / size)
    return mean(errors)


def halves(real: Side, seed: int) -> tuple[Side, Side]:
    """Return two halves of every condition's cells, the odd cell and single cells left out."""
    generator = np.random.default_rng(seed)
    rows: dict[str, list[NDArray[np.int64]]] = {}
    sizes = dict(zip(real.names, real.sizes, strict=True)) | {real.label: real.control.shape[0]}
    for name in sorted(sizes):
        order = generator.permutation(int(sizes[name]))
        n = len(order) // 2
        rows[name] = [order[:n], order[n : 2 * n]]
    if not len(rows[real.label][0]):
        message = f"the control {real.label!r} has one cell: it cannot be halved"
        raise ValueError(message)
    first, second = (_rows(real, {name: both[i] for name, both in rows.items()}) for i in (0, 1))
    return first, second


def _rows(real: Side, rows: Mapping[str, NDArray[np.int64]]) -> Side:
    """Return these rows of each condition; a perturbation without any is left out."""
    starts = dict(zip(real.names, real.bounds[:-1], strict=True))
    names = [name for name in real.names if len(rows[name])]
    chosen = [rows[name] + starts[name] for name in names]
    bounds = np.concatenate([[0], np.cumsum([len(part) for part in chosen])])
    return replace(
        real,
        names=names,
        control=real.control[rows[real.label]],
        perturbed=real.perturbed[np.concatenate(chosen)],
        bounds=bounds.astype(np.int64),
    )


def _mean(cells: Matrix) -> Floats:
    return np.asarray(cells.astype(np.float64).mean(axis=0)).ravel()
