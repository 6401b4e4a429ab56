"""What is to be judged: the real cells of a checkpoint's data, and which comparisons they allow.

A *population* is the cells that measure the same genes. Its contrasts are a perturbed condition
and the control of the same context; a contrast whose perturbed condition was never trained on is
*held out*. Knows nothing of files or models.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.arms import Condition
from lingshu_model.evaluate.observed import Observed
from lingshu_model.evaluate.sparse import Sparse, stacked

EVERYTHING = "all sources"
HELD_OUT_CONTROLS, ALL_CONTROLS = "held-out control cells", "all control cells"
ENOUGH = 5
"""Held-out cells that either arm of a contrast needs to be judged at all."""


@dataclass(frozen=True)
class Population:
    """Cells that measure the same genes.

    Attributes:
        name: of the population.
        observed: the real cells; its contrasts were trained on.
        columns: the panel columns of its genes.
        pools: which conditions are compared as one distribution.
        types: what a cell of a condition counts as, where that is to be recognised.
        held_out: the same cells with the held-out contrasts, by which control cells the truth is
            measured against; the first is the one that is quoted.
    """

    name: str
    observed: Observed
    columns: NDArray[np.int64]
    pools: Mapping[str, Sequence[str]]
    types: Mapping[str, str] = field(default_factory=dict[str, str])
    held_out: Mapping[str, Observed] = field(default_factory=dict[str, Observed])
    joint: bool = False
    """Whether its cells are those of the other populations, over the genes all of them measure."""

    @property
    def held_out_contrasts(self) -> list[str]:
        """The names of the contrasts that were never trained on."""
        return next(iter(self.held_out.values())).perturbations if self.held_out else []

    @property
    def controls(self) -> list[str]:
        """The conditions in which nothing is done, on both sides of the split."""
        judged = [pair for real in self.held_out.values() for pair in real.pairs]
        done = {perturbed for perturbed, _ in [*self.observed.pairs, *judged]}
        both = [name for name in self.observed.test if name in self.observed.train]
        return [name for name in both if name not in done]

    def cut(self, arms: Mapping[str, Sparse]) -> dict[str, Any]:
        """Return the population's conditions of cells over the panel, over its own genes."""
        return {name: arms[name][:, self.columns] for name in self.observed.test if name in arms}

    def sizes(self, n_cells: int) -> dict[str, int]:
        """Return how many cells are to be sampled of each condition.

        As many as are held out; of a trained contrast's arms at least `n_cells`; both arms of a
        held-out contrast get as many as it has perturbed cells.
        """
        found = {name: self.observed.n_test(name) for name in self.observed.test}
        for pair in self.observed.pairs:
            for name in pair:
                found[name] = max(found[name], n_cells)
        for judged in list(self.held_out.values())[:1]:
            for perturbed, control in judged.pairs:
                found[control] = max(found[control], found[perturbed])
        return found


@dataclass(frozen=True)
class Study:
    """Everything that is judged of one checkpoint.

    Attributes:
        conditions: what each named condition asks of a sampler.
        populations: the real cells.
        held_out: what was held out, as JSON.
        sets: names sets of contrasts of a trained population.
        shift_of_others: whether contrasts are one intervention in several contexts, so that a
            baseline for one is made of the others, or several interventions in one context.
        related: which contexts are related to which, named beforehand.
    """

    conditions: Mapping[str, Condition]
    populations: Sequence[Population]
    held_out: Any
    sets: Callable[[Observed, np.random.Generator], dict[str, list[int]]]
    headline: str
    shift_of_others: bool = False
    related: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    def sizes(self, n_cells: int) -> dict[str, int]:
        """Return how many cells are to be sampled of each condition."""
        found: dict[str, int] = {}
        for population in self.populations:
            for name, n in population.sizes(n_cells).items():
                found[name] = max(n, found.get(name, 0))
        return found


@dataclass(frozen=True)
class Side:
    """Cells over the panel: one side of a split.

    Attributes:
        counts: CSR [cells, panel].
        condition: int64 [cells], an index into the split's conditions.
        source: int64 [cells], an index into the split's sources.
    """

    counts: Sparse
    condition: NDArray[np.int64]
    source: NDArray[np.int64]


@dataclass(frozen=True)
class Sides:
    """A split of cells.

    Attributes:
        panel: gene symbols.
        conditions: what cells may be.
        sources: the name of each source of cells.
        measured: bool [sources, panel].
        train: cells the checkpoint was trained on.
        test: cells that are to judge it.
        rest: cells that did neither; their control cells may count as real ones.
        never_trained: indices of the conditions held out whole.
    """

    panel: Sequence[str]
    conditions: Sequence[Condition]
    sources: Sequence[str]
    measured: NDArray[np.bool_]
    train: Side
    test: Side
    rest: Side | None
    never_trained: Sequence[int]


def contexts_study(
    sides: Sides, held_out: Any, related: Callable[[str, Iterable[str]], list[str]]
) -> Study:
    """Return the study of an intervention seen in several contexts.

    Args:
        sides: the cells.
        held_out: what was held out, as JSON.
        related: picks, for a context's name, the related ones among others.
    """
    names = [condition_name(condition) for condition in sides.conditions]
    populations = [_population(sides, names, [i]) for i in range(len(sides.sources))]
    populations = [each for each in populations if each.observed.test]
    if len(populations) > 1:
        populations.append(_population(sides, names, range(len(sides.sources))))
    trained = {name for each in populations for name in each.observed.contrasts}
    judged = {n for p in populations for o in p.held_out.values() for n in o.contrasts}
    return Study(
        conditions=dict(zip(names, sides.conditions, strict=True)),
        populations=populations,
        held_out=held_out,
        sets=enough_cells,
        headline=ENOUGH_CELLS,
        shift_of_others=True,
        related={name: related(name, trained - {name}) for name in trained | judged},
    )


ENOUGH_CELLS = f"contexts with {ENOUGH} held-out cells in each arm"


def enough_cells(observed: Observed, _generator: np.random.Generator) -> dict[str, list[int]]:
    """Return indices of the contrasts with at least five held-out cells in each arm, and of all."""
    indices = range(len(observed.pairs))
    enough = [i for i in indices if min(map(observed.n_test, observed.pairs[i])) >= ENOUGH]
    return {ENOUGH_CELLS: enough, "all": list(indices)}


def condition_name(condition: Condition) -> str:
    """Return a condition in words: the context's values, then what is done."""
    done = "+".join(i.target for i in condition.interventions)
    return ", ".join([*condition.context.values(), *([done] if done else [])])


def _population(sides: Sides, names: Sequence[str], sources: Iterable[int]) -> Population:
    """Return the cells of some sources over the genes that all of them measure.

    Contrasts are judged in their own source alone, over all the genes that it measures.
    """
    sources = list(sources)
    columns = np.flatnonzero(sides.measured[sources].all(axis=0))
    train = _by_condition(sides.train, names, sources, columns)
    test = _by_condition(sides.test, names, sources, columns)
    genes = [sides.panel[i] for i in columns.tolist()]
    name = sides.sources[sources[0]] if len(sources) == 1 else EVERYTHING
    never = {names[i] for i in sides.never_trained}
    shared = [c for c in test if c in train and c not in never and test[c].shape[0] > 1]
    if len(sources) > 1:
        return Population(name, Observed(genes, train, test), columns, {name: shared}, joint=True)
    types = _types(names, sides.conditions, [*train, *test])
    contrasts = _contrasts(names, sides.conditions, types, train, test)
    held_out = {k: v for k, v in contrasts.items() if v[0] in never}
    seen = {k: v for k, v in contrasts.items() if v[0] not in never}
    pools = {name: shared} if shared else {}
    return Population(
        name=name,
        observed=Observed(genes, train, test, seen),
        columns=columns,
        pools=pools | {pair[0]: [pair[0]] for pair in held_out.values()},
        types=types,
        held_out=_truths(sides, names, sources, Observed(genes, train, test, held_out), columns)
        if held_out
        else {},
    )


def _by_condition(
    side: Side, names: Sequence[str], sources: Sequence[int], columns: NDArray[np.int64]
) -> dict[str, Sparse]:
    """Return the cells of some sources by the name of their condition, over some genes."""
    kept = np.isin(side.source, sources)
    rows = {name: np.flatnonzero(kept & (side.condition == i)) for i, name in enumerate(names)}
    return {name: side.counts[r][:, columns] for name, r in rows.items() if len(r)}


def _types(
    names: Sequence[str], conditions: Sequence[Condition], present: Iterable[str]
) -> dict[str, str]:
    """Return the values of the context fields that vary among the conditions that are present."""
    here = {n: c for n, c in zip(names, conditions, strict=True) if n in set(present)}
    fields = {f for c in here.values() for f in c.context}
    varying = [f for f in sorted(fields) if len({c.context.get(f) for c in here.values()}) > 1]
    return {n: ", ".join(c.context[f] for f in varying) for n, c in here.items()}


def _contrasts(
    names: Sequence[str],
    conditions: Sequence[Condition],
    types: Mapping[str, str],
    train: Mapping[str, Sparse],
    test: Mapping[str, Sparse],
) -> dict[str, tuple[str, str]]:
    """Return the perturbed conditions that can be judged, with their controls, by type."""
    named = dict(zip(names, conditions, strict=True))
    targets = {c.interventions for n, c in named.items() if n in test and c.interventions}
    found: dict[str, tuple[str, str]] = {}
    for name, condition in named.items():
        control = condition_name(condition.control)
        enough = all(n in test and test[n].shape[0] > 1 for n in (name, control))
        if condition.interventions and enough and control in train:
            done = "" if len(targets) == 1 else f", {condition.interventions[0].target}"
            found[types[name] + done] = (name, control)
    return found


def _truths(
    sides: Sides,
    names: Sequence[str],
    sources: Sequence[int],
    judged: Observed,
    columns: NDArray[np.int64],
) -> dict[str, Observed]:
    """Return the held-out contrasts against control cells that nothing was trained on, and all.

    Only the first share no cell with any predictor. The second have less noise, some of it in
    common with a predictor that was trained on the same control cells.
    """
    parts = [side for side in (sides.train, sides.test, sides.rest) if side is not None]
    cells = [_by_condition(side, names, sources, columns) for side in parts]
    controls = {c for _, c in judged.pairs}
    every = {c: stacked(part[c] for part in cells if c in part) for c in controls}
    return {HELD_OUT_CONTROLS: judged, ALL_CONTROLS: replace(judged, test={**judged.test, **every})}
