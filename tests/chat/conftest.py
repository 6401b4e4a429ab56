"""An application with a made checkpoint and a fake engine, and a display that remembers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_display import Seen

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_tools.chat import AgentApp


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AgentApp]:
    checkpoint = make_checkpoint(tmp_path / "checkpoints")
    engine = FakeEngine(checkpoint.panel)
    catalogue = Catalogue([checkpoint.path.parent])
    app = AgentApp(tmp_path / "home", door="cli", engine=engine, catalogue=catalogue)
    yield app
    app.close()
