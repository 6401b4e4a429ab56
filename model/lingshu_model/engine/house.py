"""An engine's lock and sockets: one engine per home, reachable by its owner alone.

Knows nothing of what is served.
"""

import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from lingshu_model.wire.places import MAX_SOCKET_PATH, EnginePlaces

_LEAVING_S = 15.0
"""How long an engine that no longer answers is given to leave before another gives up."""


class HouseError(Exception):
    """The engine cannot live here; the text says why and what to do."""


@contextmanager
def locked(places: EnginePlaces) -> Generator[None]:
    """Hold the home's engine lock.

    Raises:
        HouseError: another engine of this home answers, or does not leave.
    """
    places.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    places.folder.chmod(0o700)
    with places.lock.open("a+") as handle:
        _lock(handle.fileno(), places)
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


@contextmanager
def unix_socket(path: Path) -> Generator[socket.socket]:
    """Listen at `path`, mode 0600; it appears complete, and is gone afterwards."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        message = (
            f"the socket path {str(path)!r} is longer than {MAX_SOCKET_PATH} bytes: shorten it"
        )
        raise HouseError(message)
    _own_folder(path.parent)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(new))
        new.chmod(0o600)
        listener.listen(128)
        new.replace(path)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _own_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        message = f"{folder} is not a folder of this user: remove it or pass --socket PATH"
        raise HouseError(message)
    if status.st_mode & 0o022:
        message = f"others may write to {folder}: chmod 700 it or pass --socket PATH"
        raise HouseError(message)


def _lock(descriptor: int, places: EnginePlaces) -> None:
    deadline = time.monotonic() + _LEAVING_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _answers(places.socket) or time.monotonic() > deadline:
                message = (
                    f"an engine with the home {str(places.home)!r} is running already (pid "
                    f"{places.lock.read_text().strip() or 'unknown'}): use that one, stop it, or "
                    "pass another --home"
                )
                raise HouseError(message) from None
            time.sleep(0.05)
        else:
            return


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
