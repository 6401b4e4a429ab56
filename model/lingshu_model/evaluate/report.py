"""One evaluation from beginning to end: sample, compare, and hold the results.

Knows nothing of how they are written down.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.arms import ArmStore, Condition, shams
from lingshu_model.evaluate.changes import Change, Floats, paired_change
from lingshu_model.evaluate.composition import Composition, compose
from lingshu_model.evaluate.copies import CopyCheck, copy_check
from lingshu_model.evaluate.distribution import MODEL, DistributionError, compare_distributions
from lingshu_model.evaluate.effects import (
    PEARSON,
    EffectTable,
    compare_effects,
    sampled_changes,
)
from lingshu_model.evaluate.frame import Frame
from lingshu_model.evaluate.observed import Observed, whole_change
from lingshu_model.evaluate.peers import Peers
from lingshu_model.evaluate.predictors import Contexts, seen_predictions, training_cells
from lingshu_model.evaluate.response import (
    CellDistances,
    HalfReference,
    SetChange,
    cell_distances,
    half_reference,
    response_scores,
    set_change,
)
from lingshu_model.evaluate.scores import ScoreTable, challenge
from lingshu_model.evaluate.sparse import Sparse, expressed
from lingshu_model.evaluate.streams import stream
from lingshu_model.evaluate.study import Population, Study

Each = Callable[[], object]
Sources = Mapping[str, Sequence[Mapping[str, Any]]]
"""Counts by condition, one mapping per seed, of the model and its peers."""


@dataclass(frozen=True)
class Response:
    """What was found of one held-out contrast.

    Attributes:
        name: of the contrast.
        tables: its figures, by the control cells the truth was measured against.
        halves: the split-half reference, by control cells and figure.
        cells: distances of predicted cells.
        sets: changes of genes and gene sets, by name.
    """

    name: str
    tables: Mapping[str, EffectTable]
    halves: Mapping[str, Mapping[str, HalfReference]]
    cells: CellDistances
    sets: Mapping[str, SetChange]


@dataclass(frozen=True)
class Found:
    """What was found in one population.

    Attributes:
        population: whose cells.
        effects: changes of the trained contrasts; None where there are none.
        responses: the held-out contrasts.
        distributions: errors by pool.
        copies: one check per seed.
        composition: whether contexts are recognised; None where there is one alone.
        scores: the public challenges' metrics; None where perturbations have several controls.
    """

    population: Population
    effects: EffectTable | None
    responses: Sequence[Response]
    distributions: Mapping[str, DistributionError]
    copies: Sequence[CopyCheck]
    composition: Composition | None
    scores: ScoreTable | None


@dataclass(frozen=True)
class Shams:
    """Changes of the sham interventions over the panel, first seed; NaN where unmeasured."""

    genes: Sequence[str]
    changes: Sequence[Floats]


@dataclass(frozen=True)
class Report:
    """What one evaluation found.

    Attributes:
        study: what was judged.
        seeds: sampling seeds.
        found: by population.
        shams: the null.
        n_cells: cells of each condition.
    """

    study: Study
    seeds: Sequence[int]
    found: Sequence[Found]
    shams: Shams
    n_cells: Mapping[str, int]


@dataclass(frozen=True)
class Asked:
    """What an evaluation compares with, besides the baselines.

    Attributes:
        peers: cells of other models.
        gene_sets: symbols by the name of a set whose change is looked at.
    """

    peers: Peers = field(default_factory=Peers)
    gene_sets: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])


def n_arms(store: ArmStore, study: Study, seeds: Sequence[int]) -> int:
    """Return how many arms `make_report` asks for."""
    return len(seeds) * len(study.sizes(store.n_cells)) + len(shams(store.checkpoint))


def make_report(
    store: ArmStore, study: Study, seeds: Sequence[int], each: Each, asked: Asked | None = None
) -> Report:
    """Return the evaluation of a checkpoint on held-out cells.

    Args:
        store: where the model's cells come from.
        study: the real cells.
        seeds: sampling seeds; the statistics have a fixed seed of their own.
        each: called after every arm.
        asked: peers and gene sets.
    """
    asked = asked or Asked()
    sizes = study.sizes(store.n_cells)
    check_trained(store, study, sizes)
    sampled = [sample(store, study, sizes, seed, each) for seed in seeds]
    null = _shams(store, study, seeds[0], each)
    generator = np.random.default_rng(0)
    return Report(
        study=study,
        seeds=seeds,
        found=[_judge(study, p, sampled, asked, generator) for p in study.populations],
        shams=null,
        n_cells=sizes,
    )


def sample(
    store: ArmStore,
    study: Study,
    sizes: Mapping[str, int],
    seed: int,
    each: Each,
    *,
    steps: int | None = None,
) -> dict[str, Sparse]:
    """Return the cells of every condition over the panel."""
    arms: dict[str, Sparse] = {}
    for name, n in sizes.items():
        arms[name] = store.counts(study.conditions[name], seed, n=n, steps=steps)
        each()
    return arms


def check_trained(store: ArmStore, study: Study, names: Sequence[str] | Mapping[str, int]) -> None:
    """Refuse a condition that the checkpoint has no tokens for.

    Raises:
        ValueError: a context or a perturbation the checkpoint was not trained on.
    """
    known = store.checkpoint.config["seen"]
    contexts = store.checkpoint.contexts
    targets = {(i["kind"], i["target"]) for e in known for i in e["interventions"]}
    for name in names:
        asked = study.conditions[name]
        missing = [i.target for i in asked.interventions if (i.kind, i.target) not in targets]
        if dict(asked.context) not in contexts or missing:
            there = sorted({target for _, target in targets if not target.startswith("sham")})
            message = (
                f"{store.checkpoint.name} was not trained on {', '.join(missing) or name}; "
                f"it knows {', '.join(there[:8])} … in {len(contexts)} contexts"
            )
            raise ValueError(message)


def _judge(
    study: Study,
    population: Population,
    sampled: Sequence[Mapping[str, Sparse]],
    asked: Asked,
    generator: np.random.Generator,
) -> Found:
    observed = population.observed
    mine = [population.cut(arms) for arms in sampled]
    peers = {n: [population.cut(a) for a in arms] for n, arms in asked.peers.arms.items()}
    sources = _as_many({MODEL: mine, **peers})
    frame = Frame.fit(observed.train.values())
    return Found(
        population=population,
        effects=_effects(study, observed, sources, generator) if observed.pairs else None,
        responses=[
            _respond(study, population, name, sources, frame, asked.gene_sets, generator)
            for name in population.held_out_contrasts
        ],
        distributions=compare_distributions(observed, sources, population.pools, frame, generator),
        copies=[]
        if population.joint
        else copy_check(observed, mine, stream("copies", population.name)),
        composition=compose(population, sources, frame) if population.types else None,
        scores=challenge(observed, sources, np.random.default_rng(0)),
    )


def _as_many(sources: Sources) -> Sources:
    """Return the sources with as many cells of a condition each as the one that has fewest."""
    sizes: dict[str, int] = {}
    for arms in (arms for seeds in sources.values() for arms in seeds):
        for name, cells in arms.items():
            sizes[name] = min(cells.shape[0], sizes.get(name, cells.shape[0]))
    return {
        source: [{name: cells[: sizes[name]] for name, cells in arms.items()} for arms in seeds]
        for source, seeds in sources.items()
    }


def _effects(
    study: Study, observed: Observed, sources: Sources, generator: np.random.Generator
) -> EffectTable:
    mine = sources[MODEL]
    sizes = [{name: cells.shape[0] for name, cells in arms.items()} for arms in mine]
    if study.shift_of_others:
        others = Contexts(observed, study.related).predictions(observed)
        predicted = {**others, **training_cells(observed, sizes, generator)}
    else:
        predicted = dict(seen_predictions(observed, sizes, generator))
    predicted |= _peer_changes(observed, sources)
    sets = study.sets(observed, generator)
    return compare_effects(observed, mine, predicted, sets, generator)


def _respond(
    study: Study,
    population: Population,
    name: str,
    sources: Sources,
    frame: Frame,
    gene_sets: Mapping[str, Sequence[str]],
    generator: np.random.Generator,
) -> Response:
    contexts = Contexts(population.observed, study.related)
    tables: dict[str, EffectTable] = {}
    halves: dict[str, dict[str, HalfReference]] = {}
    for controls, real in population.held_out.items():
        judged = real.only([name])
        predicted = {**contexts.predictions(judged), **_peer_changes(judged, sources)}
        shift = predicted.get("mean_shift", predicted["control_mean"])[0][0].value
        scores = response_scores(judged, [shift])
        tables[controls] = table = compare_effects(
            judged, sources[MODEL], predicted, {name: [0]}, generator, scores=scores
        )
        halves[controls] = {
            figure: half_reference(table, score, generator)
            for figure, score in {PEARSON: whole_change, **scores}.items()
        }
    quoted = next(iter(tables.values()))
    perturbed = quoted.observed.pairs[0][0]
    arms = {
        source: [a[perturbed] for a in seeds]
        for source, seeds in sources.items()
        if all(perturbed in a for a in seeds)
    }
    changes = {s: set_change(quoted, sources[MODEL], genes) for s, genes in gene_sets.items()}
    return Response(
        name=name,
        tables=tables,
        halves=halves,
        cells=cell_distances(quoted, arms, frame, generator),
        sets={s: change for s, change in changes.items() if change},
    )


def _peer_changes(observed: Observed, sources: Sources) -> dict[str, list[list[Change]]]:
    """Return the changes of the peers that have every perturbed condition.

    Arms of one size are compared row by row: where a peer makes both of the same cells, what those
    differ in is no noise of the change; where it does not, the estimate is that of apart samples.
    A peer that draws no control cells is measured against the training control cells it started
    from.
    """
    found: dict[str, list[list[Change]]] = {}
    for peer, seeds in sources.items():
        complete = all(p in arms for arms in seeds for p, _ in observed.pairs)
        if peer != MODEL and complete:
            controls = {c: observed.train[c] for _, c in observed.pairs}
            found[peer] = [
                [_peer_change({**controls, **arms}, pair) for pair in observed.pairs]
                for arms in seeds
            ]
    return found


def _peer_change(arms: Mapping[str, Any], pair: tuple[str, str]) -> Change:
    paired = arms[pair[0]].shape[0] == arms[pair[1]].shape[0]
    (change,) = sampled_changes(arms, [pair], paired=paired)
    return change


def _shams(store: ArmStore, study: Study, seed: int, each: Each) -> Shams:
    panel = store.checkpoint.panel
    changes: list[Floats] = []
    for sham in shams(store.checkpoint):
        columns = _measured(study, sham, len(panel))
        perturbed, control = (
            expressed(store.counts(asked, seed)[:, columns]) for asked in (sham, sham.control)
        )
        change = np.full(len(panel), np.nan)
        change[columns] = paired_change(perturbed, control).value
        changes.append(change)
        each()
    table = np.array(changes).reshape(-1, len(panel))
    known = np.asarray(np.isfinite(table).any(axis=0), bool)
    genes = [gene for gene, measured in zip(panel, known.tolist(), strict=True) if measured]
    return Shams(genes, [change[known] for change in changes])


def _measured(study: Study, condition: Condition, genes: int) -> NDArray[np.int64]:
    """Return the panel columns that cells of this context measure."""
    for population in study.populations:
        for name in population.observed.test:
            if dict(study.conditions[name].context) == dict(condition.context):
                return population.columns
    return np.arange(genes)
