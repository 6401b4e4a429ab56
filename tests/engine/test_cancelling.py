"""Cancelling stops the engine's work, queued work included, from any process and at any moment.

After each cancellation the engine is asked for its queue: no job in it is wanted by an experiment
that the ledger knows as cancelled.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_lab import Lab

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention, Requester
from lingshu_testing import TARGETS, make_checkpoint
from lingshu_testing.signals import suspend
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import LockedError
from lingshu_tools.experiments.designs import Design, design_of, new_experiment
from lingshu_tools.system.deadline import time_limit

HERE = Path(__file__).parent
HELD = 1
"""The seed whose tiles the fake sampler holds back until they are released or stopped."""
KNOCK_OUT = {
    "interventions": [{"kind": "knockout", "target": "STAT1"}],
    "seed": HELD,
    "checkpoint": "made",
}
PERTURB = KNOCK_OUT | {"n_cells": 24, "wait_s": 0}
SCREEN = {
    "objective": {"lower": ["PSMB9"]},
    "candidates": list(TARGETS),
    "n_cells": 16,
    "seed": HELD,
    "checkpoint": "made",
    "wait_s": 0,
}


class CancellingLab(Lab):
    """An engine of a checkpoint with everything that tools need, and applications on its home."""

    apps: list[App]

    def app(self, **more: Any) -> App:
        created = App(self.home, engine=self.client(), catalogue=self.catalogue, **more)
        self.apps.append(created)
        return created

    def begin(self, app: App, tool: str = "perturb_cells", arguments: Any = PERTURB) -> str:
        """Return what was begun, when a tile is at work and all of it is in the queue."""
        result = call(app, tool, arguments)
        name = result.screen_id or result.experiment_id
        wanted = {e.id for e in app.ledger.children(name)} or {name}
        until(lambda: wanted <= set(self.queued()) and self.tiles() != [])
        return name

    def queued(self) -> list[str]:
        """Return the experiments that the engine's queue has jobs of."""
        jobs = self.clients[0].unfinished()
        return sorted({name for job in jobs for name in job.experiments})

    def agrees(self, app: App) -> bool:
        """Return whether nothing that is cancelled is in the engine's queue."""
        queued = self.queued()
        ended = app.ledger.sealed(queued) | app.ledger.cancellations(queued)
        return not ended

    def close(self) -> None:
        for path in self.gate.glob("hold-*"):
            path.unlink()
        for app in self.apps:
            app.close()
        super().close()


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Return when something is true."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not true():
        assert time.monotonic() < end, "it did not become true"
        pause.wait(0.01)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CancellingLab]:
    home = tmp_path / "home"
    monkeypatch.setenv("FAKE_GATE", str(home / "gate"))
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    checkpoint = make_checkpoint(tmp_path / "checkpoints")
    created = CancellingLab(home, Catalogue([checkpoint.path.parent]))
    created.apps = []
    created.hold(HELD)
    yield created
    created.close()


@pytest.fixture
def server(lab: CancellingLab) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start servers: processes that begin an experiment and work on it until they are killed."""
    started: list[subprocess.Popen[str]] = []

    def start(tool: str, arguments: Any) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, str(HERE / "server_process.py"), str(lab.home), tool]
        process = subprocess.Popen(
            [*command, json.dumps(arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env=lab.environ | {"LINGSHU_REFERENCE_LEDGER": ""},
        )
        started.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        with process:
            pass


@pytest.mark.parametrize(
    ("tool", "arguments"), [("perturb_cells", PERTURB), ("run_screen", SCREEN)]
)
def test_another_application_stops_what_runs_and_what_is_queued(lab, tool, arguments):
    lab.host()
    app = lab.app()
    name = lab.begin(app, tool, arguments)
    tiles = len(lab.tiles())
    other = lab.app()
    stopped = call(other, "cancel_experiment", {"id": name})
    assert stopped.status in ("cancelled", "running")
    assert lab.queued() == []
    ids = [e.id for e in other.ledger.children(name)] or [name]
    assert other.runner.wait(ids, 60)
    assert set(other.ledger.statuses(ids).values()) == {"cancelled"}
    # The held tile was given up, and no other of it was begun.
    call(other, "sample_cells", {"n_cells": 8, "seed": 2, "wait_s": 45})
    assert len(lab.tiles()) == tiles + 1
    assert lab.agrees(other)


@pytest.mark.parametrize(
    ("tool", "arguments"), [("perturb_cells", PERTURB), ("run_screen", SCREEN)]
)
def test_what_a_dead_server_asked_for_is_stopped_too(lab, server, tool, arguments):
    lab.host()
    process, name = server(tool, arguments)
    app = lab.app()
    ids = [e.id for e in app.ledger.children(name)] or [name]
    until(lambda: set(ids) <= set(lab.queued()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Until somebody cancels it, the work goes on for the process that takes the experiment up.
    assert set(lab.queued()) == set(ids)
    stopped = call(app, "cancel_experiment", {"id": name})
    assert stopped.status == "cancelled"
    assert set(app.ledger.statuses(ids).values()) == {"cancelled"}
    assert lab.queued() == []
    call(app, "sample_cells", {"n_cells": 8, "seed": 2, "wait_s": 45})
    assert app.ledger.verify().ok


def test_a_frozen_server_does_not_keep_the_engine_at_work(lab, server):
    lab.host()
    process, name = server("perturb_cells", PERTURB)
    app = lab.app()
    until(lambda: app.ledger.status(name) == "running" and lab.queued() == [name])
    freeze(process, app, name)
    try:
        stopped = call(app, "cancel_experiment", {"id": name})
        assert stopped.status == "running"
        assert lab.queued() == []
    finally:
        process.send_signal(signal.SIGCONT)
    assert app.runner.wait([name], 60)
    assert app.ledger.status(name) == "cancelled"
    assert lab.queued() == []


def freeze(process: subprocess.Popen[str], app: App, name: str) -> None:
    """Stop a process at a moment when it does not hold the database."""
    while True:
        suspend(process.pid)
        try:
            with time_limit(0.5):
                app.ledger.tag(name, ["frozen"])
        except LockedError:
            process.send_signal(signal.SIGCONT)
        else:
            return


def test_cancelled_before_the_worker_has_submitted_it_is_never_queued(lab):
    lab.host()
    app = lab.app()
    finished = call(app, "perturb_cells", PERTURB | {"seed": 2, "wait_s": 45}).experiment_id
    created = design_of(app, app.ledger.experiment(finished))
    row = app.ledger.begin(new_experiment(app, created))
    assert call(app, "cancel_experiment", {"id": row.id}).status == "cancelled"
    tiles = len(lab.tiles())
    app.runner.launch([row.id])
    assert app.runner.wait([row.id], 60)
    assert call(app, "get_experiment", {"id": row.id}).status == "cancelled"
    assert lab.queued() == []
    assert len(lab.tiles()) == tiles


@pytest.mark.parametrize("engine_is_new", [False, True])
def test_cancelled_while_it_is_being_submitted_it_does_not_stay_queued(lab, engine_is_new):
    thread = lab.host()
    app, other = lab.app(), lab.app()
    submit, there, go_on = app.engine.submit, threading.Event(), threading.Event()

    def slow(arm: Any, **more: Any) -> Any:
        there.set()
        assert go_on.wait(60)
        return submit(arm, **more)

    app.engine.submit = slow
    name = call(app, "perturb_cells", PERTURB).experiment_id
    assert there.wait(60)
    assert call(other, "cancel_experiment", {"id": name}).status == "cancelled"
    if engine_is_new:
        # It has no record of what was withdrawn from the one before it.
        lab.hosted.pop()[0].leave()
        thread.join(60)
        lab.host()
    go_on.set()
    until(lambda: not app.runner._active)
    assert other.ledger.status(name) == "cancelled"
    assert lab.queued() == []


def test_cancelling_twice_says_so_and_finds_what_was_left(lab):
    lab.host()
    app = lab.app()
    name = lab.begin(app)
    call(app, "cancel_experiment", {"id": name})
    assert app.runner.wait([name], 60)
    # As if its worker had submitted it to an engine that was started afterwards, and died.
    design = design_of(app, app.ledger.experiment(name))
    left = app.ledger.begin(new_experiment(app, design))
    app.ledger.cancel(left.id)
    requester = Requester(experiment=left.id, group=left.id)
    app.engine.submit(design.arms["perturbed"], requester=requester)
    assert lab.queued() == [left.id]
    again = call(app, "cancel_experiment", {"id": left.id})
    assert "ended already" in again.summary
    assert lab.queued() == []
    app.engine.submit(design.arms["perturbed"], requester=Requester(experiment=left.id))
    assert lab.queued() == []


def test_any_cancellation_clears_what_the_ledger_knows_as_cancelled(lab):
    lab.host()
    app = lab.app()
    name = lab.begin(app)
    design = design_of(app, app.ledger.experiment(name))
    left = app.ledger.begin(new_experiment(app, design))
    app.ledger.cancel(left.id)
    app.engine.submit(design.arms["control"], requester=Requester(experiment=left.id))
    assert not lab.agrees(app)
    call(app, "cancel_experiment", {"id": name})
    assert lab.queued() == []


def test_without_an_engine_cancelling_is_quick_and_starts_none(lab):
    app = lab.app()
    checkpoint = lab.catalogue.load("made")
    row = app.ledger.begin(new_experiment(app, _design(checkpoint)))
    begin = time.monotonic()
    assert call(app, "cancel_experiment", {"id": row.id}).status == "cancelled"
    assert time.monotonic() - begin < 3
    assert app.engine.info() is None


def test_an_engine_that_is_stopped_hears_of_it_when_it_goes_on(lab):
    app = lab.app()
    name = lab.begin(app)
    pid = app.engine.ensure().pid
    suspend(pid)
    try:
        begin = time.monotonic()
        stopped = call(app, "cancel_experiment", {"id": name})
        assert time.monotonic() - begin < 5
        assert any("could not be told" in caveat for caveat in stopped.caveats)
        assert stopped.next_step.startswith("cancel_experiment(")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: lab.queued() == [])
    assert app.runner.wait([name], 60)
    assert app.ledger.status(name) == "cancelled"


def test_arms_that_another_experiment_needs_go_on(lab):
    lab.host()
    app, other = lab.app(), lab.app()
    first = lab.begin(app)
    knock_out = [{"kind": "knockout", "target": "JAK2"}]
    second = lab.begin(other, arguments=PERTURB | {"interventions": knock_out})
    call(lab.app(), "cancel_experiment", {"id": first})
    assert app.runner.wait([first], 60)
    assert lab.queued() == [second]
    (lab.gate / f"hold-{HELD}").unlink()
    finished = call(other, "get_experiment", {"id": second, "wait_s": 45})
    assert finished.status == "succeeded"
    # 3 tiles of each of its arms, each sampled once; of the cancelled one, those begun by then.
    arms = [line.split()[1] for line in lab.tiles()]
    needed = design_of(other, other.ledger.experiment(second)).arms
    assert [arms.count(arm.digest) for arm in needed.values()] == [3, 3]


def test_an_experiment_that_fails_leaves_no_arm_at_work(lab):
    lab.host()
    app = lab.app()
    wait = app.engine.wait

    def failing(job_id: str, wait_s: float) -> Any:
        view = wait(job_id, min(wait_s, 0.1))
        return view.model_copy(update={"state": "failed", "error": "not enough memory"})

    app.engine.wait = failing
    result = call(app, "perturb_cells", PERTURB | {"wait_s": 45})
    assert result.status == "failed"
    # Both arms are held in the engine, and nobody waits for them.
    until(lambda: lab.queued() == [])


def test_a_storm_of_cancellations_leaves_nothing(lab):
    lab.host()
    apps = [lab.app() for _ in range(4)]
    names = [
        call(apps[i % 4], "perturb_cells", PERTURB | {"first_cell": 1000 * i}).experiment_id
        for i in range(40)
    ]
    until(lambda: len(lab.queued()) >= 20)
    together, failed = threading.Barrier(4), list[Exception]()

    def storm(app: App, mine: list[str]) -> None:
        together.wait()
        for name in mine:
            try:
                call(app, "cancel_experiment", {"id": name})
            except Exception as error:  # noqa: BLE001
                failed.append(error)

    threads = [
        threading.Thread(target=storm, args=(app, names[(i + 1) % 4 :: 4]))
        for i, app in enumerate(apps)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert apps[0].runner.wait(names, 120)
    assert set(apps[0].ledger.statuses(names).values()) == {"cancelled"}
    until(lambda: lab.queued() == [])
    assert apps[0].ledger.verify().ok


@pytest.mark.slow
def test_a_hundred_are_cancelled_by_four_processes_at_once(lab, server):
    lab.host()
    app = lab.app()
    begun = [server("run_screen", SCREEN | {"first_cell": 100 * i}) for i in range(2)]
    names = [e.id for _, screen in begun for e in app.ledger.children(screen)]
    names += [
        call(app, "perturb_cells", PERTURB | {"first_cell": 10_000 * i}).experiment_id
        for i in range(100 - len(names))
    ]
    until(lambda: len(lab.queued()) > 90)
    begun[0][0].kill()
    command = [sys.executable, str(HERE / "cancelling_process.py"), str(lab.home)]
    storms = [
        subprocess.Popen(
            [*command, *names[i::4]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=lab.environ,
        )
        for i in range(4)
    ]
    for storm in storms:
        assert storm.stdout
        assert storm.stdout.readline() == "ready\n"
    said = [storm.communicate("go\n")[0].splitlines() for storm in storms]
    calls = [json.loads(line) for lines in said for line in lines]
    assert sorted(name for name, *_ in calls) == sorted(names)
    # On a busy machine the engine may be late; it drops the work when it hears of it.
    assert all("could not be told" in text for _, _, caveats, _ in calls for text in caveats)
    assert app.runner.wait(names, 120)
    assert set(app.ledger.statuses(names).values()) == {"cancelled"}
    until(lambda: lab.queued() == [])
    assert app.ledger.verify().ok


def _design(checkpoint: Checkpoint) -> Design:
    return Design(
        tool="perturb_cells",
        checkpoint=checkpoint,
        context=checkpoint.contexts[0],
        interventions=(Intervention(kind="knockout", target="STAT1"),),
        n_cells=8,
        seed=HELD,
        first_cell=0,
        steps=8,
        guidance=0.0,
    )
