"""Export: the rows, the objects they name and a description of both, in one zip.

The same ledger gives the same bytes (with one version of this library, SQLite and zlib): entries
are sorted, carry no time of their own and no owner.
"""

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sqlalchemy import Connection, select

from lingshu_model.system.durable import durably
from lingshu_tools.archive import form
from lingshu_tools.archive.copying import Progress, copy_rows
from lingshu_tools.archive.crate import describe
from lingshu_tools.archive.form import File, Metadata, Objects
from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import (
    Head,
    Ledger,
    canonical_json,
    digest_bytes,
    digest_file,
    schema,
    sqlite,
)
from lingshu_tools.ledger.heads import Heads
from lingshu_tools.ledger.reading import Reading

CHUNK = 1024 * 1024
# zlib's default level squeezes harder than this trial at its fastest, but not eight times as hard.
_STORED_FROM = form.MAX_RATIO / 8
_SINGLE_FILE = sqlite.Journal("truncate", "an archive holds one file")
Chunks = Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Exported:
    """What was written. `spooled` are experiments whose outcomes are not in it: they still wait."""

    path: Path
    digest: str
    bytes: int
    metadata: Metadata
    spooled: tuple[str, ...]


def export_ledger(
    ledger: Reading, out: Path, *, terms: str | None = None, progress: Progress | None = None
) -> Exported:
    """Return what was written to the new file `out`: the ledger as it was when this began.

    Args:
        ledger: may be at work; rows committed meanwhile are left out.
        out: the zip; it appears whole or not at all.
        terms: the licence under which a reader may use it, as text or a URL; said in the crate.
        progress: called with the rows and objects done, and how many there are.

    Raises:
        InputError: `out` exists, or the ledger came without its objects.
        LedgerError: the ledger does not verify, so there would be nothing to trust.
    """
    if out.exists():
        message = f"{str(out)!r} exists; name a file that does not, or remove it first"
        raise InputError(message)
    with form.disk(out):
        return _exported(ledger, out, terms, progress)


def _exported(ledger: Reading, out: Path, terms: str | None, progress: Progress | None) -> Exported:
    out.parent.mkdir(parents=True, exist_ok=True)
    with form.beside(out, ".export-") as folder:
        database = folder / form.DATABASE
        # Fixed first: rows that are committed from here on are not in the archive.
        head = ledger.head()
        counted = copy_rows(ledger.read, head, database, _SINGLE_FILE, progress or _silent)
        copy = Ledger.open_read_only(database, objects=ledger.objects.root)
        with copy.read() as connection:
            sizes = sizes_of(connection)
            crate = canonical_json(describe(connection, terms))
            name = connection.scalar(select(schema.ledger.c.id)) or ""
        # The copy is verified, not the original: it is what leaves.
        _check(copy, head, sizes, progress)
        metadata = Metadata(
            format=form.FORMAT,
            ledger=name,
            ledger_format=schema.FORMAT,
            head=str(head),
            rows=counted,
            objects=Objects(count=len(sizes), bytes=sum(sizes.values())),
            files={
                form.CRATE: File(bytes=len(crate), digest=digest_bytes(crate)),
                form.DATABASE: File(bytes=database.stat().st_size, digest=digest_file(database)),
            },
            written_by=f"lingshu-tools {_version()}",
        )
        with durably(out) as file, zipfile.ZipFile(file, "w") as archive:
            _add(archive, form.METADATA, _whole(canonical_json(metadata.model_dump())))
            _add(archive, form.CRATE, _whole(crate))
            _add(archive, form.DATABASE, partial(_chunks, database))
            for digest in sorted(sizes):
                # Its bytes are checked once more: an object may have been damaged since.
                file = ledger.objects.checked(digest)
                _add(archive, form.member_of(digest), partial(_chunks, file))
    return Exported(out, digest_file(out), out.stat().st_size, metadata, tuple(ledger.spooled()))


def sizes_of(connection: Connection) -> dict[str, int]:
    """Return the bytes of every object that a row names, by digest."""
    rows = connection.execute(select(schema.artifact.c.digest, schema.artifact.c.size))
    return {row.digest: row.size for row in rows}


def _check(copy: Ledger, head: Head, sizes: dict[str, int], progress: Progress | None) -> None:
    missing = [digest for digest in sizes if not copy.has_object(digest)]
    if missing:
        message = (
            f"{len(missing)} of {len(sizes)} objects are not in {copy.objects.root}, {missing[0]} "
            "among them; an archive holds them all: replay their experiments to make them again"
        )
        raise InputError(message)
    # Heads that were seen after this copy was begun say nothing of it.
    seen = Heads(copy.objects.root.parent / "heads.txt").all()
    report = copy.verify(progress, anchors=[anchor for anchor in seen if anchor.seq <= head.seq])
    if not report.ok:
        message = f"the ledger does not verify, so it was not exported: {report.problems[0]}"
        raise LedgerError(message)


def _add(archive: zipfile.ZipFile, name: str, chunks: Chunks) -> None:
    # The first date that a zip can have, and Unix: no entry depends on the day or the machine.
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    # Known before the entry is written, so that large ones get their zip64 fields.
    info.file_size, squeezed = _sizes(chunks)
    bomb = info.file_size > _STORED_FROM * squeezed
    info.compress_type = zipfile.ZIP_STORED if bomb else zipfile.ZIP_DEFLATED
    with archive.open(info, "w") as member:
        for chunk in chunks():
            member.write(chunk)


def _sizes(chunks: Chunks) -> tuple[int, int]:
    squeezer = zlib.compressobj(1)
    size = squeezed = 0
    for chunk in chunks():
        size += len(chunk)
        squeezed += len(squeezer.compress(chunk))
    return size, squeezed + len(squeezer.flush())


def _whole(data: bytes) -> Chunks:
    return lambda: (data,)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _silent(n_done: int, total: int) -> None:
    del n_done, total


def _version() -> str:
    try:
        return version("lingshu-tools")
    except PackageNotFoundError:
        return "unknown"
