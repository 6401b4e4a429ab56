"""What becomes of an experiment when the engine refuses, is busy, or answers another request."""

import threading
from typing import Any

import pytest

from lingshu_model.contracts import Cells, JobView, Origin, decode_cells, digest_json
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import CellsGoneError, EngineBusyError, InputError
from lingshu_tools.experiments.designs import design_of

SAMPLE = {"n_cells": 8, "wait_s": 20}
PERTURB = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8, "wait_s": 20}


def test_what_the_engine_refuses_is_sealed_as_failed_with_its_words(open_app, checkpoint):
    class Refusing(FakeEngine):
        def submit(self, arm: Any, **more: Any) -> JobView:
            raise InputError("the checkpoint 'made' is sha256:b, and the request asks for sha256:a")

    result = call(open_app(Refusing(checkpoint.panel)), "sample_cells", SAMPLE)
    assert result.status == "failed"
    assert "is sha256:b, and the request asks for sha256:a" in result.summary


def test_an_engine_that_is_busy_is_waited_for_and_named_meanwhile(
    open_app, checkpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lingshu_tools.execution.jobs._PAUSE_S", 0.01)
    free = threading.Event()

    class Busy(FakeEngine):
        def submit(self, arm: Any, **more: Any) -> JobView:
            if not free.is_set():
                raise EngineBusyError(
                    "an engine of lingshu 0.0.9 is at work; `lingshu engine stop`"
                )
            return super().submit(arm)

    app: App = open_app(Busy(checkpoint.panel))
    waiting = call(app, "sample_cells", SAMPLE | {"wait_s": 0.5})
    assert waiting.status in ("queued", "running")
    assert "an engine of lingshu 0.0.9 is at work" in waiting.summary
    assert "`lingshu engine stop`" in waiting.summary
    free.set()
    assert app.runner.wait([waiting.experiment_id], 20)
    finished = call(app, "get_experiment", {"id": waiting.experiment_id})
    assert finished.status == "succeeded"
    assert "0.0.9" not in finished.summary


def test_a_busy_engine_does_not_keep_an_application_from_closing(open_app, checkpoint):
    class Busy(FakeEngine):
        def submit(self, arm: Any, **more: Any) -> JobView:
            raise EngineBusyError("busy")

    app: App = open_app(Busy(checkpoint.panel))
    call(app, "sample_cells", SAMPLE | {"wait_s": 0.1})
    (thread,) = app.runner._threads
    app.close()
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "origin",
    [
        None,
        Origin("sha256:another"),
        pytest.param("another request", id="another request of this profile"),
    ],
)
def test_cells_of_another_request_are_not_sealed(open_app, checkpoint, origin: Any):
    class Foreign(FakeEngine):
        def cells(self, job_id: str) -> Cells:
            cells = super().cells(job_id)
            given = origin
            if origin == "another request":
                given = Origin("sha256:another", self.info().profile_digest)
            return Cells(cells.counts, cells.measured, given)

    app: App = open_app(Foreign(checkpoint.panel))
    result = call(app, "sample_cells", SAMPLE)
    assert result.status == "interrupted"
    assert app.ledger.outcome(result.experiment_id) is None


@pytest.mark.parametrize("cut", ["cells", "genes"])
def test_cells_of_another_shape_are_not_sealed(open_app, checkpoint, cut: str):
    class Short(FakeEngine):
        def cells(self, job_id: str) -> Cells:
            cells = super().cells(job_id)
            counts = cells.counts[1:] if cut == "cells" else cells.counts[:, 1:]
            return Cells(counts, cells.measured[-counts.shape[1] :], cells.origin)

    app: App = open_app(Short(checkpoint.panel))
    result = call(app, "sample_cells", SAMPLE)
    assert result.status == "interrupted"
    assert "they were not used" in result.summary


def test_cells_that_are_gone_are_computed_again(open_app, checkpoint):
    class Forgetful(FakeEngine):
        gone = 2

        def cells(self, job_id: str) -> Cells:
            if self.gone:
                self.gone -= 1
                raise CellsGoneError("no longer kept")
            return super().cells(job_id)

    assert call(open_app(Forgetful(checkpoint.panel)), "sample_cells", SAMPLE).status == "succeeded"
    always = Forgetful(checkpoint.panel)
    always.gone = 1000
    result = call(open_app(always, "other"), "sample_cells", SAMPLE)
    assert result.status == "interrupted"
    assert "call get_experiment to try again" in result.summary


class Replaced(FakeEngine):
    """Another engine, with another profile, takes its place after `answers` submissions."""

    def __init__(self, panel: list[str], answers: int) -> None:
        super().__init__(panel)
        self.answers, self.submitted = answers, 0
        self.profiles: dict[str, str] = {}

    @property
    def device(self) -> str:
        return "first" if self.submitted <= self.answers else "second"

    def submit(self, arm: Any, **more: Any) -> JobView:
        self.submitted += 1
        view = super().submit(arm)
        self.profiles[view.job_id] = str(view.profile_digest)
        return view

    def cells(self, job_id: str) -> Cells:
        # Both arms were done before: each is what its view says, and nothing else gives it away.
        cells = super().cells(job_id)
        assert cells.origin is not None
        origin = Origin(cells.origin.request, self.profiles[job_id])
        return Cells(cells.counts, cells.measured, origin)


@pytest.mark.parametrize("answers", [1, 2])
def test_both_arms_of_a_pair_are_of_one_profile_which_is_recorded(
    open_app, checkpoint, answers: int
):
    engine = Replaced(checkpoint.panel, answers)
    app: App = open_app(engine)
    result = call(app, "perturb_cells", PERTURB)
    assert result.status == "succeeded"
    outcome = app.ledger.outcome(result.experiment_id)
    recorded = app.ledger.environment(outcome.environment_digest)
    device = "first" if answers == 2 else "second"
    assert recorded["profile"] == {"device": device}
    assert recorded["profile_digest"] == digest_json({"device": device})
    assert recorded["versions"]["engine"] == engine.info().version


def test_what_is_stored_says_which_request_it_answers_and_not_on_which_machine(open_app, engine):
    app: App = open_app(engine)
    result = call(app, "perturb_cells", PERTURB)
    arms = design_of(app, app.ledger.experiment(result.experiment_id)).arms
    for role, digest in app.ledger.outcome(result.experiment_id).artifacts.items():
        if role in arms:
            stored = decode_cells(app.ledger.object_file(digest))
            assert stored.origin == Origin(arms[role].digest)
