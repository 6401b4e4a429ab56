import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import lingshu_tools.engine_client.starting as engine_start
from lingshu_model.system.file_locks import wait_for_lock
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.engine_client.process import EngineProcess
from lingshu_tools.errors import EngineBusyError, EngineError
from lingshu_tools.system.deadline import time_limit

ENGINE = [sys.executable, "-P", "-m", "lingshu_model.engine"]


def run_arm(engine, arm):
    view = engine.wait(engine.submit(arm).job_id, 45)
    assert view.state == "succeeded", view
    return engine.cells(view.job_id)


def test_a_killed_engine_is_replaced_and_nothing_finished_is_computed_again(lab):
    first, second = lab.client(), lab.client()
    assert first.info() is None
    control = run_arm(first, lab.arm())
    killed = second.ensure()
    assert killed.profile == {"device": "fake", "dtype": "auto", "threads": 1}
    assert killed.checkpoints["toy"] == lab.catalogue.load("toy").digest

    gate = lab.hold(2)
    job = first.submit(lab.arm(seed=2)).job_id
    os.kill(killed.pid, signal.SIGKILL)
    lab.until_gone(killed.pid)
    gate.unlink()
    assert first.wait(job, 45).state == "succeeded"
    assert np.array_equal(run_arm(second, lab.arm()).counts, control.counts)
    pid = second.ensure().pid
    assert pid != killed.pid
    lines = [line.split()[:2] for line in lab.tiles()]
    assert [str(pid), lab.arm().digest] not in lines
    assert lines.count([str(pid), lab.arm(seed=2).digest]) == 3

    other = [*ENGINE, "--home", str(lab.home), *lab.arguments]
    ended = subprocess.run(other, env=lab.environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3
    assert f"is running already (pid {pid})" in ended.stderr

    lab.hold(3)
    held = first.submit(lab.arm(seed=3)).job_id
    os.kill(pid, signal.SIGTERM)
    lab.until_gone(pid)
    assert first.info() is None
    assert not first.places.socket.exists()
    assert f"engine {pid} leaves" in first.places.log.read_text()
    assert first.cancel(held).state == "cancelled"


def test_an_engine_that_cannot_start_shows_the_end_of_its_log(lab):
    engine = lab.client("local", "--sampler", "nowhere:Nothing")
    with pytest.raises(EngineError, match="No module named 'nowhere'"):
        engine.ensure()


def test_without_torch_the_error_holds_the_command_to_install_it(lab, monkeypatch):
    monkeypatch.setattr(engine_start.importlib.util, "find_spec", {"torch": None}.get)
    with pytest.raises(
        EngineError, match=r"(?s)needs torch.*-m pip install 'lingshu-tools\[model\]'"
    ):
        lab.client().ensure()


def test_a_door_beyond_loopback_needs_a_certificate_and_every_door_a_token(lab):
    for listen, token, text in (
        ("127.0.0.1:0", "", "needs LINGSHU_ENGINE_TOKEN"),
        ("0.0.0.0:0", "a-token-of-some-length", "is beyond loopback: give --tls-cert"),
    ):
        engine = lab.client("local", "--listen", listen, LINGSHU_ENGINE_TOKEN=token)
        with pytest.raises(EngineError, match=text):
            engine.ensure()


def test_the_client_loads_no_torch():
    code = (
        "import sys, lingshu_tools.engine_client.client\n"
        "print(sys.modules.keys() & {'torch', 'scipy', 'mcp'})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == "set()", ended.stderr


def test_every_start_has_a_log_of_its_own_which_errors_name(lab):
    logs = lab.client().places.logs
    for name in ("nowhere", "elsewhere"):
        with pytest.raises(EngineError, match=f"No module named '{name}'") as caught:
            lab.client("local", "--sampler", f"{name}:Nothing").ensure()
        newest = lab.client().places.log
        (named,) = [path for path in logs.iterdir() if str(path) in str(caught.value)]
        assert newest.samefile(named)
        assert name in named.read_text()
    assert len(list(logs.iterdir())) == 2


def test_the_error_of_an_arm_names_the_log_of_its_engine(lab):
    engine = lab.client()
    view = engine.wait(engine.submit(lab.arm(seed=13)).job_id, 45)
    assert view.state == "failed"
    (log,) = engine.places.logs.iterdir()
    assert view.error.endswith(f"(the engine's log: {log})")
    assert "Traceback" in log.read_text()


def test_the_log_is_that_of_the_engine_that_holds_the_home(lab):
    places, first = lab.client().places, lab.client().ensure()
    second = engine_start.start_detached(places, lab.arguments, lab.environ)
    assert second.process.wait(60) == engine_start.ALREADY_RUNNING
    assert "is running already" in second.last_words()
    assert f"engine {first.pid} serves" in places.log.read_text()
    assert not places.log.samefile(second.log)


def test_of_clients_that_begin_at_one_moment_one_starts_the_engine(lab):
    places = lab.client().places
    clients = [lab.client() for _ in range(6)]
    moment = threading.Barrier(len(clients))

    def ensure(engine: Engine) -> int:
        moment.wait(30)
        return engine.ensure().pid

    with ThreadPoolExecutor(len(clients)) as pool:
        (pid,) = set(pool.map(ensure, clients))
    (log,) = places.logs.iterdir()
    assert f"engine {pid} serves" in log.read_text()
    assert places.log.samefile(log)


def test_while_an_engine_leaves_or_starts_no_other_is_started(lab, monkeypatch):
    engine, refused = lab.client(), []
    engine.places.folder.mkdir(mode=0o700, parents=True)
    with monkeypatch.context() as context:
        context.setattr("lingshu_tools.engine_client.process.start_detached", refused.append)
        for held in (engine.places.lock, engine.places.starting):
            with (
                wait_for_lock(held, timeout_s=5),
                time_limit(0.3),
                pytest.raises(EngineBusyError, match=r"starting or leaving holds .*engine stop"),
            ):
                engine.ensure()
    assert refused == []
    assert engine.ensure().pid


def test_old_logs_are_deleted_and_a_file_system_without_links_names_the_log(lab, monkeypatch):
    places = lab.client().places
    places.logs.mkdir(mode=0o700, parents=True)
    for day in range(60):
        (places.logs / f"202601{day:02d}T000000Z-000000.log").touch()
    monkeypatch.setattr("pathlib.Path.hardlink_to", _refuse)
    path, log = engine_start._open_log(places)
    log.close()
    assert len(list(places.logs.iterdir())) == engine_start._LOGS_KEPT + 1
    assert str(path) in places.log.read_text()


def _refuse(*_: object) -> None:
    raise PermissionError


def test_an_engine_that_another_process_keeps_from_starting_is_said_with_the_time_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Neither answers nor can be started: as while another engine leaves, for longer than a call.
    monkeypatch.setattr(EngineProcess, "_info", lambda *_: None)
    monkeypatch.setattr(EngineProcess, "_start", lambda *_: time.sleep(0.05))
    with (
        Engine(tmp_path, start_timeout_s=300) as engine,
        time_limit(0.4),
        pytest.raises(EngineBusyError, match=r"for 0\.[1-4]\d* s") as refused,
    ):
        engine.ensure()
    assert "for 0 s" not in str(refused.value)
