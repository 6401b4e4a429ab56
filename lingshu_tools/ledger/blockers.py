"""Which other processes hold locks on a file, as the kernel lists them.

Linux lists the locks of all processes in `/proc/locks`. Elsewhere nothing is known: the file itself
cannot be asked, since closing it would drop SQLite's own locks on it.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

LIST = Path("/proc/locks")


def blockers(*files: Path) -> str:
    """Return who holds locks on any of these files, such as `process 4711 (sqlite3)`.

    Those that write are named, or where none does, those that read. Empty where the kernel lists
    nobody.
    """
    locks = list(_locks(files))
    writers = {pid for pid, writes in locks if writes}
    pids = sorted(writers or {pid for pid, _ in locks})
    return ", ".join(f"process {pid}{_name(pid)}" for pid in pids)


def _locks(files: Iterable[Path]) -> Iterable[tuple[int, bool]]:
    """Yield the process of each lock, and whether it is exclusive; our own are left out."""
    wanted: set[str] = set()
    for file in files:
        with suppress(OSError):
            stat = file.stat()
            major, minor = os.major(stat.st_dev), os.minor(stat.st_dev)
            wanted.add(f"{major:02x}:{minor:02x}:{stat.st_ino}")
    try:
        lines = LIST.read_text("ascii").splitlines()
    except OSError:
        return
    for line in lines:
        # 7: POSIX  ADVISORY  WRITE 4711 08:01:1234 0 EOF; who waits has an arrow before POSIX.
        _, kind, _, access, pid, inode, *_ = [*line.split(), "", "", "", "", "", ""]
        if kind != "->" and inode in wanted and pid.isdigit() and int(pid) not in (0, os.getpid()):
            yield int(pid), access == "WRITE"


def _name(pid: int) -> str:
    # Not its arguments, which may hold a password.
    with suppress(OSError):
        return f" ({Path(f'/proc/{pid}/comm').read_text('utf-8', 'replace').strip()})"
    return ""
