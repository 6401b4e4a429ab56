"""Figures: rows averaged over named sets of units, with the model's difference and verdict."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lingshu_model.evaluate import compare
from lingshu_model.evaluate.metrics.agreement import AGREEMENT, SQUARED_LENGTH
from lingshu_model.evaluate.metrics.samples import DISTRIBUTION
from lingshu_model.evaluate.predictors import SIMPLE
from lingshu_model.evaluate.rows import (
    AT_HALF,
    HELD_OUT,
    MODEL,
    REFERENCES,
    SPLIT_HALF,
    Kind,
    NamedSet,
    Row,
    Unit,
)
from lingshu_model.evaluate.study import CONTROL, Population, Study

ALL, OVER_SOURCES = "all", "mean over sources"
STRONGEST = {"four strongest": 4, "twelve strongest": 12}
FEWEST_OF_STRONGEST = 50
"""Held-out cells that a perturbation needs to be among the strongest."""
FEWEST_IN_EACH_ARM = 5
ENOUGH_CELLS = f"contexts with {FEWEST_IN_EACH_ARM} held-out cells in each arm"


@dataclass(frozen=True)
class Figure:
    """One predictor's mean over a named set, and what the model's says against it.

    Attributes:
        kind: what the units are.
        row: the mean over units and seeds.
        n_units: how many units it is of.
        by_seed: the mean with each sampling seed.
        difference: the model's figure less it, over the units and folds that both have; None
            where it is the model's or no predictor's.
        verdict: what that difference says of the model.
        over_units: the model against a simple predictor with contrasts as units.
    """

    kind: Kind
    row: Row
    n_units: int
    by_seed: Mapping[int, float] = field(default_factory=dict[int, float])
    difference: Row | None = None
    verdict: compare.Verdict | None = None
    over_units: compare.UnitComparison | None = None


def named_sets(study: Study, strengths: Mapping[Unit, float]) -> list[NamedSet]:
    """Return the sets of a study.

    Of trained contrasts in one context: the four and the twelve strongest (by `strengths`, from
    training cells) and all. In several contexts: those with at least five held-out cells in each
    arm, and all. Of other tiers: all. Of pools: those that belong together, and each.
    """
    contrasts = [s for p in study.populations for s in _contrast_sets(p, study, strengths)]
    return [s for s in (*contrasts, *_pool_sets(study)) if s.units]


def _contrast_sets(
    population: Population, study: Study, strengths: Mapping[Unit, float]
) -> Iterator[NamedSet]:
    for tier in dict.fromkeys(c.tier for c in population.contrasts):
        units = {(population.name, c.name): c for c in population.contrasts if c.tier == tier}
        cells = {u: [*map(population.n_test, (c.perturbed, c.control))] for u, c in units.items()}
        chosen: dict[str, Iterable[Unit]] = {}
        if tier == "seen" and study.contexts == 1:
            # With fewer held-out cells the noise of the truth hides the difference between
            # predictors.
            large = [unit for unit, n in cells.items() if n[0] >= FEWEST_OF_STRONGEST]
            # By training cells, so that the choice favours no predictor of the held-out ones.
            ranked = sorted(large, key=lambda unit: -strengths.get(unit, 0.0))
            chosen = {name: ranked[:n] for name, n in STRONGEST.items()}
        elif tier == "seen":
            chosen = {ENOUGH_CELLS: [u for u, n in cells.items() if min(n) >= FEWEST_IN_EACH_ARM]}
        for name, members in {**chosen, ALL: units}.items():
            yield NamedSet(name, "contrasts", tier, frozenset(members))


def _pool_sets(study: Study) -> list[NamedSet]:
    units = [(p.name, pool) for p in study.populations for pool in p.pools]
    if study.contexts == 1:
        named = {
            "perturbations": [unit for unit in units if unit[1] != CONTROL],
            CONTROL: [unit for unit in units if unit[1] == CONTROL],
        }
    else:
        # The pool of all trained conditions of a source has the source's name.
        named = {OVER_SOURCES: [unit for unit in units if unit[0] == unit[1]]}
        named |= {unit[1]: [unit] for unit in units}
    return [NamedSet(name, "pools", "", frozenset(members)) for name, members in named.items()]


def merged_sets(sets: Sequence[NamedSet], others: Sequence[NamedSet]) -> list[NamedSet]:
    """Return the sets of several folds: what is strongest is decided by the first."""
    known = {(s.name, s.kind, s.tier): s for s in sets}
    for other in others:
        key = (other.name, other.kind, other.tier)
        first = known.get(key, other)
        # Units of a fold that ranks others first would make the set larger than its name.
        units = first.units if other.name in STRONGEST else first.units | other.units
        known[key] = replace(other, units=units)
    return [*known.values()]


class Table:
    """Rows by metric, predictor and unit, in the order in which they came."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[str, dict[str, dict[Unit, list[Row]]]] = {}
        for row in rows:
            units = self._rows.setdefault(row.metric, {}).setdefault(row.predictor, {})
            units.setdefault((row.population, row.set), []).append(row)

    def of(self, metric: str, predictor: str, chosen: NamedSet) -> list[Row]:
        """Return the rows of one metric and predictor in a named set, unit by unit."""
        units = self._rows.get(metric, {}).get(predictor, {})
        rows = (row for unit in sorted(chosen.units) for row in units.get(unit, ()))
        # A contrast may be of another tier in another fold.
        return [row for row in rows if row.tier == chosen.tier]

    def figures(self, chosen: NamedSet, metrics: Collection[str] | None = None) -> list[Figure]:
        """Return the figures of a named set, metric by metric; of all metrics by default."""
        figures = [
            self._figure(chosen, metric, predictor, rows)
            for metric, predictors in self._rows.items()
            if kind_of(metric) == chosen.kind and (metrics is None or metric in metrics)
            for predictor in predictors
            if (rows := self.of(metric, predictor, chosen))
        ]
        known = self._rows.get(SQUARED_LENGTH, {})
        return figures if metrics is not None else figures + self._magnitudes(chosen, known)

    def values(self, predictor: str, chosen: NamedSet) -> dict[str, float]:
        """Return a predictor's mean over a named set by metric, without comparing it."""
        means = {
            metric: compare.mean_row(rows, chosen.name).value
            for metric in self._rows
            if kind_of(metric) == chosen.kind and (rows := self.of(metric, predictor, chosen))
        }
        magnitudes = self._magnitudes(chosen, [predictor])
        return means | {figure.row.metric: figure.row.value for figure in magnitudes}

    def copies(self) -> list[Figure]:
        """Return the figures of copied cells, for each population and fold."""
        return [
            Figure("copies", compare.mean_row(rows, rows[0].set), 1, _by_seed(rows))
            for metric, predictors in self._rows.items()
            if kind_of(metric) == "copies"
            for units in predictors.values()
            for every in units.values()
            for fold in dict.fromkeys(row.fold for row in every)
            if (rows := [row for row in every if row.fold == fold])
        ]

    def _figure(self, chosen: NamedSet, metric: str, predictor: str, rows: list[Row]) -> Figure:
        row = compare.mean_row(rows, chosen.name)
        units = {(r.population, r.set) for r in rows}
        figure = Figure(chosen.kind, row, len(units), _by_seed(rows))
        # A half of the held-out cells is compared with the model's figure at the other half.
        partner = AT_HALF if predictor == SPLIT_HALF else MODEL
        every = self.of(metric, partner, chosen)
        # Over the units and folds that both have, so that both means are of the same contrasts.
        shared = {*map(_place, rows)} & {*map(_place, every)}
        if predictor in REFERENCES or not shared:
            return figure
        mine, theirs = ([r for r in each if _place(r) in shared] for each in (every, rows))
        less = compare.difference(*(compare.mean_row(each, chosen.name) for each in (mine, theirs)))
        tested = predictor in SIMPLE and chosen.kind == "contrasts"
        over_units = compare.compare_units(mine, theirs) if tested else None
        verdict = compare.verdict(less)
        return replace(figure, difference=less, verdict=verdict, over_units=over_units)

    def _magnitudes(self, chosen: NamedSet, predictors: Iterable[str]) -> list[Figure]:
        """Return the pooled ratio of predicted to real magnitude of each predictor."""
        real = {(r.fold, r.population, r.set): r for r in self.of(SQUARED_LENGTH, HELD_OUT, chosen)}
        figures: list[Figure] = []
        for predictor in predictors:
            rows = self.of(SQUARED_LENGTH, predictor, chosen)
            if predictor != HELD_OUT and rows:
                units = dict.fromkeys((r.fold, r.population, r.set) for r in rows)
                row = compare.pooled_magnitude([real[u] for u in units], rows, chosen.name)
                figures.append(Figure("contrasts", row, len({u[1:] for u in units})))
        return figures


def figures(rows: Iterable[Row], sets: Iterable[NamedSet]) -> list[Figure]:
    """Return the figures of every named set, then those of copies."""
    table = Table(rows)
    return [f for each in sets for f in table.figures(each)] + table.copies()


def kind_of(metric: str) -> Kind | None:
    """Return what the units of a metric are; None of one that only enters others."""
    if metric == SQUARED_LENGTH:
        return None
    if metric in DISTRIBUTION:
        return "pools"
    return "contrasts" if metric in AGREEMENT else "copies"


def _place(row: Row) -> tuple[str, str, str]:
    return row.fold, row.population, row.set


def _by_seed(rows: Sequence[Row]) -> dict[int, float]:
    seeds = sorted({row.seed for row in rows if row.seed is not None})
    return {s: compare.mean_row([r for r in rows if r.seed == s], "").value for s in seeds}
