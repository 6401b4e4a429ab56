"""What an archive is: its members, its metadata and how much of it is accepted.

`docs/file-format.md` is the page for people.
"""

import json
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.exc import DBAPIError

from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger.records import Head

FORMAT = "lingshu-archive-1"
# Members with fixed names, the first three of an archive.
METADATA = "metadata.json"
CRATE = "ro-crate-metadata.json"
DATABASE = "experiments.db"
# Nothing else fits, so a name cannot lead out of the folder.
OBJECT = re.compile(r"objects/([0-9a-f]{2})/([0-9a-f]{62})")
MAX_RATIO = 200
"""Bytes that one compressed byte may stand for; what compresses better is stored as it is."""


class ArchiveError(LedgerError):
    """An archive cannot be let in, and why; nothing of it was kept."""


@dataclass(frozen=True)
class Limits:
    """What an import accepts: entries, bytes after unpacking, bytes of each of the two JSONs."""

    entries: int = 2_000_000
    total: int = 64 * 1024**3
    json: int = 256 * 1024**2


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Objects(_Part):
    """How many objects there are, and their bytes in all."""

    count: int
    bytes: int


class File(_Part):
    """One member of the zip."""

    bytes: int
    digest: str


class Metadata(_Part):
    """`metadata.json`.

    Attributes:
        ledger: the ledger's own id.
        head: `SEQ:HASH` of the newest row.
        rows: table to its number of rows.
        files: the members that are not objects, but for this one.
        written_by: name and version of the program.
    """

    format: str
    ledger: str
    ledger_format: str
    head: str
    rows: dict[str, int]
    objects: Objects
    files: dict[str, File]
    written_by: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the metadata in a JSON text.

        Raises:
            ArchiveError: no JSON, another format, or fields that do not belong.
        """
        try:
            value: Any = json.loads(data)
            # Read before the rest is validated: another version may have other fields.
            version = value["format"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            message = f"its {METADATA} is not the metadata of an archive ({error!r}); export again"
            raise ArchiveError(message) from error
        if version != FORMAT:
            message = (
                f"it has the format {version!r}, and this version reads {FORMAT!r}: use the "
                "lingshu-tools that wrote it, or a newer one"
            )
            raise ArchiveError(message)
        try:
            metadata = cls.model_validate(value)
            Head.parse(metadata.head)
        except (ValidationError, InputError) as error:
            message = f"its {METADATA} does not describe an archive: {error}"
            raise ArchiveError(message) from error
        return metadata

    @property
    def newest(self) -> Head:
        """The head."""
        return Head.parse(self.head)


@contextmanager
def disk(path: Path) -> Generator[None]:
    """Turn what a disk refuses into an error that says so, and whether `path` is there.

    Raises:
        LedgerError: something beside `path` could not be written.
    """
    try:
        yield
    except (OSError, DBAPIError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        # Whether the rename took place decides what the reader may rely on.
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            message = (
                f"{path} is whole, but the disk did not confirm it: {reason}; it may not outlive a "
                "power cut, so remove it and try again"
            )
        else:
            message = f"{path} could not be written: {reason}; nothing is left of it, make room"
        raise LedgerError(message) from error


@contextmanager
def beside(path: Path, prefix: str) -> Generator[Path]:
    """Give a folder on the same disk as `path`, for as long as it is worked on.

    A process that is killed leaves it there. One that cannot be removed is no reason to fail.
    """
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def member_of(digest: str) -> str:
    """Return the name under which an object stands in an archive, as it does in a home."""
    digits = digest.removeprefix("sha256:")
    return f"objects/{digits[:2]}/{digits[2:]}"


def digest_of(member: str) -> str:
    """Return the digest that the name of an object claims."""
    # The inverse of `member_of`, for names that OBJECT fits.
    return "sha256:" + "".join(member.split("/")[1:])
