"""plan_screen: names resolved, equal plans found again, and nothing simulated."""

import pytest

from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError

LOWER = {"objective": {"lower": ["G01", "G02"]}}


def plan(app: App, **arguments):
    return call(app, "plan_screen", {**LOWER, "candidates": "all_seen", **arguments})


def test_a_plan_says_what_it_costs_and_simulates_nothing(app: App, engine: FakeEngine):
    created = plan(app)
    assert created.screen_id.startswith("scr_")
    assert created.n_candidates == 25
    assert created.cost.n_cells == 26 * 256
    assert created.support.mix == {"seen": 25}
    assert created.evidence.tier == "seen"
    assert "mean shift 0.31" in created.summary
    assert created.will_show
    assert created.wont_show
    assert not engine.arms
    assert app.ledger.children(created.screen_id) == []


def test_shams_are_never_among_all_seen(app: App):
    assert not [c for c in plan(app).candidates if "sham" in c]


def test_equal_plans_in_any_order_and_by_any_name_are_one_screen(app: App):
    item = plan(app, candidates=["T03", "T01", "T02"])
    other = plan(
        app,
        objective={"lower": ["oldG02", "ENSG00000000026", "G02"]},
        candidates=["T02", [{"kind": "knockout", "target": "oldT01"}], "T03", "T03"],
        context={"cell_line": "THP-1"},
    )
    assert (item.screen_id, item.plan_digest) == (other.screen_id, other.plan_digest)
    assert other.candidates == ["T01 knockout", "T02 knockout", "T03 knockout"]


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"n_cells": 64}, {"objective": {"raise": ["G01"]}}]
)
def test_another_seed_size_or_objective_is_another_screen(app: App, changed: dict):
    assert plan(app).screen_id != plan(app, **changed).screen_id


def test_a_combination_is_one_candidate_and_lowers_the_screens_evidence(app: App):
    pair = [{"kind": "knockout", "target": "T02"}, {"kind": "knockout", "target": "T01"}]
    created = plan(app, candidates=["T01", pair])
    assert created.candidates == ["T01 knockout", "T01 knockout + T02 knockout"]
    assert created.support.tier == "mixed"
    assert created.support.mix == {"seen": 1, "combination_of_seen": 1}
    assert created.evidence is None
    assert "No combination condition was held out; borrowed" in created.summary


def test_a_budget_lowers_the_cells_of_every_arm(app: App):
    assert plan(app, budget=26 * 50 + 7).n_cells == 50
    assert plan(app, budget=10**6).n_cells == 256


def test_the_plan_names_own_genes_that_will_be_left_out(app: App):
    created = plan(app, objective={"lower": ["T01", "G01"]})
    assert any("left out" in c and "T01 knockout" in c for c in created.caveats)


def test_the_limit_of_shams_is_the_largest_of_their_scores(app: App):
    # Sixteen null labels of sd 0.02: a mean of two genes has sd 0.014, the largest about twice it.
    assert 0.5 < plan(app).sham_limit / (2 * 0.02 / 2**0.5) < 1.6


@pytest.mark.parametrize("again", ["T01", "T01 knockout", [{"kind": "knockout", "target": "T01"}]])
def test_a_candidate_that_is_named_twice_is_said_to_run_once(app: App, again: object):
    created = plan(app, candidates=["T01", "T02", again])
    assert created.candidates == ["T01 knockout", "T02 knockout"]
    assert "Named more than once and run once: T01 knockout." in created.caveats
    # The plan is that of the distinct candidates, and nothing is said of those.
    once = plan(app, candidates=["T01", "T02"])
    assert once.plan_digest == created.plan_digest
    assert not any("more than once" in c for c in once.caveats)


def test_a_screen_says_which_of_its_candidates_were_named_twice(app: App):
    result = call(app, "run_screen", {
        "objective": {"lower": ["G01"]}, "candidates": ["T01", "T02", "T01"], "n_cells": 16,
        "wait_s": 30,
    })  # fmt: skip
    assert len(result.ranking) == 2
    assert "Named more than once and run once: T01 knockout." in result.caveats


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"objective": {}}, ["names no gene", "lower"]),
        ({"objective": {"lower": ["G01"], "raise": ["oldG01"]}}, ["'G01'", "once"]),
        ({"objective": {"lower": ["TT03"]}}, ["'TT03'", "Did you mean", "'T03'"]),
        ({"objective": {"down": ["G01"]}}, ["down"]),
        ({"candidates": ["T99"]}, ["'T99'", "Did you mean"]),
        ({"candidates": []}, ["0 perturbations"]),
        ({"candidates": "all"}, ["all_seen"]),
        ({"candidates": [[]]}, ["0 interventions", "1 to 16"]),
        ({"budget": 30}, ["budget=30", "Raise budget to 416"]),
        ({"context": {"cell_line": "K562"}}, ["K562", "THP-1"]),
        ({"n_cells": "256"}, ["n_cells"]),
        ({"n_cells": float("nan")}, ["n_cells"]),
        ({"wait_s": 4}, ["wait_s"]),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(app: App, arguments: dict, words: list):
    with pytest.raises(InputError) as caught:
        plan(app, **arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
