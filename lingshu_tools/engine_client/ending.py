"""Ending the engine process of a home, whether or not it answers."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from lingshu_model.system.file_locks import Holder, is_held
from lingshu_tools.errors import EngineError

Ending = Literal["exited", "killed", "none"]
"""It left in order, it was killed because it did not, or there was none."""
_LEAVING_S = 12.0
"""How long an engine that was told to exit may take: it ends the requests under way first."""
_TERM_S = 5.0
# A lock has no event to wait for.
_POLL_S = 0.05


def end_holder(lock: Path, *, requested: bool) -> Ending:
    """Return how the holder of an engine's lock ended, after it has.

    Args:
        lock: the lock file, in which the holder wrote who it is.
        requested: whether it was asked to exit already.

    Raises:
        EngineError: it runs on another machine, or nobody can tell which process it is.
    """
    # Whether it is held says if an engine lives; the text of the file may be old.
    if not is_held(lock):
        return "exited" if requested else "none"
    if requested and _is_free(lock, _LEAVING_S):
        return "exited"
    # Read after the wait: another engine may hold the lock by now.
    pid = _holder(lock)
    if pid is None:
        return "exited"
    # SIGTERM first, so that it can exit in order.
    for number, seconds in ((signal.SIGTERM, _TERM_S), (signal.SIGKILL, _TERM_S)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)  # one that is stopped would not see the first
        if _is_free(lock, seconds):
            return "killed"
    message = f"the engine (pid {pid}) holds {lock} and cannot be killed: see whether it still runs"
    raise EngineError(message)


def _holder(lock: Path) -> int | None:
    """Return the process that holds the lock; None where it has just let go.

    Raises:
        EngineError: it cannot be told from here.
    """
    text = lock.read_bytes()
    holder = Holder.parse(text)
    # "alive" is of this machine and of this boot, so the number is no other process's.
    if holder and holder.pid and holder.state == "alive":
        return holder.pid
    # Engines of earlier versions wrote their process id alone.
    if holder is None and text.strip().isdigit() and _is_engine(int(text)):
        return int(text)
    if not is_held(lock):
        return None
    where = f"on {holder.host}" if holder and holder.state == "elsewhere" else "of this machine"
    message = (
        f"{lock} is held by a process {where} that cannot be ended from here: run "
        "`lingshu engine stop` there, or end the process that holds the file"
    )
    raise EngineError(message)


def _is_engine(pid: int) -> bool:
    with suppress(OSError):
        return b"lingshu_model.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _is_free(lock: Path, seconds: float) -> bool:
    """Return whether nobody holds the lock, after waiting for that."""
    end = time.monotonic() + seconds
    while is_held(lock):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
