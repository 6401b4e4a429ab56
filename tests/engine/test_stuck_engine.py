"""An engine that does not answer: calls say so in time, and work goes on when it answers again."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lingshu_model.contracts import Catalogue
from lingshu_testing import make_checkpoint
from lingshu_testing.signals import suspend
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import EngineBusyError
from lingshu_tools.system.deadline import GRACE_S

SLACK_S = 3.0
"""For a machine that is busy with other tests."""


@pytest.fixture
def app(lab: Any, tmp_path: Path) -> Iterator[App]:
    """An application with an engine process that has made cells, and is stopped by a signal."""
    lab.catalogue = Catalogue([make_checkpoint(tmp_path / "made").path.parent])
    lab.environ["LINGSHU_CHECKPOINTS"] = str(lab.catalogue.roots[0])
    app = App(lab.home, engine=lab.client(), catalogue=lab.catalogue)
    call(app, "sample_cells", {"n_cells": 8, "wait_s": 40})
    pid = app.engine.ensure().pid
    suspend(pid)
    yield app
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    app.close()


def timed(app: App, tool: str, wait_s: float = 0.0, **arguments: Any) -> Any:
    """Return a call's result, which must not be later than promised."""
    begin = time.monotonic()
    request = arguments | ({"wait_s": wait_s} if wait_s else {})
    result = call(app, tool, request)
    assert time.monotonic() - begin < wait_s + GRACE_S + SLACK_S
    return result


def go_on(app: App) -> None:
    text = (app.home / "engines" / "engine.lock").read_text().split()
    os.kill(int(text[2]), signal.SIGCONT)


def test_describing_the_model_does_not_need_the_engine(app: App):
    result = timed(app, "describe_model")
    assert result.status == "succeeded"
    assert [model.name for model in result.checkpoints] == ["made"]
    assert "`lingshu engine stop` ends it" in result.engine.state


def test_the_state_of_the_engine_is_short_to_look_up_outside_a_call_too(app: App):
    begin = time.monotonic()
    with pytest.raises(EngineBusyError, match="does not answer"):
        pytest.fail(f"{app.engine.info()}")
    assert time.monotonic() - begin < 2 + SLACK_S


def test_a_call_ends_in_time_and_says_that_the_engine_does_not_answer(app: App):
    result = timed(app, "sample_cells", wait_s=4, n_cells=8, seed=1)
    assert result.status in ("queued", "running")
    assert "The engine has not answered for" in result.summary
    assert "`lingshu engine stop`" in result.summary
    again = timed(app, "get_experiment", id=result.experiment_id)
    assert again.status in ("queued", "running")
    go_on(app)
    # Nobody asks for it again: the background work goes on by itself.
    assert app.runner.wait([result.experiment_id], 40)
    assert call(app, "get_experiment", {"id": result.experiment_id}).status == "succeeded"


def test_work_outlasts_requests_that_were_given_up(app: App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lingshu_tools.execution.jobs._PATIENCE_S", (0.2, 0.4))
    result = timed(app, "sample_cells", wait_s=3, n_cells=8, seed=1)
    assert result.status in ("queued", "running")
    assert "is there and does not answer" in result.summary
    monkeypatch.setattr("lingshu_tools.execution.jobs._PATIENCE_S", (10.0, 10.0))
    go_on(app)
    assert app.runner.wait([result.experiment_id], 40)
    assert call(app, "get_experiment", {"id": result.experiment_id}).status == "succeeded"


def test_an_experiment_can_be_cancelled_while_the_engine_is_stuck(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lingshu_tools.execution.jobs._PATIENCE_S", (0.5, 0.5))
    begun = timed(app, "sample_cells", wait_s=1, n_cells=8, seed=1)
    result = timed(app, "cancel_experiment", wait_s=0, id=begun.experiment_id)
    assert result.status in ("cancelled", "running")
    assert app.runner.wait([begun.experiment_id], 20)
    assert call(app, "get_experiment", {"id": begun.experiment_id}).status == "cancelled"


def test_an_experiment_at_work_can_be_cancelled_while_the_engine_is_stuck(
    app: App, lab: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lingshu_tools.execution.jobs._PATIENCE_S", (0.5, 0.5))
    go_on(app)
    lab.hold(3)
    begun = call(app, "sample_cells", {"n_cells": 8, "seed": 3, "wait_s": 0}).experiment_id
    end = time.monotonic() + 40
    while app.ledger.status(begun) != "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    suspend(app.engine.ensure().pid)
    result = timed(app, "cancel_experiment", wait_s=0, id=begun)
    assert result.status in ("cancelled", "running")
    assert app.runner.wait([begun], 20)
    assert call(app, "get_experiment", {"id": begun}).status == "cancelled"


def test_a_stuck_engine_that_is_ended_is_replaced_and_the_work_goes_on(app: App, lab: Any):
    result = timed(app, "sample_cells", wait_s=1, n_cells=8, seed=1)
    assert lab.client().stop() == "killed"
    assert app.runner.wait([result.experiment_id], 60)
    assert call(app, "get_experiment", {"id": result.experiment_id}).status == "succeeded"
