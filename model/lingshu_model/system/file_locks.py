"""Locks on files that end with their holder, waited for only as long as the caller allows.

A lock is `flock` on a file, in which the holder writes who it is. Some file systems have no `flock`
(Lustre mounted without it, NFS without its lock daemon). There a second file, `NAME.pid`, stands
for the lock: it appears complete and only once, by a hard link. It names the machine, the boot, the
process and when that started, so that the claim of a process that ended is recognised and removed.
Each kind of holder also looks for the other kind: two processes may disagree about the file system.
"""

import errno
import fcntl
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

from lingshu_model.system import forks
from lingshu_model.system.private import FILE_MODE, open_private, set_mode

_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1
# Others may take or remove the file between two looks; so many times it is tried again.
_CLAIM_TRIES = 5
_SUFFIX = ".pid"
_flock_works: dict[int, bool] = {}  # by device


class LockTimeoutError(TimeoutError):
    """Somebody else held the lock for as long as the caller could wait; `pid` 0 is unknown."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(errno.ETIMEDOUT, message)
        self.message, self.pid = message, pid

    def __str__(self) -> str:
        return self.message


class NoLocksError(OSError):
    """The file system has no locks of a kind that is needed; the text says what to set."""

    def __init__(self, number: int | None, message: str) -> None:
        super().__init__(number, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


State = Literal["alive", "ended", "elsewhere"]


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; `token` makes each holding unique."""

    host: str
    boot: str
    pid: int = 0
    started: str = ""  # clock ticks between the boot and the start of the process
    namespace: str = ""  # process ids mean something within one only
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def parse(cls, text: bytes) -> "Holder | None":
        """Return the holder that a lock file names; None where it names none."""
        parts = text.decode("ascii", "replace").strip().split(" ")
        if not parts[0] or len(parts) < 2:
            return None
        host, boot, pid, started, namespace, token = [*parts, "", "", "", ""][:6]
        return cls(host, boot, int(pid) if pid.isdigit() else 0, started, namespace, token)

    def text(self) -> bytes:
        """Return what its lock file holds."""
        return " ".join(map(str, astuple(self))).encode("ascii", "replace")

    @property
    def foreign(self) -> bool:
        """Whether it was written on another machine, as far as one can tell."""
        elsewhere = self.host != socket.gethostname() and bool(self.host)
        return elsewhere and (not self.boot or self.boot != boot_id())

    @property
    def state(self) -> State:
        """Whether its process still runs; `elsewhere` if that cannot be seen from here."""
        if self.foreign or (self.boot == boot_id() and self.namespace != _namespace()):
            return "elsewhere"
        # Another boot of this machine: its processes have ended.
        if self.boot != boot_id() or not self.pid:
            return "ended"
        return "alive" if _runs(self.pid, self.started) else "ended"


class FileLock:
    """A lock that is held until `release` or the end of the process."""

    def __init__(
        self, path: Path, handle: BinaryIO, claim: Path | None = None, *, remove: bool = False
    ) -> None:
        self.path = path
        self._handle, self._claim, self._remove = handle, claim, remove
        self._pid = os.getpid()
        forks.register(self)

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def after_fork(self) -> None:
        """Let go of it in the child: it ends with the parent, however long the child lives."""
        self._handle.close()

    @property
    def held(self) -> bool:
        """Whether it has not been released yet, in the process that took it."""
        return not self._handle.closed

    def release(self) -> None:
        """Give it up; a second time does nothing, nor does a forked child of the holder."""
        if not self.held:
            return
        # A file that cannot be removed or emptied is free all the same.
        try:
            if os.getpid() == self._pid:
                self._clear()
        finally:
            self._handle.close()

    def _clear(self) -> None:
        # Removed before it is freed: who waits on the old file sees that it has no name left.
        with suppress(OSError):
            if self._remove:
                self.path.unlink(missing_ok=True)
            elif self._claim is None:
                self._handle.truncate(0)
        if self._claim:
            with suppress(OSError):
                self._claim.unlink(missing_ok=True)


def wait_for_lock(path: Path, *, timeout_s: float, remove: bool = False) -> FileLock:
    """Return the lock on `path`, the file made with the mode 0600 where it is missing.

    Args:
        path: the lock file.
        timeout_s: seconds to wait at most.
        remove: take the file away when the lock is released.

    Raises:
        LockTimeoutError: somebody else held it all that time; the text says who.
        NoLocksError: the file system has no locks of any kind.
        UnsafePathError: the file is a link or another user's.
    """
    deadline, pause = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    while (lock := try_lock(path, remove=remove)) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _timeout(path, timeout_s)
        time.sleep(min(pause, left))
        # Short pauses first: most holders are at work for milliseconds.
        pause = min(pause * 2, _LONGEST_PAUSE_S)
    return lock


def try_lock(path: Path, *, remove: bool = False, foreign: bool = False) -> FileLock | None:
    """Return the lock on `path`, or None while somebody else holds it.

    With `foreign`, a file that another machine wrote counts as held even if it can be locked here:
    not every shared file system shows the locks of other machines.

    Raises:
        NoLocksError, UnsafePathError: as `wait_for_lock`.
    """
    # A child forked here would hold the lock too, and nobody would take it from it.
    with forks.undivided():
        handle = os.fdopen(open_private(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
        lock: FileLock | None = None
        try:
            lock = _locked(path, handle, remove=remove, foreign=foreign)
        finally:
            if lock is None:
                handle.close()
    return lock


def is_held(path: Path, *, foreign: bool = False) -> bool:
    """Return whether somebody holds the lock on `path`; nothing is made or changed.

    With `foreign`, as in `try_lock`.
    """
    with forks.undivided():
        try:
            handle = os.fdopen(open_private(path, os.O_RDONLY), "rb")
        except (FileNotFoundError, NotADirectoryError):
            return False
        with handle:
            locked = _flock(path, handle, fcntl.LOCK_SH)
            if locked is False or _claimed(path):
                return True
            holder = Holder.parse(handle.read())
    if holder is None:
        return False
    return (foreign and holder.foreign) or (locked is None and holder.state == "alive")


def require_record_locks(folder: Path) -> None:
    """Refuse a folder in which `fcntl` cannot lock parts of a file, as databases do.

    Raises:
        NoLocksError: it cannot.
    """
    try:
        # On a new file nobody else can hold a lock.
        with _new_file(folder) as descriptor:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (*_NO_FLOCK, errno.EAGAIN, errno.EACCES):
            raise
        message = (
            f"the file system of {folder} has no locks that a database can use "
            f"({error.strerror}): set LINGSHU_HOME to a folder on a local disk"
        )
        raise NoLocksError(error.errno, message) from error


def kind_of_locks(folder: Path) -> str:
    """Return, for a person, how files in a folder can be locked; nothing is left in it."""
    try:
        if _works_in(folder):
            return "flock"
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as place:
            first = Path(place) / "a"
            first.touch()
            os.link(first, Path(place) / "b")
    except OSError as error:
        return f"none ({error}): set LINGSHU_HOME to a folder on a local disk"
    return "lock files, since this file system has no flock"


@cache
def boot_id() -> str:
    """Return what tells this boot of this kernel from others; empty where there is nothing."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text("ascii").strip() if path.exists() else ""


def _locked(path: Path, handle: BinaryIO, *, remove: bool, foreign: bool) -> FileLock | None:
    locked = _flock(path, handle, fcntl.LOCK_EX)
    if locked is None:
        return _locked_by_claim(path, handle, remove=remove)
    # The holder may have removed the file while this process waited for it.
    if not locked or not _has_name(path, handle):
        return None
    before = Holder.parse(handle.read())
    if foreign and before and before.foreign:
        return None
    handle.seek(0)
    handle.truncate(0)
    handle.write(_me().text())
    # Written first, then looked for the other kind's: of two at once, one at least sees the other.
    if _claimed(path):
        handle.truncate(0)
        return None
    return FileLock(path, handle, remove=remove)


def _locked_by_claim(path: Path, handle: BinaryIO, *, remove: bool) -> FileLock | None:
    claim = _claim_path(path)
    if not _claim(claim):
        return None
    holder = Holder.parse(handle.read())
    if holder and holder.state == "alive":
        # Held by a process that could use flock: it has the lock.
        claim.unlink(missing_ok=True)
        return None
    # The last holder may have removed the file since it was opened here.
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))
    return FileLock(path, handle, claim, remove=remove)


def _flock(path: Path, handle: BinaryIO, operation: int) -> bool | None:
    """Return whether `flock` succeeded at once; None where the file system has none."""
    try:
        fcntl.flock(handle, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        # Some file systems answer EAGAIN to every flock: then it is no lock of somebody's.
        return False if _works_in(path.parent) else None
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return None
    return True


def _works_in(folder: Path) -> bool:
    """Return whether `flock` can ever succeed here: on a new file nobody else can hold it."""
    device = folder.stat().st_dev
    if device not in _flock_works:
        try:
            with _new_file(folder) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (*_NO_FLOCK, errno.EAGAIN):  # nothing can be written here
                return True
            _flock_works[device] = False
        else:
            _flock_works[device] = True
    return _flock_works[device]


@contextmanager
def _new_file(folder: Path) -> Generator[int]:
    """Give a descriptor of a file without a name, so that nobody else has opened it."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
    except (AttributeError, OSError):  # another system, or a file system without such files
        descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=folder)
        Path(name).unlink()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _has_name(path: Path, handle: BinaryIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(handle.fileno()))
    return False


def _claim_path(path: Path) -> Path:
    return path.with_name(path.name + _SUFFIX)


def _claimed(path: Path) -> bool:
    holder = _read(_claim_path(path))
    return holder is not None and holder.state != "ended"


def _claim(path: Path) -> bool:
    """Return whether `path` was made for this process; a process that ended loses its claim."""
    for _ in range(_CLAIM_TRIES):
        if _appear(path):
            return True
        holder = _read(path)
        if holder and (holder.state != "ended" or not _remove(path, holder)):
            return False
    return False


def _remove(path: Path, ended: Holder) -> bool:
    """Return whether the claim of a process that ended is gone.

    The process that removes it holds a claim named after it. So nobody removes the claim of a
    living process that took the place of the ended one in between.
    """
    right = path.with_name(f"{path.name}.{ended.token[:12]}")
    if not _claim(right):
        return False
    try:
        if _read(path) == ended:
            path.unlink(missing_ok=True)
    finally:
        right.unlink(missing_ok=True)
    return True


def _appear(path: Path) -> bool:
    """Return whether `path`, naming this process, is new; it is never seen half written."""
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            set_mode(descriptor, FILE_MODE)
            file.write(_me().text())
        os.link(new, path)
    except FileExistsError:
        # NFS may lose the answer to a link that was made.
        return new.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in (errno.EPERM, *_NO_FLOCK):
            raise
        message = (
            f"the file system of {path.parent} has no locks (neither flock nor hard links: "
            f"{error.strerror}); set LINGSHU_HOME to a folder on a local disk"
        )
        raise NoLocksError(error.errno, message) from error
    finally:
        new.unlink(missing_ok=True)
    return True


def _read(path: Path) -> Holder | None:
    try:
        with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
            # It was never half written: a power cut emptied it.
            return Holder.parse(file.read()) or Holder("", "", token="damaged")  # noqa: S106
    except FileNotFoundError:
        return None


def _me() -> Holder:
    return Holder(socket.gethostname(), boot_id(), os.getpid(), _started(os.getpid()), _namespace())


def _timeout(path: Path, timeout_s: float) -> "LockTimeoutError":
    text, pid = "another process", 0
    for named in (path, _claim_path(path)):
        with suppress(OSError):
            if (holder := Holder.parse(named.read_bytes())) and holder.pid:
                pid, text = holder.pid, f"process {holder.pid} on {holder.host}"
                if holder.state == "elsewhere":
                    text = f"{text}; if that one has ended, remove {named}"
    return LockTimeoutError(f"{path} is locked by {text}; waited {timeout_s:.1f} s", pid)


def _namespace() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    return ""


def _runs(pid: int, started: str) -> bool:
    """Return whether a process runs and is the one that started then, not another of its number."""
    with suppress(OSError):
        state, now = _stat(pid)
        return state not in ("Z", "X") and now == started
    try:  # no /proc, or one that hides other users' processes
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str:
    """Return when a process started; empty where there is no /proc."""
    with suppress(OSError):
        return _stat(pid)[1]
    return ""


def _stat(pid: int) -> tuple[str, str]:
    """Return a process's state and start, in clock ticks since the boot."""
    # What comes before the last bracket is its name, which may hold spaces and brackets.
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return fields[0], fields[19]
