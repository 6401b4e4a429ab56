"""An application on the shipped THP-1 checkpoint, with a fake engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_testing import FakeEngine
from lingshu_tools.app import App


@pytest.fixture(scope="session")
def thp1() -> Checkpoint:
    return Catalogue().load("thp1-crispr")


@pytest.fixture
def engine(thp1: Checkpoint) -> FakeEngine:
    return FakeEngine(thp1.panel)


@pytest.fixture
def app(tmp_path: Path, engine: FakeEngine) -> Iterator[App]:
    opened = App(tmp_path / "home", engine=engine)
    yield opened
    opened.close()
