"""Files and folders that only their owner can use, whatever the umask; symbolic links are refused.

A folder in which others may write can be given a link or a file of theirs under any name. So every
name in a home is opened without following a link, and what lies there must belong to this user.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600
OTHERS = 0o077
"""Every permission of the group and of others."""
# The file system keeps no modes (vfat, some network mounts), or the file is root's.
_NO_MODES = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class UnsafePathError(OSError):
    """A path is a symbolic link, belongs to another user, or is not of the kind expected."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EPERM, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


def open_private(path: Path, flags: int) -> int:
    """Return a descriptor of the regular file at `path`; a new one gets the mode 0600.

    Args:
        path: never followed if it is a symbolic link.
        flags: as for `os.open`; `O_CREAT` makes the file where it is missing.

    Raises:
        UnsafePathError: a link, another kind of file, or another user's.
    """
    try:
        # Non-blocking: opening a FIFO that somebody put there must not wait for a writer.
        extra = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags | extra, FILE_MODE)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) or path.is_symlink():
            message = f"{path} is a symbolic link, which is never followed here: remove it"
            raise UnsafePathError(message) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            message = f"{path} is not a regular file: remove it"
            raise UnsafePathError(message)
        check_owner(path, status)
        if flags & os.O_CREAT and status.st_mode & 0o777 != FILE_MODE:
            set_mode(descriptor, FILE_MODE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def private_folder(path: Path) -> Path:
    """Return `path`, made with the mode 0700 where it was missing; an existing mode is kept.

    Folders above it that are missing are made with the mode 0700 too.

    Raises:
        UnsafePathError: a link, not a folder, or another user's.
    """
    try:
        check_folder(path)
    # Another process may make it at the same moment, so it is checked after mkdir too.
    except FileNotFoundError:
        if not path.parent.exists():
            private_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=FOLDER_MODE)
            if path.lstat().st_mode & 0o777 != FOLDER_MODE:  # the umask took a bit of the owner's
                set_mode(path, FOLDER_MODE)
        check_folder(path)
    return path


def check_folder(path: Path, *, or_root: bool = False) -> os.stat_result:
    """Return the status of a folder of this user's, which is no symbolic link.

    Args:
        path: the folder.
        or_root: root's will do too, who can read everything anyway.

    Raises:
        UnsafePathError: a link, not a folder, or another user's.
        FileNotFoundError: there is nothing.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        message = f"{path} is a symbolic link, which is never followed here: remove it"
        raise UnsafePathError(message)
    if not stat.S_ISDIR(status.st_mode):
        message = f"{path} is not a folder: remove it"
        raise UnsafePathError(message)
    check_owner(path, status, or_root=or_root)
    return status


def check_own(path: Path) -> None:
    """Refuse a symbolic link and what belongs to another user; what is missing is fine.

    Raises:
        UnsafePathError: it is one of these.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(status.st_mode):
        message = f"{path} is a symbolic link, which is never followed here: remove it"
        raise UnsafePathError(message)
    check_owner(path, status)


def make_private(path: Path) -> None:
    """Make an empty file with the mode 0600 where there is nothing; what is there is not opened.

    Raises:
        UnsafePathError: a link or another user's file is there.
    """
    try:
        os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        check_own(path)


def check_closed(path: Path, status: os.stat_result) -> None:
    """Refuse what the group or others may use in any way.

    Raises:
        UnsafePathError: they may.
    """
    if status.st_mode & OTHERS:
        mode, right = stat.S_IMODE(status.st_mode), stat.S_IMODE(status.st_mode) & ~OTHERS
        message = f"{path} has the mode {mode:04o}, open to others: chmod {right:04o} {path}"
        raise UnsafePathError(message)


def check_owner(path: Path, status: os.stat_result, *, or_root: bool = False) -> None:
    """Refuse what does not belong to this user.

    Raises:
        UnsafePathError: it is another user's.
    """
    if status.st_uid != os.geteuid() and not (or_root and status.st_uid == 0):
        message = (
            f"{path} belongs to user {status.st_uid}, and this process runs as user "
            f"{os.geteuid()}: use a folder of your own, or have it given to you with chown"
        )
        raise UnsafePathError(message)


def set_mode(target: int | Path, mode: int) -> bool:
    """Return whether the mode was set; a file system that keeps none is left as it is."""
    try:
        os.chmod(target, mode)  # noqa: PTH101 - a path or a descriptor
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise
        return False
    return True
