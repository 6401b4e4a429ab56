"""Starting an engine detached from the process that needs it first."""

import importlib.util
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lingshu_model.contracts import EngineInfo
from lingshu_model.system.durable import UNFINISHED
from lingshu_model.system.file_locks import FileLock, is_held, try_lock
from lingshu_model.system.launcher import settle
from lingshu_model.system.places import LOG_VARIABLE, EnginePlaces
from lingshu_model.system.private import FILE_MODE, open_private, private_folder, set_mode
from lingshu_tools.errors import EngineBusyError, EngineError
from lingshu_tools.system.interpreter import DEVNULL, Process, interpreter, start

_POLL_S = 0.05
# Every start has a log of its own.
_LOGS_KEPT = 50
_TAIL_LINES = 12
ALREADY_RUNNING = 3
"""The exit status of an engine whose home has one already."""
RANKS = "LINGSHU_ENGINE_RANKS"
"""The environment variable that says of how many processes an engine started here is made."""


@dataclass(frozen=True)
class Started:
    """An engine process on its way up.

    Attributes:
        process: it.
        places: where it is to be found.
        log: the file of all that it says.
        starter: the process id of who started it.
    """

    process: Process[bytes]
    places: EnginePlaces
    log: Path
    starter: int

    @property
    def ended(self) -> bool:
        """Whether it has exited."""
        return self.process.poll() is not None

    def last_words(self) -> str:
        """Return the last lines it wrote, or a note that it wrote none."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:]) or "(it wrote nothing)"


@contextmanager
def turn_to_start(
    places: EnginePlaces,
    info: Callable[[], EngineInfo | None],
    timeout_s: float,
    waiting: Callable[[float], None] | None = None,
) -> Generator[EngineInfo | None]:
    """Give None while this process alone may start an engine, or the info of one that answers.

    Each start loads torch, which takes seconds of computing: clients that begin at one moment would
    hold up the one engine that is needed. A process that ends inside the context gives up its turn.

    Raises:
        EngineBusyError: another one has been starting for `timeout_s` seconds.
        EngineError: the folder of the engine cannot be written.
    """
    begin, view = time.monotonic(), None
    # The turn, or an engine that answers, whichever is first.
    while (turn := _turn(places)) is None and (view := info()) is None:
        if (waited := time.monotonic() - begin) > timeout_s:
            message = (
                f"an engine that is starting or leaving holds {places.lock} or {places.starting} "
                f"and has not answered for {timeout_s:.0f} s: call again. See {places.log}; "
                "`lingshu engine stop` ends one that is stuck"
            )
            raise EngineBusyError(message)
        if waiting:
            waiting(waited)
        time.sleep(_POLL_S)
    if turn is None:
        yield view
        return
    with turn:
        yield None


def _turn(places: EnginePlaces) -> FileLock | None:
    try:
        private_folder(places.folder)
        turn = try_lock(places.starting)
        # An engine runs or is leaving: starting now would fail at its lock.
        if turn and is_held(places.lock):
            turn.release()
            return None
    except OSError as error:
        message = f"the engine's folder cannot be used: {error}"
        raise EngineError(message) from error
    return turn


def start_detached(
    places: EnginePlaces, arguments: tuple[str, ...], environ: Mapping[str, str]
) -> Started:
    """Return an engine process in a session of its own, so that it outlives this one.

    With `LINGSHU_ENGINE_RANKS` in `environ` it is that many processes, started by accelerate: one
    per GPU, or where there is none that many on the CPU.

    Raises:
        EngineError: torch or another part of the `model` extra is missing, or the number of ranks
            is none.
    """
    # Looked for here, since a process that ends at its imports says less in its log.
    _require("torch", "accelerate", "starlette", "uvicorn")
    command = [*_command(environ.get(RANKS, "1")), "--home", str(places.home)]
    # What surrounds this process does not decide how many ranks the engine has.
    environ = dict(environ)
    settle(environ, None)
    try:
        path, log = _open_log(places)
    except OSError as error:
        message = f"the engine's log cannot be written: {error}"
        raise EngineError(message) from error
    with log:
        process = start(
            [*command, *arguments],
            environ={**environ, LOG_VARIABLE: str(path)},
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            detached=True,
        )
    # Reaps it whenever it ends, so that a long-lived server keeps no zombie.
    threading.Thread(target=process.wait, daemon=True, name="engine-reaper").start()
    return Started(process, places, path, os.getpid())


def wait_until(
    info: Callable[[], EngineInfo | None],
    started: Started,
    timeout_s: float,
    waiting: Callable[[float], None] | None = None,
) -> EngineInfo | None:
    """Return what the engine says once it answers; None where another one was first.

    Raises:
        EngineBusyError: it has not answered for `timeout_s` seconds and may still do.
        EngineError: it ended; its last words are in the message.
    """
    begin = time.monotonic()
    while (waited := time.monotonic() - begin) < timeout_s:
        ended = started.process.poll()
        if (view := info()) is not None:
            # Ours holds the home, so `engine.log` is to name its log.
            if view.pid == started.process.pid:
                _make_current(started.places, started.log)
            return view
        if ended == ALREADY_RUNNING:
            return None
        if ended is not None:
            message = (
                f"the engine ended with status {ended} before it answered. The end of "
                f"{started.log}:\n{started.last_words()}"
            )
            raise EngineError(message)
        if waiting:
            waiting(waited)
        time.sleep(_POLL_S)
    message = (
        f"the engine (pid {started.process.pid}) has not answered for {timeout_s:.0f} s; it may "
        f"still be starting: call again. The end of {started.log}:\n{started.last_words()}"
    )
    raise EngineBusyError(message)


def _command(ranks: str) -> list[str]:
    if not (ranks.isascii() and ranks.isdigit() and int(ranks)):
        message = f"{RANKS} is {ranks!r}: give how many processes the engine is to be, or unset it"
        raise EngineError(message)
    if int(ranks) == 1:
        return ["-m", "lingshu_model.engine"]
    # The rest are its own defaults, said aloud so that it prints no warning about them.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", ranks]
    once = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    port = ["--main_process_port", "0"]  # any that is free
    return [*launch, *once, *port, "-m", "lingshu_model.engine", "--ranks", ranks]


def _require(*modules: str) -> None:
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        message = (
            f"the engine needs {', '.join(missing)}, which {interpreter()} lacks. Install it with:"
            f"\n    {interpreter()} -m pip install 'lingshu-tools[model]'"
        )
        raise EngineError(message)


def _open_log(places: EnginePlaces) -> tuple[Path, BinaryIO]:
    """Return a new log file, which is `engine.log` too unless an engine runs; delete old ones."""
    private_folder(places.folder)
    folder = private_folder(places.logs)
    for old in sorted(folder.glob("*.log"))[:-_LOGS_KEPT]:
        old.unlink(missing_ok=True)
    # Names in the order of time, so that the oldest are deleted; a random part tells starts apart.
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = folder / f"{moment}-{secrets.token_hex(3)}.log"
    log = os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND), "ab")
    # Named early, so that a start that fails can be read under the known name.
    if not is_held(places.lock):
        _make_current(places, path)
    return path, log


def _make_current(places: EnginePlaces, log: Path) -> None:
    """Let `engine.log` name this log: of several engines started at once, one holds the home."""
    with suppress(OSError):
        if places.log.exists() and places.log.samefile(log):
            return
        # A link under another name, then renamed: `engine.log` is there at every moment.
        name = places.log.with_name(f"{UNFINISHED}{secrets.token_hex(4)}.log")
        try:
            name.hardlink_to(log)
        except OSError:  # a file system without hard links
            name.write_text(f"the log of the engine that was started last is {log}\n", "utf-8")
            set_mode(name, FILE_MODE)
        name.replace(places.log)
