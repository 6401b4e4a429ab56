"""Where a ledger lives by default, and whether a folder is fit to be a home: this user's alone."""

import os
import sys
from pathlib import Path

from lingshu_model.system.private import UnsafePathError, check_folder, check_own, private_folder
from lingshu_tools.errors import InputError, LedgerError

DATABASE = "experiments.db"
FILES = (*(f"{DATABASE}{end}" for end in ("", "-journal", "-wal", "-shm", ".open", ".search")),)
"""The files of a home that are opened by name."""
FOLDERS = ("objects", "engines", "locks", "spool", "plots", "exports", "children", "models",
           "user_cells")  # fmt: skip
"""The folders of a home; what is in them is this user's alone too."""


def default_home() -> Path:
    """Return `LINGSHU_HOME` or the platform's user-data folder for lingshu; it may not exist.

    Raises:
        InputError: neither is known: there is no HOME and no passwd entry.
    """
    try:
        if chosen := os.environ.get("LINGSHU_HOME"):
            return Path(chosen).expanduser().absolute()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "lingshu"
        data = os.environ.get("XDG_DATA_HOME", "")
        # The XDG specification has relative paths ignored.
        base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    except RuntimeError as error:
        message = (
            f"user {os.geteuid()} has no home folder (no HOME, no passwd entry): set LINGSHU_HOME "
            "to a folder you can write to"
        )
        raise InputError(message) from error
    return base / "lingshu"


def open_home(home: Path) -> Path:
    """Return `home`, made with the mode 0700 where it was missing, once it is safe to use.

    The home itself may be a symbolic link. What is in it may not: a user who can put a link into a
    home would decide which file is written.

    Raises:
        LedgerError: it is another user's, or something in it is, or is a link; or it cannot be
            made.
    """
    try:
        os.fsencode(home).decode("utf-8")
    except UnicodeDecodeError as error:
        message = (
            f"the home {os.fsencode(home)!r} is no UTF-8 text, and a database is opened by its "
            "name in UTF-8: set LINGSHU_HOME to another folder"
        )
        raise LedgerError(message) from error
    try:
        if home.exists():
            check_folder(home.resolve(), or_root=True)
            for name in (*FILES, *FOLDERS, "heads.txt"):
                check_own(home / name)
        else:
            private_folder(home)
    except UnsafePathError as error:
        message = f"{error}. LINGSHU_HOME names the folder to work in"
        raise LedgerError(message) from error
    except OSError as error:
        message = (
            f"the home {home} cannot be used ({error}): set LINGSHU_HOME to a folder you can write "
            "to"
        )
        raise LedgerError(message) from error
    return home


def output_file(home: Path, folder: str, name: str) -> Path:
    """Return where a file for the user goes in a folder of a home, which is made if need be.

    Raises:
        LedgerError: as `open_home`; or the folder or the file is a link or another user's.
    """
    path = open_home(home) / folder / name
    try:
        private_folder(path.parent)
        check_own(path)
    except OSError as error:
        message = f"{path} cannot be written: {error}"
        raise LedgerError(message) from error
    return path
