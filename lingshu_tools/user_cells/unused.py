"""Stored cells of users, and effects carried to them, that no experiment refers to.

A refused call, a `dry_run` and an experiment that was never begun leave such files. What a row
refers to is kept, whatever its state: a replay reads it.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from lingshu_model.contracts.user_cells import CELLS_FILE, EFFECT_FILE, UserCellsStore
from lingshu_tools.ledger import schema
from lingshu_tools.ledger.reading import Reading

_FILES = (CELLS_FILE, EFFECT_FILE)


@dataclass(frozen=True)
class UnusedCells:
    """Files of a home's `user_cells/` that no experiment refers to.

    Attributes:
        paths: those of them that are older than was asked, to delete or deleted.
        bytes: their size.
        young: how many are not; an experiment may be about to refer to them.
        kept: files that experiments refer to.
        deleted: how many of `paths` are gone; 0 for a dry run.
    """

    paths: tuple[Path, ...]
    bytes: int
    young: int
    kept: int
    deleted: int


def unused_cells(
    ledger: Reading, home: Path, *, min_age_s: float, delete: bool = False
) -> UnusedCells:
    """Return the unused files older than `min_age_s`, deleted only where that is asked.

    A file that is read again has its time renewed by the child that writes it.
    """
    store = UserCellsStore.of(home)
    limit = time.time() - min_age_s
    # Listed before the rows are read: a row committed in between is seen.
    files = [
        (path, path.stat())
        for suffix in _FILES
        for path in sorted(store.folder.glob(f"*.{suffix}"))
    ]
    used = set(_used(ledger, store))
    loose = [(path, stat) for path, stat in files if path not in used]
    old = [(path, stat.st_size) for path, stat in loose if stat.st_mtime < limit]
    if delete:
        for path, _ in old:
            path.unlink(missing_ok=True)
    return UnusedCells(
        paths=tuple(path for path, _ in old),
        bytes=sum(size for _, size in old),
        young=len(loose) - len(old),
        kept=len(files) - len(loose),
        deleted=len(old) if delete else 0,
    )


def _used(ledger: Reading, store: UserCellsStore) -> Iterator[Path]:
    """Yield the files that requests in the ledger refer to."""
    # Only requests on a user's cells name the digest of a file; all others are not parsed.
    request = schema.experiment.c.request
    with ledger.read() as connection:
        for text in connection.scalars(select(request).where(request.contains("file_digest"))):
            cells = json.loads(text).get("cells") or {}
            for key, suffix in (("digest", CELLS_FILE), ("effect", EFFECT_FILE)):
                if cells.get(key):
                    yield store.path(cells[key], suffix)
