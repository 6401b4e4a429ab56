"""What was cancelled or failed is begun again as new experiments; what is done is kept."""

from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from made_screens import (
    PANEL,
    TARGETS,
    FailingEngine,
    HaltingEngine,
    make_checkpoint,
    open_app,
    run,
)

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.designs import replaces

KNOCK_OUT = {"interventions": [{"kind": "knockout", "target": "T01"}], "n_cells": 8}


def finish(app: App, observed: Any) -> Any:
    """Return a screen or an experiment when it has ended, as its next steps say."""
    name = observed.screen_id or observed.experiment_id
    while observed.status in ("queued", "running"):
        observed = call(app, "get_experiment", {"id": name, "wait_s": 45})
    return observed


@pytest.fixture
def cancelled(tmp_path: Path) -> tuple[App, str]:
    """A screen of five, cancelled when three were done; its engine works by now."""
    make_checkpoint(tmp_path / "checkpoints")
    first = open_app(tmp_path / "home", HaltingEngine(done=3))
    screen_id = run(first, wait_s=0).screen_id
    ids = [c.id for c in first.ledger.children(screen_id)]
    first.runner.wait(ids[:3], 45)
    call(first, "cancel_experiment", {"id": screen_id})
    first.runner.wait(ids, 45)
    first.close()
    app = open_app(tmp_path / "home", FailingEngine())
    yield app, screen_id
    app.close()


def test_a_cancelled_screen_goes_on_by_its_id_and_keeps_what_is_done(cancelled: tuple[App, str]):
    app, screen_id = cancelled
    before = {c.id: app.ledger.outcome(c.id) for c in app.ledger.children(screen_id)}
    shown = call(app, "get_experiment", {"id": screen_id})
    assert shown.status == "cancelled"
    assert f'run_screen(screen_id="{screen_id}")' in shown.next_step

    result = finish(app, call(app, "run_screen", {"screen_id": screen_id, "wait_s": 45}))
    assert (result.screen_id, result.status) == (screen_id, "succeeded")
    assert result.n_done == 5

    after = app.ledger.children(screen_id)
    stopped = [i for i, outcome in before.items() if outcome and outcome.kind == "cancelled"]
    new = [c for c in after if c.id not in before]
    assert len(stopped) == 2
    assert [replaces(c) for c in new] == stopped
    assert all(app.ledger.outcome(i) == outcome for i, outcome in before.items())
    assert sorted(app.engine.submitted) == sorted((c.perturbation or "").split()[0] for c in new)
    assert app.ledger.verify().ok


def test_a_resumed_screen_is_finished_without_its_checkpoint_too(
    cancelled: tuple[App, str], tmp_path: Path
):
    app, screen_id = cancelled
    here = app.catalogue
    for status, states in (
        ("interrupted", "2 cancelled, 3 succeeded"),
        ("succeeded", "5 succeeded"),
    ):
        app.catalogue = Catalogue([tmp_path / "empty"])
        result = call(app, "get_experiment", {"id": screen_id})
        assert (result.status, f"5 experiments: {states}." in result.summary) == (status, True)
        app.catalogue = here
        finish(app, call(app, "run_screen", {"screen_id": screen_id, "wait_s": 45}))


def test_a_cancelled_candidate_says_where_it_was_begun_again(cancelled: tuple[App, str]):
    app, screen_id = cancelled
    (old, *_) = [
        c for c in app.ledger.children(screen_id) if app.ledger.status(c.id) == "cancelled"
    ]
    shown = call(app, "get_experiment", {"id": old.id})
    assert shown.next_step.startswith(f'run_screen(screen_id="{screen_id}")')
    finish(app, call(app, "run_screen", {"screen_id": screen_id, "wait_s": 45}))
    (new,) = [c for c in app.ledger.children(screen_id) if replaces(c) == old.id]
    again = call(app, "get_experiment", {"id": old.id})
    assert again.status == "cancelled"
    assert again.next_step.startswith(f'get_experiment(id="{new.id}"')
    named = call(app, "get_experiment", {"id": new.id, "detail": "provenance"}).provenance
    assert named.in_place_of == old.id
    assert named.request_digest == old.request_digest


def test_two_that_resume_a_screen_at_once_begin_each_candidate_once(cancelled: tuple[App, str]):
    app, screen_id = cancelled
    other = open_app(app.home, FakeEngine(PANEL))
    together = Barrier(2)

    def resume(client: App) -> None:
        together.wait()
        call(client, "run_screen", {"screen_id": screen_id, "wait_s": 45})

    threads = [Thread(target=resume, args=(client,)) for client in (app, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert finish(app, call(app, "get_experiment", {"id": screen_id})).status == "succeeded"
    other.close()
    assert len(app.ledger.children(screen_id)) == 7
    assert len(candidates_of(app.ledger, screen_id)) == 5


def test_a_screen_cancelled_again_and_again_goes_on_each_time(cancelled: tuple[App, str]):
    app, screen_id = cancelled
    for _ in range(3):
        halted = open_app(app.home, HaltingEngine(done=0))
        call(halted, "run_screen", {"screen_id": screen_id, "wait_s": 0})
        call(halted, "cancel_experiment", {"id": screen_id})
        halted.runner.wait([c.id for c in candidates_of(app.ledger, screen_id)], 45)
        halted.close()
        assert call(app, "get_experiment", {"id": screen_id}).status == "cancelled"
    result = finish(app, call(app, "run_screen", {"screen_id": screen_id, "wait_s": 45}))
    assert (result.status, result.n_done) == ("succeeded", 5)
    assert len(app.ledger.children(screen_id)) == 5 + 4 * 2


def test_the_same_plan_again_goes_on_too_and_a_look_begins_nothing(cancelled: tuple[App, str]):
    app, screen_id = cancelled
    call(app, "get_experiment", {"id": screen_id, "wait_s": 1})
    assert len(app.ledger.children(screen_id)) == 5
    result = finish(app, run(app))
    assert (result.screen_id, result.status, result.n_done) == (screen_id, "succeeded", 5)


def test_failed_candidates_are_begun_again_when_nothing_else_is_under_way(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    app = open_app(tmp_path / "home", FailingEngine("T02"))
    result = finish(app, run(app))
    assert (result.status, result.n_done) == ("succeeded", 4)
    assert len(app.ledger.children(result.screen_id)) == 5
    app.close()

    mended = open_app(tmp_path / "home", FailingEngine())
    result = finish(
        mended, call(mended, "run_screen", {"screen_id": result.screen_id, "wait_s": 45})
    )
    assert (result.status, result.n_done) == ("succeeded", 5)
    assert set(mended.engine.submitted) == {"T02"}
    mended.close()


def test_asking_on_while_a_screen_runs_repeats_no_failure(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")

    class Engine(HaltingEngine):
        def wait(self, job_id: str, wait_s: float):
            view = super().wait(job_id, wait_s)
            if [i.target for i in self.arms[job_id].interventions] == [TARGETS[0]]:
                return view.model_copy(update={"state": "failed", "error": "not enough memory"})
            return view

    app = open_app(tmp_path / "home", Engine(done=0))
    result = run(app, wait_s=0)
    first = app.ledger.children(result.screen_id)[0].id
    assert app.runner.wait([first], 45)
    for _ in range(3):
        assert run(app, wait_s=0).status == "running"
    assert len(app.ledger.children(result.screen_id)) == 5
    app.close()


def test_an_experiment_asked_for_again_after_it_was_cancelled_names_the_old_one(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    app = open_app(tmp_path / "home", HaltingEngine(done=0))
    old = call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 0}).experiment_id
    assert call(app, "cancel_experiment", {"id": old}).status in ("cancelled", "running")
    app.runner.wait([old], 45)
    app.close()

    app = open_app(tmp_path / "home", FakeEngine(PANEL))
    other = call(app, "perturb_cells", KNOCK_OUT | {"seed": 5, "wait_s": 45})
    assert app.ledger.experiment(other.experiment_id).parent is None
    new = call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45})
    assert new.status == "succeeded"
    row = app.ledger.experiment(new.experiment_id)
    assert (row.parent, replaces(row)) == (old, old)
    assert row.request_digest == app.ledger.experiment(old).request_digest
    assert app.ledger.status(old) == "cancelled"
    listed = call(app, "list_experiments", {"parent": old}).experiments
    assert [item.experiment_id for item in listed] == [new.experiment_id]
    shown = call(app, "get_experiment", {"id": new.experiment_id})
    assert shown.replay is None
    assert f'id="{new.experiment_id}"' in call(app, "get_experiment", {"id": old}).next_step
    # What follows one that succeeded is another experiment, and names nothing.
    third = call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45})
    assert app.ledger.experiment(third.experiment_id).parent is None
    app.close()


def test_one_principal_does_not_name_what_another_cancelled(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    mine = open_app(tmp_path / "home", HaltingEngine(done=0), principal="me")
    old = call(mine, "perturb_cells", KNOCK_OUT | {"wait_s": 0}).experiment_id
    call(mine, "cancel_experiment", {"id": old})
    mine.runner.wait([old], 45)
    mine.close()
    yours = open_app(tmp_path / "home", FakeEngine(PANEL), principal="you")
    new = call(yours, "perturb_cells", KNOCK_OUT | {"wait_s": 45})
    assert yours.ledger.experiment(new.experiment_id).parent is None
    yours.close()


def test_replaying_a_cancelled_experiment_begins_it_once(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    app = open_app(tmp_path / "home", HaltingEngine(done=0))
    old = call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 0}).experiment_id
    call(app, "cancel_experiment", {"id": old})
    app.runner.wait([old], 45)
    app.close()
    app = open_app(tmp_path / "home", FakeEngine(PANEL))
    first = call(app, "replay_experiment", {"id": old, "wait_s": 45})
    assert (first.status, first.verdict) == ("succeeded", None)
    assert "first result" in first.summary
    assert replaces(app.ledger.experiment(first.experiment_id)) == old
    again = call(app, "replay_experiment", {"id": old, "wait_s": 45})
    assert again.experiment_id == first.experiment_id
    app.close()


def test_a_replay_that_was_cancelled_is_begun_again_as_a_replay(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    app = open_app(tmp_path / "home", FakeEngine(PANEL))
    finished = call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45}).experiment_id
    app.close()
    halted = open_app(tmp_path / "home", HaltingEngine(done=0))
    replay = call(halted, "replay_experiment", {"id": finished, "wait_s": 0}).experiment_id
    call(halted, "cancel_experiment", {"id": replay})
    halted.runner.wait([replay], 45)
    halted.close()
    app = open_app(tmp_path / "home", FakeEngine(PANEL))
    result = call(app, "replay_experiment", {"id": replay, "wait_s": 45})
    assert (result.verdict, result.replay_of) == ("exact", finished)
    assert replaces(app.ledger.experiment(result.experiment_id)) == replay
    assert [v.replay_id for v in app.ledger.verifications(finished)] == [result.experiment_id]
    app.close()


def test_the_pages_of_a_ranking_are_the_whole_ranking(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    app = open_app(tmp_path / "home", FakeEngine(PANEL))
    result = finish(app, run(app, candidates=TARGETS, n_cells=2, top=25))
    pages = [
        call(app, "get_experiment", {"id": result.screen_id, "limit": 10, "offset": offset})
        for offset in (0, 10, 20)
    ]
    names = [row["perturbation"] for page in pages for row in page.ranking]
    whole = call(app, "get_experiment", {"id": result.screen_id, "limit": 25}).ranking
    assert names == [row["perturbation"] for row in whole]
    assert len(set(names)) == 25
    app.close()
