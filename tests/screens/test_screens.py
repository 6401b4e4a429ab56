"""run_screen: every candidate once, ranked from what is sealed, resumed by anyone."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_screens import (
    CONTEXT,
    PANEL,
    SMALL,
    TARGETS,
    FailingEngine,
    HaltingEngine,
    make_checkpoint,
    make_evidence,
    open_app,
    run,
)

from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, NotFoundError


def test_all_25_seen_are_ranked_best_first_against_one_control_arm(app: App, engine: FakeEngine):
    result = run(app, candidates="all_seen", n_cells=8, top=100)
    scores = [row.score for row in result.ranking]
    assert result.status == "succeeded"
    assert len(scores) == result.n_done == 25
    assert scores == sorted(scores, reverse=True)
    assert {row.perturbation for row in result.ranking} == {f"{t} knockout" for t in TARGETS}
    assert result.progress.done == result.progress.total == 26 * 8
    assert len(engine.arms) == 26
    assert sum(not arm.interventions for arm in engine.arms.values()) == 1
    outcomes = [app.ledger.outcome(c.id) for c in app.ledger.children(result.screen_id)]
    assert len({o.artifacts["control"] for o in outcomes}) == 1


def test_a_score_is_that_of_the_cells_the_engine_gave(app: App, engine: FakeEngine):
    row = run(app).ranking[0]
    arms = {a.interventions[0].target if a.interventions else "": d for d, a in engine.arms.items()}
    target = row.perturbation.split()[0]
    control, perturbed = engine.cells(arms[""]).counts, engine.cells(arms[target]).counts
    genes = [PANEL.index(g) for g in ("G01", "G02", "T03") if g != target]
    change = [np.log1p(c / c.sum(1, keepdims=True) * 1e4)[:, genes] for c in (control, perturbed)]
    assert row.score == pytest.approx(-(change[1] - change[0]).mean(), rel=1e-4)
    assert row.mc_interval[0] < row.score < row.mc_interval[1]


def test_a_ranking_needs_the_ledger_file_alone(app: App):
    result = run(app, top=100)
    shutil.rmtree(app.home / "objects")
    again = call(app, "run_screen", {"screen_id": result.screen_id, "top": 100})
    assert again.ranking == result.ranking


def test_errors_and_false_discovery_rates_stand_beside_every_score(app: App):
    result = run(app, top=100)
    assert all(row.prediction_error > 0 and row.support == "seen" for row in result.ranking)
    assert all(0 <= row.fdr <= 1 for row in result.ranking)
    # By rank among sixteen null labels nothing is beyond 1 in 17, and it is said so.
    assert min(row.fdr for row in result.ranking) >= 1 / 17
    assert "By rank among 16 null labels p is at least 1 in 17" in result.summary
    assert "twelve strongest" in result.summary
    assert "mean shift 0.31" in result.summary
    assert "prediction error" in result.summary
    assert set(result.units) == {"score", "mc_interval", "prediction_error"}


def test_a_targets_own_gene_is_left_out_and_the_result_says_so(app: App):
    result = run(app, top=100)
    left_out = {row.perturbation: row.left_out for row in result.ranking if row.left_out}
    assert left_out == {"T03 knockout": ["T03"]}
    assert any("own gene is left out" in c and "T03" in c for c in result.caveats)


def test_a_candidate_whose_only_gene_is_its_own_has_no_score(app: App):
    result = run(app, objective={"lower": ["T03"]}, candidates=["T03", "T04"])
    assert [row.perturbation for row in result.ranking] == ["T04 knockout", "T03 knockout"]
    assert result.ranking[1].score is None
    assert any("Without a score" in c and "T03" in c for c in result.caveats)


def test_rows_that_are_cut_are_told(app: App):
    result = run(app, top=3)
    assert len(result.ranking) == 3
    assert (result.truncated.shown, result.truncated.total) == (3, 5)
    assert "top=5" in result.truncated.how_to_get_more


def test_the_same_plan_again_computes_nothing(app: App, engine: FakeEngine):
    first, submitted = run(app), []
    engine.submit = submitted.append  # type: ignore[method-assign]
    assert run(app) == first
    again = call(app, "run_screen", {"screen_id": first.screen_id, "wait_s": 45})
    assert again == first
    assert submitted == []


def test_a_dry_run_costs_and_records_nothing(app: App, engine: FakeEngine):
    head = str(app.ledger.head())
    result = run(app, dry_run=True)
    assert (result.status, result.screen_id, result.ranking) == ("planned", None, [])
    assert result.cost.n_cells == 6 * 48
    assert str(app.ledger.head()) == head
    assert not engine.arms


def test_without_a_sham_null_nothing_is_called_and_the_result_says_why(tmp_path: Path):
    evidence = make_evidence()
    del evidence["sham"]
    make_checkpoint(tmp_path / "checkpoints", evidence)
    result = run(open_app(tmp_path / "home", FakeEngine(PANEL)))
    assert all(row.fdr is None for row in result.ranking)
    assert any("no recorded effects of null labels" in c for c in result.caveats)


def test_shams_of_other_settings_are_no_null(tmp_path: Path):
    evidence = make_evidence()
    evidence["sham"]["steps"] = 32
    make_checkpoint(tmp_path / "checkpoints", evidence)
    result = run(open_app(tmp_path / "home", FakeEngine(PANEL)))
    assert all(row.fdr is None for row in result.ranking)
    assert any("32 steps, this with 8" in c for c in result.caveats)


def test_a_checkpoint_that_loses_to_the_baseline_says_so_in_the_summary(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints", make_evidence(beats=False))
    result = run(open_app(tmp_path / "home", FakeEngine(PANEL)))
    assert "worse than a simple predictor" in result.summary


def test_one_pair_of_cells_has_a_score_without_an_interval(app: App):
    row = run(app, n_cells=1, candidates=["T01"]).ranking[0]
    assert row.score is not None
    assert row.mc_interval is None


def test_a_running_screen_shows_the_ranking_so_far(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    app = open_app(tmp_path / "home", HaltingEngine(done=0))
    result = run(app, wait_s=0)
    assert result.status in ("queued", "running")
    assert result.next_step == f'get_experiment(id="{result.screen_id}", wait_s=4)'
    assert result.ranking == []
    app.runner.close()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from made_screens import SMALL, HaltingEngine, open_app
from lingshu_tools.calls.dispatcher import call

engine = HaltingEngine(done=2)
app = open_app(Path(sys.argv[2]), engine)
found = call(app, "run_screen", {**SMALL, "wait_s": 0})
app.runner.wait([c.id for c in app.ledger.children(found.screen_id)][:2], 45)
sys.stdout.write(found.screen_id)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_sealed_is_not_repeated(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    home, here = tmp_path / "home", str(Path(__file__).parent)
    dead = subprocess.run(
        [sys.executable, "-c", KILLED, here, str(home)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    engine = FakeEngine(PANEL)
    app = open_app(home, engine)
    screen_id = dead.stdout.strip()
    before = {c.id: app.ledger.outcome(c.id) for c in app.ledger.children(screen_id)}
    sealed = {i: o for i, o in before.items() if o is not None}
    assert len(before) == 5
    assert len(sealed) == 2
    result = run(app)
    assert (result.screen_id, result.status, result.n_done) == (screen_id, "succeeded", 5)
    assert [c.id for c in app.ledger.children(screen_id)] == list(before)
    assert all(app.ledger.outcome(i) == o for i, o in sealed.items())
    assert sum(bool(arm.interventions) for arm in engine.arms.values()) == 3
    assert app.ledger.verify().ok
    app.runner.close()


def test_a_failed_candidate_is_named_and_the_rest_is_ranked(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    app = open_app(tmp_path / "home", FailingEngine("T02"))
    result = run(app, top=100)
    assert (result.status, result.n_done) == ("succeeded", 4)
    assert any(c.startswith("Failed") and "T02" in c for c in result.caveats)
    app.runner.close()


def test_a_cancelled_screen_keeps_what_is_done(tmp_path: Path):
    make_checkpoint(tmp_path / "checkpoints")
    app = open_app(tmp_path / "home", HaltingEngine(done=3))
    result = run(app, wait_s=0)
    ids = [c.id for c in app.ledger.children(result.screen_id)]
    app.runner.wait(ids[:3], 45)
    call(app, "cancel_experiment", {"id": result.screen_id})
    app.runner.wait(ids, 45)
    result = call(app, "get_experiment", {"id": result.screen_id})
    assert (result.status, len(result.ranking)) == ("cancelled", 3)
    assert any(c.startswith("Cancelled") for c in result.caveats)
    assert all(row["fdr"] is None for row in result.ranking)
    app.runner.close()


def test_get_experiment_shows_a_screen_but_does_not_begin_it(app: App, engine: FakeEngine):
    planned = call(app, "plan_screen", dict(SMALL))
    shown = call(app, "get_experiment", {"id": planned.screen_id})
    assert (shown.status, shown.ranking) == ("planned", [])
    assert not engine.arms


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ["screen_id", "objective"]),
        ({"objective": {"lower": ["G01"]}}, ["candidates"]),
        ({"screen_id": "scr_x", "seed": 3}, ["seed", "left out"]),
        ({"screen_id": "scr_x", "wait_s": 60}, ["wait_s", "45"]),
        ({"screen_id": "scr_x", "plan": 1}, ["plan"]),
    ],
)
def test_a_wrong_call_is_told_what_to_give(app: App, arguments: dict, words: list[str]):
    with pytest.raises(InputError) as caught:
        call(app, "run_screen", arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_unknown_screen_is_not_found(app: App):
    with pytest.raises(NotFoundError, match="scr_nothing"):
        call(app, "run_screen", {"screen_id": "scr_nothing"})


def test_every_result_fits_its_schema_and_holds_no_nan(app: App):
    text = run(app, n_cells=2).model_dump_json()
    assert "NaN" not in text
    assert CONTEXT["stimulus"] in text
