"""Whether a home is this user's alone, and how it is made so: `lingshu doctor`.

Homes made before the modes were set (0755 and 0644 under the usual umask) can be read by every user
of the machine. Links and other users' files are named and left alone.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lingshu_model.system.private import FILE_MODE, FOLDER_MODE, OTHERS, set_mode

_SHOWN = 10


@dataclass(frozen=True)
class Access:
    """What was found in a home.

    Attributes:
        changed: what was closed to others, with its mode before.
        problems: what is still wrong, and what to do.
    """

    changed: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line for a person."""
        if self.problems:
            return f"{len(self.problems)} problems"
        return f"closed to others: {len(self.changed)} modes changed" if self.changed else "private"


def check_access(home: Path, *, fix: bool = False) -> Access:
    """Return who can use what is in a home; with `fix`, after closing it to others."""
    changed: list[str] = []
    problems: list[str] = []
    for path, status in _walk(home.resolve()):
        if problem := _wrong_owner(path, status):
            problems.append(problem)
        elif status.st_mode & OTHERS:
            before = f"{path} (mode {stat.S_IMODE(status.st_mode):04o})"
            if fix and _close(path, status):
                changed.append(before)
            else:
                problems.append(f"{before} is open to others: {_remedy(fix=fix)}")
    return Access(tuple(changed), tuple(problems))


def shortened(lines: tuple[str, ...]) -> list[str]:
    """Return the first lines, and how many more there are."""
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _walk(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what is in a folder, which comes before what is in it; links are not followed."""
    try:
        status = path.lstat()
    except FileNotFoundError:  # there is no home yet, or a file went away meanwhile
        return
    yield path, status
    if stat.S_ISDIR(status.st_mode):
        try:
            names = sorted(os.listdir(path))  # noqa: PTH208 - names, not paths, of many objects
        except (FileNotFoundError, PermissionError):
            return
        for name in names:
            yield from _walk(path / name)


def _wrong_owner(path: Path, status: os.stat_result) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a symbolic link, which is not followed: remove it"
    if status.st_uid != os.geteuid():
        return (
            f"{path} belongs to user {status.st_uid}: have it given to you with chown, or set "
            "LINGSHU_HOME to a folder of your own"
        )
    return None


def _close(path: Path, status: os.stat_result) -> bool:
    set_mode(path, FOLDER_MODE if stat.S_ISDIR(status.st_mode) else FILE_MODE)
    return not path.lstat().st_mode & OTHERS


def _remedy(*, fix: bool) -> str:
    if fix:
        return (
            "its file system keeps no modes. Set LINGSHU_HOME to a folder on one that does, or "
            "keep others out of the folder above"
        )
    return "`lingshu doctor` closes it"
