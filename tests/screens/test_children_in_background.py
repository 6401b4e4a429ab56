"""Child processes outlast the call that started them, and no call waits for one that is stuck."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lingshu_model.contracts import Cells, digest_file, encode_cells
from lingshu_model.system.file_locks import Holder, is_held, try_lock
from lingshu_testing.signals import suspend
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.waiting import wait_until_over
from lingshu_tools.children import Answer, ChildError, Children, State, Task, Work, pool
from lingshu_tools.children.task import TaskFiles, key_of
from lingshu_tools.system.interpreter import environ_of

CELLS = encode_cells(Cells(np.arange(6, dtype=np.int32).reshape(3, 2), np.ones(2, bool)))
WAIT_S = 60


class Export:
    """An export whose child waits until the cells arrive through a pipe with a name."""

    def __init__(self, folder: Path, name: str = "exp_1") -> None:
        self.blob = folder / f"{name}.cells"
        ready = folder / f"{name}.ready"
        ready.write_bytes(CELLS)
        obs = {"experiment_id": name, "arm": "cells", "first_cell": 0}
        arm = {"blob": str(self.blob), "digest": digest_file(ready), "obs": obs}
        var = {"symbol": ["A", "B"], "ensembl": ["", ""]}
        job = {"arms": [arm], "var": var, "uns": {}, "name": f"{name}.h5ad"}
        self.task = Task("export", f"{name} h5ad", job, folder / "home" / "exports")
        self.files = TaskFiles(folder / "home" / "children", key_of("export", f"{name} h5ad"))
        self._ready = ready
        if not self.blob.exists():
            os.mkfifo(self.blob)

    def pid(self) -> int:
        """Return the process that works at it, once there is one."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if self.files.lock.exists() and (holder := Holder.parse(self.files.lock.read_bytes())):
                return holder.pid
            time.sleep(0.01)
        raise AssertionError("no child has taken the lock")

    def release(self) -> None:
        """Let the child that waits, or the next one, have the cells."""
        pipe = self.blob.with_suffix(".pipe")
        os.link(self.blob, pipe)
        self._ready.replace(self.blob)
        with suppress(OSError):  # no child has opened it yet, and none will
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.write(writer, CELLS)
            os.close(writer)


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Export]:
    created = Export(tmp_path)
    yield created
    if created.files.lock.exists() and is_held(created.files.lock):
        os.kill(created.pid(), signal.SIGKILL)


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path / "home")


def run(children: Children, task: Task, wait_s: float) -> Answer | State:
    """Begin a task and wait for it."""
    return waited(children, children.begin(task), wait_s)


def join(children: Children, export: Export, wait_s: float) -> Answer | State | None:
    """Wait for what an earlier call began."""
    work = children.join("export", export.task.request)
    return None if work is None else waited(children, work, wait_s)


def waited(children: Children, work: Answer | Work, wait_s: float) -> Answer | State:
    if isinstance(work, Work):
        wait_until_over(work.watch, wait_s)
    return children.result(work)


def until_gone(pid: int) -> None:
    end = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_call_returns_before_its_child_is_done_and_the_next_one_has_the_file(
    children: Children, export: Export
):
    assert run(children, export.task, 0) == "running"
    pid = export.pid()
    assert join(children, export, 0) == "running"
    assert run(children, export.task, 0) == "running"
    assert export.pid() == pid
    while not list(export.task.folder.glob(".tmp-*")):
        time.sleep(0.01)
    export.release()
    answer = join(children, export, WAIT_S)
    assert isinstance(answer, Answer)
    assert answer.details == {"n_obs": 3, "n_vars": 2}
    path = answer.paths["h5ad"]
    assert answer.digests["h5ad"] == digest_file(path)
    assert list(path.parent.iterdir()) == [path]
    # It is handed over once; an equal job has it again, another one is done anew.
    assert join(children, export, 0) is None
    again = run(children, export.task, 0)
    assert isinstance(again, Answer)
    assert again.finished_at == answer.finished_at


def until_done(export: Export) -> None:
    """Wait for a child's answer, and for the end of the child."""
    end = time.monotonic() + WAIT_S
    while export.files.read_answer() is None or is_held(export.files.lock):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_answer_to_a_changed_job_is_not_that_of_the_job_before(
    children: Children, export: Export
):
    work = children.begin(export.task)
    assert isinstance(work, Work)
    export.release()
    until_done(export)
    work.ended.wait(WAIT_S)
    # Handed over without asking how the work stands, as to a caller who began it just now.
    assert isinstance(children.begin(export.task), Answer)
    renamed = {**export.task.job, "var": {"symbol": ["C", "D"], "ensembl": ["", ""]}}
    changed = replace(export.task, job=renamed)
    answer = run(children, changed, WAIT_S)
    assert isinstance(answer, Answer)
    assert answer.digest == changed.digest


def test_a_process_that_is_late_to_see_its_child_end_disturbs_no_other(
    children: Children, export: Export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    seen = threading.Event()
    status, launch = Work._status, pool.start

    def late(self: Work, child: pool.Process[bytes]) -> int:
        result = status(self, child)
        if self is first:
            seen.wait(WAIT_S)
        return result

    def launched(*arguments: object, **more: object):
        # The task is written: now the first process sees that its child has ended.
        seen.set()
        assert first.ended.wait(WAIT_S)
        return launch(*arguments, **more)

    first = None
    monkeypatch.setattr(Work, "_status", late)
    first = children.begin(export.task)
    export.release()
    until_done(export)
    export.files.answer.unlink()
    monkeypatch.setattr(pool, "start", launched)
    answer = run(Children(tmp_path / "home"), export.task, WAIT_S)
    assert isinstance(answer, Answer)
    assert answer.digest == export.task.digest
    assert not export.files.task.exists()
    assert not export.files.log.exists()


def test_a_stopped_child_does_not_hold_up_a_call_and_is_killed_at_its_limit(
    tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
):
    stopped, limits = threading.Event(), list[float]()

    class Child(subprocess.Popen[bytes]):
        """Its limit is over as soon as it has been stopped, however slowly it started."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            limits.append(timeout)
            stopped.wait(WAIT_S)
            return super().wait(0.5)

    monkeypatch.setattr("lingshu_tools.system.interpreter.subprocess.Popen", Child)
    children = Children(tmp_path / "home", limit_s={"export": 300.0})
    assert run(children, export.task, 0) == "running"
    pid = export.pid()
    suspend(pid)
    begin = time.monotonic()
    assert join(children, export, 0.2) == "running"
    assert time.monotonic() - begin < WAIT_S / 4
    stopped.set()
    with pytest.raises(ChildError, match="was killed, as it took more than 300 s"):
        join(children, export, WAIT_S)
    assert limits == [300.0 + pool._GRACE_S]
    until_gone(pid)
    export.release()
    monkeypatch.undo()
    assert isinstance(run(Children(tmp_path / "home"), export.task, WAIT_S), Answer)


def test_a_child_ends_itself_at_its_limit_when_its_parent_is_gone(tmp_path: Path, export: Export):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from lingshu_tools.children import Children\n"
        "from test_children_in_background import Export, run\n"
        "export = Export(Path(sys.argv[1]))\n"
        "children = Children(Path(sys.argv[1]) / 'home', limit_s={'export': 3.0})\n"
        "print(run(children, export.task, 0), export.pid())"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, env=environ_of(), capture_output=True, text=True, check=True)
    state, pid = done.stdout.split()
    assert state == "running"
    until_gone(int(pid))
    assert not is_held(export.files.lock)


def test_a_child_at_its_limit_is_named_with_it(tmp_path: Path, export: Export):
    children = Children(tmp_path / "home", limit_s={"export": 2.0})
    with pytest.raises(ChildError, match="was killed, as it took more than 2 s"):
        run(children, export.task, WAIT_S)


def test_a_killed_child_is_reported_and_the_next_one_removes_what_it_left(
    children: Children, export: Export, tmp_path: Path
):
    assert run(children, export.task, 0) == "running"
    pid = export.pid()
    exports = tmp_path / "home" / "exports"
    while not list(exports.glob(".tmp-*")):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ChildError, match=f"(?s)killed by another program.*{export.files.log}"):
        join(children, export, WAIT_S)
    assert list(exports.glob(".tmp-*"))
    export.release()
    answer = run(children, export.task, WAIT_S)
    assert isinstance(answer, Answer)
    assert list(exports.iterdir()) == [answer.paths["h5ad"]]


def test_another_task_removes_what_a_killed_child_left_and_nothing_of_a_living_one(
    children: Children, export: Export, tmp_path: Path
):
    assert run(children, export.task, 0) == "running"
    killed = Export(tmp_path, "exp_2")
    assert run(children, killed.task, 0) == "running"
    exports = tmp_path / "home" / "exports"
    while len(list(exports.glob(".tmp-*"))) < 2:
        time.sleep(0.01)
    os.kill(killed.pid(), signal.SIGKILL)
    with pytest.raises(ChildError):
        join(children, killed, WAIT_S)
    other = Export(tmp_path, "exp_3")
    other.release()
    assert isinstance(run(children, other.task, WAIT_S), Answer)
    left = [path.name.removeprefix(".tmp-").rpartition("-")[0] for path in exports.glob(".tmp-*")]
    assert left == [export.files.key]


def test_a_failure_names_the_file_of_the_whole_output(children: Children, tmp_path: Path):
    task = Task("plot", "exp_1 pie", {"kind": "pie", "name": "x", "numbers": [{"a": 1}]}, tmp_path)
    with pytest.raises(ChildError, match=r"(?s)plot failed .*KeyError") as caught:
        run(children, task, WAIT_S)
    log = TaskFiles(tmp_path / "home" / "children", key_of("plot", "exp_1 pie")).log
    assert f"The end of {log}:" in str(caught.value)
    assert log.read_text().startswith("Traceback")


def test_a_child_goes_on_when_the_process_that_started_it_ends(
    children: Children, export: Export, tmp_path: Path
):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from lingshu_tools.children import Children\n"
        "from test_children_in_background import Export, run\n"
        "export = Export(Path(sys.argv[1]))\n"
        "print(run(Children(Path(sys.argv[1]) / 'home'), export.task, 0))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(
        command,
        env=environ_of(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert out == "running\n", err
    # Its terminal is closed: that ends all that belongs to the process.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGHUP)
    pid = export.pid()
    assert run(children, export.task, 0) == "running"
    assert export.pid() == pid
    export.release()
    assert isinstance(run(children, export.task, WAIT_S), Answer)


def test_a_stuck_child_of_a_process_that_ended_is_killed_by_whoever_asks(
    export: Export, tmp_path: Path
):
    first = Children(tmp_path / "home")
    assert run(first, export.task, 0) == "running"
    pid = export.pid()
    suspend(pid)
    long_ago = time.time() - 2 * pool.LIMIT_S["export"]
    os.utime(export.files.task, (long_ago, long_ago))
    export.release()
    assert isinstance(run(Children(tmp_path / "home"), export.task, WAIT_S), Answer)
    until_gone(pid)


def test_a_forked_process_does_not_wait_for_threads_that_it_has_not(
    children: Children, export: Export
):
    assert run(children, export.task, 0) == "running"
    export.pid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        forked = os.fork()
    if not forked:
        code = 1
        try:
            export.release()
            code = 0 if isinstance(run(children, export.task, WAIT_S), Answer) else 2
        finally:
            os._exit(code)
    assert os.waitpid(forked, 0)[1] == 0


def test_a_task_waits_for_its_turn(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "AT_ONCE", 1)
    children = Children(tmp_path / "home")
    assert run(children, export.task, 0) == "running"
    second = Export(tmp_path, "exp_2")
    second.release()
    assert run(children, second.task, 0) == "queued"
    export.release()
    assert isinstance(run(children, second.task, WAIT_S), Answer)


@pytest.mark.parametrize("damage", ["remove", "change"])
def test_a_file_that_was_changed_or_removed_is_made_anew(
    children: Children, export: Export, damage: str
):
    export.release()
    first = run(children, export.task, WAIT_S)
    assert isinstance(first, Answer)
    path = first.paths["h5ad"]
    path.unlink() if damage == "remove" else path.write_bytes(b"other")
    again = run(children, export.task, WAIT_S)
    assert isinstance(again, Answer)
    assert digest_file(path) == first.digests["h5ad"]


def test_nobody_else_can_read_what_a_child_writes(children: Children, export: Export):
    before = os.umask(0)
    try:
        export.release()
        answer = run(children, export.task, WAIT_S)
    finally:
        os.umask(before)
    assert isinstance(answer, Answer)
    path = answer.paths["h5ad"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in export.files.folder.rglob("*"):
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077, file


def test_a_folder_that_is_a_link_is_not_written_to(children: Children, export: Export, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    export.task.folder.parent.mkdir(exist_ok=True)
    export.task.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ChildError, match="is a symbolic link"):
        run(children, export.task, WAIT_S)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_tools_answer_while_the_files_are_made_and_the_same_call_returns_them(app: App):
    knock_out = [{"kind": "knockout", "target": "T01"}]
    created = call(app, "perturb_cells", {"interventions": knock_out, "n_cells": 8, "wait_s": 45})
    name = created.experiment_id
    for tool, kind, request, given in (
        ("plot_experiment", "plot", f"{name} volcano", {"id": name}),
        ("export_experiment", "export", f"{name} h5ad", {"id": name}),
        ("export_experiment", "table", f"{name} csv", {"id": name, "format": "csv"}),
    ):
        files = TaskFiles(app.home / "children", key_of(kind, request))
        files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = try_lock(files.lock)  # as a child of another process would
        assert held
        begin = time.monotonic()
        waiting = call(app, tool, {**given, "wait_s": 0.3})
        assert time.monotonic() - begin < 3.3
        assert waiting.status == "running"
        assert waiting.experiment_id == name
        assert f'{tool}(id="{name}"' in waiting.next_step
        assert "wait_s=4) returns it" in waiting.next_step
        held.release()
        finished = call(app, tool, {**given, "wait_s": 45})
        assert finished.status == "succeeded", finished.summary
