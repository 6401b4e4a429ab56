"""Signals to other processes, and the wait until they have had their effect."""

import os
import signal
import time
from pathlib import Path

_LIMIT_S = 20.0


def suspend(pid: int) -> None:
    """Stop a process with SIGSTOP, and return when none of its threads runs any more.

    `os.kill` returns earlier: on a busy machine threads go on for some milliseconds.

    Raises:
        TimeoutError: a thread still runs after 20 s.
    """
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    end = time.monotonic() + _LIMIT_S
    while tasks.is_dir() and not all(_state(task) in "TZ" for task in tasks.iterdir()):
        if time.monotonic() > end:
            message = f"process {pid} has not stopped within {_LIMIT_S:.0f} s of SIGSTOP"
            raise TimeoutError(message)
        time.sleep(0.005)


def _state(task: Path) -> str:
    # "pid (name) state ...": the name may hold blanks and brackets.
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
