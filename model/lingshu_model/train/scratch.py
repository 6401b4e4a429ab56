"""Temporary folders of a training run.

A run that ends, also by SIGTERM, removes its folders. Those of a killed run are removed by the next
run in the same place: a process that uses a folder holds a lock on a file of the same name, so an
unlocked file marks an abandoned folder.
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
    """Yield a new folder in `folder`, which is removed afterwards.

    Args:
        folder: the parent; folders that killed runs left there are removed too.
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
    """Let Ctrl-C, SIGTERM and SIGHUP end this process by `SystemExit`, with status 128 + number."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup ignores SIGHUP, and a shell ignores SIGINT for background jobs: that is kept.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not cut the clean-up short
    sys.exit(128 + number)


def _locked(path: Path) -> FileLock | None:
    try:
        return try_lock(path, remove=True)
    except NoLocksError:
        return None  # a file system without locks: folders of killed runs stay there
