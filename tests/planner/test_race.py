"""Races: cells where they are needed, the same from any process, and no cell twice."""

from collections import Counter

import numpy as np
import pytest

from lingshu_model.contracts import Checkpoint
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.planner import plan_of, race_state
from lingshu_tools.planner.race import Race, upper_limits

SCREEN = {
    "checkpoint": "thp1-crispr",
    "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]},
    "candidates": "pairs_of all_seen",
    "top_n": 2,
    "n_cells": 64,
}


def cells_of(race: Race, n: int, means, shared, noise, n_cells: int = 512):
    """Run a race over drawn scores; return its last state and the cells spent."""
    batches: dict = {}
    while True:
        state = race.state(n, n_cells, batches)
        if state.over:
            return state, sum(len(s) for s in state.scores.values())
        first, size = race.rounds(n_cells)[state.round]
        for place in state.missing:
            drawn = means[place] + shared[first : first + size] + noise[place, first : first + size]
            batches[state.round, place] = drawn.tolist()


def test_rounds_double_and_end_at_the_cells_of_the_plan():
    assert Race(1, 0.1).rounds(100) == [(0, 16), (16, 16), (32, 32), (64, 36)]
    assert Race(1, 0.1).rounds(7) == [(0, 7)]


def test_a_limit_holds_at_all_numbers_of_cells_at_once():
    rng = np.random.Generator(np.random.Philox(3))
    wrong = 0
    for _ in range(400):
        a = rng.normal(0, 1, 256)
        limits = [upper_limits(a[None, :n], 0.05, 0.01)[0] for n in (16, 32, 64, 128, 256)]
        wrong += min(limits) < 0
    # One-sided at 0.05, so at most 0.025 of them are expected to be wrong at any round.
    assert wrong / 400 < 0.04


def test_a_race_settles_the_best_with_few_cells_and_is_right():
    rng = np.random.Generator(np.random.Philox(4))
    spent, wrong = 0, 0
    for _ in range(40):
        means = np.concatenate([[1.0, 0.9], rng.uniform(-0.2, 0.5, 38)])
        shared, noise = rng.normal(0, 1, 512), rng.normal(0, 0.3, (40, 512))
        state, cells = cells_of(Race(2, 0.05), 40, means, shared, noise)
        spent += cells
        best = sorted(state.scores, key=lambda p: -state.scores[p].mean())[:2]
        wrong += bool(state.settled) and set(best) != {0, 1}
        assert state.settled
    assert wrong == 0
    assert spent / 40 < 40 * 512 / 8


def test_ties_are_not_called_settled_before_they_are():
    rng = np.random.Generator(np.random.Philox(6))
    noise = rng.normal(0, 0.5, (6, 64))
    state, _ = cells_of(Race(2, 0.01), 6, np.zeros(6), np.zeros(64), noise, n_cells=64)
    assert state.over
    assert not state.settled


def test_equal_candidates_are_settled_as_equal():
    state, _ = cells_of(Race(2, 0.05), 6, np.zeros(6), np.ones(512), np.zeros((6, 512)))
    assert state.settled
    assert state.round < 5


def finished(app: App, **more):
    result = call(app, "run_screen", {**SCREEN, "wait_s": 45, **more})
    while result.status in ("queued", "running"):
        result = call(app, "run_screen", {**SCREEN, "wait_s": 45, **more})
    return result


def test_a_screen_races_and_shows_the_closed_form_beside(app: App, engine: FakeEngine):
    result = finished(app, top=8)
    assert result.status == "succeeded"
    assert result.n_candidates == 300
    assert result.n_done == 8
    assert all(row.closed_form is not None for row in result.ranking)
    assert any("best" in c and "settled" in c for c in result.caveats)
    children = app.ledger.children(result.screen_id)
    assert {c.request["seed"] for c in children} == {0}
    ranges = Counter((c.perturbation, c.request["first_cell"]) for c in children)
    assert max(ranges.values()) == 1
    spent = sum(c.request["n_cells"] for c in children)
    assert spent <= 8 * 64
    n_controls = max(c.request["first_cell"] + c.request["n_cells"] for c in children)
    assert result.progress.done == spent + n_controls
    controls = [arm for arm in engine.arms.values() if not arm.interventions]
    assert len(controls) == len({c.request["first_cell"] for c in children})


def test_a_race_goes_on_in_another_process_and_repeats_no_cell(app: App, thp1: Checkpoint):
    whole = finished(app, top=8)
    other = App(app.home.parent / "other", engine=FakeEngine(thp1.panel))
    planned = call(other, "plan_screen", SCREEN)
    # What a process that ended early has left: the first round, and half of it sealed.
    from lingshu_tools.execution.screens import begin_round

    screen = other.ledger.screen(planned.screen_id)
    plan = plan_of(other, screen.plan)
    ids = begin_round(other, plan, screen)
    other.runner.launch(ids[:4])
    assert other.runner.wait(ids[:4], 60)
    before = {i: other.ledger.outcome(i) for i in ids[:4]}
    result = finished(other, top=8)
    assert [(r.perturbation, r.score) for r in result.ranking] == [
        (r.perturbation, r.score) for r in whole.ranking
    ]
    assert {i: other.ledger.outcome(i) for i in before} == before
    ranges = Counter(
        (c.perturbation, c.request["first_cell"]) for c in other.ledger.children(screen.id)
    )
    assert max(ranges.values()) == 1
    state = race_state(plan, other.ledger, other.ledger.children(screen.id))
    assert state.over
    other.close()


def test_a_finished_race_computes_nothing_again(app: App, engine: FakeEngine):
    first = finished(app)
    n = len(app.ledger.children(first.screen_id))
    again = call(app, "run_screen", {"screen_id": first.screen_id, "wait_s": 45})
    assert again == first
    assert len(app.ledger.children(first.screen_id)) == n


def test_a_race_that_was_cancelled_begins_no_round_until_it_is_run(app: App, thp1: Checkpoint):
    from lingshu_tools.execution.screens import begin_round

    planned = call(app, "plan_screen", SCREEN)
    screen = app.ledger.screen(planned.screen_id)
    ids = begin_round(app, plan_of(app, screen.plan), screen)
    app.ledger.cancel(ids[0])
    result = call(app, "get_experiment", {"id": screen.id, "wait_s": 45})
    assert len(app.ledger.children(screen.id)) == len(ids)
    assert result.status != "succeeded" or "Cancelled" in " ".join(result.caveats)
    assert finished(app).status == "succeeded"


def test_a_row_of_a_race_replays(app: App):
    result = finished(app)
    replay = call(app, "replay_experiment", {"id": result.ranking[0].experiment_id, "wait_s": 45})
    assert replay.verdict == "exact"


@pytest.mark.parametrize("arguments", [{"candidates": ["STAT1", "JAK2"]}, {"race": False}])
def test_top_n_without_a_race_is_refused(app: App, arguments: dict):
    from lingshu_tools.errors import InputError

    with pytest.raises(InputError, match="race=true"):
        call(app, "plan_screen", {**SCREEN, **arguments})
