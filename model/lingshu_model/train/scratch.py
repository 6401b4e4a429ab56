"""Folders that a training run needs while it works; nothing of them stays behind.

A run that ends, also by SIGTERM, removes its own. What a run left that was killed is removed by the
next one beside it: a process that uses such a folder holds a lock on a file of its name.
"""

import secrets
import shutil
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lingshu_model.system.file_locks import FileLock, NoLocksError, is_held, try_lock

PREFIXES = (".cells-", ".partial-", ".uncalibrated-", ".candidate-")
_LOCK = ".lock"


@contextmanager
def scratch(folder: Path, prefix: str) -> Generator[Path]:
    """Give a new folder in `folder`, which is removed afterwards.

    Args:
        folder: where; what runs that were killed left there is removed too.
        prefix: one of `PREFIXES`.
    """
    remove_abandoned(folder)
    name = f"{prefix}{secrets.token_hex(8)}"
    lock = _locked(folder / f"{name}{_LOCK}")
    place = folder / name
    try:
        place.mkdir(mode=0o700)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if lock:
            lock.release()


def remove_abandoned(folder: Path) -> None:
    """Remove the scratch folders of runs that have ended without doing it."""
    for prefix in PREFIXES:
        for lock in folder.glob(f"{prefix}*{_LOCK}"):
            if not is_held(lock, foreign=True):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)


def end_by_signals() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP end this process in order, with the status of shells."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup a hangup is ignored, in the background of a script Ctrl-C, and stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: nothing may cut the clean-up short
    sys.exit(128 + number)


def _locked(path: Path) -> FileLock | None:
    try:
        return try_lock(path, remove=True)
    except NoLocksError:
        return None  # a file system without any: what a killed run leaves there stays
