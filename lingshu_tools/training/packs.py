"""A checkpoint as one file, a zip: `NAME/FILE` for each of its files, and `NAME.digests.json`.

What a pack's directory says is checked before anything is written: only names of that form, no
links, nothing twice, sizes within limits. Weights are safetensors; there is no code in a pack. The
digests tell damage. They do not tell who made it: compare the checkpoint's digest with its maker's.
"""

import json
import re
import stat
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import error as ZlibError

from lingshu_model.contracts import Checkpoint
from lingshu_model.system.durable import durably
from lingshu_tools.errors import InputError

PACK = ".lingshu"
PINS = ".digests.json"
LARGEST = 8 << 30
"""Bytes of a checkpoint, unpacked."""
LARGEST_PINS = 16 << 20
MOST_FILES = 10_000
_RATIO = 1100
"""Deflate reaches 1,032."""
_CHUNK = 1 << 20
_FILE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9-]{0,63})/(?P<file>[A-Za-z0-9][A-Za-z0-9._-]{0,120}"
    r"\.(?:json|safetensors|md|csv|txt))"
)
_DIGESTS = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]{0,63})\.digests\.json")
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every member, so that equal checkpoints make equal packs."""
_REGULAR = (0, stat.S_IFREG)


def pack(checkpoint: Checkpoint, target: Path) -> Path:
    """Return `target`, the pack of a checkpoint whose files are what their digests say.

    Raises:
        InputError: the target exists, or cannot be written.
        CheckpointError: a file is missing or changed.
    """
    if target.exists():
        message = f"{target} exists already: give another file with --out"
        raise InputError(message)
    for name in checkpoint.pinned:
        checkpoint.verify_file(name)
    pins = checkpoint.path.parent / f"{checkpoint.name}{PINS}"
    members = [(pins, pins.name)]
    members += [(checkpoint.path / n, f"{checkpoint.name}/{n}") for n in sorted(checkpoint.pinned)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with durably(target) as file, zipfile.ZipFile(file, "w") as archive:
            for path, name in members:
                _write(archive, path, name)
    except OSError as error:
        message = f"cannot write {target}: {error.strerror or error}"
        raise InputError(message) from error
    return target


def unpacked(path: Path, folder: Path) -> Path:
    """Return the folder of the checkpoint that a pack holds, written into `folder`.

    Its files are not yet held against their digests.

    Raises:
        InputError: the file is no pack, is damaged, or names anything that is no part of one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            name = _checked(infos, path)
            (folder / name).mkdir()
            for info in infos:
                _extract(archive, info, folder / info.filename)
    except (zipfile.BadZipFile, ZlibError, EOFError, OSError, RuntimeError, ValueError) as error:
        message = f"{path} is no pack of a checkpoint, or is damaged: {error}"
        raise InputError(message) from error
    _check_complete(folder, name, path)
    return folder / name


def _write(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | 0o600) << 16
    info.file_size = path.stat().st_size
    with path.open("rb") as source, archive.open(info, "w") as member:
        while chunk := source.read(_CHUNK):
            member.write(chunk)


def _checked(infos: list[zipfile.ZipInfo], path: Path) -> str:
    """Return the name of the one checkpoint that the members make."""
    if len(infos) > MOST_FILES:
        message = f"it has {len(infos):,} members; at most {MOST_FILES:,} are taken"
        raise ValueError(message)
    twice = [name for name, times in Counter(i.filename for i in infos).items() if times > 1]
    if twice:
        message = f"it has the member {twice[0]!r} twice"
        raise ValueError(message)
    names = {_name_of(info) for info in infos}
    if len(names) != 1 or f"{min(names)}{PINS}" not in {i.filename for i in infos}:
        message = f"it must hold one checkpoint NAME/ and NAME{PINS}; this is none"
        raise ValueError(message)
    total = sum(info.file_size for info in infos)
    if total > LARGEST or total > _RATIO * max(path.stat().st_size, 1):
        message = f"it claims {total:,} bytes, which is more than is taken"
        raise ValueError(message)
    return min(names)


def _name_of(info: zipfile.ZipInfo) -> str:
    name = info.filename
    match = _FILE.fullmatch(name) or _DIGESTS.fullmatch(name)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if match is None or kind not in _REGULAR or info.is_dir():
        message = f"its member {name!r} is no file of a checkpoint"
        raise ValueError(message)
    if info.flag_bits & 0x1:
        message = f"its member {name!r} is encrypted"
        raise ValueError(message)
    if name.endswith(PINS) and "/" not in name and info.file_size > LARGEST_PINS:
        message = f"its member {name!r} is too long"
        raise ValueError(message)
    return match["name"]


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    left = info.file_size
    with archive.open(info) as member, target.open("xb") as file:
        while chunk := member.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        message = f"its member {info.filename!r} is not as long as it says"
        raise ValueError(message)


def _check_complete(folder: Path, name: str, path: Path) -> None:
    """Refuse a pack whose files and digests are not of the same names."""
    try:
        pinned: Any = json.loads((folder / f"{name}{PINS}").read_text("utf-8"))["files"]
        wanted = {str(each) for each in pinned}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path}: its {name}{PINS} cannot be read ({error!r})"
        raise InputError(message) from error
    there = {each.name for each in (folder / name).iterdir()}
    if there != wanted:
        odd = sorted(there ^ wanted)
        message = f"{path}: {odd[0]!r} is in its files or in its digests, and not in both"
        raise InputError(message)
