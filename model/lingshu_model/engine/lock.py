"""The lock of a home's engine: one engine at a time."""

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from lingshu_model.engine.errors import OccupiedError, StartError
from lingshu_model.system.endpoints import read_endpoint
from lingshu_model.system.file_locks import FileLock, LockTimeoutError, NoLocksError, wait_for_lock
from lingshu_model.system.places import EnginePlaces
from lingshu_model.system.private import (
    FOLDER_MODE,
    OTHERS,
    UnsafePathError,
    check_folder,
    private_folder,
    set_mode,
)

_LEAVING_S = 15.0
"""How long an engine that no longer answers is given to leave before another gives up."""
# Seconds that one attempt at the lock, or at the socket, takes.
_CHECK_S = 0.25


@contextmanager
def engine_lock(places: EnginePlaces) -> Generator[None]:
    """Hold the home's engine lock.

    Raises:
        OccupiedError: another engine of this home answers, or does not leave.
        StartError: the home is not this user's.
    """
    try:
        check_home(places)
        lock = _lock(places)
    except (UnsafePathError, NoLocksError) as error:
        raise StartError(str(error)) from error
    with lock:
        yield


def check_home(places: EnginePlaces) -> None:
    """Make the engine's folder, and close it to others.

    Raises:
        UnsafePathError: the home or the folder is a link or another user's.
    """
    # Root may own the home itself, but not the engine's folder in it.
    if places.home.exists():
        check_folder(places.home.resolve(), or_root=True)
    private_folder(places.folder)
    if places.folder.stat().st_mode & OTHERS:
        set_mode(places.folder, FOLDER_MODE)


def _lock(places: EnginePlaces) -> FileLock:
    deadline = time.monotonic() + _LEAVING_S
    while True:
        try:
            return wait_for_lock(places.lock, timeout_s=_CHECK_S)
        except LockTimeoutError as error:
            # Locked but silent: that engine is leaving, and its lock will be free in a moment.
            if _answers(places) or time.monotonic() > deadline:
                message = (
                    f"an engine with the home {str(places.home)!r} is running already (pid "
                    f"{error.pid or 'unknown'}): use that one, stop it, or pass another --home. "
                    f"{error}"
                )
                raise OccupiedError(message) from error


def _answers(places: EnginePlaces) -> bool:
    with suppress(OSError):
        read_endpoint(places).connect(_CHECK_S).close()
        return True
    return False
