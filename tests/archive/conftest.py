"""A made checkpoint, a fake engine, and a small ledger with something in every table."""

from pathlib import Path

import pytest
from made_ledgers import fill

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.archive import export_ledger
from lingshu_tools.ledger import Ledger


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
