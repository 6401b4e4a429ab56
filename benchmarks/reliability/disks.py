"""A disk that can be filled: a small file system in memory, else a limit on the size of files."""

import os
import resource
import shutil
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE_MB = 256


class Disk:
    """A folder whose disk can be made full, and free again."""

    def __init__(self, folder: Path, *, mounted: bool) -> None:
        self.folder, self.mounted = folder, mounted
        self._limited: list[tuple[int, tuple[int, int]]] = []

    @property
    def how(self) -> str:
        """How it is filled."""
        return "tmpfs" if self.mounted else "RLIMIT_FSIZE"

    def fill(self, pids: Iterable[int]) -> None:
        """Leave no room: for anybody, or for these processes where it is not our own disk."""
        if self.mounted:
            with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * (1 << 20))
            with suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as file:
                while True:
                    file.write(b"x" * 512)
            return
        for pid in pids:
            with suppress(OSError):
                before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
                self._limited.append((pid, before))

    def free(self) -> None:
        """Make room again."""
        (self.folder / "filler").unlink(missing_ok=True)
        while self._limited:
            with suppress(OSError):
                pid, before = self._limited.pop()
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def disk(folder: Path) -> Generator[Disk]:
    """Give a disk at `folder`; a file system of its own where this user may mount one."""
    folder.mkdir()
    mounted = _mount(folder)
    try:
        yield Disk(folder, mounted=mounted)
    finally:
        if mounted:
            # Lazily: a process that was not reaped yet may have its log there.
            subprocess.run(["umount", "-l", folder], check=False)


def _mount(folder: Path) -> bool:
    if os.geteuid() or not shutil.which("mount"):
        return False
    line = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", folder]
    return subprocess.run(line, check=False, capture_output=True).returncode == 0
