"""Two real gloo ranks; `accelerate launch --cpu --num_processes 2` would start one process."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

pytestmark = pytest.mark.slow
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
TWO = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
MODULE = ["-m", "lingshu_model.engine", "--ranks", "2"]


@pytest.fixture
def group(lab):
    environ = lab.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*LAUNCH, *TWO, *MODULE, "--home", str(lab.home), *lab.arguments]
    with (lab.home / "group.log").open("w") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    pause = threading.Event()
    while not lab.client().info():
        assert process.poll() is None, (lab.home / "group.log").read_text()
        pause.wait(0.1)
    yield process
    process.terminate()
    process.wait(60)


def test_two_ranks_give_the_bytes_of_one(lab, group):
    engine = lab.client()
    assert engine.ensure().ranks == 2
    lab.hold(1)  # so that both ranks come to have a tile
    job = engine.submit(lab.arm(n_cells=100)).job_id
    pause = threading.Event()
    while len(lab.tiles()) < 2:
        pause.wait(0.02)
    (lab.gate / "hold-1").unlink()
    assert engine.wait(job, 45).state == "succeeded"
    together = engine.cells(job).counts
    assert len({line.split()[0] for line in lab.tiles()}) == 2

    lab.hold(2)
    held = engine.submit(lab.arm(seed=2, n_cells=100)).job_id
    while len(lab.tiles()) < 13 + 2:
        pause.wait(0.02)
    assert engine.cancel(held).state == "cancelled"  # on both ranks, or the next would hang
    view = engine.wait(engine.submit(lab.arm(seed=13)).job_id, 45)
    assert view.state == "failed"

    engine.shutdown()
    assert group.wait(60) == 0
    for path in lab.home.glob("engines/results/*"):
        path.unlink()
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


def test_one_process_where_two_were_asked_for_is_refused_with_the_recipe(lab):
    command = [sys.executable, "-m", "lingshu_model.engine", "--ranks", "2", "--home"]
    ended = subprocess.run(
        [*command, str(lab.home), *lab.arguments], env=lab.environ, capture_output=True, text=True
    )
    assert ended.returncode == 3
    assert "there are 1 processes" in ended.stderr
    assert "ACCELERATE_USE_CPU=true" in ended.stderr
