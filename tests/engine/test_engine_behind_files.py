"""A running engine behind its files: its home, its version and its checkpoints may change."""

import http.server
import json
import os
import shutil
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lingshu_model import __version__
from lingshu_model.contracts import PROTOCOL, Catalogue
from lingshu_model.contracts.catalogue import pin
from lingshu_model.contracts.messages import PROTOCOL_HEADER
from lingshu_model.system.endpoints import read_endpoint
from lingshu_model.system.places import EnginePlaces
from lingshu_testing.signals import suspend
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.errors import EngineBusyError, EngineError, InputError

PAUSE = threading.Event()


def run_arm(engine: Engine, arm: Any) -> Any:
    view = engine.wait(engine.submit(arm).job_id, 40)
    assert view.state == "succeeded", view
    return engine.cells(view.job_id)


def until(true: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not true after {seconds} s"
        PAUSE.wait(0.02)


# Homes


def test_an_engine_leaves_a_home_that_was_moved_and_the_new_place_gets_its_own(lab: Any):
    engine = lab.client()
    first = run_arm(engine, lab.arm())
    old = engine.ensure().pid
    moved = lab.home.with_name("moved")
    lab.home.rename(moved)
    lab.environ["FAKE_GATE"] = str(moved / "gate")
    there = Engine(moved, arguments=lab.arguments, environ=lab.environ)
    try:
        # Found in the results that moved along, after the old engine has let go of the lock.
        assert np.array_equal(run_arm(there, lab.arm()).counts, first.counts)
        assert there.ensure().pid != old
        lab.until_gone(old)
        assert not lab.home.exists()
        logs = "".join(path.read_text() for path in there.places.logs.glob("*.log"))
        assert "was moved or deleted" in logs
    finally:
        there.stop()
        there.close()
        moved.rename(lab.home)
        lab.environ["FAKE_GATE"] = str(lab.gate)


@pytest.mark.parametrize("what", ["engines", "engines/results", "socket", "engines/endpoint.json"])
def test_an_engine_that_lost_its_files_leaves_and_another_computes_the_same(lab: Any, what: str):
    first = lab.host()
    engine = lab.client()
    expected = run_arm(engine, lab.arm()).counts
    gate = lab.hold(2)
    waiting = engine.submit(lab.arm(seed=2)).job_id
    lost = read_endpoint(engine.places).path if what == "socket" else lab.home / what
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    first.join(30)
    assert not first.is_alive()
    assert engine.info() is None
    gate.unlink()
    lab.host()
    assert np.array_equal(run_arm(engine, lab.arm()).counts, expected)
    view = engine.wait(waiting, 40)
    assert view.state == "succeeded"


# Ending


def test_an_engine_that_is_stopped_by_a_signal_is_reported_at_once_and_ended_by_the_command(
    lab: Any,
):
    engine = lab.client()
    pid = engine.ensure().pid
    suspend(pid)
    begin = time.monotonic()
    with pytest.raises(EngineBusyError, match="`lingshu engine stop` ends it"):
        engine.info()
    assert time.monotonic() - begin < 3
    assert engine.stop() == "killed"
    lab.until_gone(pid)
    assert engine.stop() == "none"
    run_arm(engine, lab.arm())
    assert engine.stop() == "exited"
    assert engine.info() is None


def test_an_engine_whose_socket_is_gone_is_ended_by_the_command(lab: Any):
    engine = lab.client()
    pid = engine.ensure().pid
    suspend(pid)  # so that it does not notice
    read_endpoint(engine.places).path.unlink()
    assert engine.info() is None
    assert engine.stop() == "killed"
    lab.until_gone(pid)


# Versions


def as_version(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Let the engines that this process hosts be of another version."""
    monkeypatch.setattr("lingshu_model.engine.http.routes.__version__", version)


@pytest.mark.parametrize("protocol", [PROTOCOL, PROTOCOL + 1])
def test_an_idle_engine_of_another_version_is_replaced(
    lab: Any, monkeypatch: pytest.MonkeyPatch, protocol: int
):
    as_version(monkeypatch, "0.0.9")
    monkeypatch.setattr("lingshu_model.engine.http.routes.PROTOCOL", protocol)
    hosted = lab.host()
    engine = lab.client()
    result = engine.info()
    assert (result.version, result.protocol, result.pid) == ("0.0.9", protocol, os.getpid())
    run_arm(engine, lab.arm())
    hosted.join(30)
    assert not hosted.is_alive()
    assert engine.info().version == __version__
    assert engine.info().pid != os.getpid()


def test_an_engine_of_another_version_at_work_is_named_and_left_until_it_is_done(
    lab: Any, monkeypatch: pytest.MonkeyPatch
):
    as_version(monkeypatch, "0.0.9")
    hosted = lab.host()
    gate, engine = lab.hold(1), lab.client()
    transport = httpx.HTTPTransport(uds=str(read_endpoint(engine.places).path))
    with httpx.Client(transport=transport, base_url="http://engine") as other:
        body = {"arm": lab.arm().model_dump(mode="json")}
        other.post("/v1/jobs", json=body, headers={PROTOCOL_HEADER: str(PROTOCOL)})
    with pytest.raises(EngineBusyError) as refused:
        engine.submit(lab.arm(seed=2))
    said = str(refused.value)
    assert "an engine of lingshu 0.0.9" in said
    assert f"this is lingshu {__version__}" in said
    assert "at work on 1 arms" in said
    assert "`lingshu engine stop`" in said
    gate.unlink()
    until(lambda: engine.info().queued + engine.info().running == 0)
    run_arm(engine, lab.arm(seed=2))
    hosted.join(30)


def test_a_client_of_another_protocol_is_told_what_to_do(lab: Any):
    lab.host()
    transport = httpx.HTTPTransport(uds=str(read_endpoint(lab.client().places).path))
    with httpx.Client(transport=transport, base_url="http://engine") as http_client:
        for headers in ({}, {PROTOCOL_HEADER: "1"}):
            answer = http_client.post("/v1/jobs", json={}, headers=headers)
            assert answer.status_code == 426
            assert "`lingshu engine stop`" in answer.json()["error"]
        assert http_client.get("/v1/health").status_code == 426
        assert http_client.get("/v1/health", headers={PROTOCOL_HEADER: "9"}).json()["pid"]


class _Earliest(http.server.BaseHTTPRequestHandler):
    """Answers as engines did before the exchange had a version; busy while `queued`."""

    queued = 0
    informed = threading.Event()

    def do_GET(self) -> None:
        info = {"version": "0.1.0", "pid": 1, "ranks": 1, "profile": {}, "checkpoints": {}}
        info |= {"profile_digest": "sha256:0", "queued": self.queued, "running": 0}
        self._answer(info | {"idle_exit_s": 0})

    def do_POST(self) -> None:
        if self.path == "/v1/shutdown":
            _Earliest.informed.set()
        self._answer({"leaving": True})

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@contextmanager
def earliest_engine(path: Path) -> Iterator[type[_Earliest]]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _Earliest.informed.clear()
    with socketserver.ThreadingUnixStreamServer(str(path), _Earliest) as server:
        path.chmod(0o600)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()

        def leave_when_told() -> None:
            _Earliest.informed.wait()
            path.unlink(missing_ok=True)
            server.shutdown()

        leaving = threading.Thread(target=leave_when_told)
        leaving.start()
        yield _Earliest
        _Earliest.informed.set()
        thread.join()
        leaving.join()


def test_an_engine_from_before_versions_is_replaced_when_it_has_no_work(lab: Any):
    engine = lab.client()
    with earliest_engine(engine.places.socket) as earliest:
        earliest.queued = 2
        assert (engine.info().protocol, engine.info().queued) == (1, 2)
        with pytest.raises(EngineBusyError, match=r"protocol 1.*at work on 2 arms.*engine stop"):
            engine.submit(lab.arm())
        assert not earliest.informed.is_set()
        earliest.queued = 0
        run_arm(engine, lab.arm())
        assert earliest.informed.is_set()
    assert engine.info().version == __version__


def test_something_else_at_the_socket_is_named(lab: Any, monkeypatch: pytest.MonkeyPatch):
    engine = lab.client()
    monkeypatch.setattr(_Earliest, "do_GET", lambda self: self._answer(["no engine"]))
    with (
        earliest_engine(engine.places.socket),
        pytest.raises(EngineError, match=r"is no engine that lingshu .*engine stop"),
    ):
        engine.submit(lab.arm())


def test_an_engine_elsewhere_is_never_replaced(lab: Any, monkeypatch: pytest.MonkeyPatch):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Earliest) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        _Earliest.informed.clear()
        with pytest.raises(EngineError, match="install the same version on both machines"):
            lab.client("far", LINGSHU_ENGINE_URL=url).submit(lab.arm())
        assert not _Earliest.informed.is_set()
        server.shutdown()
        thread.join()


# Checkpoints


def retrained(root: Path, **changes: Any) -> Catalogue:
    """Write the checkpoint `toy` of a catalogue's folder anew, with another digest."""
    config = json.loads((root / "toy" / "config.json").read_text())
    (root / "toy" / "config.json").write_text(json.dumps(config | changes))
    pin(root / "toy")
    return Catalogue([root])


def digest(catalogue: Catalogue) -> str:
    return catalogue.load("toy").digest


def test_a_checkpoint_that_is_trained_again_is_loaded_and_the_old_one_goes_on(lab: Any):
    lab.host()
    engine, before = lab.client(), lab.arm()
    first = run_arm(engine, before).counts
    after = before.model_copy(update={"checkpoint_digest": ""})
    again = retrained(lab.catalogue.roots[0], epochs=3)
    after = before.model_copy(update={"checkpoint_digest": digest(again)})
    assert after.digest != before.digest
    second = run_arm(engine, after)
    assert second.origin.request == after.digest
    assert not np.array_equal(second.counts, first)
    # Who asked for the old one still gets it, as long as the engine has it in memory.
    assert run_arm(lab.client("you"), before.model_copy(update={"seed": 5})) is not None
    assert np.array_equal(run_arm(engine, before).counts, first)
    assert engine.info().checkpoints["toy"] == digest(again)


def test_a_checkpoint_that_is_added_in_a_folder_of_the_client_is_found(lab: Any, tmp_path: Path):
    hosted_root = lab.catalogue.roots[0]
    lab.host()
    added = tmp_path / "added"
    shutil.copytree(hosted_root, added)
    catalogue = retrained(added, epochs=9)
    arm = lab.arm(checkpoint_digest=digest(catalogue))
    with pytest.raises(InputError, match=f"asks for '{digest(catalogue)}'"):
        lab.client().submit(arm)
    engine = Engine(lab.home, environ=lab.environ, roots=catalogue.roots)
    lab.clients.append(engine)
    assert run_arm(engine, arm).origin.request == arm.digest
    assert engine.info("toy").profile["device"] == "fake"
    # Now that it is in memory, its digest is enough.
    run_arm(lab.client(), lab.arm(checkpoint_digest=digest(catalogue), seed=3))


def test_a_checkpoint_that_is_moved_or_renamed_is_found_by_its_digest(lab: Any, tmp_path: Path):
    root = lab.catalogue.roots[0]
    arm = lab.arm()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (root / "toy", root / "toy.digests.json"):
        path.rename(moved / path.name.replace("toy", "other"))
    lab.host()
    engine = Engine(lab.home, environ=lab.environ, roots=[moved])
    lab.clients.append(engine)
    assert run_arm(engine, arm).origin.request == arm.digest


def test_a_checkpoint_that_is_removed_serves_from_memory_and_is_named_when_it_cannot(lab: Any):
    lab.host()
    engine, arm = lab.client(), lab.arm()
    run_arm(engine, arm)
    root = lab.catalogue.roots[0]
    shutil.rmtree(root / "toy")
    (root / "toy.digests.json").unlink()
    run_arm(engine, arm.model_copy(update={"seed": 2}))
    with pytest.raises(InputError, match=r"no checkpoint 'toy'; there are none.*sha256:1"):
        engine.submit(arm.model_copy(update={"checkpoint_digest": "sha256:1"}))
    assert engine.info().checkpoints == {}


def test_a_damaged_checkpoint_hinders_no_other(lab: Any):
    root = lab.catalogue.roots[0]
    shutil.copytree(root / "toy", root / "broken")
    pin(root / "broken")
    (root / "broken" / "config.json").write_text("{}")
    (root / "empty.digests.json").write_text("")
    lab.host()
    engine = lab.client()
    run_arm(engine, lab.arm())
    assert list(engine.info().checkpoints) == ["toy"]
    with pytest.raises(InputError, match="its pinned digest is"):
        engine.submit(lab.arm(checkpoint="broken", checkpoint_digest="sha256:1"))


def test_an_engine_on_another_machine_looks_in_no_folder_of_its_clients(lab: Any, tmp_path: Path):
    import socket

    from lingshu_model.engine.http.service import Remote

    listener = socket.create_server(("127.0.0.1", 0))  # the service closes it when it leaves
    lab.host(Remote(listener, "a-token-of-some-length", None, None))
    added = tmp_path / "added"
    shutil.copytree(lab.catalogue.roots[0], added)
    other = digest(retrained(added, epochs=9))
    headers = {PROTOCOL_HEADER: str(PROTOCOL), "Authorization": "Bearer a-token-of-some-length"}
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    arm = lab.arm(checkpoint_digest=other).model_dump(mode="json")
    with httpx.Client(base_url=url, headers=headers) as far:
        answer = far.post("/v1/jobs", json={"arm": arm, "roots": [str(added)]})
        assert answer.status_code == 422
        assert f"asks for '{other}'" in answer.json()["error"]
    path = read_endpoint(EnginePlaces(lab.home)).path
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://e") as near:
        answer = near.post("/v1/jobs", json={"arm": arm, "roots": [str(added)]}, headers=headers)
        assert answer.status_code == 200
