"""Objects that no row refers to: what killed writers and refused outcomes leave behind.

An object is on the disk before its row, so for a moment every new object looks like garbage. Its
age tells them apart: storing makes an object young, even one that is there already, and nothing
younger than an hour is ever taken. Whatever is taken is first moved aside and looked at again, so a
writer that stores the same bytes at that moment either finds its object missing, and writes it, or
has made it young, and it is put back: if need be by the next collector, should this one die in
between.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from lingshu_model.system.durable import UNFINISHED
from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import schema
from lingshu_tools.ledger.reading import Reading

DAY_S = 86_400.0
MIN_AGE_S = 3600.0
_NAME = re.compile(r"[0-9a-f]{62}")
_ASIDE = f"{UNFINISHED}gc-"


@dataclass(frozen=True)
class Garbage:
    """What was found. `young` counts what no row refers to but may be about to be; it is kept.

    Attributes:
        paths: files to delete, or deleted: objects, and files that a crash left half written.
        bytes: their size.
        kept: objects that rows or waiting outcomes refer to.
        deleted: how many of `paths` are gone; 0 for a dry run.
    """

    paths: tuple[Path, ...]
    bytes: int
    young: int
    kept: int
    deleted: int


def collect_garbage(
    ledger: Reading, *, min_age_s: float = 7 * DAY_S, delete: bool = False
) -> Garbage:
    """Return the unreferenced objects older than `min_age_s`, deleted only where that is asked.

    Safe while others write to the ledger. Not for a home whose `objects/` several databases share.

    Raises:
        InputError: `min_age_s` is less than an hour, or the ledger's objects serve another too.
        LedgerError: what waits in the spool cannot be read, so its objects are not known.
    """
    if min_age_s < MIN_AGE_S:
        message = (
            f"min_age_s={min_age_s!r}: objects are written before their rows, so only those older "
            f"than {MIN_AGE_S:g} s (an hour) can be told from work under way"
        )
        raise InputError(message)
    root = ledger.objects.root
    database = root.parent / "experiments.db"
    if database.exists() and not ledger.is_at(database):
        message = f"{root} serves {database} as well, whose rows {ledger.name} does not know"
        raise InputError(message)
    if delete:
        _put_back(root)
    limit = time.time() - min_age_s
    # Listed before the rows are read: a row committed in between is seen.
    files = [(path, path.stat()) for path in _files(root)]
    used = _used(ledger)
    loose = [(path, stat) for path, stat in files if path not in used]
    old = [(path, stat.st_size) for path, stat in loose if stat.st_mtime < limit]
    return Garbage(
        paths=tuple(path for path, _ in old),
        bytes=sum(size for _, size in old),
        young=len(loose) - len(old),
        kept=len(files) - len(loose),
        deleted=sum(_taken(path, limit) for path, _ in old) if delete else 0,
    )


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.glob("??/*")):
        if (_NAME.fullmatch(path.name) or path.name.startswith(UNFINISHED)) and path.is_file():
            yield path


def _used(ledger: Reading) -> set[Path]:
    with ledger.read() as connection:
        digests = set(connection.scalars(select(schema.artifact.c.digest)))
    for experiment_id, document in ledger.spooled().items():
        if document is None:
            message = f"the outcome of {experiment_id} in the spool is unreadable; mend or move it"
            raise LedgerError(message)
        digests.update(document["sizes"])
    return {ledger.objects.path(digest) for digest in digests}


def _put_back(root: Path) -> None:
    """Give what a killed collector had moved aside its name again; it is judged anew."""
    for aside in root.glob(f"??/{_ASIDE}*"):
        path = aside.with_name(aside.name.removeprefix(_ASIDE))
        # Somebody else may be at it, or a writer may have brought it again.
        with suppress(FileNotFoundError, FileExistsError):
            if _NAME.fullmatch(path.name):
                os.link(aside, path)
        aside.unlink(missing_ok=True)


def _taken(path: Path, limit: float) -> bool:
    aside = path.with_name(f"{_ASIDE}{path.name}")
    try:
        path.rename(aside)
        young = aside.stat().st_mtime >= limit
        if young and not path.exists():
            os.link(aside, path)
        aside.unlink()
    except FileNotFoundError:
        # Somebody else collects, too.
        return False
    return not young
