"""A home with a finished screen of the shipped checkpoint, a fake engine, and the page's server."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from page_lab import PLAN, Lab, Served

from lingshu_mcp.calls import Calls
from lingshu_mcp.http import Address
from lingshu_mcp.http.run import gate_of
from lingshu_mcp.lab_page.serving import PageToken, page_response
from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A home whose engine is a fake: no torch."""
    engine = FakeEngine(Catalogue().load("thp1-crispr").panel)
    with pytest.MonkeyPatch.context() as patch:
        # A principal of the server has an engine client of its own.
        patch.setattr("lingshu_tools.engine_client.client.Engine", lambda *_, **__: engine)
        app = App(tmp_path_factory.mktemp("lab-page"), door="mcp")
        screen = call(app, "run_screen", PLAN)
        assert screen.status == "succeeded", screen.summary
        ranked = call(app, "get_experiment", {"id": screen.screen_id})
        ids = [row.experiment_id for row in ranked.ranking]  # type: ignore[attr-defined]
        yield Lab(app, str(screen.screen_id), ids)
        app.close()


@pytest.fixture(scope="module")
def served(lab: Lab) -> Iterator[Served]:
    """The server as `lingshu browse` builds it, listening on a loopback port."""
    listener = Address("127.0.0.1", 0).listen(16)
    address, token = Address("127.0.0.1", listener.getsockname()[1]), PageToken()
    gate = gate_of(lab.app, Calls(), token, address, page=page_response)
    config = uvicorn.Config(gate, log_config=None, lifespan="on", ws="none", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        thread.join(0.05)
    assert server.started
    yield Served(address, token)
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="session")
def sources() -> Path:
    return Path(__file__).parent.parent.parent / "mcp_server" / "page"
