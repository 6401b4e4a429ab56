"""The real cells of an evaluation: both sides of a split, and their contrasts.

A *population* is the cells that measure the same genes. A *contrast* is a perturbed condition with
the control condition of the same context. Its *tier* says what training has seen of it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from lingshu_model.contracts.catalogue import Tier
from lingshu_model.evaluate.metrics.matrices import Indices, Sparse
from lingshu_model.train.data.cells import Condition

CONTROL = "control"
FEWEST = 2
"""Smallest number of cells in each arm of a contrast: one cell has no sampling variance."""
FEWEST_OF_A_POOL = 100
"""Smallest number of held-out cells of a condition that is compared alone: 50 in each half."""
Side = Mapping[tuple[int, Condition], Sparse]
"""Counts [cells, panel] by source and condition."""


@dataclass(frozen=True)
class Split:
    """Real cells, the training side and the held-out side.

    Attributes:
        panel: gene symbols.
        sources: the name of each source of cells.
        measured: bool [sources, panel].
        train: cells that training used.
        test: cells that it did not use. Where all perturbed cells of a context are held out,
            its control cells may be on both sides.
        held_out: what was held out, as JSON.
        fold: the same in words.
    """

    panel: Sequence[str]
    sources: Sequence[str]
    measured: NDArray[np.bool_]
    train: Side
    test: Side
    held_out: Any
    fold: str

    @property
    def tested(self) -> list[Condition]:
        """The conditions with held-out cells."""
        return sorted({condition for _, condition in self.test}, key=_order)

    def without(self, conditions: Collection[Condition]) -> "Split":
        """Return the split with these conditions left out of the held-out side."""
        kept = {key: cells for key, cells in self.test.items() if key[1] not in conditions}
        return replace(self, test=kept)


@dataclass(frozen=True)
class Contrast:
    """A perturbed condition and its control.

    Attributes:
        name: the context values and targets that vary among the contrasts of the population.
        perturbed: name of the perturbed condition.
        control: name of the control condition.
        condition: the perturbed one.
        tier: what training has seen of it.
    """

    name: str
    perturbed: str
    control: str
    condition: Condition
    tier: Tier


@dataclass(frozen=True)
class Population:
    """Cells that measure the same genes.

    Attributes:
        name: of the source.
        genes: symbols.
        columns: their panel columns.
        train: training counts by condition, CSR [cells, genes].
        test: held-out counts by condition.
        contrasts: those with held-out cells, sorted by name.
        trained: those with training cells, sorted by name.
        pools: conditions that are compared as one distribution, by the pool's name.
    """

    name: str
    genes: list[str]
    columns: Indices
    train: Mapping[str, Sparse]
    test: Mapping[str, Sparse]
    contrasts: Sequence[Contrast] = ()
    trained: Sequence[Contrast] = ()
    pools: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    def n_test(self, condition: str) -> int:
        """Return how many held-out cells a condition has."""
        return self.test[condition].shape[0] if condition in self.test else 0

    def n_train(self, condition: str) -> int:
        """Return how many training cells a condition has."""
        return self.train[condition].shape[0] if condition in self.train else 0

    def cut(self, arms: Mapping[str, Sparse]) -> dict[str, Sparse]:
        """Return the population's conditions of cells over the panel, over its own genes."""
        # Only what is compared: a source may have cells of other populations' conditions.
        return {name: arms[name][:, self.columns] for name in self.test if name in arms}

    def sizes(self, n_cells: int) -> dict[str, int]:
        """Return how many cells are sampled of each condition.

        As many as are held out. Both arms of a trained contrast have at least `n_cells`, those of
        another contrast at least as many as it has held-out perturbed cells.
        """
        sizes = {name: self.n_test(name) for name in self.test}
        for contrast in self.contrasts:
            least = n_cells if contrast.tier == "seen" else self.n_test(contrast.perturbed)
            for name in (contrast.perturbed, contrast.control):
                sizes[name] = max(sizes[name], least)
        return sizes


@dataclass(frozen=True)
class Study:
    """Everything that is evaluated on one split.

    Attributes:
        conditions: by name.
        populations: the real cells.
        held_out: what was held out, as JSON.
        fold: the same in words.
        families: contexts that are related, by how their names begin.
    """

    conditions: Mapping[str, Condition]
    populations: Sequence[Population]
    held_out: Any
    fold: str
    families: Sequence[Sequence[str]] = ()

    @property
    def unjudged(self) -> list[str]:
        """Names of perturbed conditions with held-out cells that are in no contrast."""
        judged = {c.perturbed for each in self.populations for c in each.contrasts}
        held = {name for each in self.populations for name in each.test}
        return sorted(n for n in held - judged if self.conditions[n].interventions)

    @property
    def contexts(self) -> int:
        """How many contexts there are."""
        return len({condition.context for condition in self.conditions.values()})

    def training_controls(self, context: Mapping[str, str], genes: int) -> Sparse:
        """Return the training control cells of a context, CSR [cells, genes of the panel].

        Genes that a population does not measure are 0.
        """
        control = Condition(tuple(sorted(context.items())), ())
        parts = [
            # From columns of the population to columns of the panel.
            csr_matrix((cells.data, each.columns[cells.indices], cells.indptr), (n, genes))
            for each in self.populations
            for name, cells in each.train.items()
            if self.conditions[name] == control and (n := cells.shape[0])
        ]
        return csr_matrix(vstack([csr_matrix((0, genes), dtype=np.int32), *parts], "csr"))

    def sizes(self, n_cells: int) -> dict[str, int]:
        """Return how many cells are sampled of each condition."""
        sizes: dict[str, int] = {}
        for population in self.populations:
            for name, n in population.sizes(n_cells).items():
                # One arm serves all populations of a condition.
                sizes[name] = max(n, sizes.get(name, 0))
        return sizes


def tier_of(condition: Condition, trained: Collection[Condition]) -> Tier:
    """Return what training has seen of a condition: the tiers of `Checkpoint.support`."""
    if condition in trained:
        return "seen"
    if any(other.interventions == condition.interventions for other in trained):
        return "seen_elsewhere"
    singles = [replace(condition, interventions=(each,)) for each in condition.interventions]
    together = len(singles) > 1 and all(single in trained for single in singles)
    return "combination_of_seen" if together else "unseen"


def build_study(split: Split, families: Sequence[Sequence[str]] = ()) -> Study:
    """Return the study of a split: one population per source with held-out cells."""
    conditions = sorted({c for _, c in [*split.train, *split.test]}, key=_order)
    names = dict(zip(conditions, condition_names(conditions), strict=True))
    populations = [_population(split, names, i) for i in range(len(split.sources))]
    known = {name: condition for condition, name in names.items()}
    tested = [each for each in populations if each.test]
    return Study(known, tested, split.held_out, split.fold, families)


def condition_names(conditions: Sequence[Condition]) -> list[str]:
    """Return a name per condition: the context values that vary, then the targets."""
    pairs = zip(_varying(conditions), map(_targets, conditions), strict=True)
    return [", ".join(filter(None, pair)) or CONTROL for pair in pairs]


def _order(condition: Condition) -> tuple[bool, str]:
    # Control conditions come first.
    return bool(condition.interventions), repr(condition)


def _targets(condition: Condition) -> str:
    # Doses of a target are conditions of their own.
    return "+".join(
        each.target if each.dose is None else f"{each.target} {each.dose:g}"
        for each in condition.interventions
    )


def _varying(conditions: Sequence[Condition]) -> list[str]:
    """Return the values of each condition's context fields that vary among the conditions."""
    contexts = [dict(condition.context) for condition in conditions]
    fields = sorted({name for context in contexts for name in context})
    varying = [f for f in fields if len({context.get(f) for context in contexts}) > 1]
    return [", ".join(context.get(f, "") for f in varying) for context in contexts]


def _population(split: Split, names: Mapping[Condition, str], source: int) -> Population:
    """Return the cells of a source over the genes that it measures."""
    columns = np.flatnonzero(split.measured[source])
    train, test = (
        {n: side[source, c][:, columns] for c, n in names.items() if (source, c) in side}
        for side in (split.train, split.test)
    )
    genes = [split.panel[i] for i in columns.tolist()]
    cells = Population(split.sources[source], genes, columns, train, test)
    present = [c for c, n in names.items() if n in train or n in test]
    # Trained on in any source: weights are shared, so tiers are of the whole training.
    contrasts = _contrasts(present, names, cells, {c for _, c in split.train})

    def with_both(count: Callable[[str], int]) -> list[Contrast]:
        return [c for c in contrasts if min(map(count, (c.perturbed, c.control))) >= FEWEST]

    cells = replace(cells, contrasts=with_both(cells.n_test), trained=with_both(cells.n_train))
    return replace(cells, pools=_pools(cells, several=len({c.context for c in present}) > 1))


def _contrasts(
    present: Sequence[Condition],
    names: Mapping[Condition, str],
    cells: Population,
    trained: Collection[Condition],
) -> list[Contrast]:
    """Return every perturbed condition whose control has training cells, sorted by name."""
    labels = dict(zip(present, _varying(present), strict=True))
    perturbed = [c for c in present if c.interventions]
    several = len({_targets(c) for c in perturbed}) > 1
    contrasts: list[Contrast] = []
    for condition in perturbed:
        control = names.get(replace(condition, interventions=()), "")
        # Without training control cells no predictor has a starting point.
        if cells.n_train(control):
            target = _targets(condition) if several or not labels[condition] else ""
            name = ", ".join(filter(None, [labels[condition], target]))
            tier = tier_of(condition, trained)
            contrasts.append(Contrast(name, names[condition], control, condition, tier))
    return sorted(contrasts, key=lambda c: c.name)


def _pools(cells: Population, *, several: bool) -> dict[str, list[str]]:
    """Return the conditions that are compared as one distribution, by name.

    In one context, each condition with at least 100 held-out cells is a pool. With several contexts
    all trained conditions are one pool, since each often has few cells, and each condition that was
    not trained on is another.
    """
    if not several:
        return {n: [n] for n in cells.test if cells.n_test(n) >= FEWEST_OF_A_POOL}
    never = {c.perturbed: [c.perturbed] for c in cells.contrasts if c.tier != "seen"}
    trained = [n for n in cells.test if n not in never and n in cells.train]
    pooled = [n for n in trained if cells.n_test(n) >= FEWEST]
    return {cells.name: pooled, **never} if pooled else never
