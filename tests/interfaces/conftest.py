"""A home with a made checkpoint and a fake engine: every door, no torch."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_tools.app import App

KNOCK_OUT = [{"kind": "knockout", "target": "STAT1"}]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose only checkpoint is a made one and whose engine is a fake."""
    checkpoint = make_checkpoint(tmp_path / "checkpoints")
    monkeypatch.setenv("LINGSHU_CHECKPOINTS", str(checkpoint.path.parent))
    monkeypatch.setattr("lingshu_model.contracts.catalogue.SHIPPED", tmp_path / "none")
    engine = FakeEngine(checkpoint.panel)
    monkeypatch.setattr("lingshu_tools.engine_client.client.Engine", lambda *_, **__: engine)
    monkeypatch.setenv("LINGSHU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def app(home: Path) -> App:
    return App(home, door="mcp")


@pytest.fixture
def shell(home: Path) -> CliRunner:
    return CliRunner()
