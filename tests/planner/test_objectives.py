"""Objectives beyond single genes: gene sets, other effects, other cells, constraints."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_testing import FakeEngine
from lingshu_tools.analysis import Aim, Objective
from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.gene_sets import genes_by_name, read_collection
from lingshu_tools.experiments.roots import Roots
from lingshu_tools.experiments.stored_effects import aimed_posterior, stored_effect, tangent_of
from lingshu_tools.planner import Plan, plan_of
from lingshu_tools.planner.beam import best_combinations
from lingshu_tools.planner.closed_form import Singles
from lingshu_tools.planner.rules import seen_alone

SET = "HALLMARK_INTERFERON_GAMMA_RESPONSE"
OBJECTIVES = [
    {"like": ["STAT1 knockout"]},
    {"unlike": ["STAT1 knockout"]},
    {"magnitude": 1},
    {"lower": [SET, "PSMB9:3"]},
    {"lower": ["PSMB9"], "like": ["IRF1 knockout:0.5"], "magnitude": -0.2},
    {"like": ["STAT1 knockout"], "unlike": ["SPI1 knockout:2"]},
]


def planned(app: App, objective: object, candidates: object = "all_seen", **more):
    arguments = {"checkpoint": "thp1-crispr", "objective": objective, "candidates": candidates}
    return call(app, "plan_screen", arguments | more)


def plan(app: App, objective: object, candidates: object = "all_seen", **more) -> Plan:
    screen_id = planned(app, objective, candidates, **more).screen_id
    return plan_of(app, app.ledger.screen(screen_id).plan)


def stored_score(design: Design, objective: Objective) -> float:
    tangent, posterior = tangent_of(design, objective), aimed_posterior(design)
    assert tangent is not None
    assert posterior is not None
    return tangent.offset + float(tangent.weights @ posterior.mean)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_closed_form_is_the_score_of_the_stored_effect(
    app: App, thp1: Checkpoint, objective: object, size: int
):
    planned_screen = plan(app, objective)
    context = planned_screen.control.context
    known = Singles.of(thp1, context, seen_alone(thp1, context), planned_screen.objective)
    assert known is not None
    members = np.array(list(combinations(range(25), size)))[:: 5 if size == 1 else 97]
    for row, score in zip(members, known.scores(members), strict=True):
        parts = tuple(known.interventions[i] for i in row)
        if size == 1 and {i.target for i in parts} >= set(planned_screen.objective.genes or ["-"]):
            continue
        design = replace(planned_screen.control, interventions=parts)
        assert score == pytest.approx(stored_score(design, planned_screen.objective), abs=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_plan_is_read_from_its_record_as_it_was(app: App, objective: object):
    result = planned(app, objective)
    again = plan_of(app, app.ledger.screen(result.screen_id).plan)
    assert again.digest == result.plan_digest
    assert again.wanted.shown == result.objective
    assert planned(app, objective).screen_id == result.screen_id


def test_plans_of_genes_alone_have_the_records_that_they_had(app: App):
    record = app.ledger.screen(planned(app, {"lower": ["STAT1", "PSMB9"]}).screen_id).plan
    assert record["objective"] == {"lower": ["PSMB9", "STAT1"], "raise": []}


@pytest.mark.parametrize("kind", ["like", "unlike", "toward", "magnitude"])
@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_is_the_derivative(kind: str, seed: int):
    rng = np.random.Generator(np.random.Philox(seed))
    target_change, d, v = rng.normal(0, 1, (3, 12))
    target_change[3], kept = np.nan, np.arange(12) != 5
    aim = Aim(kind, "", target_change=None if kind == "magnitude" else target_change)  # type: ignore[arg-type]
    gradient = aim.gradient(d, v**2, kept)
    for gene in range(12):
        step = np.where(np.arange(12) == gene, 1e-6, 0.0)
        slope = (aim.value(d + step, v**2, kept) - aim.value(d - step, v**2, kept)) / 2e-6
        assert gradient[gene] == pytest.approx(float(slope), abs=1e-6)
    assert gradient[5] == 0


def test_the_cosine_of_an_effect_lost_in_its_error_is_near_zero():
    target_change = np.ones(50)
    aim = Aim("like", "", target_change=target_change)
    faint = 0.001 * target_change
    assert float(aim.value(faint)) == pytest.approx(1.0)
    assert float(aim.value(faint, np.full(50, 0.01))) < 0.02
    assert float(aim.value(target_change, np.full(50, 0.01))) > 0.99


def test_what_acts_like_a_knockout_is_its_pathway_and_never_itself(app: App):
    result = planned(app, {"like": ["STAT1 knockout"]})
    best = [row.perturbation for row in result.best]
    assert set(best[:3]) == {"IFNGR1 knockout", "IFNGR2 knockout", "JAK2 knockout"}
    assert "STAT1 knockout" not in result.candidates
    assert any("STAT1 knockout" in c and "compared with" in c for c in result.caveats)
    low, high = result.best[0].interval
    assert 0.5 < low < result.best[0].score < high <= 1
    pairs = planned(app, {"like": ["STAT1 knockout"]}, {"pairs_of": "all_seen"})
    assert not any("STAT1" in name for name in pairs.candidates)
    assert "cosine" in planned(app, {"like": ["JAK2"]}, detail="detailed").units["best.score"]


def test_a_combination_that_holds_a_reference_is_no_candidate(app: App):
    candidates = ["JAK2 + STAT1", "IRF1 + JAK2 + STAT1", "IRF1 + JAK2", "STAT1"]
    result = planned(app, {"like": ["STAT1 + JAK2"]}, candidates)
    assert result.candidates == ["IRF1 knockout + JAK2 knockout", "STAT1 knockout"]
    assert any("2 (what candidates are compared with" in c for c in result.caveats)


def test_reversal_turns_the_ranking_of_similarity(app: App):
    like, unlike = (plan(app, {kind: ["STAT1 knockout"]}, ["JAK2", "SPI1", "BRD4"])
                    for kind in ("like", "unlike"))  # fmt: skip
    scores = [[stored_score(d, p.objective) for d in p.designs] for p in (like, unlike)]
    np.testing.assert_allclose(scores[0], -np.array(scores[1]))


def test_a_gene_set_is_scored_on_its_measured_genes_and_says_how_many(app: App, thp1: Checkpoint):
    genes = read_collection("hallmark").sets[SET]
    places = genes_by_name(thp1)
    measured = sorted({places[g.casefold()] for g in genes if g.casefold() in places})
    planned_screen = plan(app, {"raise": [SET.lower()]}, ["SPI1"])
    (design,) = planned_screen.designs
    posterior = aimed_posterior(design)
    assert posterior is not None
    assert stored_score(design, planned_screen.objective) == pytest.approx(
        posterior.mean[measured].mean()
    )
    assert f"{len(measured)} of {len(genes)} genes measured" in planned_screen.wanted.words
    assert f"{len(measured)} of {len(genes)}" in planned(app, {"raise": [SET]}).summary


def test_weights_are_shares_of_the_score(app: App, thp1: Checkpoint):
    planned_screen = plan(app, {"lower": ["PSMB9:3"], "raise": ["UBE2L6"]}, ["JAK2"])
    (design,) = planned_screen.designs
    posterior = aimed_posterior(design)
    assert posterior is not None
    down, up = (posterior.mean[thp1.panel.index(g)] for g in ("PSMB9", "UBE2L6"))
    assert stored_score(design, planned_screen.objective) == pytest.approx((up - 3 * down) / 4)
    equal = [
        planned(app, {"lower": genes}) for genes in (["PSMB9:2", "STAT1:2"], ["STAT1", "PSMB9"])
    ]
    assert equal[0].plan_digest == equal[1].plan_digest


def test_several_aims_count_by_their_spread(app: App):
    both = plan(app, {"lower": ["PSMB9"], "like": ["SPI1 knockout:2"]})
    genes = replace(both.objective, aims=(), scale=1.0)
    (aim,) = both.objective.aims
    alone = Objective(aims=(replace(aim, weight=1.0, scale=1.0),))
    designs = [d for d in both.designs if d.label != "SPI1 knockout"]
    values = np.array(
        [[stored_score(d, o) for o in (genes, alone, both.objective)] for d in designs]
    )
    summed = values[:, 0] / both.objective.scale + 2 * values[:, 1] / aim.scale
    np.testing.assert_allclose(values[:, 2], summed)
    assert values[:, 0].std() == pytest.approx(both.objective.scale, rel=0.3)
    # Without the reference itself, whose cosine is the largest.
    assert 0.4 * aim.scale < values[:, 1].std() < 1.2 * aim.scale
    assert aim.scale != 1.0
    assert (
        "standard deviations"
        in planned(app, {"lower": ["PSMB9"], "like": ["SPI1"]}, detail="detailed").units[
            "prediction_error"
        ]
    )


def test_sets_of_a_file_are_read_from_an_allowed_folder_only(app: App, tmp_path: Path):
    folder = tmp_path / "sets"
    folder.mkdir()
    file = folder / "mine.gmt"
    file.write_text("A\ts\tPSMB9\tNOGENE\nB\ts\tSTAT1\n", "utf-8")
    objective = {"lower": [f"{file}#A"]}
    with pytest.raises(InputError, match="no folder is allowed"):
        planned(app, objective)
    Roots(app.home).add(folder)
    planned_screen = plan(app, objective)
    assert planned_screen.objective.down == ("PSMB9",)
    assert "1 of 2 genes measured" in planned_screen.wanted.words
    for wrong, said in ((f"{file}#C", "2 sets"), (str(file), "2 sets"), ("/etc/x.gmt", "allowed")):
        with pytest.raises(InputError, match=said):
            planned(app, {"lower": [wrong]})


def test_candidates_keep_what_is_to_be_kept(app: App):
    free = planned(app, {"lower": ["PSMB9"]}).candidates
    kept = plan(app, {"lower": ["PSMB9"], "keep": ["TNFRSF14", "FN1"], "keep_within": 0.4})
    assert 0 < len(kept.candidates) < len(free)
    for design in kept.designs:
        assert kept.wanted.constraints.farthest(design) <= 0.4
    left = set(free) - {d.label for d in kept.designs}
    n, named = kept.wanted.left_out["keep"]
    assert n == len(left)
    assert set(named) <= left


def test_a_ranking_shows_the_changes_of_genes_that_were_to_stay(app: App, thp1: Checkpoint):
    arguments = {
        "checkpoint": thp1.name,
        "objective": {"lower": ["PSMB9"], "keep": ["TNFRSF14", "UBE2L6"], "keep_within": 9.0},
        "candidates": ["STAT1", "TNFRSF14", "STAT1 + JAK2"],
        "n_cells": 16,
        "wait_s": 45,
        "top": 10,
    }
    result = call(app, "run_screen", arguments)
    plan_ = plan_of(app, app.ledger.screen(result.screen_id).plan)
    designs = {d.label: d for d in plan_.designs}
    assert len(result.ranking) == 3
    for row in result.ranking:
        effect = stored_effect(designs[row.perturbation])
        # A target's own gene is free to change.
        genes = ["TNFRSF14", "UBE2L6"][row.perturbation == "TNFRSF14 knockout" :]
        assert list(row.kept) == sorted(genes, key=plan_.wanted.constraints.keep.index)
        for gene in genes:
            mean, low, high = row.kept[gene]
            assert mean == pytest.approx(effect.posterior.mean[thp1.panel.index(gene)], rel=1e-3)
            assert low < mean < high
        ends = [max(-low, high) for _, low, high in row.kept.values()]
        farthest = plan_.wanted.constraints.farthest(designs[row.perturbation])
        assert max(ends) == pytest.approx(farthest, rel=1e-3)
    brief = structured(result, "run_screen", arguments, detailed=False)
    assert not any("kept" in row for row in brief["ranking"])
    free = call(app, "run_screen", {**arguments, "objective": {"lower": ["PSMB9"]}})
    assert not any(row.kept for row in free.ranking)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_stays_is_the_same_in_closed_form_and_one_by_one(
    app: App, thp1: Checkpoint, size: int
):
    planned_screen = plan(
        app, {"lower": ["PSMB9"], "keep": ["TNFRSF14", "FN1", "STAT3"], "keep_within": 0.4}
    )
    constraints, context = planned_screen.wanted.constraints, planned_screen.control.context
    keep = constraints.keep_of(planned_screen.control)
    known = Singles.of(thp1, context, seen_alone(thp1, context), planned_screen.objective, keep)
    assert known is not None
    assert known.guard is not None
    factor = 1 / (1 + known.saturation * (size - 1))
    members = np.array(list(combinations(range(25), size)))[:: 1 if size == 1 else 37]
    ends = known.guard.farthest(members, factor)
    for row, end in zip(members, ends, strict=True):
        parts = tuple(known.interventions[i] for i in row)
        design = replace(planned_screen.control, interventions=parts)
        assert end == pytest.approx(constraints.farthest(design), abs=1e-9)
    refused = np.isnan(known.scores(members))
    assert (refused >= (ends > 0.4)).all()
    assert refused.any()


def test_pairs_of_a_rule_keep_what_is_to_be_kept_and_the_proposed_plate_too(app: App):
    objective = {"lower": ["PSMB9"], "keep": ["TNFRSF14"], "keep_within": 0.5, "avoid": ["JAK2"]}
    result = planned(app, objective, {"pairs_of": "all_seen"})
    planned_screen = plan_of(app, app.ledger.screen(result.screen_id).plan)
    assert all(planned_screen.wanted.constraints.reason(d) is None for d in planned_screen.designs)
    assert not any("JAK2" in name for name in result.candidates)
    proposal = call(app, "propose_batch", {"screen_id": result.screen_id, "wait_s": 0})
    control = planned_screen.control
    for pick in proposal.picks:
        parts = next(
            d.interventions
            for d in [*planned_screen.designs, *_others(app, control)]
            if d.label == pick.perturbation
        )
        assert (
            planned_screen.wanted.constraints.reason(replace(control, interventions=parts)) is None
        )


def _others(app: App, control: Design) -> list[Design]:
    alone = seen_alone(control.checkpoint, control.context)
    pairs = [tuple(sorted(p, key=lambda i: i.sort_key)) for p in combinations(alone, 2)]
    return [replace(control, interventions=p) for p in [*((i,) for i in alone), *pairs]]


def test_targets_to_avoid_come_from_names_sets_and_files(app: App, tmp_path: Path):
    folder = tmp_path / "lists"
    folder.mkdir()
    file = str(folder / "essential.txt")
    Path(file).write_text("GENE\tID\nMYC\t1\nBRD4\t2\nNOTHERE\t3\n", "utf-8")
    Roots(app.home).add(folder)
    result = planned(app, {"lower": ["PSMB9"], "avoid": [file, "CUL3"]})
    gone = {"MYC knockout", "BRD4 knockout", "CUL3 knockout"}
    assert not gone & set(result.candidates)
    assert len(result.candidates) == 22
    assert any("3 (targets to avoid" in c for c in result.caveats)
    only = planned(app, {"lower": ["PSMB9"], "only": ["knockout", file]})
    assert only.candidates == ["BRD4 knockout", "MYC knockout"]


def test_a_race_scores_aims_of_cells_near_the_stored_effect(app: App):
    arguments = {"candidates": {"pairs_of": ["JAK2", "IFNGR1", "SPI1", "BRD4", "IRF1"]},
                 "n_cells": 32, "top_n": 2}  # fmt: skip
    screen_id = planned(app, {"like": ["STAT1 knockout"]}, **arguments).screen_id
    result = call(app, "run_screen", {"screen_id": screen_id, "wait_s": 45})
    while result.status in ("queued", "running"):
        result = call(app, "run_screen", {"screen_id": screen_id, "wait_s": 45})
    assert result.status == "succeeded"
    planned_screen = plan_of(app, app.ledger.screen(screen_id).plan)
    by_label = {d.label: d for d in planned_screen.designs}
    for row in result.ranking:
        assert row.closed_form == pytest.approx(
            stored_score(by_label[row.perturbation], planned_screen.objective), abs=1e-4
        )
        assert row.score is not None
        assert -1.5 < row.score < 1.5
        assert row.interval[0] <= row.closed_form <= row.interval[1] <= 1  # type: ignore[index]
    assert "cosine" in result.summary


def test_the_best_of_many_by_an_aim_say_that_they_are_not_exact(app: App, thp1: Checkpoint):
    planned_screen = plan(app, {"like": ["STAT1 knockout"]})
    context = planned_screen.control.context
    known = Singles.of(thp1, context, seen_alone(thp1, context), planned_screen.objective)
    assert known is not None
    whole = best_combinations(known, 2, 5)
    some = best_combinations(known, 2, 5, most=120)
    assert whole.exact
    assert not some.exact
    assert some.n == whole.n
    np.testing.assert_allclose(some.scores, known.scores(some.members))
    assert some.scores[0] <= whole.scores[0]


@pytest.fixture(scope="module")
def pbmc() -> Checkpoint:
    return Catalogue().load("pbmc")


def test_moving_toward_cells_is_the_share_of_the_distance_that_is_closed(
    tmp_path: Path, pbmc: Checkpoint
):
    app = App(tmp_path / "home", engine=FakeEngine(pbmc.panel))
    entry = next(e for e in pbmc.config["seen"] if e["interventions"] and e["context"])
    context, (entered,) = dict(entry["context"]), entry["interventions"]
    (name,) = {f"{entered['target']} {entered['kind']}"}
    given = {k: entered[k] for k in ("kind", "target")}
    conditions = {"checkpoint": "pbmc", "context": context, "n_cells": 2}
    experiment = call(app, "perturb_cells", {**conditions, "interventions": [given], "wait_s": 45})
    request = {"checkpoint": "pbmc", "context": context, "candidates": [name]}
    there = call(app, "plan_screen", request | {"objective": {"toward": experiment.experiment_id}})
    assert there.best[0].score == pytest.approx(1.0)
    assert there.objective["toward"][0].startswith(name)
    other = next(c for c in pbmc.contexts if c != context and c["dataset"] == context["dataset"])
    away = call(app, "plan_screen", request | {"objective": {"toward": other}})
    assert away.best[0].score < 1
    assert app.ledger.screen(away.screen_id).plan["objective"]["aims"][0]["context"] == other
    app.close()


@pytest.mark.parametrize("kind", ["like", "unlike", "toward"])
def test_a_gene_without_a_known_change_counts_neither_in_products_nor_in_variances(kind: str):
    rng = np.random.default_rng(2)
    target, change, variance = rng.normal(size=(3, 30))
    variance = variance**2
    known = np.arange(30) % 3 > 0
    unknown = np.where(known, change, np.nan)
    whole, part = (Aim(kind, "", target_change=t) for t in (target, target[known]))
    expected = float(part.value(change[known], variance[known]))
    assert float(whole.value(unknown, variance)) == pytest.approx(expected)
    everything = np.ones(30, bool)
    gradient = whole.gradient(unknown, variance, everything)
    assert gradient[known] == pytest.approx(
        part.gradient(change[known], variance[known], everything[known])
    )
    assert not gradient[~known].any()
