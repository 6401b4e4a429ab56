"""Where an engine listens for the clients of its home: what nobody but their user can reach.

Its usual place is a Unix socket in the home. Where the home's path is too long for one, or its file
system has none, the socket goes to the user's runtime folder, else to a private folder in the
temporary directory; and where no socket can be made at all, the engine listens on the loopback
interface and takes only requests that bear a token. It writes where it listens into the home.
"""

import hashlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lingshu_model.engine.errors import StartError
from lingshu_model.system.endpoints import (
    LOOPBACK,
    Endpoint,
    check_socket,
    read_endpoint,
    write_endpoint,
)
from lingshu_model.system.places import MAX_SOCKET_PATH, EnginePlaces, fits
from lingshu_model.system.private import (
    FILE_MODE,
    FOLDER_MODE,
    check_closed,
    check_folder,
    open_private,
    private_folder,
    set_mode,
)
from lingshu_model.system.redaction import remember

_BACKLOG = 128
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Local:
    """A listener for this user's processes; over TCP every request must bear `token`."""

    listener: socket.socket
    endpoint: Endpoint
    token: str | None = None
    files: tuple[Path, ...] = ()
    """Without any one of these, clients do not find it."""


@contextmanager
def local_listener(places: EnginePlaces) -> Generator[Local]:
    """Listen for the clients of a home; afterwards nothing of it is left.

    Raises:
        StartError: there is no place that only this user can reach.
    """
    with ExitStack() as stack:
        try:
            # A socket first: its file mode keeps others out, where a port is open to every local
            # user.
            local = _on_socket(places, stack) or _on_loopback(places, stack)
            write_endpoint(places, local.endpoint)
        except OSError as error:
            message = f"the engine cannot listen for the clients of {str(places.home)!r}: {error}"
            raise StartError(message) from error
        # Registered last, so removed first: clients stop finding the engine before its socket goes.
        stack.callback(places.endpoint.unlink, missing_ok=True)
        result = local.endpoint.path or local.endpoint.token_file
        yield replace(local, files=(places.endpoint, *([result] if result else [])))


def _on_socket(places: EnginePlaces, stack: ExitStack) -> Local | None:
    # A place that the user chose is used or refused, never replaced by another.
    if places.other_socket and not fits(places.socket):
        message = (
            f"the socket path {str(places.socket)!r} is longer than {MAX_SOCKET_PATH} bytes: "
            "shorten it"
        )
        raise StartError(message)
    for folder in _folders(places, stack):
        path = places.socket if folder == places.socket.parent else folder / _name(places, "sock")
        try:
            listener = stack.enter_context(unix_socket(path))
        except OSError as error:
            if places.other_socket:
                message = f"no socket can be made at {path}: {error}"
                raise StartError(message) from error
            _log.warning("no socket at %s: %s", path, error)
        else:
            return Local(listener, Endpoint(path))
    return None


def _on_loopback(places: EnginePlaces, stack: ExitStack) -> Local:
    token = secrets.token_urlsafe(32)
    # Log lines and messages show it masked from here on.
    remember(token)
    token_file = _keep_token(places, token, stack)
    stack.callback(token_file.unlink, missing_ok=True)
    # Port 0: the system picks a free one, which the endpoint file names.
    listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=_BACKLOG))
    endpoint = Endpoint(port=listener.getsockname()[1], token_file=token_file)
    return Local(listener, endpoint, token)


def _keep_token(places: EnginePlaces, token: str, stack: ExitStack) -> Path:
    for folder in _folders(places, stack):
        path = folder / _name(places, "token")
        try:
            path.unlink(missing_ok=True)
            # O_EXCL: a file that somebody else put there is not written into.
            with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
                check_closed(path, os.fstat(file.fileno()))
                file.write(token)
        except OSError as error:
            _log.warning("the engine's token cannot be kept in %s: %s", folder, error)
        else:
            return path
    message = (
        "there is neither a place for a Unix socket nor a folder that only this user can read, for "
        "a token: set XDG_RUNTIME_DIR to a folder of your own with the mode 0700"
    )
    raise StartError(message)


@contextmanager
def unix_socket(path: Path) -> Generator[socket.socket]:
    """Listen at `path`, mode 0600, in a folder that only this user can enter.

    It appears complete, and is gone afterwards.

    Raises:
        OSError: the path is too long, there are no Unix sockets here, or others could reach it.
    """
    if not fits(path):
        message = f"the path is longer than {MAX_SOCKET_PATH} bytes"
        raise OSError(message)
    check_closed(path.parent, check_folder(path.parent))
    # Bound and closed to others under a second name, so that clients never see it half made.
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with suppress(OSError):  # Linux makes the file with this mode at once; others do not
            os.fchmod(listener.fileno(), FILE_MODE)
        try:
            listener.bind(str(new))
            # The umask may have taken bits away, or the system ignored fchmod.
            if new.lstat().st_mode & 0o777 != FILE_MODE:
                set_mode(new, FILE_MODE)
            check_socket(new)
            listener.listen(_BACKLOG)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _folders(places: EnginePlaces, stack: ExitStack) -> Iterator[Path]:
    """Yield folders that only this user can enter, the best first; they are made when needed."""
    yield places.socket.parent
    if places.other_socket:
        return
    # The folder that the last engine of this home used comes before a new one.
    for make in (_runtime_folder, lambda: _closed(read_endpoint(places).folder)):
        with suppress(OSError):
            yield make()
    # The predictable name may be taken by somebody else; a new one cannot be foreseen.
    for temporary in _temporary_folders():
        predictable = temporary / f"lingshu-{os.geteuid()}"
        with suppress(OSError):
            yield _closed(predictable)
        with suppress(OSError):
            new = Path(tempfile.mkdtemp(prefix=f"{predictable.name}-", dir=temporary))
            stack.callback(shutil.rmtree, new, ignore_errors=True)
            yield _closed(new)


def _temporary_folders() -> list[Path]:
    named = (os.environ.get("TMPDIR"), "/tmp", "/var/tmp")  # noqa: S108 - private folders in them
    return [Path(name) for name in named if name and Path(name).is_dir()]


def _runtime_folder() -> Path:
    folder = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if not folder.is_absolute():
        message = "XDG_RUNTIME_DIR names no folder"
        raise OSError(message)
    check_closed(folder, check_folder(folder))
    return _closed(folder / "lingshu")


def _closed(folder: Path) -> Path:
    """Return a folder of this user's, made where it was missing, closed to others."""
    if private_folder(folder).stat().st_mode & 0o777 != FOLDER_MODE:
        set_mode(folder, FOLDER_MODE)
    check_closed(folder, check_folder(folder))
    return folder


def _name(places: EnginePlaces, suffix: str) -> str:
    # One name per home, short enough for a socket: many homes share these folders.
    return f"{hashlib.sha256(os.fsencode(places.folder)).hexdigest()[:24]}.{suffix}"
