"""Where the tilts of a network start: each target's shrunken effect on each gene.

A mean over a hundred cells is mostly noise, so effects are shrunk by empirical Bayes: the effect of
target c on gene g is normal around 0 with variance a_c b_g, both by the method of moments. Targets
that move many genes and genes that many targets move are believed sooner; a target that moves
nothing beyond its noise gets none. Knows nothing of training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lingshu_model.tokens import LOWER_EDGES, MASK, VOCABULARY
from lingshu_model.train.data import TrainingCells

Floats = NDArray[np.float64]
LEVELS: Floats = np.log1p(LOWER_EDGES.astype(np.float64))
LARGEST = 3.0
"""Bound of |theta|: a gene that vanishes under a knock-out would have it at minus infinity."""
NEWTON_STEPS = 30


def tilts(cells: TrainingCells, targets: Sequence[str]) -> NDArray[np.float32]:
    """Return theta [1 + targets, genes]: row 0 is control's, zero.

    Conditions of one intervention count, each against the control cells of its own context; a
    target met in several contexts gets the mean. What was never measured on both sides stays 0.
    """
    theta = np.zeros((1 + len(targets), len(cells.panel)))
    row = {target: 1 + i for i, target in enumerate(targets)}
    controls = {c.context: i for i, c in enumerate(cells.conditions) if not c.interventions}
    met = np.zeros(len(theta))
    for context, control in controls.items():
        treated = {
            i: row[c.interventions[0].target]
            for i, c in enumerate(cells.conditions)
            if c.context == context and len(c.interventions) == 1
        }
        if not treated or not len(cells.rows(control)):
            continue
        for index, values in _of_context(cells, control, treated).items():
            theta[index] += values
            met[index] += 1
    return (theta / np.maximum(met, 1)[:, None]).astype(np.float32)


def _of_context(
    cells: TrainingCells, control: int, treated: Mapping[int, int]
) -> dict[int, Floats]:
    """Return theta [genes] by row of the table, for the conditions `treated` of one context."""
    base = _Histogram(_counts(cells, control))
    groups = [_Histogram(_counts(cells, condition)) for condition in treated]
    sham = np.array([cells.conditions[i].interventions[0].kind == "sham" for i in treated])
    # A sham's cells are control cells: against the rest of them it is as noisy as a perturbation.
    against = [
        _Histogram(base.counts - group.counts) if own else base
        for group, own in zip(groups, sham, strict=True)
    ]
    pairs = list(zip(groups, against, strict=True))
    effect = np.stack([group.mean - other.mean for group, other in pairs])
    # A gene that thirty cells happen to lack has no variance in them; control's is the floor.
    variance = np.stack(
        [o.variance / o.n + np.maximum(g.variance, o.variance) / g.n for g, o in pairs]
    )
    return {
        index: tilt_by(change, base.frequency)
        for index, change in zip(treated.values(), shrink(effect, variance, ~sham), strict=True)
    }


@dataclass(frozen=True)
class _Histogram:
    """How often each token was seen in one condition's cells, counts [genes, 281].

    NaN wherever a gene was never measured.
    """

    counts: NDArray[np.int64]

    @cached_property
    def n(self) -> Floats:
        n = self.counts.sum(axis=1).astype(np.float64)
        n[n == 0] = np.nan
        return n

    @cached_property
    def frequency(self) -> Floats:
        return self.counts / self.n[:, None]

    @cached_property
    def mean(self) -> Floats:
        return self.frequency @ LEVELS

    @cached_property
    def variance(self) -> Floats:
        return self.frequency @ LEVELS**2 - self.mean**2


def _counts(cells: TrainingCells, condition: int) -> NDArray[np.int64]:
    tokens = cells.tokens[cells.rows(condition)]
    genes = tokens.shape[1]
    measured = tokens != MASK
    flat = (np.arange(genes) * VOCABULARY + np.where(measured, tokens, 0))[measured]
    return np.bincount(flat, minlength=genes * VOCABULARY).reshape(genes, VOCABULARY)


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
    goal = frequency @ LEVELS + change
    theta = np.zeros(len(change))
    for _ in range(NEWTON_STEPS):
        weight = frequency * np.exp(theta[:, None] * LEVELS)
        weight /= weight.sum(axis=1, keepdims=True)
        mean = weight @ LEVELS
        spread = np.maximum(weight @ LEVELS**2 - mean**2, 1e-6)
        theta = np.clip(theta + np.clip((goal - mean) / spread, -0.5, 0.5), -LARGEST, LARGEST)
    return np.where(np.isfinite(theta) & (change != 0), theta, 0.0)
