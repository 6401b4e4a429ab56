"""Children in the background: started, waited for while a call may wait, killed at their limit.

A call that returns before its child is done loses nothing: the child goes on, also when the process
that started it ends, and the same call in any process of the home finds it at work or its answer.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lingshu_model.system.durable import UNFINISHED, write_durably
from lingshu_model.system.file_locks import Holder, is_held
from lingshu_model.system.private import open_private, private_folder
from lingshu_tools.calls.waiting import Ending
from lingshu_tools.children.task import BUSY, LIMIT_S, Answer, Kind, Task, TaskFiles, key_of
from lingshu_tools.errors import LingshuError
from lingshu_tools.system.deadline import remaining
from lingshu_tools.system.interpreter import DEVNULL, Process, TimeoutExpired, start

AT_ONCE = 4
"""Children of one process at a time; the tasks of others wait for their turn."""
KEPT_S = 7 * 86_400.0
"""How long the log of a failed child and the answer of a finished one are kept."""
AWAITED_S = 600.0
"""How long an answer that nobody has seen is held for who asked, though its subject has changed."""
State = Literal["queued", "running"]
_GRACE_S = 20.0
_POLL_S = 0.1
_LAUNCH_S = 2.0
_SHOWN_LINES = 6
# What decides how Python finds its libraries. All else could change a picture or a number.
_KEPT = ("COVERAGE_", "DYLD_", "LD_", "NIX_")
_KEPT_NAMES = ("HOME", "LOGNAME", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME",
               "PYTHONNOUSERSITE", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONUSERBASE", "TMPDIR",
               "USER")  # fmt: skip
_FIXED = {
    "HDF5_USE_FILE_LOCKING": "FALSE",  # the file is private until it is complete
    "LC_ALL": "C",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "TZ": "UTC",
}


class ChildError(LingshuError):
    """A child failed or was killed; the end of what it wrote and the file of it all are named."""


class Children:
    """The children of one home, as far as this process started them or waits for them."""

    def __init__(self, home: Path, *, limit_s: Mapping[Kind, float] = LIMIT_S) -> None:
        """Prepare; nothing is started or written yet.

        Args:
            home: the folder below which they keep their files.
            limit_s: seconds after which a child is killed, for each kind.
        """
        self._folder = home.absolute() / "children"
        self._limit_s = limit_s
        self._forget()

    def join(self, kind: Kind, request: str) -> "Answer | Work | None":
        """Return what an earlier call with this request began, or its answer if nobody saw it yet.

        None where there is neither.
        """
        self._after_fork()
        files = TaskFiles(self._folder, key_of(kind, request))
        with self._lock:
            work = self._at_work.get(files.key)
        if work is not None:
            return work
        answer = files.read_answer()
        return self._deliver(files, answer) if answer and _is_awaited(answer) else None

    def begin(self, task: Task) -> "Answer | Work":
        """Return the work at a task, or its answer if an equal task is done.

        Its child goes on when this process ends: `join` it in another.
        """
        self._after_fork()
        files = TaskFiles(self._folder, key_of(task.kind, task.request))
        answer = files.read_answer()
        if answer and answer.intact and answer.digest == task.digest:
            return self._deliver(files, answer)
        work = self._begin(task, files)
        # A process that ends right after this call must have started the child.
        work.launched.wait(remaining(_LAUNCH_S))
        return work

    def result(self, work: "Answer | Work") -> Answer | State:
        """Return the answer, or how the work stands now.

        Raises:
            ChildError: the child failed, or was killed at its limit.
        """
        if isinstance(work, Answer):
            return work
        if not work.ended.is_set():
            return "running" if work.started.is_set() else "queued"
        with self._lock:
            if self._at_work.get(work.files.key) is work:
                del self._at_work[work.files.key]
        if work.error is not None:
            raise ChildError(work.error)
        answer = work.files.read_answer()
        if answer is None:
            message = f"{work.files.answer} cannot be read; call again to have it made anew"
            raise ChildError(message)
        return self._deliver(work.files, answer)

    def forget(self, task: Task) -> None:
        """Remove the answer to a task, so that an equal one is worked at again."""
        with suppress(OSError):
            TaskFiles(self._folder, key_of(task.kind, task.request)).answer.unlink()

    def _after_fork(self) -> None:
        if os.getpid() != self._pid:
            # A forked process has the list of its parent, and none of the threads that mind it.
            self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._at_work: dict[str, Work] = {}
        self._swept = False

    def _deliver(self, files: TaskFiles, answer: Answer) -> Answer:
        if not answer.delivered:
            with suppress(OSError):  # it is delivered once more, which does no harm
                files.write_answer(replace(answer, delivered=True))
        return answer

    def _begin(self, task: Task, files: TaskFiles) -> "Work":
        """Return the work at a task, begun by this thread or just now by another."""
        with self._lock:
            work = self._at_work.get(files.key)
            # One that ended well may be of an earlier job: a file that it read was changed since.
            # That it failed is still to be said.
            if work and (work.error is not None or not work.ended.is_set()):
                return work
            work = self._at_work[files.key] = Work(task, files, self._limit_s[task.kind])
            sweep, self._swept = not self._swept, True
        arguments = (work, sweep)
        threading.Thread(target=self._mind, args=arguments, daemon=True, name=files.key).start()
        return work

    def _mind(self, work: "Work", sweep: bool) -> None:  # noqa: FBT001 - a thread's argument
        try:
            private_folder(self._folder)
            if sweep:
                remove_old(self._folder)
            if not self._turns.acquire(blocking=False):
                work.launched.set()
                self._turns.acquire()
            try:
                work.started.set()
                work.finish()
            finally:
                self._turns.release()
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            work.error = f"{work.task.kind} could not be started: {error}"
        finally:
            work.end()


class Work(Ending):
    """One task on its way, minded by a thread."""

    def __init__(self, task: Task, files: TaskFiles, limit_s: float) -> None:
        super().__init__()
        self.task, self.files = task, files
        self.launched = threading.Event()  # its child runs, or it waits for its turn
        self.started = threading.Event()
        self.error: str | None = None
        self._limit_s = limit_s
        self._begun_at = time.time()

    def end(self) -> None:
        """Let all who watch know that there is nothing more to wait for, nor a child to start."""
        self.launched.set()
        super().end()

    def finish(self) -> None:
        """Return when the task is done or has failed, by a child of ours or of another process."""
        while True:
            self._wait_for_others()
            answer = self.files.read_answer()
            if answer and answer.intact and answer.finished_at >= self._begun_at:
                return
            status = self._run_child()
            if status != BUSY:
                self.error = self._failure(status) if status else None
                return

    def _wait_for_others(self) -> None:
        """Wait for a child that another process started, and kill it when it is past its limit."""
        while is_held(self.files.lock):
            self.launched.set()
            with suppress(OSError):
                age = time.time() - self.files.task.stat().st_mtime
                if age > self._limit_s + _GRACE_S:
                    self._kill_holder()
            time.sleep(_POLL_S)

    def _kill_holder(self) -> None:
        holder = Holder.parse(self.files.lock.read_bytes())
        if holder and holder.pid and holder.state == "alive":
            os.kill(holder.pid, signal.SIGKILL)

    def _run_child(self) -> int:
        task, files = self.task, self.files
        files.answer.unlink(missing_ok=True)
        content = {
            "kind": task.kind,
            "job": task.job,
            "folder": str(task.folder.absolute()),
            "facts": task.facts,
            "digest": task.digest,
            "limit_s": self._limit_s,
        }
        write_durably(files.task, json.dumps(content, allow_nan=False).encode())
        descriptor = open_private(files.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(descriptor, "wb") as log:
            child = start(
                ["-m", "lingshu_tools.children.work", str(files.task)],
                environ=child_environ(files.folder),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                cwd=files.folder,
                detached=True,
            )
        self.launched.set()
        return self._status(child)

    def _status(self, child: Process[bytes]) -> int:
        try:
            # The child ends itself at its limit, unless it has been stopped.
            return child.wait(self._limit_s + _GRACE_S)
        except TimeoutExpired:
            child.kill()
            child.wait()
            return -signal.SIGALRM

    def _failure(self, status: int) -> str:
        kind, log = self.task.kind, self.files.log
        lines: list[str] = []
        with suppress(OSError):
            lines = log.read_text("utf-8", "replace").splitlines()
        if status == -signal.SIGALRM:
            reason = f"was killed, as it took more than {self._limit_s:g} s"
        elif status == -signal.SIGKILL:
            reason = "was killed by another program, or by the system for lack of memory"
        else:
            reason = f"failed in its child process (exit {status})"
        tail = "\n".join(lines[-_SHOWN_LINES:]) or "(it wrote nothing)"
        return f"{kind} {reason}. Call again to try once more. The end of {log}:\n{tail}"


def _is_awaited(answer: Answer) -> bool:
    age = time.time() - answer.finished_at
    return not answer.delivered and answer.intact and age < AWAITED_S


def child_environ(folder: Path) -> dict[str, str]:
    """Return the environment of a child: what finds its libraries, and nothing of the user's taste.

    Variables of matplotlib, of languages, of threads and of Python's own switches stay outside, so
    that equal jobs give equal files. `folder` also holds matplotlib's list of fonts.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_NAMES or name.startswith(_KEPT)
    }
    return {**kept, **_FIXED, "MPLCONFIGDIR": str(folder / "matplotlib")}


def remove_old(folder: Path) -> None:
    """Remove the files of tasks that nobody has touched for a week and nobody is at work on."""
    before = time.time() - KEPT_S
    for path in (*folder.glob("*-*.*"), *folder.glob(f"{UNFINISHED}*")):
        with suppress(OSError):
            if path.lstat().st_mtime < before and not is_held(path.with_suffix(".lock")):
                path.unlink()
