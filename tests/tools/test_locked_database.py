"""Another program locks the database: every tool answers in time, and what was recorded goes on."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lingshu_testing import OF_FILES, tool_calls
from lingshu_tools.app import App
from lingshu_tools.calls import dispatcher
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import BusyError, LingshuError, LockedError
from lingshu_tools.execution import runner

LOCKER = Path(__file__).parent.parent / "ledger" / "locker.py"
SAMPLE = {"n_cells": 8, "wait_s": 0}
GRACE_S = 0.4
LATE_S = 8.0  # a machine may be slow; a wait without a limit takes 30 s or more
Prepare = Callable[[App, str], subprocess.Popen[str]]
Hold = Callable[[App, str], subprocess.Popen[str]]


@pytest.fixture
def prepare() -> Iterator[Prepare]:
    """Start a process that can `lock` an application's database; to let go its input is closed."""
    started: list[subprocess.Popen[str]] = []

    def start(app: App, how: str) -> subprocess.Popen[str]:
        database = app.home / "experiments.db"
        database.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-P", str(LOCKER), how, str(database)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.communicate()


def lock(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("lock\n")
    process.stdin.flush()
    assert process.stdout.readline() == "locked\n"


@pytest.fixture
def hold(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Lock an application's database in another process; its input is closed to let go.

    Calls have little time from then on.
    """

    def start(app: App, how: str) -> subprocess.Popen[str]:
        process = prepare(app, how)
        lock(process)
        monkeypatch.setattr(dispatcher, "GRACE_S", GRACE_S)
        return process

    return start


@pytest.fixture
def app(open_app, engine, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr(runner, "_LOCKED_PAUSE_S", 0.05)
    return open_app(engine)


def answered(app: App, tool: str, arguments: dict[str, Any]) -> str:
    """Return what a tool says, in time, whatever it is."""
    started = time.monotonic()
    try:
        said = call(app, tool, arguments).summary
    except LingshuError as error:
        said = str(error)
    assert time.monotonic() - started < GRACE_S + LATE_S, (tool, said)
    return said


@pytest.mark.parametrize("how", ["exclusive", "guard"])
def test_every_tool_of_a_process_that_has_just_begun_answers_in_time(
    open_app, engine, app: App, hold: Hold, how: str
):
    finished = call(app, "sample_cells", SAMPLE | {"wait_s": 30}).experiment_id
    process = hold(app, how)
    # Those that read a user's file ask for it before they open the ledger.
    tools = {n: given for n, given in tool_calls(finished).items() if n not in OF_FILES}
    if how == "guard":
        # Nobody needs it once the ledger is there; starting a child takes too long to be timed.
        del tools["plot_experiment"], tools["export_experiment"], tools["propose_batch"]
    for tool, arguments in tools.items():
        said = answered(open_app(engine), tool, arguments)
        locked = f"locked by process {process.pid}" in said
        assert locked == (how == "exclusive"), (tool, said)


def test_a_new_home_under_a_held_guard_is_answered_in_time(app: App, hold: Hold):
    process = hold(app, "guard")
    assert f"made or migrated by process {process.pid}" in answered(app, "sample_cells", SAMPLE)


def test_calls_at_once_wait_side_by_side_for_a_ledger_that_cannot_be_opened(app: App, hold: Hold):
    from concurrent.futures import ThreadPoolExecutor

    hold(app, "guard")
    with ThreadPoolExecutor(12) as pool:
        started = time.monotonic()
        said = list(pool.map(lambda _: answered(app, "list_experiments", {}), range(12)))
        assert time.monotonic() - started < GRACE_S + LATE_S / 2
    assert all("made or migrated by" in each for each in said)


@pytest.mark.parametrize("how", ["writer", "exclusive", "reader"])
def test_an_experiment_begun_before_is_sealed_when_the_lock_goes(
    open_app, held, hold: Hold, monkeypatch: pytest.MonkeyPatch, how: str
):
    monkeypatch.setattr(runner, "_LOCKED_PAUSE_S", 0.05)
    # Background threads wait half a minute for a lock before they put an outcome aside.
    monkeypatch.setattr("lingshu_tools.ledger.database.BUSY_S", 0.5)
    monkeypatch.setattr("lingshu_tools.ledger.sqlite.BUSY_S", 0.5)
    app = open_app(held)
    begun = call(app, "sample_cells", SAMPLE).experiment_id
    until(lambda: app.ledger.status(begun) == "running")
    process = hold(app, how)
    held.gate.set()
    until(lambda: app.runner.trouble(begun) is not None)
    said = answered(app, "get_experiment", {"id": begun})
    assert f"locked by process {process.pid}" in said
    process.communicate()
    finished = call(app, "get_experiment", {"id": begun, "wait_s": 30})
    assert finished.status == "succeeded", finished.summary
    with app.ledger.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM outcome").scalar() == 1
    assert app.ledger.verify().ok


def test_a_replay_sealed_after_a_lock_has_its_verdict(
    open_app, held, hold: Hold, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "_LOCKED_PAUSE_S", 0.05)
    monkeypatch.setattr("lingshu_tools.ledger.database.BUSY_S", 0.5)
    monkeypatch.setattr("lingshu_tools.ledger.sqlite.BUSY_S", 0.5)
    app = open_app(held)
    held.gate.set()
    original = call(app, "sample_cells", SAMPLE | {"wait_s": 30}).experiment_id
    held.gate.clear()
    replay = call(app, "replay_experiment", {"id": original, "wait_s": 0}).experiment_id
    until(lambda: app.ledger.status(replay) == "running")
    process = hold(app, "writer")
    held.gate.set()
    until(lambda: app.runner.trouble(replay) is not None)
    process.communicate()
    assert app.runner.wait([replay], 30)
    assert [v.verdict for v in app.ledger.verifications(original)] == ["exact"]


def test_a_call_that_cannot_read_back_what_it_recorded_names_it(
    app: App, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
):
    real = app.ledger.begin_many
    # Started beforehand: the call has a limited time.
    locker = prepare(app, "exclusive")

    def begin_many(*arguments: Any, **named: Any) -> Any:
        begun = real(*arguments, **named)
        lock(locker)
        return begun

    monkeypatch.setattr(app.ledger, "begin_many", begin_many)
    with pytest.raises(LockedError, match=r"recorded before, as exp_[a-z2-7]{16}: it goes on"):
        call(app, "sample_cells", SAMPLE)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_no_longer_locked_out_is_not_said_to_be(app: App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "_LOCKED_PAUSE_S", 0.05)
    raised: list[Exception] = [LockedError("the database is locked by process 1")]

    def busy(*_: object) -> None:
        raise raised[0]

    monkeypatch.setattr(runner, "design_of", busy)
    begun = call(app, "sample_cells", SAMPLE).experiment_id
    until(lambda: "locked" in (app.runner.trouble(begun) or ""))
    # Another process works on it: that the database was locked once holds no longer.
    raised[0] = BusyError("another process works on it")
    until(lambda: begun not in app.runner.active)
    assert app.runner.trouble(begun) is None
    assert not app.runner.stopped([begun])
