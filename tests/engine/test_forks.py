"""A `Lab` used before a fork is used after it, in parent and children, each with its own cells."""

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingshu_model.contracts import Catalogue, decode_cells
from lingshu_testing import make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.experiments.designs import design_of
from lingshu_tools.lab import Lab

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
FORK = multiprocessing.get_context("fork")
LAB: list[Lab] = []
"""What the children find in the memory that they were given."""


@pytest.fixture
def home(lab: Any, tmp_path: Path) -> Any:
    lab.catalogue = Catalogue([make_checkpoint(tmp_path / "made").path.parent])
    lab.environ["LINGSHU_CHECKPOINTS"] = str(lab.catalogue.roots[0])
    return lab


@pytest.fixture
def shared(home: Any) -> Iterator[Lab]:
    """A lab with an engine process, which has run one experiment already."""
    app = App(home.home, engine=home.client(), catalogue=home.catalogue)
    LAB[:] = [Lab(app=app)]
    assert sample(9999)[1] == "succeeded"
    yield LAB[0]
    app.close()
    LAB.clear()


def sample(seed: int) -> tuple[int, str, str]:
    result = LAB[0].sample_cells(n_cells=16, seed=seed, wait_s=30)
    text = "" if result.status == "succeeded" else f": {result.summary}"
    return seed, f"{result.status}{text}", str(result.experiment_id)


def check_every_experiment(lab: Lab, expected: int) -> None:
    """Compare all sealed cells with those that the engine computes anew."""
    ledger, engine = lab.app.ledger, lab.app.engine
    finished = [item.experiment for item in ledger.find(status="succeeded", limit=500).items]
    assert len(finished) == expected
    for experiment in finished:
        (arm,) = design_of(lab.app, experiment).arms.values()
        view = engine.wait(engine.submit(arm, fresh="again").job_id, 30)
        digest = ledger.outcome(experiment.id).artifacts["cells"]
        stored = decode_cells(ledger.object_file(digest))
        assert stored.origin.request == arm.digest
        assert np.array_equal(stored.counts, engine.cells(view.job_id).counts)
    assert ledger.verify().ok


def test_children_forked_while_calls_are_under_way_succeed_with_their_own_cells(shared: Lab):
    stop, mine = threading.Event(), list[str]()

    def keep_calling(first: int) -> None:
        for seed in range(first, first + 1000):
            if stop.is_set():
                return
            mine.append(sample(seed)[1])

    threads = [threading.Thread(target=keep_calling, args=(i * 1000,)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        with FORK.Pool(4) as pool:
            result = pool.map_async(sample, range(100, 124), chunksize=1).get(120)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert Counter(status for _, status, _ in result) == {"succeeded": 24}
    assert set(mine) == {"succeeded"}
    check_every_experiment(shared, 1 + 24 + len(mine))
    servers = shared.app.ledger.find(status="succeeded", limit=500).items
    assert len({item.experiment.id for item in servers}) == 1 + 24 + len(mine)


def test_an_executor_of_forked_processes_succeeds(shared: Lab):
    with ProcessPoolExecutor(2, mp_context=FORK) as pool:
        result = list(pool.map(sample, range(100, 106)))
    assert Counter(status for _, status, _ in result) == {"succeeded": 6}
    check_every_experiment(shared, 7)


def in_child(work: Any, timeout_s: float = 60.0) -> Any:
    """Return the JSON value of `work()` in a forked child, which ends without any clean-up."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(work()).encode())
        except BaseException as error:  # noqa: BLE001
            os.write(writer, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(0)
    os.close(writer)
    timer = threading.Timer(timeout_s, os.kill, (child, signal.SIGKILL))
    timer.start()
    with os.fdopen(reader) as answer:
        text = answer.read()
    timer.cancel()
    os.waitpid(child, 0)
    assert text, f"the child did not answer in {timeout_s} s"
    return json.loads(text)


def test_locks_that_threads_hold_at_the_fork_do_not_stop_the_child(shared: Lab):
    app = shared.app
    runner, engine = app.runner, app.engine
    held = [runner._lock, runner._watcher._changed, engine._process._starting]
    inside, finished = threading.Barrier(len(held) + 1), threading.Event()

    def hold(lock: Any) -> None:
        with lock:
            inside.wait()
            finished.wait()

    threads = [threading.Thread(target=hold, args=(lock,)) for lock in held]
    for thread in threads:
        thread.start()
    inside.wait()
    try:
        assert in_child(lambda: sample(7)[1]) == "succeeded"
    finally:
        finished.set()
        for thread in threads:
            thread.join()
    assert sample(8)[1] == "succeeded"


def test_a_property_that_a_thread_works_out_at_the_fork_does_not_stop_the_child(home: Any):
    inside, finished = threading.Event(), threading.Event()

    class Slow(App):
        """Its ledger takes until the test is done, in the process that began with it."""

        pid = os.getpid()

        def __getattribute__(self, name: str) -> Any:
            if name == "home" and os.getpid() == Slow.pid and "ledger" not in self.__dict__:
                inside.set()
                finished.wait()
            return super().__getattribute__(name)

    app = Slow(home.home, engine=home.client(), catalogue=home.catalogue)
    thread = threading.Thread(target=lambda: app.ledger)
    thread.start()
    inside.wait()
    try:
        assert in_child(lambda: app.ledger.head().seq) == 1
    finally:
        finished.set()
        thread.join()
        app.close()


def test_each_process_is_a_worker_of_its_own_in_the_ledger(shared: Lab):
    name = in_child(lambda: sample(5)[2])
    with shared.app.ledger.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT a.experiment_id, s.id, s.pid FROM attempt a JOIN server s ON s.id = a.server_id"
        ).all()
    by_pid = {pid for _, _, pid in rows}
    assert os.getpid() in by_pid
    assert len(by_pid) == len({server for _, server, _ in rows}) == 2
    (child,) = [pid for experiment, _, pid in rows if experiment == name]
    assert child != os.getpid()
