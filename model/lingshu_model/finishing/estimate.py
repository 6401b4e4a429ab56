"""The effects of a training set in closed form, as they are stored in its checkpoint.

There is one row for every pair of a trained perturbation and a context with control cells. It is
estimated from cells of the context if there are any, and carried over from other contexts otherwise
(`lingshu_model.effects`). Null labels, which are random control cells, are compared with the
remaining control cells.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.effects import CARRIED, CELLS, MEASURED
from lingshu_model.contracts.responders import Responders
from lingshu_model.effects import (
    Effects,
    Group,
    Moments,
    Perturbed,
    Posterior,
    Saturation,
    TargetModel,
    expression_blocks,
    fit_saturation,
    measure,
)
from lingshu_model.effects.moments import Floats, Ints
from lingshu_model.effects.targets import FEWEST, Parts
from lingshu_model.train.data.cells import Condition, TrainingCells, controls

CONTROL = "control"
GENETIC = ("knockout", "crispri", "crispra")
"""Kinds whose target is a gene, so that an unseen target can be predicted from its features."""
MOST_ROWS = 200_000_000
"""Largest number of values (rows x genes) that are carried to contexts without cells."""
MOST_TARGETS = 100
"""Largest number of targets that an unseen one is predicted from: more take time and add little."""
Priors = Mapping[str, Floats]
"""Features of genes from a table, by symbol."""


@dataclass(frozen=True)
class Row:
    """The effect of a perturbation in a context.

    Attributes:
        condition: perturbation and context.
        posterior: change of mean log1p_cp10k, [genes].
        source: where it comes from (`lingshu_model.contracts.effects`).
        note: the cells or contexts that it comes from, in a sentence.
        cells: perturbed and control training cells in this context.
        replicates: of the arm with fewer; 1 = none named; 0 = no cells.
        library: library size of perturbed cells over that of control cells.
        responders: strengths of its cells; None = all have the mean change.
    """

    condition: Condition
    posterior: Posterior
    source: str
    note: str
    cells: tuple[int, int] = (0, 0)
    replicates: int = 0
    library: float = 1.0
    responders: Responders | None = None


@dataclass(frozen=True)
class UnseenTargets:
    """The prediction of targets never perturbed in one context.

    Attributes:
        kinds: of intervention.
        parts: of the prediction.
        features: of every gene of the panel, [genes, features].
        note: the targets and features that it comes from, in a sentence.
    """

    kinds: tuple[str, ...]
    parts: Parts
    features: Floats
    note: str


@dataclass(frozen=True)
class Fitted:
    """All effects of a training set.

    Attributes:
        rows: of every perturbation and context, in the order of the conditions.
        contexts: control conditions, in their order.
        saturation: of combinations.
        unseen: prediction of unseen targets, by index of the context.
        measured: bool [contexts, genes].
        notes: what was left out, and why, in sentences.
    """

    rows: tuple[Row, ...]
    contexts: tuple[Condition, ...]
    saturation: Saturation
    unseen: Mapping[int, UnseenTargets]
    measured: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    def number(self, condition: Condition) -> int:
        """Return the number of a condition's context."""
        return self.contexts.index(replace(condition, interventions=()))


@dataclass(frozen=True)
class EffectFit:
    """Estimates the effects of training cells.

    Attributes:
        cells: null labels may be among them (`lingshu_model.train.data.cells.add_shams`).
        priors: features of genes, where a table is given.
    """

    cells: TrainingCells
    priors: Priors = field(default_factory=dict[str, Floats])

    def run(self, *, carry: bool = True, unseen: bool = True) -> Fitted:
        """Return all effects.

        Args:
            carry: whether to predict perturbations in contexts without cells of them.
            unseen: whether to fit the prediction of targets that were never perturbed.

        Raises:
            ValueError: a perturbation has no context with control cells.
        """
        # (context, perturbation) pairs without cells. 8 bytes a value for each of mean, sd and
        # lfsr.
        absent = self._absent() if carry else []
        values = len(absent) * len(self.cells.panel)
        notes: list[str] = []
        if values > MOST_ROWS:
            notes.append(
                f"{len(absent)} perturbations of contexts without cells of them are not predicted: "
                f"they would be {values:,} values, and a checkpoint holds at most {MOST_ROWS:,}; "
                "train on fewer contexts or perturbations to have them"
            )
            absent = []
        rows = [*self._seen(), *self._carried(absent), *self._null_labels()]
        order = {c: i for i, c in enumerate(self.cells.conditions)}
        # Carried rows may be no condition of the cells: these come last, in the order of their
        # text.
        rows.sort(key=lambda row: (order.get(row.condition, len(order)), repr(row.condition)))
        return Fitted(
            tuple(rows),
            self.contexts,
            self.saturation(rows),
            self._unseen(rows) if unseen else {},
            self._measured,
            tuple(notes),
        )

    @cached_property
    def contexts(self) -> tuple[Condition, ...]:
        """The control conditions with cells."""
        home = controls(self.cells)
        return tuple(self.cells.conditions[i] for i in home.values() if len(self.cells.rows(i)))

    @property
    def control_means(self) -> Floats:
        """Mean level of the control cells, [contexts, genes]; NaN where not measured."""
        known = self.effects.measured.controls
        return np.stack([known[context_key(c)].mean for c in self.contexts])

    @cached_property
    def _measured(self) -> NDArray[np.bool_]:
        home = controls(self.cells)
        masks = [self.cells.measured_by(home[c.context]) for c in self.contexts]
        return np.stack(masks) if masks else np.zeros((0, len(self.cells.panel)), bool)

    @cached_property
    def perturbed(self) -> tuple[Condition, ...]:
        """Perturbed conditions with cells and with control cells, null labels left out."""
        known = {c.context for c in self.contexts}
        rows = np.bincount(self.cells.condition, minlength=len(self.cells.conditions))
        conditions = tuple(
            c
            for i, c in enumerate(self.cells.conditions)
            if c.interventions and rows[i] and not _is_null(c)
        )
        orphans = [c for c in conditions if c.context not in known]
        if orphans:
            message = (
                f"{orphans[0].interventions[0].target!r} has cells in the context "
                f"{dict(orphans[0].context)}, which has no control cells to compare them with: "
                "name the control label, or leave these cells out with `without`"
            )
            raise ValueError(message)
        return conditions

    @cached_property
    def _sums(self) -> tuple[Moments, list[tuple[int, int, str]]]:
        """Sums of levels of every group, and the (condition, source, replicate) of each group.

        Sources are kept apart since they differ in what they measure.
        """
        cells = self.cells
        replicate = np.full(len(cells), "") if cells.replicate is None else cells.replicate
        names, code = np.unique(replicate, return_inverse=True)
        # [cells, 3]: condition, source and replicate number; each distinct row is a group.
        keys = np.stack([cells.condition, cells.source, code.ravel()], axis=1)
        unique, group = np.unique(keys, axis=0, return_inverse=True)
        # A block at a time: the counts of all cells as float64 might not fit in memory.
        blocks = (block.umi(np.float64) for block in cells.blocks())
        moments = Moments.of(blocks, group.ravel(), len(unique), len(cells.panel))
        return moments, [(int(c), int(s), str(names[r])) for c, s, r in unique]

    @cached_property
    def effects(self) -> Effects:
        """The effects of all conditions but null labels."""
        moments, keys = self._sums
        # Sources differ in depth and chemistry: cells of two sources are not one replicate. The
        # source is part of the name in all conditions of a context of which one has several, so
        # that cells of a source are compared with control cells of the same source.
        sources: dict[int, set[int]] = {}
        for c, s, _ in keys:
            sources.setdefault(c, set()).add(s)
        context = [condition.context for condition in self.cells.conditions]
        several = {context[c] for c, of_condition in sources.items() if len(of_condition) > 1}
        kept = [i for i, (c, _, _) in enumerate(keys) if not _is_null(self.cells.conditions[c])]
        groups = [_group(self.cells.conditions[c], s if context[c] in several else None, r)
                  for c, s, r in (keys[i] for i in kept)]  # fmt: skip
        measured = self.cells.measured[[keys[i][1] for i in kept]]
        return Effects(measure(_taken(moments, kept), groups, CONTROL, measured), CONTROL)

    def _seen(self) -> list[Row]:
        if not self.perturbed:
            return []
        m = self.effects.measured
        rows: list[Row] = []
        for condition in self.perturbed:
            name, context = condition_key(condition), context_key(condition)
            number = int(m.rows(condition=name, context=context)[0])
            effect = self.effects.seen(name, context)
            rows.append(
                Row(
                    condition,
                    self._masked(effect.posterior, condition),
                    effect.source,
                    effect.note,
                    (int(m.cells[number, 0]), int(m.cells[number, 1])),
                    int(m.replicates[number]),
                    float(m.library[number]),
                )
            )
        return rows

    def _absent(self) -> list[Condition]:
        """Return perturbations in contexts with control cells and without cells of them."""
        every = {c.interventions: c for c in self.perturbed}
        seen = set(self.perturbed)
        return [
            # Every perturbation of another context is carried to one, in the order of the contexts.
            Condition(home.context, interventions)
            for home in self.contexts
            for interventions in every
            if Condition(home.context, interventions) not in seen
        ]

    def _carried(self, conditions: Sequence[Condition]) -> list[Row]:
        """Return the effects of conditions without cells, carried over from other contexts."""
        rows: list[Row] = []
        for condition in conditions:
            # Its profile decides how far other contexts count, and no level falls below 0.
            home = self.effects.measured.controls[context_key(condition)]
            effect = self.effects.carried(condition_key(condition), home)
            masked = self._masked(effect.posterior, condition)
            rows.append(Row(condition, masked, CARRIED, effect.note, (0, home.cells)))
        return rows

    def _null_labels(self) -> list[Row]:
        """Return the effects of null labels, against the remaining control cells."""
        moments, keys = self._sums
        rows: list[Row] = []
        for i, condition in enumerate(self.cells.conditions):
            mine = np.array([k for k, (c, _, _) in enumerate(keys) if c == i], np.int64)
            if not _is_null(condition) or not len(mine):
                continue
            home = controls(self.cells)[condition.context]
            rest = np.array([k for k, (c, _, _) in enumerate(keys) if c == home], np.int64)
            # A null label is a subset of the control cells, which would be on both sides.
            label, control = moments.pooled(mine), moments.pooled(rest)
            pair = _stacked(label, _less(control, label))
            m = measure(pair, [Group("null", "here"), Group(CONTROL, "here")], CONTROL)
            note = f"{m.cells[0, 0]} random control cells against the other {m.cells[0, 1]}"
            # With the prior of real conditions by their cells, as labels mix all replicates.
            shrunken = self._masked(
                self.effects.shrinkage.posterior(m.change[0], m.noise[0]), condition
            )
            cells = (int(m.cells[0, 0]), int(m.cells[0, 1]))
            rows.append(Row(condition, shrunken, CELLS, note, cells, 1, float(m.library[0])))
        return rows

    def _masked(self, estimate: Posterior, condition: Condition) -> Posterior:
        """Return a posterior with no effect on genes that the context does not measure."""
        measured = self._measured[self.contexts.index(replace(condition, interventions=()))]
        return Posterior(
            np.where(measured, estimate.mean, 0.0),
            # mean 0, sd 0 and lfsr 1: stored, but never called.
            np.where(measured, estimate.sd, 0.0),
            np.where(measured, estimate.lfsr, 1.0),
        )

    def saturation(self, rows: Sequence[Row]) -> Saturation:
        """Return the saturation of trained combinations whose parts are all measured."""
        measured = [row for row in rows if row.source in MEASURED]
        known = {row.condition for row in measured}
        sums: list[Floats] = []
        doubles: list[Floats] = []
        noise: list[Floats] = []
        sizes: list[int] = []
        for row in measured:
            parts = [
                replace(row.condition, interventions=(i,)) for i in row.condition.interventions
            ]
            if len(parts) < 2 or not known.issuperset(parts):
                continue
            m, of = self.effects.measured, [self._row(part) for part in parts]
            # Unshrunken changes: shrinkage of the parts would look like saturation.
            sums.append(m.change[of].sum(axis=0))
            noise.append(m.noise[of].sum(axis=0))
            doubles.append(m.change[self._row(row.condition)])
            sizes.append(len(parts))
        if not sums:
            return Saturation()
        return fit_saturation(np.stack(sums), np.stack(doubles), np.stack(noise), sizes)

    def _row(self, condition: Condition) -> int:
        m = self.effects.measured
        rows = m.rows(condition=condition_key(condition), context=context_key(condition))
        return int(rows[0])

    def _unseen(self, rows: Sequence[Row]) -> dict[int, UnseenTargets]:
        """Return the prediction of unseen targets in each context with enough targets.

        From single genetic interventions of the most frequent kind alone: kinds differ in strength.
        """
        by_context: dict[int, UnseenTargets] = {}
        for number, home in enumerate(self.contexts):
            singles = [
                row
                for row in rows
                if row.condition.context == home.context
                and row.source in MEASURED
                and len(row.condition.interventions) == 1
                and row.condition.interventions[0].kind in GENETIC
            ]
            by_kind: dict[str, list[Row]] = {}
            for row in singles:
                by_kind.setdefault(row.condition.interventions[0].kind, []).append(row)
            if by_kind and len(most := max(by_kind.values(), key=len)) >= FEWEST:
                by_context[number] = self._unseen_in(home, most)
        return by_context

    def _unseen_in(self, home: Condition, rows: Sequence[Row]) -> UnseenTargets:
        """Return the prediction of unseen targets in the context of `home`, from `rows`."""
        # Evenly spaced over the conditions, so that the choice is a function of the cells.
        places = np.linspace(0, len(rows) - 1, min(len(rows), MOST_TARGETS)).astype(np.int64)
        chosen = [rows[i] for i in places]
        numbers = np.array([self._row(row.condition) for row in chosen])
        targets = [row.condition.interventions[0].target for row in chosen]
        panel, m = self.cells.panel, self.effects.measured
        place = {gene: i for i, gene in enumerate(panel)}
        # Features of all genes of the panel, which may be asked for, and of targets outside it.
        outside = [t for t in targets if t not in place]
        blocks = self._blocks(home, [*panel, *outside])
        index = {t: place.get(t, len(panel) + outside.index(t) if t in outside else -1)
                 for t in targets}  # fmt: skip
        mine: Ints = np.array([index[t] for t in targets])
        control = m.controls[context_key(home)]
        model = TargetModel(
            Perturbed(
                tuple(targets),
                m.change[numbers],
                m.noise[numbers],
                np.stack([row.posterior.mean for row in chosen]),
                control.mean,
                control.noise,
                m.variance,
                # -1: a target outside the panel, which has no change of its RNA to learn from.
                np.array([place.get(t, -1) for t in targets]),
            ),
            {name: block[mine] for name, block in blocks.items()},
        )
        parts = model.parts()
        # [genes, features] of every gene: each may be asked for as an unseen target.
        features = blocks[parts.block][: len(panel)] if parts.block else np.zeros((len(panel), 0))
        note = model.to({name: block[0] for name, block in blocks.items()}).note
        kind = chosen[0].condition.interventions[0].kind
        return UnseenTargets((kind,), parts, features, note)

    def _blocks(self, home: Condition, targets: Sequence[str]) -> dict[str, Floats]:
        """Return the blocks of features of `targets`, [targets, features] each."""
        rows = self.cells.rows(controls(self.cells)[home.context])
        # About 2,000 control cells determine the components well enough.
        few = self.cells.take(rows[:: max(1, len(rows) // 2000)])
        blocks = expression_blocks(few.umi(np.float64), self.cells.panel, targets)
        if self.priors:
            width = len(next(iter(self.priors.values())))
            # All 0 where nothing is known of a gene, as in `effects.features`.
            nothing = np.zeros(width)
            blocks["gene features"] = np.stack([self.priors.get(t, nothing) for t in targets])
        return blocks


def condition_key(condition: Condition) -> str:
    """Return the perturbation of a condition as text, the same for any order of interventions."""
    # A key, not a name: no two different sets of interventions have the same text.
    ordered = sorted(condition.interventions, key=lambda intervention: intervention.sort_key)
    if not ordered:
        return CONTROL
    return json.dumps([each.model_dump(exclude_none=True) for each in ordered])


def context_key(condition: Condition) -> str:
    """Return the context of a condition as text."""
    return json.dumps(condition.context)


def _is_null(condition: Condition) -> bool:
    return any(intervention.kind == "sham" for intervention in condition.interventions)


def _group(condition: Condition, source: int | None, replicate: str) -> Group:
    name = replicate if source is None else f"{source}/{replicate}"
    return Group(condition_key(condition), context_key(condition), name)


def _taken(m: Moments, groups: Sequence[int]) -> Moments:
    """Return the sums of the groups `groups`."""
    chosen = np.array(groups, np.int64)
    return Moments(
        m.cells[chosen], m.total[chosen], m.squares[chosen], m.step[chosen], m.log_depth[chosen]
    )


def _stacked(first: Moments, second: Moments) -> Moments:
    """Return the groups of both, those of `first` first."""
    return Moments(
        np.concatenate([first.cells, second.cells]),
        np.concatenate([first.total, second.total]),
        np.concatenate([first.squares, second.squares]),
        np.concatenate([first.step, second.step]),
        np.concatenate([first.log_depth, second.log_depth]),
    )


def _less(whole: Moments, part: Moments) -> Moments:
    """Return the sums of a group without those of some of its cells, [1, genes]."""
    n = whole.cells - part.cells
    # A label of all control cells would leave none.
    left = np.maximum(n, 1)

    def mean(both: Floats, some: Floats) -> Floats:
        return (both * whole.cells - some * part.cells) / left

    return Moments(
        n,
        whole.total - part.total,
        np.maximum(whole.squares - part.squares, 0.0),
        mean(whole.step, part.step),
        mean(whole.log_depth, part.log_depth),
    )
