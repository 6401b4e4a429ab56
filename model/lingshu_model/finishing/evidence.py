"""Held-out figures that training writes itself: the closed form rotated over folds.

    seen                  each replicate in turn where a column names them, else a fifth of the
                          cells of every condition
    seen_elsewhere        the perturbed cells of each context in turn
    combination_of_seen   a fifth of the combinations
    unseen                a fifth of the targets

Where all perturbed cells of a condition are held out, half of its control cells is held out with
them, so that predictions and truth share no cell. What is judged is the effect that sampled cells
deliver, which the fitness check holds them to; `lingshu evaluate` judges sampled cells, with a
network that never saw the held-out ones. A tier that the data do not allow is `not_estimable`, with
the number that is missing.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.effects import NoEffectError
from lingshu_model.contracts.error_model import GENE_VARIANCE
from lingshu_model.contracts.posterior import Posterior
from lingshu_model.evaluate.data import side
from lingshu_model.evaluate.evidence import evidence
from lingshu_model.evaluate.metrics.changes import Change
from lingshu_model.evaluate.metrics.resampling import Draws
from lingshu_model.evaluate.predictors import Training
from lingshu_model.evaluate.report import NullChanges, Report, evaluate
from lingshu_model.evaluate.rows import MODEL, HeldOut
from lingshu_model.evaluate.study import Contrast, Population, Split, build_study
from lingshu_model.finishing.certainty import certainty, tally
from lingshu_model.finishing.error_model import Judged
from lingshu_model.finishing.estimate import GENETIC, EffectFit, Priors
from lingshu_model.finishing.fitness import Fitness
from lingshu_model.finishing.null_labels import null_check
from lingshu_model.finishing.tables import stored_effects
from lingshu_model.train.data.cells import Condition, TrainingCells, controls

PARTS = 5
"""Folds of cells, combinations and targets."""
MOST_FOLDS = 12
"""Replicates or contexts left out in turn."""
FEWEST = 10
"""Held-out cells of an arm below which a contrast is not judged."""
FEWEST_COMBINATIONS, FEWEST_TARGETS = 5, 8
MOST_CONTRASTS = 60
"""Contrasts of a fold that are judged."""
DRAWS = Draws(bootstrap=200, monte_carlo=2, halves=40)
FEW_DRAWS = Draws(bootstrap=2, monte_carlo=2, halves=2)
"""Where no interval of a figure is wanted."""
RESIDUALS = 4_000_000
"""Residuals that are kept, over all contrasts: about 30 MB of text."""
MOST_GENES = 300_000
"""Genes that calibration is judged by, over all contrasts of a fold; they are in memory at once."""
TIERS = ("seen", "seen_elsewhere", "combination_of_seen", "unseen")
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """One way to hold out.

    Attributes:
        name: what is held out, in words.
        train: rows of the training cells.
        test: rows of the held-out cells.
        tier: the tier that it judges.
    """

    name: str
    train: Rows
    test: Rows
    tier: str


def rotated(
    cells: TrainingCells,
    priors: Priors,
    checked: Sequence[Fitness],
    head: Mapping[str, Any],
    each: Callable[[], object] = lambda: None,
    *,
    residuals: int = RESIDUALS,
) -> dict[str, Any]:
    """Return the evidence of a training set (`lingshu_model.evaluate.evidence`).

    Beside what an evaluation writes, each tier has `certainty` (`finishing.certainty`),
    `null_labels` is the outcome of the check by null labels, and `gene_variance` what intervals of
    answers need (`contracts.error_model`).

    Args:
        cells: all cells that effects are estimated from, without null labels.
        priors: features of genes from a table.
        checked: fitness of every condition; null labels among them are the null.
        head: `checkpoint_digest`, `data`, `settings` and `cost`.
        each: called after every fold.
        residuals: largest number of values in the residuals, over all tiers.
    """
    missing: dict[str, str] = {}
    whole: Report | None = None
    judged: list[Judged] = []
    for fold in [*_folds(cells, missing)]:
        report = _judged(cells, priors, fold, judged)
        each()
        if report is not None:
            whole = report if whole is None else whole.merged(report)
    whole = Report([], [], []) if whole is None else _cut(whole, residuals)
    null = _null(cells.panel, checked)
    written = evidence(whole, null, head)
    for tier in TIERS:
        if written["tiers"][tier] is None:
            why = f"no fold holds out {FEWEST} cells of a condition and of its control"
            missing.setdefault(tier, why)
        else:
            # `evidence` has held-out changes alone; `judged` has the posteriors of predictions too.
            written["tiers"][tier]["certainty"] = certainty(judged, tier)
    return {
        **written,
        GENE_VARIANCE: gene_variance(cells, priors),
        "null_labels": null_check(cells, EffectFit(cells, priors).effects.shrinkage),
        "predictor": "effects in closed form; sampled cells deliver them (fitness.json)",
        "not_estimable": {t: why for t, why in missing.items() if written["tiers"][t] is None},
    }


def judged_folds(
    cells: TrainingCells, priors: Priors, each: Callable[[], object] = lambda: None
) -> list[Judged]:
    """Return every held-out contrast of every fold with its prediction.

    Args:
        cells: all cells that effects are estimated from, without null labels.
        priors: features of genes from a table.
        each: called after every fold.
    """
    judged: list[Judged] = []
    for fold in [*_folds(cells, {})]:
        _judged(cells, priors, fold, judged, FEW_DRAWS)
        each()
    return judged


def certainty_of(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return the certainty of each tier; None where nothing was judged."""
    return {tier: certainty(judged, tier) for tier in TIERS}


def gene_variance(cells: TrainingCells, priors: Priors) -> list[float]:
    """Return each gene's variance between cells of the same group, in the order of the panel."""
    measured = EffectFit(cells, priors).effects.measured
    return [float(f"{v:.3g}") for v in measured.variance.tolist()]


def count_folds(cells: TrainingCells) -> int:
    """Return how many folds `rotated` judges."""
    return len([*_folds(cells, {})])


def _folds(cells: TrainingCells, missing: dict[str, str]) -> Iterator[Fold]:
    yield from _seen(cells, missing)
    yield from _carried(cells, missing)
    yield from _combinations(cells, missing)
    yield from _targets(cells, missing)


def _seen(cells: TrainingCells, missing: dict[str, str]) -> Iterator[Fold]:
    groups = _replicates(cells)
    if groups:
        for name, rows in groups:
            yield _fold(cells, name, rows, "seen")
        return
    home = controls(cells)
    # A contrast has as many cells as the smaller of its arms.
    most = max(
        (
            min(len(cells.rows(i)), len(cells.rows(home[c.context])))
            for i, c in enumerate(cells.conditions)
            if c.interventions and c.context in home
        ),
        default=0,
    )
    # A fifth of this has the fewest cells that a contrast is judged by.
    if most < FEWEST * PARTS:
        missing["seen"] = (
            "a fifth of the cells of a condition and of its control is held out in turn, and the "
            f"smaller arm of the largest has {most}; {FEWEST * PARTS} would do"
        )
        return
    part = np.zeros(len(cells), np.int64)
    for i in range(len(cells.conditions)):
        rows = cells.rows(i)
        # Stratified: every condition has a fifth of its cells in each part.
        part[_generator(i).permutation(rows)] = np.arange(len(rows)) % PARTS
    for k in range(PARTS):
        yield _fold(cells, f"fifth {k + 1}", np.flatnonzero(part == k), "seen")


def _replicates(cells: TrainingCells) -> list[tuple[str, Rows]]:
    """Return the cells of each replicate; of one of either arm where arms have their own."""
    if cells.replicate is None:
        return []
    # bool [cells].
    perturbed = np.array([bool(c.interventions) for c in cells.conditions])[cells.condition]
    names = [str(n) for n in np.unique(cells.replicate) if n]
    mine = {n: np.flatnonzero(cells.replicate == n) for n in names}
    # Replicates with cells of both arms: what differs between replicates cancels in a contrast.
    both = [n for n in names if len(np.unique(perturbed[mine[n]])) == 2]
    if len(both) > 1:
        return [(f"replicate {n}", mine[n]) for n in both[:MOST_FOLDS]]
    arms = [[n for n in names if perturbed[mine[n]].all() == arm] for arm in (True, False)]
    if min(map(len, arms)) < 2:
        return []
    folds = max(map(len, arms))
    # Else one replicate of each arm together; the arm with fewer repeats its replicates.
    pairs = [(arms[0][i % len(arms[0])], arms[1][i % len(arms[1])]) for i in range(folds)]
    return [
        (f"replicates {p} and {c}", np.concatenate([mine[p], mine[c]]))
        for p, c in pairs[:MOST_FOLDS]
    ]


def _carried(cells: TrainingCells, missing: dict[str, str]) -> Iterator[Fold]:
    """Yield each context whose perturbations other contexts have too."""
    contexts_of: dict[tuple[Any, ...], set[Any]] = {}
    for c in _present(cells):
        contexts_of.setdefault(c.interventions, set()).add(c.context)
    # Contexts in which at least one perturbation is held out that another context has.
    shared = {x for i, contexts in contexts_of.items() if i and len(contexts) > 1 for x in contexts}
    if not shared:
        n = len({c.context for c in _present(cells)})
        missing["seen_elsewhere"] = (
            f"no perturbation has cells in two contexts ({n} in all): carrying over was not tried"
        )
    for context in sorted(shared, key=repr)[:MOST_FOLDS]:
        held = _rows_of(cells, lambda c, x=context: c.context == x and bool(c.interventions))
        name = ", ".join(value for _, value in context)
        yield _without(cells, f"context {name}", held, "seen_elsewhere")


def _combinations(cells: TrainingCells, missing: dict[str, str]) -> Iterator[Fold]:
    present = set(_present(cells))
    known = [
        c
        for c in present
        if len(c.interventions) > 1
        and all(
            replace(c, interventions=(intervention,)) in present for intervention in c.interventions
        )
    ]
    if len(known) < FEWEST_COMBINATIONS:
        missing["combination_of_seen"] = (
            f"{len(known)} combinations have cells and each of their parts alone; "
            f"{FEWEST_COMBINATIONS} would do"
        )
        return
    yield from _fifths(cells, sorted(known, key=repr), "combinations", "combination_of_seen")


def _targets(cells: TrainingCells, missing: dict[str, str]) -> Iterator[Fold]:
    singles = [c for c in _present(cells) if len(c.interventions) == 1]
    genetic = [c for c in singles if c.interventions[0].kind in GENETIC]
    targets = sorted({c.interventions[0].target for c in genetic} & {*cells.panel})
    if len(targets) < FEWEST_TARGETS:
        missing["unseen"] = (
            f"{len(targets)} perturbed targets are genes of the panel; {FEWEST_TARGETS} would do"
        )
        return
    for k in range(PARTS):
        left = {*targets[k::PARTS]}
        # Combinations with such a target go too: they would tell of it.
        held = _rows_of(cells, lambda c, t=left: any(i.target in t for i in c.interventions))
        yield _without(cells, f"targets, fifth {k + 1}", held, "unseen")


def _fifths(
    cells: TrainingCells, conditions: Sequence[Condition], what: str, tier: str
) -> Iterator[Fold]:
    for k in range(PARTS):
        left = {*conditions[k::PARTS]}
        held = _rows_of(cells, lambda c, x=left: c in x)
        yield _without(cells, f"{what}, fifth {k + 1}", held, tier)


def _without(cells: TrainingCells, name: str, held: Rows, tier: str) -> Fold:
    """Return the fold of conditions left out whole, with half of their control cells."""
    contexts = {cells.conditions[i].context for i in np.unique(cells.condition[held])}
    control = _rows_of(cells, lambda c: c.context in contexts and not c.interventions)
    # One stream for all folds: folds of the same contexts hold out the same control cells.
    half = _generator(10_000).permutation(control)[: len(control) // 2]
    return _fold(cells, name, np.concatenate([held, half]), tier)


def _fold(cells: TrainingCells, name: str, held: Rows, tier: str) -> Fold:
    return Fold(name, np.setdiff1d(np.arange(len(cells)), held), np.sort(held), tier)


def _judged(
    cells: TrainingCells,
    priors: Priors,
    fold: Fold,
    judged: list[Judged],
    draws: Draws | None = None,
) -> Report | None:
    """Return the report of a fold; None where nothing of its tier can be judged.

    Its contrasts are added to `judged`.
    """
    train = cells.take(fold.train)
    sources = [f"source {i + 1}" for i in range(len(cells.measured))]
    test = {
        key: counts
        for key, counts in side(cells, fold.test, cells.panel).items()
        # Conditions with few held-out cells go before contrasts are formed.
        if counts.shape[0] >= FEWEST
    }
    if not any(c.interventions for _, c in test):
        return None
    split = Split(
        panel=cells.panel,
        sources=sources if len(sources) > 1 else ["cells"],
        measured=cells.measured,
        train=side(cells, fold.train, cells.panel),
        test=test,
        held_out=fold.name,
        fold=fold.name,
    )
    study = build_study(split)
    populations = [
        replace(p, contrasts=[c for c in p.contrasts if c.tier == fold.tier][:MOST_CONTRASTS])
        for p in study.populations
    ]
    study = replace(study, populations=[p for p in populations if p.contrasts])
    if not study.populations:
        return None
    fit = EffectFit(train, priors)
    # Only what the tier needs: carrying and unseen targets take most of the time.
    fitted = fit.run(carry=fold.tier == "seen_elsewhere", unseen=fold.tier == "unseen")
    effects = stored_effects(fitted, cells.panel, fit.control_means)

    believed: dict[tuple[str, str], Posterior] = {}

    def predict(training: Training, contrast: Contrast) -> Change | None:
        condition = contrast.condition
        try:
            posterior = effects.effect(dict(condition.context), condition.interventions).posterior
        except NoEffectError:
            return None
        columns = training.population.columns
        mean, sd = posterior.mean[columns], posterior.sd[columns]
        place = (training.population.name, contrast.name)
        believed[place] = Posterior(mean, sd, posterior.lfsr[columns])
        # Shrunk already: its length is not inflated by noise.
        return Change(mean, np.zeros(len(mean)))

    report = evaluate(study, {}, draws or DRAWS, {MODEL: predict}, cells=False)
    known = {(p.name, c.name): (p, c) for p in study.populations for c in p.contrasts}
    # Genes per contrast, so that a fold holds at most `MOST_GENES` in memory.
    most = max(1, MOST_GENES // len(known))
    variance = fit.effects.measured.variance
    for each in report.held_out:
        place = (each.population, each.name)
        if place in believed:
            population, contrast = known[place]
            detected = _detected(population, contrast)
            of_genes = variance[population.columns]
            judged.append(tally(each, believed[place], of_genes, detected, most))
    return report


def _detected(population: Population, contrast: Contrast) -> NDArray[np.int64]:
    """Return how many held-out cells of both arms have each gene, [genes]."""
    arms = [population.test[name] for name in (contrast.perturbed, contrast.control)]
    n = len(population.genes)
    return np.sum([np.bincount(a.indices[a.data > 0], minlength=n) for a in arms], axis=0)


def _cut(report: Report, left: int) -> Report:
    """Return a report with at most `left` values of residuals, contrasts' first folds first.

    Tiers take turns, so that a tier of many contrasts does not leave the others without any.
    """
    kept: list[HeldOut] = []
    places: Counter[str] = Counter()
    order: list[tuple[int, int, int]] = []
    for i, each in enumerate(report.held_out):
        order.append((_nth(report.held_out, each), places[each.tier], i))
        places[each.tier] += 1
    for _, _, i in sorted(order):
        each = report.held_out[i]
        # Residuals and predictions are both written.
        size = 0 if each.predicted is None else 2 * len(each.predicted)
        fits = size <= left
        kept.append(each if fits else replace(each, predicted=None))
        left -= size if fits else 0
    return Report(report.rows, kept, report.sets)


def _nth(every: Sequence[HeldOut], contrast: HeldOut) -> int:
    """Return how many earlier folds have the contrast too."""
    same = [
        h
        for h in every
        if (h.name, h.tier, h.population) == (contrast.name, contrast.tier, contrast.population)
    ]
    return next(i for i, h in enumerate(same) if h is contrast)


def _null(panel: Sequence[str], checked: Sequence[Fitness]) -> NullChanges | None:
    null = [
        f
        for f in checked
        if any(intervention["kind"] == "sham" for intervention in f.interventions)
    ]
    if not null:
        return None
    null = sorted(null, key=lambda f: str(f.interventions[0]["target"]))
    values = np.stack([f.change for f in null])
    return NullChanges(list(panel), values)


def _present(cells: TrainingCells) -> list[Condition]:
    return [cells.conditions[i] for i in np.unique(cells.condition)]


def _rows_of(cells: TrainingCells, wanted: Callable[[Condition], bool]) -> Rows:
    chosen = np.array([wanted(c) for c in cells.conditions])
    return np.flatnonzero(chosen[cells.condition])


def _generator(purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[8, purpose]))
