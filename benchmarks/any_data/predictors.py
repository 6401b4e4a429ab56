"""What predicts the held-out changes: the closed form, cells moved by it, and simple predictors.

A predictor is a class with a `name`, the `tiers` it takes part in, `fit(train, tier, priors)`,
which returns it fitted to the training cells, and `predict_change(judged)`, a change of mean
log1p_cp10k [genes]. Networks and peers join by adding a class to `PREDICTORS`; `cells(judged, n)`,
where it is there, gives sampled cells.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from scipy import sparse

from benchmarks.any_data.sets import CONTROL, Cells, Floats, Judged, generator
from benchmarks.combinations.truth import JOIN
from lingshu_model.effects import (
    Effects,
    Perturbed,
    Posterior,
    Range,
    TargetModel,
    expression_blocks,
    fit_mover,
    fit_saturation,
    flag_block,
    largest_share,
    set_block,
    together,
)
from lingshu_model.effects.moments import expression_levels
from lingshu_model.finishing.fitness import pearson

SEEN, CARRIED, UNSEEN, COMBINATION = "seen", "carried", "unseen", "combination"
ALL = frozenset({SEEN, CARRIED, UNSEEN, COMBINATION})
MOVED = 512
"""Cells moved of each condition."""


@dataclass(frozen=True)
class Priors:
    """What is known of genes beyond the cells."""

    sets: Mapping[str, Mapping[str, Collection[str]]]
    factors: Collection[str]


class Predictor(Protocol):
    """What every predictor can do."""

    name: str
    tiers: frozenset[str]

    def fit(self, train: Cells, tier: str, priors: Priors) -> Self:
        """Return the predictor fitted to training cells."""
        ...

    def predict_change(self, judged: Judged) -> Floats:
        """Return the predicted change, [genes]."""
        ...


class Simple:
    """Changes of the training cells, and helpers; the base of the simple predictors."""

    name = ""
    tiers = ALL

    def fit(self, train: Cells, tier: str, priors: Priors) -> Self:
        self.train, self.tier, self.priors = train, tier, priors
        self.m = train.measured
        return self

    @cached_property
    def one_condition(self) -> bool:
        return len(set(self.m.conditions)) == 1

    def training_change(self, judged: Judged) -> np.ndarray:
        return self.m.rows(condition=judged.condition, context=judged.context)

    def basis(self, judged: Judged) -> np.ndarray:
        """Return the rows that a mean shift is over."""
        if self.tier == COMBINATION:
            return np.flatnonzero([JOIN in c for c in self.m.conditions])
        if self.tier == CARRIED or self.one_condition:
            return self.m.rows(condition=judged.condition)
        return self.m.rows(context=judged.context)

    def control(self, judged: Judged) -> Floats:
        return self.m.controls[judged.context].mean


class NoChange(Simple):
    name = "no_change"

    def predict_change(self, judged: Judged) -> Floats:
        return np.zeros(len(judged.truth))


class MeanShift(Simple):
    name = "mean_shift"

    def predict_change(self, judged: Judged) -> Floats:
        return self.m.change[self.basis(judged)].mean(axis=0)


class PerturbedMean(Simple):
    name = "perturbed_mean"
    tiers = frozenset({SEEN, CARRIED, UNSEEN})

    def predict_change(self, judged: Judged) -> Floats:
        moments, groups = self.train.grouped
        keys = {(self.m.conditions[i], self.m.contexts[i]) for i in self.basis(judged)}
        mine = [i for i, g in enumerate(groups) if (g.condition, g.context) in keys]
        return moments.pooled(np.array(mine)).mean[0] - self.control(judged)


class TrainingMean(Simple):
    name = "training_mean"
    tiers = frozenset({SEEN})

    def predict_change(self, judged: Judged) -> Floats:
        return self.m.change[self.training_change(judged)[0]]


class TrainingMeanShrunken(Simple):
    name = "training_mean_shrunken"
    tiers = frozenset({SEEN})

    def predict_change(self, judged: Judged) -> Floats:
        row = self.training_change(judged)[0]
        change, noise = self.m.change[row], self.m.noise[row]
        return change * max(0.0, 1.0 - float(noise.sum() / (change @ change)))


class Nearest(Simple):
    name = "nearest"
    tiers = frozenset({SEEN, CARRIED, UNSEEN})

    def predict_change(self, judged: Judged) -> Floats:
        if self.tier == UNSEEN:
            return self._by_expression(judged)
        rows = np.setdiff1d(self.basis(judged), self.training_change(judged))
        if self.tier == CARRIED or self.one_condition:
            mine = self.control(judged)
            gaps = [((self.m.controls[self.m.contexts[i]].mean - mine) ** 2).sum() for i in rows]
            return self.m.change[rows[int(np.argmin(gaps))]]
        shared = self.m.change[self.training_change(judged)[0]]
        return self.m.change[max(rows, key=lambda i: pearson(self.m.change[i], shared))]

    def _by_expression(self, judged: Judged) -> Floats:
        rows = self.m.rows(context=judged.context)
        place = {gene: i for i, gene in enumerate(self.train.genes)}
        known = [i for i in rows if self.m.conditions[i] in place]
        if judged.condition not in place or not known:
            return self.m.change[rows].mean(axis=0)
        levels = self._levels(judged.context)
        mine = levels[:, place[judged.condition]]
        return self.m.change[
            max(known, key=lambda i: pearson(levels[:, place[self.m.conditions[i]]], mine))
        ]

    def _levels(self, context: str) -> Floats:
        return expression_levels(self.train.counts[self.train.where(CONTROL, context)]).toarray()


class Resampled(Simple):
    name = "resampled"
    tiers = frozenset({SEEN})

    def predict_change(self, judged: Judged) -> Floats:
        rng = generator(5)
        means = []
        for condition in (judged.condition, CONTROL):
            rows = self.train.where(condition, judged.context)
            drawn = self.train.counts[rng.choice(rows, len(rows))]
            means.append(np.asarray(expression_levels(drawn).mean(axis=0)).ravel())
        return means[0] - means[1]


class Additive(Simple):
    name = "additive"
    tiers = frozenset({COMBINATION})

    def predict_change(self, judged: Judged) -> Floats:
        parts = judged.condition.split(JOIN)
        rows = [self.m.rows(condition=p, context=judged.context)[0] for p in parts]
        return self.m.change[rows].sum(axis=0)


class ClosedForm(Simple):
    """`lingshu_model.effects`."""

    name = "effects"

    def fit(self, train: Cells, tier: str, priors: Priors) -> Self:
        super().fit(train, tier, priors)
        self.effects = Effects(self.m, CONTROL)
        return self

    def predict_change(self, judged: Judged) -> Floats:
        return self.posterior(judged).mean

    def posterior(self, judged: Judged) -> Posterior:
        if self.tier == CARRIED:
            control = self.m.controls[judged.context]
            return self.effects.carried(judged.condition, control, judged.context).posterior
        if self.tier == UNSEEN:
            return self._unseen(judged)
        if self.tier == COMBINATION:
            return self._combined(judged)
        return self.effects.seen(judged.condition, judged.context).posterior

    def library(self, judged: Judged) -> float:
        rows = self.training_change(judged) if self.tier == SEEN else np.array([], int)
        return float(self.m.library[rows[0]]) if len(rows) else 1.0

    def _seen(self, condition: str, context: str) -> Posterior:
        if (condition, context) not in self._posteriors:
            result = self.effects.seen(condition, context).posterior
            self._posteriors[condition, context] = result
        return self._posteriors[condition, context]

    @cached_property
    def _posteriors(self) -> dict[tuple[str, str], Posterior]:
        return {}

    def _unseen(self, judged: Judged) -> Posterior:
        context, genes = judged.context, self.train.genes
        rows = self.m.rows(context=context)
        targets = tuple(self.m.conditions[i] for i in rows)
        place = {gene: i for i, gene in enumerate(genes)}
        names = [*targets, judged.condition]
        control = self.m.controls[context]
        blocks = expression_blocks(
            self.train.counts[self.train.where(CONTROL, context)], genes, names
        )
        blocks |= {name: set_block(sets, names) for name, sets in self.priors.sets.items()}
        blocks["transcription factor"] = flag_block(self.priors.factors, names)
        model = TargetModel(
            Perturbed(
                targets,
                self.m.change[rows],
                self.m.noise[rows],
                np.stack([self._seen(t, context).mean for t in targets]),
                control.mean,
                control.noise,
                self.m.variance,
                np.array([place.get(t, -1) for t in targets]),
            ),
            {name: block[:-1] for name, block in blocks.items()},
        )
        row = {name: block[-1] for name, block in blocks.items()}
        return model.to(row, place.get(judged.condition, -1)).effect

    def _combined(self, judged: Judged) -> Posterior:
        context = judged.context
        m, place = self.m, {gene: i for i, gene in enumerate(self.train.genes)}
        rows = m.rows(context=context)
        means = np.stack([self._seen(m.conditions[i], context).mean for i in rows])
        row_of = {m.conditions[i]: int(i) for i in rows}
        trained = [c for c in row_of if JOIN in c]
        parts = [[row_of[p] for p in c.split(JOIN)] for c in trained]
        saturation = fit_saturation(
            np.stack([m.change[p].sum(axis=0) for p in parts]),
            np.stack([m.change[row_of[c]] for c in trained]),
            np.stack([m.noise[p].sum(axis=0) for p in parts]),
            [len(p) for p in parts],
        )
        names = judged.condition.split(JOIN)
        return together(
            [self._seen(name, context) for name in names],
            saturation,
            Range.of(means, m.controls[context].mean),
            [place.get(name, -1) for name in names],
        ).effect


class MovedCells(ClosedForm):
    """Control training cells moved by the closed form, rounded to counts."""

    name = "moved_cells"

    def cells(self, judged: Judged, n: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Return `n` moved cells and the control cells that they were."""
        control = self.train.counts[self.train.where(CONTROL, judged.context)]
        target = self.posterior(judged).mean
        mover = fit_mover(control, target, self._largest, self.library(judged))
        chosen = control[np.resize(np.arange(control.shape[0]), n)]
        return mover.move(chosen, seed=0), chosen

    @cached_property
    def _largest(self) -> Floats:
        return largest_share(self.train.counts)

    def predict_change(self, judged: Judged) -> Floats:
        moved, control = self.cells(judged, MOVED)
        means = [np.asarray(expression_levels(c).mean(axis=0)).ravel() for c in (moved, control)]
        return means[0] - means[1]


PREDICTORS: tuple[type[Simple], ...] = (
    ClosedForm,
    MovedCells,
    NoChange,
    MeanShift,
    PerturbedMean,
    TrainingMean,
    TrainingMeanShrunken,
    Nearest,
    Resampled,
    Additive,
)
