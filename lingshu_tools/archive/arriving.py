"""Import: an archive becomes a home if, and only if, all of it verifies.

Everything is unpacked and checked in a folder beside the home, which is put in place by one rename:
before it nothing can be seen of the archive, after it all of it is on the disk. The database that
arrived is only read; its rows are copied into one of ours.
"""

import errno
import hashlib
import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from lingshu_model.system.durable import durably, sync_folder
from lingshu_model.system.private import private_folder
from lingshu_tools.archive import form
from lingshu_tools.archive.copying import Progress, copy_rows
from lingshu_tools.archive.form import ArchiveError, Limits, Metadata
from lingshu_tools.archive.leaving import sizes_of
from lingshu_tools.archive.members import Members, opened
from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import Head, Ledger, schema, sqlite
from lingshu_tools.ledger.chain import head_of

# The first 16 bytes of a SQLite file, and its versions for writing and reading: 1 is a rollback
# journal, 2 a write-ahead log, which would be looked for beside the file.
_MAGIC = b"SQLite format 3\0"
_LEGACY = b"\1\1"


@dataclass(frozen=True)
class Imported:
    """What was let in, and where it now lives."""

    home: Path
    metadata: Metadata


def import_ledger(
    path: Path,
    home: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Imported:
    """Return what was let in: `home` is a ledger then, with every row and object of the archive.

    Args:
        path: a zip that `export_ledger` wrote, or claims to be one.
        home: missing or empty.
        limits: how much is accepted.
        progress: called with the rows and objects verified, and how many there are.

    Raises:
        InputError: `path` is missing, or there is something in `home`; merging is not offered.
        ArchiveError: why it is not let in; nothing is left of it.
    """
    if not path.is_file():
        message = f"{str(path)!r} is no file; name the zip that `lingshu ledger export` wrote"
        raise InputError(message)
    # Resolved first, so that the folder beside it is on the same disk.
    home = home.resolve()
    _empty(home)
    with form.disk(home):
        home.parent.mkdir(parents=True, exist_ok=True)
        with form.beside(home, ".import-") as folder:
            staged = folder / "home"
            # Private from the start: objects are readable by their owner alone.
            staged.mkdir(mode=0o700)
            try:
                with opened(path, limits) as members:
                    metadata = _unpacked(members, staged, folder, progress or _silent)
            except ArchiveError as error:
                message = f"{str(path)!r} was not let in: {error}"
                raise ArchiveError(message) from error
            _in_place(staged, home)
    return Imported(home, metadata)


def _empty(home: Path) -> None:
    if home.exists() and not (home.is_dir() and not any(home.iterdir())):
        message = (
            f"{str(home)!r} is not empty, and two ledgers cannot be merged into one chain; name a "
            "new folder with --into"
        )
        raise InputError(message)


def _in_place(staged: Path, home: Path) -> None:
    # Names must be on the disk before the rename shows them.
    for folder in (staged / "objects", staged):
        if folder.is_dir():
            sync_folder(folder)
    try:
        # Replaces an empty folder, and fails on one that has been filled meanwhile.
        staged.rename(home)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        message = f"{str(home)!r} was filled while the archive was read ({error}); try another"
        raise InputError(message) from error
    sync_folder(home.parent)


def _unpacked(members: Members, staged: Path, folder: Path, progress: Progress) -> Metadata:
    # Twice: the database that arrived and our copy of it exist at once.
    free = shutil.disk_usage(folder).free
    if 2 * members.total > free:
        message = f"it needs {2 * members.total:,} bytes for a moment, and {free:,} are free"
        raise ArchiveError(message)
    # The order matters: each step relies on what the one before has checked.
    metadata = Metadata.parse(members.read(form.METADATA))
    arrived = folder / form.DATABASE
    _file(members, metadata, form.DATABASE, arrived)
    _file(members, metadata, form.CRATE, folder / form.CRATE)
    _database(arrived, staged / form.DATABASE, metadata, progress)
    _objects(members, metadata, staged)
    _verified(staged, metadata, progress)
    return metadata


def _file(members: Members, metadata: Metadata, name: str, target: Path) -> None:
    described = metadata.files.get(name)
    if described is None or described.bytes != members.size(name):
        message = f"its {name} is not the one that its {form.METADATA} describes"
        raise ArchiveError(message)
    if (digest := _written(members, name, target)) != described.digest:
        message = f"its {name} is {digest}, but its {form.METADATA} says {described.digest}"
        raise ArchiveError(message)


def _written(members: Members, name: str, target: Path) -> str:
    digest = hashlib.sha256()
    private_folder(target.parent)
    with durably(target) as file:
        for chunk in members.chunks(name):
            digest.update(chunk)
            file.write(chunk)
    return f"sha256:{digest.hexdigest()}"


def _database(arrived: Path, target: Path, metadata: Metadata, progress: Progress) -> None:
    with arrived.open("rb") as file:
        header = file.read(20)
    if not header.startswith(_MAGIC) or header[18:20] != _LEGACY:
        message = f"its {form.DATABASE} is no SQLite file with a rollback journal"
        raise ArchiveError(message)
    source = sqlite.read_only(arrived)
    try:
        with source.begin() as connection:
            # Checked in the transaction in which it is read, before any row is copied.
            head = _readable(connection, metadata)
        counted = copy_rows(source.begin, head, target, sqlite.journal_for(target), progress)
    except (SQLAlchemyError, sqlite3.Error, ValueError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        message = f"its {form.DATABASE} does not hold the rows of a ledger: {reason}"
        raise ArchiveError(message) from error
    if counted != metadata.rows:
        message = f"it holds the rows {counted}, but its {form.METADATA} says {metadata.rows}"
        raise ArchiveError(message)


def _readable(connection: Connection, metadata: Metadata) -> Head:
    """Return the head of a database that arrived, once it is known to be a ledger we can read."""
    for (said,) in connection.exec_driver_sql("PRAGMA integrity_check(1)"):
        if said != "ok":
            message = f"SQLite finds its {form.DATABASE} damaged: {said}"
            raise ArchiveError(message)
    _plain(connection)
    present = inspect(connection)
    if not all(present.has_table(table.name) for table in (schema.chain, schema.ledger)):
        message = f"its {form.DATABASE} is a database, but not a ledger"
        raise ArchiveError(message)
    _known(connection)
    row = connection.execute(select(schema.ledger.c.id, schema.ledger.c.format)).first()
    if row is None or tuple(row) != (metadata.ledger, schema.FORMAT):
        message = (
            f"its ledger is {tuple(row or ())}, and {(metadata.ledger, schema.FORMAT)} was "
            "expected: it is another ledger, or one of another format"
        )
        raise ArchiveError(message)
    head = head_of(connection)
    if str(head) != metadata.head:
        message = f"its newest row is {head}, but its {form.METADATA} says {metadata.head}"
        raise ArchiveError(message)
    return head


def _plain(connection: Connection) -> None:
    # What bears the name of a table must be one: reading a view or a virtual table runs code.
    names = [schema.chain.name, *schema.TABLES]
    query = "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view')"
    for name, kind, sql in connection.exec_driver_sql(query):
        if name.lower() not in names:
            continue
        # SQLite lists virtual tables as tables; column 6 of table_xinfo marks generated columns.
        virtual = "VIRTUAL" in str(sql).upper().split("(", 1)[0]
        columns = connection.exec_driver_sql(f"PRAGMA table_xinfo({name})").all()
        if kind != "table" or virtual or any(column[6] for column in columns):
            message = f"{name!r} in its {form.DATABASE} is computed, not stored: it is no ledger"
            raise ArchiveError(message)


def _known(connection: Connection) -> None:
    kinds = set(connection.scalars(select(schema.chain.c.kind).distinct()))
    extra = [
        f"{name}.{column['name']}"
        for name, table in schema.TABLES.items()
        if inspect(connection).has_table(name)
        for column in inspect(connection).get_columns(name)
        if column["name"] not in table.c
    ]
    if strange := sorted(map(str, kinds - set(schema.TABLES))) + extra:
        message = f"it holds {', '.join(strange[:5])}: use a newer lingshu-tools to read it"
        raise ArchiveError(message)


def _objects(members: Members, metadata: Metadata, staged: Path) -> None:
    with sqlite.read_only(staged / form.DATABASE).begin() as connection:
        sizes = sizes_of(connection)
    named = {form.member_of(digest): size for digest, size in sizes.items()}
    # Exactly the objects that rows name: a further one could hide something in a valid archive.
    _same(named.keys() - set(members.objects), "lacks", "that its rows name")
    _same(set(members.objects) - named.keys(), "holds", "that no row names")
    objects = form.Objects(count=len(named), bytes=sum(named.values()))
    if objects != metadata.objects:
        message = f"its rows name {objects}, but its {form.METADATA} says {metadata.objects}"
        raise ArchiveError(message)
    for name, size in sorted(named.items()):
        if members.size(name) != size:
            message = f"{name} is {members.size(name):,} bytes long, and its row says {size:,}"
            raise ArchiveError(message)
        if (digest := _written(members, name, staged / name)) != form.digest_of(name):
            message = f"{name} is {digest}: its bytes are not those it is named for"
            raise ArchiveError(message)


def _same(names: Iterable[str], verb: str, which: str) -> None:
    if names := sorted(names):
        message = f"it {verb} {len(names)} objects {which}, {names[0]} among them"
        raise ArchiveError(message)


def _verified(staged: Path, metadata: Metadata, progress: Progress) -> None:
    try:
        # By its path: LINGSHU_LEDGER of this shell would name another.
        ledger = Ledger.open(staged, url=str((staged / form.DATABASE).absolute()))
        report = ledger.verify(progress, anchors=[metadata.newest])
    except LedgerError as error:
        message = f"its ledger cannot be opened: {error}"
        raise ArchiveError(message) from error
    if not report.ok:
        message = f"its ledger does not verify: {report.problems[0]}"
        raise ArchiveError(message)


def _silent(n_done: int, total: int) -> None:
    del n_done, total
