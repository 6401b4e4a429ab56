"""Files that a crash leaves whole or not at all."""

import fcntl
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lingshu_model.system.private import FILE_MODE, set_mode

UNFINISHED = ".tmp-"
"""How the name of a file begins that a crash may leave behind, half written."""


def write_durably(path: Path, *parts: bytes) -> None:
    """Put `parts`, joined, at `path` so that a crash or power cut leaves all of it or nothing."""
    with durably(path) as file:
        file.writelines(parts)


@contextmanager
def durably(path: Path) -> Generator[BinaryIO]:
    """Give a file to write and read; left without an error, it stands at `path`, on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename is atomic within one file system only.
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            set_mode(handle, FILE_MODE)  # the umask may have taken a bit of the owner's
            yield file
            file.flush()
            # Before the rename: else a power cut could leave the name with an empty file.
            _sync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_name(path)


def sync_name(path: Path) -> None:
    """Force to the disk that there is a file at `path`, whichever process put it there."""
    # The folder may be new, and its name is in the folder above.
    for folder in (path.parent, path.parent.parent):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        # fsync of macOS leaves data in the drive's cache.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)
