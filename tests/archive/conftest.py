"""A made checkpoint, a fake engine, and a small ledger with something in every table."""

from pathlib import Path

import pytest

from lingshu_model.wire import Catalogue, Checkpoint
from lingshu_tools.app import App
from lingshu_tools.archive import export_ledger
from lingshu_tools.dispatcher import call
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome
from lingshu_tools.testing import FakeEngine, make_checkpoint

KNOCKOUT = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8, "wait_s": 45}


def request(**changes: object) -> NewExperiment:
    values: dict = {
        "tool": "perturb_cells",
        "request": {"n_cells": 8},
        "checkpoint": "tiny",
        "checkpoint_digest": "sha256:" + "1" * 64,
        "panel_digest": "sha256:" + "2" * 64,
        "seed": 7,
    }
    return NewExperiment(**(values | changes))


def fill(ledger: Ledger) -> str:
    """Put a row into every table; return the id of the experiment that succeeded."""
    screen = ledger.record_screen({"objective": {"lower": ["STAT1"]}})
    ledger.record_measurements(screen.id, {"STAT1": 0.5})
    done = ledger.begin(request(parent=screen.id, position=0, perturbation="STAT1 knockout"))
    with ledger.attempt(done.id) as attempt:
        environment = {"profile": {"device": "cpu", "threads": 2}}
        blobs = {"cells": b"some cells", "zeros": bytes(3_000_000)}
        ending = NewOutcome(kind="succeeded", environment=environment, artifacts=blobs)
        ledger.seal(attempt, ending)
    failed = ledger.begin(request(principal="a group/of two"))
    with ledger.attempt(failed.id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="failed", error="not enough memory"))
    ledger.cancel(ledger.begin(request(seed=8)).id)
    ledger.record_verification(done.id, "exact")
    ledger.tag(done.id, ["pilot"])
    return done.id


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    opened = Ledger.open(tmp_path / "home")
    fill(opened)
    return opened


@pytest.fixture
def archive(ledger: Ledger, tmp_path: Path) -> Path:
    return export_ledger(ledger, tmp_path / "ledger.zip").path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "checkpoints")


@pytest.fixture
def open_app(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    """Open an application on a home of this test; closed at the end of it."""
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    opened: list[App] = []

    def make(home: str) -> App:
        catalogue = Catalogue([checkpoint.path.parent])
        app = App(tmp_path / home, engine=FakeEngine(checkpoint.panel), catalogue=catalogue)
        opened.append(app)
        return app

    yield make
    for app in opened:
        app.close()


def finished(app: App, tool: str, arguments: dict):
    """The result when it has ended, however slow the machine."""
    found = call(app, tool, arguments)
    while found.status in ("queued", "running"):
        found = call(app, "get_experiment", {"id": found.experiment_id, "wait_s": 45})
    return found
