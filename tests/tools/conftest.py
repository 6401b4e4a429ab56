"""A made checkpoint, a fake engine that can be held back, and the application on both."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest

from lingshu_model.contracts import Catalogue, Checkpoint, JobView
from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.execution.runner import Runner


class HeldEngine(FakeEngine):
    """Leaves every job running until `gate` is set; remembers what was cancelled and asked anew."""

    def __init__(self, panel: list[str]) -> None:
        super().__init__(panel)
        self.gate = Event()
        self.cancelled: set[str] = set()
        self.fresh: list[str] = []

    def submit(self, arm, *, fresh=None, requester=None) -> JobView:
        self.fresh += [fresh] if fresh else []
        self.cancelled.discard(arm.digest)
        return super().submit(arm)

    def wait(self, job_id: str, wait_s: float) -> JobView:
        view = super().wait(job_id, wait_s)
        if job_id in self.cancelled:
            return view.model_copy(update={"state": "cancelled", "done": 0})
        if self.gate.wait(min(wait_s, 0.1)):
            return view
        return view.model_copy(update={"state": "running", "done": 1, "seconds": None})

    def cancel(self, job_id: str) -> JobView:
        self.cancelled.add(job_id)
        return self.wait(job_id, 0)


class PatientRunner(Runner):
    """Takes the long waits of a test for as long as it takes: a machine may be slow."""

    def wait(self, ids: Sequence[str], wait_s: float) -> bool:
        return super().wait(ids, 300 if wait_s >= 20 else wait_s)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "checkpoints")


@pytest.fixture
def engine(checkpoint: Checkpoint) -> FakeEngine:
    return FakeEngine(checkpoint.panel)


@pytest.fixture
def held(checkpoint: Checkpoint) -> HeldEngine:
    return HeldEngine(checkpoint.panel)


@pytest.fixture
def open_app(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    """Open an application on this test's home; closed at the end of the test."""
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    opened: list[App] = []

    def make(engine: object, home: str = "home") -> App:
        catalogue = Catalogue([checkpoint.path.parent])
        app = App(tmp_path / home, engine=engine, catalogue=catalogue)
        app.runner = PatientRunner(app)
        opened.append(app)
        return app

    yield make
    for app in opened:
        app.close()


@pytest.fixture
def app(open_app, engine: FakeEngine) -> Iterator[App]:
    return open_app(engine)
