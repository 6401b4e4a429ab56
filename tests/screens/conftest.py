"""A fake engine and an app on a temporary home that holds the made checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_screens import PANEL, make_checkpoint, open_app

from lingshu_testing import FakeEngine
from lingshu_tools.app import App


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(PANEL)


@pytest.fixture
def app(tmp_path: Path, engine: FakeEngine) -> Iterator[App]:
    make_checkpoint(tmp_path / "checkpoints")
    opened = open_app(tmp_path / "home", engine)
    yield opened
    opened.runner.close()
