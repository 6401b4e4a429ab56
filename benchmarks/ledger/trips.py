"""Trip wires at every place where a ledger changes the disk: the k-th visit fails, or kills.

write     half of the bytes are written (SQLite's pages, an object, the spool, a lock, heads)
sync      the bytes are not yet forced to the disk
rename    an object is whole but has no name yet
truncate  SQLite's commit point under a rollback journal
delete    a lock or a spooled outcome that has arrived
open      a file or a folder that is about to be made
stored    an artifact is on the disk, its row is not
commit    every row is written, none is committed
committed the rows are on the disk, nobody has been told
"""

import errno
import io
import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from benchmarks.ledger.vfs import faulty_vfs
from lingshu_tools.ledger.database import Database
from lingshu_tools.ledger.objects import ObjectStore

DISK = ("write", "sync", "rename", "truncate", "delete", "open")
"""What a disk can refuse."""
PLACES = (*DISK, "stored", "commit", "committed")


class Trips:
    """Counts visits; on the k-th visit of the armed place, `act` is called and the call fails."""

    def __init__(self, act: Callable[[], None] | None = None) -> None:
        self._act = act
        self.visits: Counter[str] = Counter()
        self.sprung = 0
        self._place, self._first, self._last = "", 0, 0

    def arm(self, place: str, first: int, *, forever: bool = False) -> None:
        """Fail at visit `first` (from 1, counted from now) of `place`, or from there on."""
        self.visits.clear()
        self.sprung = 0
        self._place, self._first, self._last = place, first, 1 << 62 if forever else first

    def disarm(self) -> None:
        """Let everything pass."""
        self._place = ""

    def due(self, place: str) -> bool:
        """Return whether this visit of `place` fails."""
        self.visits[place] += 1
        return place == self._place and self._first <= self.visits[place] <= self._last

    def strike(self, place: str) -> None:
        """Act: the process may end here."""
        del place
        self.sprung += 1
        if self._act:
            self._act()

    def pass_by(self, place: str) -> None:
        """Visit a place where Python code fails with OSError."""
        if self.due(place):
            self.strike(place)
            raise refused(place)


def killed(work: Callable[[], object], place: str, k: int) -> bool:
    """Do `work` in a fork that is killed at the k-th visit of `place`; return whether it was."""
    with warnings.catch_warnings():
        # Newer Pythons warn of a thread, which a test runner may have; it holds nothing of ours.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            trips = Trips(lambda: os.kill(os.getpid(), signal.SIGKILL))
            with wired(trips):
                trips.arm(place, k)
                work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def refused(place: str) -> OSError:
    """Return the error of a disk that is full, or broken where it cannot be for want of space."""
    code = errno.ENOSPC if place in ("write", "open", "rename") else errno.EIO
    return OSError(code, os.strerror(code))


@contextmanager
def wired(trips: Trips) -> Generator[None]:
    """Lay the wires in this process; they see connections and files opened from now on."""
    with ExitStack() as stack:
        stack.enter_context(faulty_vfs(trips.due, trips.strike))
        for target, name, created in _wires(trips):
            stack.enter_context(patch.object(target, name, created))

        def on_commit(_: object) -> None:
            if trips.due("commit"):
                trips.strike("commit")
                raise OperationalError("COMMIT", {}, refused("commit"))

        event.listen(Engine, "commit", on_commit)
        stack.callback(event.remove, Engine, "commit", on_commit)
        yield


def _wires(trips: Trips) -> list[tuple[Any, str, Any]]:
    return [
        (os, "fsync", _before(trips, "sync", os.fsync)),
        (os, "replace", _before(trips, "rename", os.replace)),
        (os, "rename", _before(trips, "rename", os.rename)),
        (os, "mkdir", _before(trips, "open", os.mkdir)),
        (os, "open", _tripping(trips, os.open)),
        (os, "unlink", _before(trips, "delete", os.unlink)),
        (os, "fdopen", _files(trips, os.fdopen)),
        (io, "open", _files(trips, io.open)),
        (ObjectStore, "put", _after(trips, "stored", ObjectStore.put)),
        (Database, "write", _after(trips, "committed", Database.write)),
    ]


def _before(trips: Trips, place: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def wire(*args: Any, **kwargs: Any) -> Any:
        trips.pass_by(place)
        return real(*args, **kwargs)

    return wire


def _tripping(trips: Trips, real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            trips.pass_by("open")
        return real(path, flags, *rest, **named)

    return opened


def _after(trips: Trips, place: str, real: Callable[..., Any]) -> Callable[..., Any]:
    # Nothing fails here: these are places to die at.
    def wire(*args: Any, **kwargs: Any) -> Any:
        created = real(*args, **kwargs)
        if trips.due(place):
            trips.strike(place)
        return created

    return wire


def _files(trips: Trips, real: Callable[..., Any]) -> Callable[..., Any]:
    class Raw(io.FileIO):
        def write(self, data: Any, /) -> int:
            if trips.due("write"):
                super().write(bytes(data)[: len(data) // 2])
                trips.strike("write")
                raise refused("write")
            return super().write(data)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if "b" not in mode or not set(mode) & set("wax"):
            return real(file, mode, buffering, *rest, **named)
        trips.pass_by("open")
        raw = Raw(file, mode.replace("b", ""))
        return raw if buffering == 0 else io.BufferedWriter(raw)

    return opened
