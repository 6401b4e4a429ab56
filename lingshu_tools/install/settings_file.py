"""A settings file of another program: read without following links, replaced whole, kept first."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from lingshu_model.system.durable import write_durably
from lingshu_model.system.private import UnsafePathError, check_owner, open_private, set_mode
from lingshu_tools.errors import InputError

LARGEST: Final = 16 * 2**20
"""Bytes; Claude Code's state file has some megabytes."""
_BOM: Final = "\ufeff"


@dataclass(frozen=True)
class SettingsFile:
    """A settings file as it was read.

    Attributes:
        path: of the file.
        base: the folder that the user named; nothing below it may be a symbolic link.
        content: its bytes; None where there is no file.
        mode: its permissions, kept when it is written.
        shared: whether it belongs to a project, so that others may read it.
    """

    path: Path
    base: Path
    content: bytes | None
    mode: int
    shared: bool

    @classmethod
    def read(cls, base: Path, path: Path, *, shared: bool) -> SettingsFile:
        """Return the file at `path`, at or below the folder `base`.

        Raises:
            InputError: a link, no regular file, another user's, too large, or not readable.
        """
        _refuse_links(base, path)
        # Of a new file; that of an existing one is kept.
        mode = 0o644 if shared else 0o600
        try:
            descriptor = open_private(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, base, None, mode, shared)
        except (UnsafePathError, OSError) as error:
            message = f"{path} was left as it is: {error}"
            raise InputError(message) from error
        with os.fdopen(descriptor, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            # A byte more than is accepted tells that there is more.
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            message = f"{path} has more than {LARGEST:,} bytes, which no settings file has"
            raise InputError(message)
        return cls(path, base, content, mode, shared)

    @property
    def text(self) -> str:
        """Its text without a byte order mark.

        Raises:
            InputError: not UTF-8; the first such byte is given.
        """
        try:
            return (self.content or b"").decode("utf-8").removeprefix(_BOM)
        except UnicodeDecodeError as error:
            message = f"{self.path} is not UTF-8 text (byte {error.start}): nothing was written"
            raise InputError(message) from error

    def replace(self, text: str) -> Path | None:
        """Put a new text in its place in one step; return where the old file is kept, if any.

        Raises:
            InputError: it was changed meanwhile, or cannot be written.
        """
        mark = _BOM if (self.content or b"").startswith(_BOM.encode()) else ""
        try:
            _make_folders(self.base, self.path.parent, 0o755 if self.shared else 0o700)
            # The client may have written while a person was asked.
            now = SettingsFile.read(self.base, self.path, shared=self.shared)
            if now.content != self.content:
                message = f"{self.path} was changed by another program meanwhile: run this again"
                raise InputError(message)
            kept = None if self.content is None else self._keep(self.content)
            # A new file in its place by one rename: a client never reads half of it.
            write_durably(self.path, (mark + text).encode())
            set_mode(self.path, self.mode)
        except OSError as error:
            message = f"{self.path} cannot be written: {error.strerror or error}"
            raise InputError(message) from error
        return kept

    def _keep(self, content: bytes) -> Path:
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        for number in range(1000):
            after = f".{number}" if number else ""
            path = self.path.with_name(f"{self.path.name}.before-lingshu-{moment}{after}")
            with suppress(FileExistsError):
                # Only for its owner, whatever the file's mode: there may be keys in it.
                descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                return path
        message = f"no free name for a copy of {self.path} beside it"
        raise InputError(message)


def _refuse_links(base: Path, path: Path) -> None:
    """Refuse links and folders of other users below `base`, down to the file."""
    # The base itself may be a link: the user named it.
    place = base
    for part in path.relative_to(base).parts:
        place /= part
        try:
            status = place.lstat()
            if stat.S_ISLNK(status.st_mode):
                message = (
                    f"{place} is a symbolic link to {str(place.readlink())!r}, which is not "
                    "followed: put in what --print shows where it leads"
                )
                raise InputError(message)
            check_owner(place, status)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            message = f"{path} was left as it is: {error}"
            raise InputError(message) from error


def _make_folders(base: Path, folder: Path, mode: int) -> None:
    place = base
    if not base.exists():
        base.mkdir(parents=True, mode=mode)
    for part in folder.relative_to(base).parts:
        place /= part
        with suppress(FileExistsError):
            place.mkdir(mode=mode)
