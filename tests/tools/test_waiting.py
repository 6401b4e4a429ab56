"""Experiments outlive the call, the thread and the process that began them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lingshu_testing import FakeEngine
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.progress import reporting
from lingshu_tools.errors import EngineError
from lingshu_tools.lab import Lab

PERTURB = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8}
OWNER = Path(__file__).with_name("owner.py")


def test_a_call_that_may_not_wait_says_how_to_go_on(open_app, held):
    app = open_app(held)
    first = call(app, "perturb_cells", PERTURB | {"wait_s": 0})
    assert first.status in ("queued", "running")
    assert first.progress.total == 16
    assert first.experiment_id in first.next_step
    held.gate.set()
    finished = call(app, "get_experiment", {"id": first.experiment_id, "wait_s": 30})
    assert finished.status == "succeeded"
    assert finished.perturbation == "STAT1 knockout"
    assert len(finished.genes) == 5


def test_a_waiting_call_tells_its_door_how_far_it_is(open_app, held):
    app = open_app(held)
    heard: list[tuple[int, int]] = []

    def hear(done: int, total: int) -> None:
        heard.append((done, total))
        if done:
            held.gate.set()

    with reporting(hear):
        assert call(app, "perturb_cells", PERTURB | {"wait_s": 30}).status == "succeeded"
    assert all(total == 16 and done <= 16 for done, total in heard)
    assert any(0 < done < 16 for done, _ in heard)


def test_a_cancelled_experiment_stops_and_stays_cancelled(open_app, held):
    app = open_app(held)
    begun = call(app, "perturb_cells", PERTURB | {"wait_s": 0}).experiment_id
    stopped = call(app, "cancel_experiment", {"id": begun})
    assert app.runner.wait([begun], 20)
    assert stopped.experiment_id == begun
    later = call(app, "get_experiment", {"id": begun})
    assert later.status == "cancelled"
    assert "replay_experiment" in later.next_step
    again = call(app, "cancel_experiment", {"id": begun})
    assert "ended already" in again.summary


def test_cancelling_a_screen_stops_all_that_is_left_of_it(open_app, held):
    screen = {"objective": {"lower": ["PSMB9"]}, "candidates": "all_seen", "n_cells": 4}
    app = open_app(held)
    begun = call(app, "run_screen", screen | {"wait_s": 0}).screen_id
    call(app, "cancel_experiment", {"id": begun})
    children = [e.id for e in app.ledger.children(begun)]
    assert app.runner.wait(children, 20)
    assert {app.ledger.status(i) for i in children} == {"cancelled"}
    assert call(app, "get_experiment", {"id": begun}).status == "cancelled"


def test_an_arm_cancelled_for_another_experiment_is_asked_for_again(open_app, checkpoint):
    class Fickle(FakeEngine):
        refusals = 2

        def wait(self, job_id, wait_s):
            view = super().wait(job_id, wait_s)
            if not self.refusals:
                return view
            self.refusals -= 1
            return view.model_copy(update={"state": "cancelled"})

    result = call(open_app(Fickle(checkpoint.panel)), "perturb_cells", PERTURB | {"wait_s": 30})
    assert result.status == "succeeded"


def test_what_the_engine_cannot_make_is_sealed_as_failed_with_its_reason(open_app, checkpoint):
    class Broken(FakeEngine):
        def wait(self, job_id, wait_s):
            view = super().wait(job_id, wait_s)
            return view.model_copy(update={"state": "failed", "error": "out of memory"})

    result = call(open_app(Broken(checkpoint.panel)), "perturb_cells", PERTURB | {"wait_s": 30})
    assert result.status == "failed"
    assert "out of memory" in result.summary


def test_without_an_engine_the_experiment_waits_for_one(open_app, checkpoint, engine):
    class Absent(FakeEngine):
        def submit(self, arm, *, fresh=None, requester=None):
            message = "no torch here: pip install 'lingshu-tools[model]'"
            raise EngineError(message)

    result = call(open_app(Absent(checkpoint.panel)), "perturb_cells", PERTURB | {"wait_s": 30})
    assert result.status == "interrupted"
    assert "pip install" in result.summary
    mended = open_app(engine)
    finished = call(mended, "get_experiment", {"id": result.experiment_id, "wait_s": 30})
    assert finished.status == "succeeded"


def test_a_fault_in_the_analysis_is_sealed_as_an_incident(open_app, engine, monkeypatch, capsys):
    def broken(*_, **__):
        message = "secret detail"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("lingshu_tools.execution.runner.findings", broken)
    result = call(open_app(engine), "perturb_cells", PERTURB | {"wait_s": 30})
    assert result.status == "failed"
    assert "incident" in result.summary
    assert "secret detail" not in result.summary
    assert "secret detail" in capsys.readouterr().err


@pytest.fixture
def owner(tmp_path, checkpoint):
    """Another process that began an experiment and is stuck in the middle of it."""
    environ = {**os.environ, "LINGSHU_CHECKPOINTS": str(checkpoint.path.parent)}
    process = subprocess.Popen(
        [sys.executable, str(OWNER), str(tmp_path / "home")],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        cwd=OWNER.parent,
    )
    assert process.stdout
    with process, process.stdout:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_an_experiment_whose_owner_was_killed_is_finished_by_another(owner, open_app, engine):
    process, begun = owner
    app = open_app(engine)
    assert app.ledger.status(begun) == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert app.ledger.status(begun) == "interrupted"
    finished = call(app, "get_experiment", {"id": begun, "wait_s": 30})
    assert finished.status == "succeeded"
    same = call(app, "perturb_cells", PERTURB | {"wait_s": 30})
    assert app.ledger.outcome(begun).artifacts == app.ledger.outcome(same.experiment_id).artifacts


def test_an_experiment_of_another_process_can_be_cancelled(owner, open_app, engine):
    _, begun = owner
    app = open_app(engine)
    call(app, "cancel_experiment", {"id": begun})
    assert app.runner.wait([begun], 30)
    assert app.ledger.status(begun) == "cancelled"


def test_the_python_door_has_every_tool_as_a_method(open_app, engine):
    with Lab(app=open_app(engine)) as lab:
        result = lab.perturb_cells(**PERTURB, wait_s=30)
        assert result.status == "succeeded"
        assert "find_genes" in dir(lab)
        with pytest.raises(AttributeError, match="find_genes"):
            _ = lab.find_cells
