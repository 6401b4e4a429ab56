"""Two and four real gloo ranks; `accelerate launch --cpu --num_processes 2` would start one."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

pytestmark = pytest.mark.slow
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]


def launch(count: int) -> list[str]:
    many = ["--multi_gpu", "--num_processes", str(count), "--main_process_port", "0"]
    return [*LAUNCH, *many, "-m", "lingshu_model.engine", "--ranks", str(count)]


@pytest.fixture(params=[2])
def group(lab, request):
    environ = lab.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launch(request.param), "--home", str(lab.home), *lab.arguments]
    with (lab.home / "group.log").open("w") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    pause = threading.Event()
    while not lab.client().info():
        assert process.poll() is None, (lab.home / "group.log").read_text()
        pause.wait(0.1)
    yield process
    process.terminate()
    process.wait(60)


@pytest.mark.parametrize("group", [2, 4], indirect=True)
def test_many_ranks_give_the_bytes_of_one(lab, group, request):
    ranks = request.node.callspec.params["group"]
    engine = lab.client()
    assert engine.ensure().ranks == ranks
    lab.hold(1)  # so that every rank comes to have a tile
    job = engine.submit(lab.arm(n_cells=100)).job_id
    pause = threading.Event()
    while len(lab.tiles()) < ranks:
        pause.wait(0.02)
    (lab.gate / "hold-1").unlink()
    assert engine.wait(job, 45).state == "succeeded"
    together = engine.cells(job).counts
    assert len({line.split()[0] for line in lab.tiles()}) == ranks

    lab.hold(2)
    held = engine.submit(lab.arm(seed=2, n_cells=100)).job_id
    while len(lab.tiles()) < 13 + ranks:
        pause.wait(0.02)
    assert engine.cancel(held).state == "cancelled"  # on every rank, or the next would hang
    view = engine.wait(engine.submit(lab.arm(seed=13)).job_id, 45)
    assert view.state == "failed"

    engine.shutdown()
    assert group.wait(60) == 0
    shutil.rmtree(lab.home / "engines" / "results")
    lab.host()
    alone = engine.wait(engine.submit(lab.arm(n_cells=100)).job_id, 45)
    assert np.array_equal(engine.cells(alone.job_id).counts, together)


def test_a_rank_that_dies_ends_the_group_with_one_line(lab, group):
    engine = lab.client()
    lab.hold(1)
    engine.submit(lab.arm(n_cells=100))
    pause = threading.Event()
    while len(lab.tiles()) < 2:
        pause.wait(0.02)
    pids = {int(line.split()[0]) for line in lab.tiles()}
    (other,) = pids - {engine.ensure().pid}
    os.kill(other, signal.SIGKILL)
    assert group.wait(60) != 0
    assert engine.info() is None
    assert "the engine ends: rank 1 is gone" in (lab.home / "group.log").read_text()


def test_a_group_that_lost_a_rank_is_started_again_and_gives_the_same_cells(lab):
    engine = lab.client(LINGSHU_ENGINE_RANKS="2", ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    assert engine.ensure().ranks == 2
    gate = lab.hold(1)
    job = engine.submit(lab.arm(n_cells=100)).job_id
    pause = threading.Event()
    while len(lab.tiles()) < 2:
        pause.wait(0.02)
    first = engine.ensure().pid
    (other,) = {int(line.split()[0]) for line in lab.tiles()} - {first}
    os.kill(other, signal.SIGKILL)
    lab.until_gone(first)
    gate.unlink()
    view = engine.wait(job, 45)
    while view.state in ("queued", "running"):
        view = engine.wait(job, 45)
    assert view.state == "succeeded"
    again = engine.ensure()
    assert again.ranks == 2
    assert again.pid != first
    logs = [path.read_text() for path in engine.places.logs.iterdir()]
    assert "".join(logs).count("the engine ends: rank 1 is gone") == 1
    together = engine.cells(job).counts

    engine.shutdown()
    lab.until_gone(again.pid)
    shutil.rmtree(lab.home / "engines" / "results")
    lab.host()
    alone = engine.wait(engine.submit(lab.arm(n_cells=100)).job_id, 45)
    assert np.array_equal(engine.cells(alone.job_id).counts, together)


def test_one_process_where_two_were_asked_for_is_refused_with_the_recipe(lab):
    command = [sys.executable, "-m", "lingshu_model.engine", "--ranks", "2", "--home"]
    ended = subprocess.run(
        [*command, str(lab.home), *lab.arguments], env=lab.environ, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "there are 1 processes" in ended.stderr
    assert "ACCELERATE_USE_CPU=true" in ended.stderr
