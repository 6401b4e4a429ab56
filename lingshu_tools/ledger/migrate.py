"""Brings a ledger to this version's schema: a copy first, then all revisions in one transaction.

Only `lingshu ledger migrate` calls it, never a tool: an older ledger works as it is. The file is
locked against other processes of this library, and against every writer by BEGIN IMMEDIATE.

On a PostgreSQL server no schema but the newest was ever released: there, only what is derived is
made anew.
"""

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection

from lingshu_model.system.durable import UNFINISHED, sync_folder
from lingshu_model.system.private import make_private
from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger import derived
from lingshu_tools.ledger.backend import Backend, backend_of
from lingshu_tools.ledger.database import Database, revision_of
from lingshu_tools.ledger.differences import require_none
from lingshu_tools.ledger.migrations import HEAD
from lingshu_tools.ledger.sqlite import SqliteBackend

VERSIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True)
class Migrated:
    """What `migrate` did.

    Attributes:
        before, after: the revision of the schema.
        backup: the copy made first; None where nothing had to be changed.
        restored: triggers, views and indexes that were not as the revision says.
    """

    before: str
    after: str
    backup: Path | None
    restored: tuple[str, ...] = ()


def migrate(path: Path) -> Migrated:
    """Return what was done to bring the ledger at `path` to this version's schema.

    What is derived from its rows is made anew in any case. Triggers, views and indexes that are not
    as the ledger's revision says are put back.

    Raises:
        LedgerError: there is no ledger, it is newer than this version, or it could not be copied
            or changed; then it is as it was.
        SchemaError: a table is not as the revision says: no statement could mend its rows.
    """
    if not path.is_file():
        message = f"{str(path)!r} is no file: name the ledger's experiments.db, or its home"
        raise LedgerError(message)
    return _migrated(SqliteBackend(path, writable=True))


def migrate_server(url: str) -> Migrated:
    """Return what was done to the ledger that a URL names, as `migrate` does to a file.

    Raises:
        LedgerError: there is none, or it has a schema that ledgers on a server never had.
    """
    backend = backend_of(url)
    return _migrated(backend) if backend.path is None else migrate(backend.path)


def _migrated(backend: Backend) -> Migrated:
    with backend.alone():
        # Not outside: another process may be migrating it now.
        database = Database.open_read_only(backend, audit=True)
        return database.write(lambda connection: _migrate(connection, backend))


def _migrate(connection: Connection, backend: Backend) -> Migrated:
    before, backup = revision_of(connection), None
    differing = backend.differences(connection, before)
    if before != HEAD and backend.path is None:
        message = (
            f"{backend.name} has the schema {before}, and ledgers on a server begin with {HEAD}"
            ": no release made it; copy it with pg_dump, export it, and begin a new one"
        )
        raise LedgerError(message)
    if backend.path is not None and (before != HEAD or differing):
        backup = _copy(backend.path, before)
    backend.restore(connection, before)
    left = backend.differences(connection, before)
    require_none(left, backend.name, before)
    if before != HEAD:
        _upgrade(connection)
    derived.rebuild(connection)
    restored = tuple(str(each) for each in differing if each not in left)
    return Migrated(before, HEAD, backup, restored)


def _copy(path: Path, revision: str) -> Path:
    # Writers wait for the transaction that is open, so the copy is what will be changed.
    target = _unused(path, revision)
    # What has the name of a copy is whole, whichever process is killed.
    unfinished = target.with_name(f"{UNFINISHED}{target.name}")
    try:
        unfinished.unlink(missing_ok=True)
        make_private(unfinished)
        source = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            source.execute("VACUUM INTO ?", (str(unfinished),))
        finally:
            source.close()
        # A file is synchronised as a folder is.
        sync_folder(unfinished)
        unfinished.replace(target)
        sync_folder(target.parent)
    except (sqlite3.Error, OSError) as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        message = f"{target} could not be written: {error}; nothing was changed. Free some space"
        raise LedgerError(message) from error
    return target


def _unused(path: Path, revision: str) -> Path:
    names = (f"{path.stem}.schema-{revision}{end}{path.suffix}" for end in ("", *_numbers()))
    return next(each for name in names if not (each := path.with_name(name)).exists())


def _numbers() -> list[str]:
    return [f"-{n}" for n in range(2, 1000)]


def _upgrade(connection: Connection) -> None:
    # Not at import: nothing else needs Alembic.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(VERSIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)

    def steps(at: Any, _: Any) -> Any:
        return scripts._upgrade_revs(HEAD, at)  # pyright: ignore[reportPrivateUsage] - as its own commands do

    with EnvironmentContext(config, scripts, fn=steps, destination_rev=HEAD) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
