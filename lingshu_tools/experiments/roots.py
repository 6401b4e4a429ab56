"""The folders whose h5ad files tools may read, listed in `HOME/roots.json` by the operator.

A path given to a tool is resolved, links included, and must be inside such a folder. What is
outside is refused alike, whether or not it exists.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from lingshu_model.contracts.canonical import HASH_PREFIX
from lingshu_model.system.durable import write_durably
from lingshu_model.system.private import UnsafePathError, open_private
from lingshu_tools.errors import InputError, LedgerError, NotFoundError, quoted
from lingshu_tools.ledger.home import open_home
from lingshu_tools.system.deadline import remaining

FILE = "roots.json"
MOST_ROOTS = 100
_SHOWN = 5
_PIECE = 1 << 20
client_folders: ContextVar[Sequence[Path]] = ContextVar("lingshu_client_folders", default=())
"""Further folders that the client of the current call opens: MCP roots on this machine."""


class Roots:
    """The allowed folders of one home."""

    def __init__(self, home: Path) -> None:
        self._home = Path(home)

    @property
    def file(self) -> Path:
        """Where the folders are listed."""
        return self._home / FILE

    def folders(self) -> list[Path]:
        """Return the allowed folders, those of the client of the current call last.

        Raises:
            LedgerError: the list is a link, another user's, or damaged.
        """
        return list(dict.fromkeys([*self.listed(), *client_folders.get()]))

    def listed(self) -> list[Path]:
        """Return the folders that the operator has added.

        Raises:
            LedgerError: as `folders`.
        """
        try:
            with os.fdopen(open_private(self.file, os.O_RDONLY), "rb") as file:
                names = json.load(file)["roots"]
            return [Path(str(name)) for name in names]
        except FileNotFoundError:
            return []
        except UnsafePathError as error:
            raise LedgerError(str(error)) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{self.file} cannot be read ({error}): remove it and add the folders again"
            raise LedgerError(message) from error

    def add(self, folder: Path) -> Path:
        """Allow a folder and all that is below it; return it with its links resolved.

        Raises:
            InputError: no folder, or so high that it opens the whole system or home.
        """
        real = _folder(folder)
        # The home itself lies in no allowed folder either: its ledger and tokens are no data.
        if real in (Path(real.anchor), Path.home()) or self._home.resolve().is_relative_to(real):
            message = (
                f"{real} holds more than data files: every h5ad file below it could be read. Add "
                "the folder of the data itself"
            )
            raise InputError(message)
        known = self.listed()
        if real not in known:
            if len(known) >= MOST_ROOTS:
                message = f"{len(known)} folders are allowed already: remove some first"
                raise InputError(message)
            self._write([*known, real])
        return real

    def remove(self, folder: Path) -> Path:
        """Allow a folder no longer; return it as it was listed.

        Raises:
            NotFoundError: it is not listed.
        """
        known = self.listed()
        # In any of the forms in which it may have been listed, even if it is gone by now.
        names = {folder.absolute(), folder.expanduser().absolute(), folder.resolve()}
        listed = next((each for each in known if each in names), None)
        if listed is None:
            message = f"{folder} is not allowed; allowed are {_listed(known)}"
            raise NotFoundError(message)
        self._write([each for each in known if each != listed])
        return listed

    def allowed(self, given: str) -> Path:
        """Return the path of a file in an allowed folder, links resolved.

        Args:
            given: absolute, below `~`, or relative to an allowed folder.

        Raises:
            InputError: it is in none, in several, or not there.
        """
        folders = self.folders()
        # Resolved on both sides: a link inside a folder that leads out of it is outside.
        real = [folder.resolve() for folder in folders]
        if not folders:
            message = (
                f"no folder is allowed yet, so {quoted(given)} is not read. A person allows one "
                "with `lingshu roots add DIR` at a terminal; then call again"
            )
            raise InputError(message)
        # The system would cut the path there.
        if "\0" in given:
            message = f"{quoted(given)} is no path"
            raise InputError(message)
        path = _expanded(given)
        candidates = [path] if path.is_absolute() else [folder / path for folder in real]
        # Existence is looked at only inside, so that nothing is learnt of other places.
        inside = [c for c in (_resolved(c) for c in candidates) if _is_inside(c, real)]
        there = list(dict.fromkeys(c for c in inside if _is_file(c)))
        if len(there) > 1:
            message = (
                f"{quoted(given)} is in several folders: {_listed(there)}; give the whole path"
            )
            raise InputError(message)
        if there:
            return there[0]
        if inside:
            message = f"there is no file {quoted(given)} in {_listed(folders)}"
            raise NotFoundError(message)
        message = (
            f"{quoted(given)} is in no allowed folder; allowed are {_listed(folders)}. Copy the "
            "file into one, or let a person allow its folder with `lingshu roots add DIR`"
        )
        raise InputError(message)

    def _write(self, folders: Sequence[Path]) -> None:
        # Made private to its owner before anything is written in it.
        open_home(self._home)
        text = json.dumps({"roots": [str(each) for each in folders]}, indent=1)
        write_durably(self.file, f"{text}\n".encode())


def _folder(folder: Path) -> Path:
    try:
        real = folder.expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        message = f"{folder} cannot be allowed: there is no such folder"
        raise NotFoundError(message) from error
    if not real.is_dir():
        message = f"{folder} is a file: allow the folder that it is in, {real.parent}"
        raise InputError(message)
    return real


def _expanded(given: str) -> Path:
    try:
        return Path(given).expanduser()
    # `~name` of no user: taken as it stands.
    except RuntimeError:
        return Path(given)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links, or a name that is too long
        # In no folder, as `_is_inside` wants a path below one.
        return Path("/")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, or a folder that may not be searched
        return False


def _is_inside(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) and path != folder for folder in folders)


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(map(str, paths[:_SHOWN])) + more if paths else "none"


def require_same_file(home: Path, name: str, cells: Mapping[str, Any] | None) -> None:
    """Refuse an experiment on a user's cells whose file is not as it was.

    Args:
        home: whose folders are allowed.
        name: of the experiment.
        cells: what its request keeps of the cells; None = it is on simulated cells.

    Raises:
        InputError: the file is gone, changed, or no longer in an allowed folder.
    """
    if cells is None:
        return
    was = f"{name} was made on {cells['file']} ({cells['file_digest']})"
    try:
        path = Roots(home).allowed(cells["file"])
        digest = _digest_in_time(path)
    except (InputError, OSError) as error:
        message = f"{was}, which cannot be read now: {error}"
        raise InputError(message) from error
    if digest != cells["file_digest"]:
        message = (
            f"{was}, and the file is {digest} now: put it back as it was to replay the experiment, "
            "or make a new one with perturb_cells on the file as it is"
        )
        raise InputError(message)


def _digest_in_time(path: Path) -> str:
    """Return the digest of a file; the call may take no longer than it has left."""
    digest, end = hashlib.sha256(), time.monotonic() + remaining(60.0)
    # No link at the end, and no waiting for the other end of a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            if time.monotonic() > end:
                message = f"{path} takes longer to check than this call may; call with wait_s=45"
                raise InputError(message)
    return HASH_PREFIX + digest.hexdigest()
