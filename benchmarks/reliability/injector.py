"""Faults at random: killed and stopped processes, a locked database, a full disk, other weights.

Each fault takes a while and is then undone, so that what comes after it is seen too.
"""

import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from benchmarks.reliability.checkpoints import Versions
from benchmarks.reliability.client import Place
from benchmarks.reliability.disks import Disk
from lingshu_model.system.file_locks import Holder
from lingshu_model.system.places import EnginePlaces

_PAUSE_S = (0.5, 4.0)
_LASTS_S = (1.0, 8.0)


class Injector:
    """Does one fault after the other to what is in a place."""

    def __init__(self, place: Place, versions: Versions, disk: Disk, seed: int) -> None:
        self._place, self._versions, self._disk = place, versions, disk
        self._rng = random.Random(seed)
        self.counts = Counter[str]()
        self._engine = EnginePlaces(place.home)

    def run(self, seconds: float) -> None:
        """Inject faults for so long; everything is undone when this returns."""
        faults: list[Callable[[], str | None]] = [
            *[self.kill_engine] * 3, *[self.stop_engine] * 3, *[self.kill_server] * 3,
            *[self.kill_worker] * 3, *[self.kill_child] * 2, *[self.stop_child] * 2,
            *[self.lock_database] * 3, self.replace_checkpoint, self.fill_disk,
        ]  # fmt: skip
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                time.sleep(self._rng.uniform(*_PAUSE_S))
                begun = time.time()
                if finished := self._rng.choice(faults)():
                    self.counts[finished] += 1
                    line = {"at": begun, "until": time.time(), "fault": finished}
                    with (self._place.folder / "faults.jsonl").open("a") as file:
                        file.write(json.dumps(line) + "\n")
        finally:
            self._disk.free()
            self._versions.put("first")

    def kill_engine(self) -> str | None:
        """SIGKILL the engine."""
        return self._kill(self.engine(), "engine killed")

    def stop_engine(self) -> str | None:
        """SIGSTOP the engine, and let it go on after a while."""
        return self._stop(self.engine(), "engine stopped")

    def kill_server(self) -> str | None:
        """SIGKILL an MCP server."""
        return self._kill(self._one_of("server-*"), "server killed")

    def kill_worker(self) -> str | None:
        """SIGKILL a process that uses a Lab."""
        return self._kill(self._one_of("worker-*"), "client killed")

    def kill_child(self) -> str | None:
        """SIGKILL a child that draws or exports."""
        return self._kill(self._child(), "child killed")

    def stop_child(self) -> str | None:
        """SIGSTOP a child that draws or exports, and let it go on after a while."""
        return self._stop(self._child(), "child stopped")

    def lock_database(self) -> str | None:
        """Hold the database for writing, as another program could."""
        path = self._place.home / "experiments.db"
        database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        with closing(database), suppress(sqlite3.Error):
            database.execute("BEGIN EXCLUSIVE")
            self._last()
            database.execute("ROLLBACK")
            return "database locked"
        return None

    def replace_checkpoint(self) -> str | None:
        """Put another version of the checkpoint in place."""
        self._versions.put(self._versions.other())
        return "checkpoint replaced"

    def fill_disk(self) -> str | None:
        """Fill the disk for a while."""
        self._disk.fill(self.pids())
        self._last()
        self._disk.free()
        return "disk full"

    def engine(self) -> int | None:
        """Return the engine's process id; None where none holds the home's lock."""
        return _holder(self._engine.lock)

    def pids(self) -> list[int]:
        """Return the processes that write to the home."""
        noted = [int(path.read_text()) for path in self._place.pids.iterdir()]
        return [*filter(None, [self.engine()]), *noted]

    def _child(self) -> int | None:
        locks = sorted((self._place.home / "children").glob("*.lock"))
        living = [pid for path in locks if (pid := _holder(path))]
        return self._rng.choice(living) if living else None

    def _one_of(self, pattern: str) -> int | None:
        paths = sorted(self._place.pids.glob(pattern))
        return int(self._rng.choice(paths).read_text()) if paths else None

    def _kill(self, pid: int | None, name: str) -> str | None:
        if pid is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return name
        return None

    def _stop(self, pid: int | None, name: str) -> str | None:
        if pid is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._last()
            os.kill(pid, signal.SIGCONT)
            return name
        return None

    def _last(self) -> None:
        time.sleep(self._rng.uniform(*_LASTS_S))


def _holder(lock: Path) -> int | None:
    """Return the process that a lock file names, if it runs."""
    with suppress(OSError):
        holder = Holder.parse(lock.read_bytes())
        if holder and holder.pid and holder.state == "alive":
            return holder.pid
    return None
