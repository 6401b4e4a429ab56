"""Homes that earlier versions left, unpacked for each test."""

import zipfile
from pathlib import Path

import pytest
from left_homes import ARCHIVES, Left

from lingshu_model.contracts import Catalogue
from lingshu_tools.app import App


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem)
def left(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    """A fresh copy of each fixture; nothing else is in the environment."""
    for name in ("LINGSHU_HOME", "LINGSHU_LEDGER", "LINGSHU_ENGINE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path / "left")
    folder = tmp_path / "left"
    monkeypatch.setenv("LINGSHU_CHECKPOINTS", str(folder / "checkpoints"))
    return Left(folder / "home", folder / "checkpoints")


@pytest.fixture
def app(left: Left):
    """The home in this version, with its checkpoint."""
    opened = App(left.home, catalogue=Catalogue([left.checkpoints]))
    yield opened
    opened.close()


@pytest.fixture
def bare(left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The home in this version, without any checkpoint."""
    monkeypatch.setenv("LINGSHU_CHECKPOINTS", str(tmp_path / "none"))
    opened = App(left.home, catalogue=Catalogue([tmp_path / "none"]))
    yield opened
    opened.close()
