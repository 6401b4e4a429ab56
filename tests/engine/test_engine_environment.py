"""The engine that a tool starts, whatever job the tool itself runs in."""

import subprocess
import sys
import threading

import pytest

STRAY = {
    "rank 1 of 2": {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29512",
    },
    "empty": {"RANK": "", "WORLD_SIZE": "", "LOCAL_WORLD_SIZE": "0", "OMP_NUM_THREADS": "0"},
}


@pytest.mark.parametrize("stray", STRAY.values(), ids=list(STRAY))
def test_the_ranks_of_a_surrounding_job_do_not_reach_the_engine(lab, stray: dict[str, str]):
    engine = lab.client(**stray)
    view = engine.wait(engine.submit(lab.arm()).job_id, 45)
    assert view.state == "succeeded", view
    info = engine.info()
    assert info
    assert info.ranks == 1


@pytest.mark.parametrize("stray", STRAY.values(), ids=list(STRAY))
def test_an_engine_that_is_asked_for_no_ranks_is_alone(lab, stray: dict[str, str]):
    command = [sys.executable, "-P", "-m", "lingshu_model.engine", "--home", str(lab.home)]
    process = subprocess.Popen(
        [*command, *lab.arguments], env=lab.environ | stray, stderr=subprocess.DEVNULL
    )
    try:
        engine, pause = lab.client(), threading.Event()
        while not (info := engine.info()):
            assert process.poll() is None
            pause.wait(0.05)
        assert (info.pid, info.ranks) == (process.pid, 1)
    finally:
        process.terminate()
        assert process.wait(30) == 0
