"""A zip from somebody else, looked at before anything is unpacked.

What its directory says is checked first (count, names, kinds, sizes), and what is read is then held
to what it said. Nothing here writes.
"""

import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import error as ZlibError

from lingshu_tools.archive import form
from lingshu_tools.archive.form import ArchiveError, Limits

CHUNK = 1024 * 1024
_FIXED_MEMBERS = (form.METADATA, form.CRATE, form.DATABASE)
# 0: written by a program that records no kind.
_KINDS = (0, stat.S_IFREG)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Small things may compress as well as they like.
_SMALL = 1024 * 1024
# End of the central directory, locator of its zip64 form, and that form.
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


class Members:
    """The members of an open zip whose directory has been found acceptable."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._infos = {info.filename: info for info in archive.infolist()}

    @property
    def objects(self) -> list[str]:
        """The members that are objects, sorted."""
        return sorted(set(self._infos) - set(_FIXED_MEMBERS))

    @property
    def total(self) -> int:
        """Bytes of all members, unpacked."""
        return sum(info.file_size for info in self._infos.values())

    def size(self, name: str) -> int:
        """Bytes of a member, unpacked."""
        return self._infos[name].file_size

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a member's bytes, never more than its directory entry said.

        Raises:
            ArchiveError: they are damaged, or fewer.
        """
        # zipfile stops at the size that the directory gives; fewer bytes are noticed here.
        left = self.size(name)
        try:
            with self._archive.open(name) as member:
                while chunk := member.read(CHUNK):
                    left -= len(chunk)
                    yield chunk
        except (zipfile.BadZipFile, ZlibError, EOFError, OSError, RuntimeError) as error:
            message = f"its member {name!r} cannot be read ({error}): the file is damaged"
            raise ArchiveError(message) from error
        if left:
            message = f"its member {name!r} is {left} bytes shorter than it says: it is damaged"
            raise ArchiveError(message)

    def read(self, name: str) -> bytes:
        """Return a member whole; its size was limited before."""
        return b"".join(self.chunks(name))


@contextmanager
def opened(path: Path, limits: Limits) -> Generator[Members]:
    """Give the members of the zip at `path`.

    Raises:
        ArchiveError: it is no zip, or its directory names anything that is no part of an archive.
    """
    with _open(path, limits) as archive:
        yield Members(archive)


def _open(path: Path, limits: Limits) -> zipfile.ZipFile:
    try:
        _directory(path, limits)
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        message = f"it is no whole zip file ({error}): fetch or export it again"
        raise ArchiveError(message) from error
    except OSError as error:
        message = f"it cannot be read ({error})"
        raise ArchiveError(message) from error
    try:
        _acceptable(archive.infolist(), path.stat().st_size, limits)
    except BaseException:
        archive.close()
        raise
    return archive


def _directory(path: Path, limits: Limits) -> None:
    """Refuse a directory of too many entries while it is still unread."""
    with path.open("rb") as file:
        # An archive of ours has no comment, so the record is the very end.
        end = file.seek(0, 2) - _END.size
        if end < 0:
            message = f"{end + _END.size} bytes are too few"
            raise zipfile.BadZipFile(message)
        file.seek(end)
        # Read by hand: zipfile would build an object for each entry first.
        magic, *_, entries, _, _, _ = _END.unpack(file.read(_END.size))
        if magic != b"PK\5\6":
            message = "its end is missing"
            raise zipfile.BadZipFile(message)
        if end >= _LOCATOR.size:
            file.seek(end - _LOCATOR.size)
            magic, _, place, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
            if magic == b"PK\6\7":
                file.seek(place)
                entries = _END64.unpack(file.read(_END64.size))[7]
    if entries > limits.entries:
        message = f"it has {entries:,} entries, and {limits.entries:,} are accepted"
        raise ArchiveError(message)


def _acceptable(infos: list[zipfile.ZipInfo], size: int, limits: Limits) -> None:
    # Counted again: the record may have said less than there is.
    if len(infos) > limits.entries:
        message = f"it has {len(infos):,} entries, and {limits.entries:,} are accepted"
        raise ArchiveError(message)
    for info in infos:
        if reason := _refused(info, limits):
            message = f"its entry {info.orig_filename!r} {reason}"
            raise ArchiveError(message)
    name, times = Counter(info.filename for info in infos).most_common(1)[0] if infos else ("", 0)
    if times > 1:
        message = f"it holds {name!r} {times} times: which one is meant cannot be known"
        raise ArchiveError(message)
    if missing := set(_FIXED_MEMBERS) - {info.filename for info in infos}:
        message = f"it lacks {', '.join(sorted(missing))}: it is no archive of a ledger"
        raise ArchiveError(message)
    total = sum(info.file_size for info in infos)
    if total > limits.total:
        message = f"it unpacks to {total:,} bytes, and {limits.total:,} are accepted"
        raise ArchiveError(message)
    # Entries that share bytes could unpack to far more than the file is long.
    if sum(info.compress_size for info in infos) > size:
        message = "its entries overlap: together they are longer than the file"
        raise ArchiveError(message)


def _refused(info: zipfile.ZipInfo, limits: Limits) -> str | None:
    # As it stands in the file: zipfile replaces separators and cuts at a NUL.
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return "is an absolute path"
    if ".." in name.replace("\\", "/").split("/"):
        return "leads out of the folder"
    if stat.S_ISLNK(kind):
        return "is a link"
    if kind not in _KINDS or info.is_dir():
        return "is no ordinary file"
    if name not in _FIXED_MEMBERS and not form.OBJECT.fullmatch(name):
        return "is no part of an archive"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return f"is compressed by method {info.compress_type}, which archives do not use"
    return _too_big(info, limits)


def _too_big(info: zipfile.ZipInfo, limits: Limits) -> str | None:
    if info.file_size > _SMALL and info.file_size > form.MAX_RATIO * info.compress_size:
        return (
            f"unpacks from {info.compress_size:,} to {info.file_size:,} bytes, more than "
            f"{form.MAX_RATIO} to 1"
        )
    if info.filename in (form.METADATA, form.CRATE) and info.file_size > limits.json:
        return f"is {info.file_size:,} bytes long, and {limits.json:,} are accepted"
    return None
