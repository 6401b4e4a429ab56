"""The figures of two evaluations of synthetic cells are what they were before the rebuild.

`golden/figures.json` was written by the code that this package replaced (commit "Evaluation: random
streams keyed by their use"), in one context and in several with a peer, and then reduced to the
figures that stayed. Values, intervals and verdicts must be equal to six digits.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic
import synthetic_contexts
from fakes import fake_sampler

from lingshu_model.contracts import ArmRequest, Catalogue, Cells
from lingshu_model.evaluate import Draws, Figure, NamedSet, Report, evaluate, figures
from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.evaluate.compare import mean_row, of_row
from lingshu_model.evaluate.data import load_split
from lingshu_model.evaluate.evidence import null_evidence
from lingshu_model.evaluate.figures import Table
from lingshu_model.evaluate.metrics.agreement import PEARSON
from lingshu_model.evaluate.report import NullChanges, null_changes, sample
from lingshu_model.evaluate.rows import (
    AT_HALF,
    HELD_OUT,
    MODEL,
    MONTE_CARLO,
    NOISE_CEILING,
    SPLIT_HALF,
)
from lingshu_model.evaluate.sources import Source
from lingshu_model.evaluate.study import build_study

GOLDEN = json.loads((Path(__file__).parent / "golden" / "figures.json").read_text("utf-8"))
FAMILIES = [["B cell", "CD4 T cell", "CD8 T cell", "natural killer cell"]]
Value = list[float | str | None]


@pytest.fixture(scope="module")
def one_context(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Value]:
    folder = tmp_path_factory.mktemp("one")
    synthetic.write_data(folder)
    return measured(folder, synthetic.write_checkpoint(folder), synthetic.sampled, peer=False)


@pytest.fixture(scope="module")
def several_contexts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Value]:
    folder = tmp_path_factory.mktemp("several") / "data"
    synthetic_contexts.write_data(folder)
    checkpoint = synthetic_contexts.write_checkpoint(folder)
    return measured(folder, checkpoint, synthetic_contexts.sampled, peer=True)


def measured(
    folder: Path, checkpoint: Path, sampled: Callable[[ArmRequest], Cells], *, peer: bool
) -> dict[str, Value]:
    with pytest.MonkeyPatch.context() as patch:
        fake_sampler(patch, sampled)
        loaded = Catalogue([checkpoint.parent]).load(checkpoint.name)
        store = ArmStore(loaded, folder / "arms", n_cells=60, steps=3, guidance=0.0)
        study = build_study(load_split(loaded, folder, None), FAMILIES)
        sources = {MODEL: sample(store, study, [0, 1], lambda: None)}
        if peer:
            arms = sample(store, study, [70, 71], lambda: None).arms
            sources["other"] = Source([0, 1], arms)
        null = null_changes(store, study, 0, lambda: None)
    draws = Draws(bootstrap=60, monte_carlo=40, splits=4)
    return dict(flattened(evaluate(study, sources, draws), null))


def key(*words: object) -> str:
    return " | ".join(map(str, words))


def estimated(figure: Figure) -> Value:
    result = of_row(figure.row)
    return [result.value, *result.interval]


def apart(figure: Figure) -> Value:
    assert figure.difference is not None
    result = of_row(figure.difference)
    return [result.value, *result.interval]


def flattened(report: Report, null: NullChanges) -> Iterator[tuple[str, Value]]:
    table = Table(report.rows)
    for figure in figures(report.rows, report.sets):
        yield from of_figure(figure)
    for chosen in report.sets:
        if chosen.kind == "contrasts":
            yield from by_seed(table, chosen)
    for row in report.rows:
        if row.predictor == MODEL and row.metric == "mmd2":
            unit = frozenset({(row.population, row.set)})
            for figure in table.figures(NamedSet(row.set, "pools", "", unit)):
                if figure.row.predictor == MODEL:
                    yield key(figure.row.metric, "pool", row.set, MODEL), [figure.row.value]
    for each in report.held_out:
        yield from of_contrast(table, each)
    yield from of_copies(report)
    yield "null labels", null_evidence(null, {"n_cells": 60, "steps": 3})["magnitudes"]


def of_figure(figure: Figure) -> Iterator[tuple[str, Value]]:
    row = figure.row
    if figure.kind == "pools":
        yield key(row.metric, row.set, row.predictor), estimated(figure)
        if figure.verdict:
            yield key(row.metric, row.set, row.predictor, "verdict"), [figure.verdict]
        # Where one contrast was held out its cells had a table of their own.
        contrast, _, rest = row.set.partition(",")
        if rest and row.metric in ("energy_distance", "mmd2", "ilisi"):
            name = {"real_split_half": SPLIT_HALF}.get(row.predictor, row.predictor)
            yield key("cells", row.metric, contrast, name), [*estimated(figure), figure.verdict]
        return
    if figure.kind != "contrasts":
        return
    sets = [row.set] if row.tier == "seen" else [synthetic_contexts.HELD_OUT]
    where = (row.tier, "", *sets)
    if row.metric == "magnitude_ratio":
        yield key("magnitude_ratio", *where, row.predictor), estimated(figure)
    elif row.metric == PEARSON and row.predictor == NOISE_CEILING:
        yield key("noise_ceiling", *where), [row.value]
    elif row.metric == PEARSON and row.predictor == MONTE_CARLO:
        yield key("monte_carlo", *where, MODEL), estimated(figure)
    elif row.metric == PEARSON:
        yield key(PEARSON, *where, row.predictor), estimated(figure)
        if figure.difference:
            yield key("difference", *where, row.predictor), [*apart(figure), figure.verdict]
    if row.tier != "seen":
        yield from of_response(figure, (row.metric, row.tier, *sets))


def of_response(figure: Figure, where: tuple[str, ...]) -> Iterator[tuple[str, Value]]:
    predictor = figure.row.predictor
    if predictor in (MODEL, AT_HALF):
        yield key(*where, predictor.replace("_", " ")), estimated(figure)
    elif predictor == MONTE_CARLO:
        yield key("monte_carlo", *where), estimated(figure)
    elif predictor == NOISE_CEILING:
        yield key("noise_ceiling", *where), [figure.row.value]
    elif figure.difference:
        name = "half" if predictor == SPLIT_HALF else predictor
        yield key(*where, name), [*estimated(figure), figure.verdict]
        yield key(*where, f"model - {name}"), apart(figure)


def by_seed(table: Table, chosen: NamedSet) -> Iterator[tuple[str, Value]]:
    name = synthetic_contexts.HELD_OUT if chosen.tier != "seen" else chosen.name
    for figure in table.figures(chosen):
        if figure.row.metric == PEARSON:
            rows = table.of(PEARSON, figure.row.predictor, chosen)
            for seed in (0, 1):
                mine = [row for row in rows if row.seed in (seed, None)]
                result = of_row(mean_row(mine, chosen.name))
                where = (PEARSON, chosen.tier, "", name, figure.row.predictor, seed)
                yield key(*where), [result.value, *result.interval]


def of_contrast(table: Table, contrast) -> Iterator[tuple[str, Value]]:
    where = (contrast.tier, contrast.name)
    unit = NamedSet(
        "", "contrasts", contrast.tier, frozenset({(contrast.population, contrast.name)})
    )
    by_name = {f.row.predictor: f for f in table.figures(unit) if f.row.metric == PEARSON}
    yield key("per perturbation", *where), estimated(by_name[MODEL])
    training = by_name.get("replicate_reference")
    yield key("reference", *where), [training.row.value if training else None]
    yield key("noise_ceiling", *where), [by_name[NOISE_CEILING].row.value]
    yield key("cells", *where), [*contrast.n_cells]
    yield key("residuals", *where), (contrast.predicted - contrast.observed).tolist()


def of_copies(report: Report) -> Iterator[tuple[str, Value]]:
    result = {(r.metric, r.population, r.seed, r.predictor): r.value for r in report.rows}
    for (metric, population, seed, _), p in result.items():
        if metric == "p_of_copies_exact":
            where = ("copies", population, seed)
            near = result["p_of_copies_near", population, seed, MODEL]
            yield key(*where, "p"), [p, near]
            kinds = {"sampled": MODEL, "real": HELD_OUT, "training": "training_cells"}
            for name, kind in kinds.items():
                distance = result["distance_to_training", population, seed, kind]
                yield key(*where, name), [distance]


def assert_equal(actual: dict[str, Value], golden: dict[str, Value]) -> None:
    assert golden.keys() <= actual.keys()
    for name, values in golden.items():
        assert len(actual[name]) == len(values), name
        for mine, theirs in zip(actual[name], values, strict=True):
            if isinstance(theirs, float | int):
                assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-9), name
            elif theirs is None:
                assert mine is None or np.isnan(mine), name
            else:
                assert mine == theirs, name


def test_the_figures_of_one_context_are_what_they_were(one_context: dict[str, Value]):
    assert_equal(one_context, GOLDEN["one context"])


def test_the_figures_of_several_contexts_are_what_they_were(several_contexts: dict[str, Value]):
    assert_equal(several_contexts, GOLDEN["several contexts"])
