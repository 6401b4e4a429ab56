"""What can be asked of a ledger, open for writing or not.

`running` and `interrupted` are looked up, never stored.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, select

from lingshu_tools.errors import InputError, quoted
from lingshu_tools.ledger import schema
from lingshu_tools.ledger.backend import Backend
from lingshu_tools.ledger.chain import fetch, has, head_of
from lingshu_tools.ledger.database import Database
from lingshu_tools.ledger.heads import Heads
from lingshu_tools.ledger.listing import Filter, page, status_of, unsealed_ids
from lingshu_tools.ledger.migrations import STANDING, TAGS
from lingshu_tools.ledger.objects import ObjectStore
from lingshu_tools.ledger.records import (
    Experiment,
    Head,
    Measurement,
    Outcome,
    OutcomeKind,
    Page,
    Problem,
    Screen,
    Status,
    Verification,
    VerifyReport,
)
from lingshu_tools.ledger.rows import records, row_by_id
from lingshu_tools.ledger.spool import Spool
from lingshu_tools.ledger.verify import Audit

_PART = 500


class Reading:
    """The questions; each is its own short transaction, safe from any thread."""

    def __init__(self, database: Database, home: Path, objects: ObjectStore) -> None:
        """Join the parts; `Ledger.open` and `Ledger.open_read_only` are the ways in."""
        self._database = database
        self._objects = objects
        self._locks = database.backend.locks(home / "locks")
        self._spool = Spool(home / "spool")
        self._heads = Heads(home / "heads.txt")
        self._search = database.backend.search(database.read)
        # By digest, so a text never changes; there are as many as numerics profiles and versions.
        self._environments: dict[str, str] = {}
        self._principal: str | None = None

    @classmethod
    def open_for_audit(cls, backend: Backend, home: Path) -> Self:
        """Return a ledger to verify, even where its schema is not as its revision says.

        Raises:
            LedgerError: there is no ledger there.
        """
        database = Database.open_read_only(backend, audit=True)
        return cls(database, home, ObjectStore(home / "objects", writable=False))

    @property
    def name(self) -> str:
        """What messages call the database: a file, or a URL without its password."""
        return self._database.name

    @property
    def database(self) -> Path:
        """The file.

        Raises:
            InputError: it is on a server.
        """
        if self._database.backend.path is None:
            message = f"{self.name} is no file, and this needs one"
            raise InputError(message)
        return self._database.backend.path

    def is_at(self, file: Path) -> bool:
        """Return whether its database is this very file."""
        path = self._database.backend.path
        return path is not None and path.samefile(file)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be recorded."""
        return not self._database.writable

    @property
    def schema(self) -> str:
        """The revision of the database's schema."""
        return self._database.revision

    @property
    def objects(self) -> ObjectStore:
        """Where the bytes are that its rows name."""
        return self._objects

    def read(self) -> AbstractContextManager[Connection]:
        """Give a connection that sees one state of the rows; hold it briefly."""
        return self._database.read()

    def spooled(self) -> dict[str, dict[str, Any] | None]:
        """Return the outcomes that wait for a database, by experiment; None is unreadable."""
        return {name: self._spool.get(name) for name in self._spool.waiting()}

    def head(self) -> Head:
        """Return the newest link of the chain, to be kept as a witness."""
        with self._database.read() as connection:
            return head_of(connection)

    def screen(self, screen_id: str) -> Screen:
        """Return a screen.

        Raises:
            NotFoundError: there is none with this id.
        """
        with self._database.read() as connection:
            return row_by_id(connection, Screen, screen_id, principal=self._principal)

    def find_screens(self, *, digest: str | None = None, limit: int = 20) -> list[Screen]:
        """Return screens, newest first: all, or those whose plan has this digest."""
        query = select(schema.screen.c.id).order_by(schema.screen.c.seq.desc()).limit(limit)
        if digest is not None:
            query = query.where(schema.screen.c.digest == digest)
        if self._principal is not None:
            query = query.where(schema.screen.c.principal == self._principal)
        with self._database.read() as connection:
            return [
                row_by_id(connection, Screen, identifier)
                for identifier in connection.scalars(query).all()
            ]

    def measurements(self, screen_id: str) -> list[Measurement]:
        """Return what was measured for a screen, oldest first."""
        with self._database.read() as connection:
            return records(connection, Measurement, screen_id=screen_id)

    def measurement(self, measurement_id: str) -> Measurement:
        """Return a proposal or what was measured.

        Raises:
            NotFoundError: there is none with this id, or its screen is another principal's.
        """
        with self._database.read() as connection:
            row = row_by_id(connection, Measurement, measurement_id)
            row_by_id(connection, Screen, row.screen_id, principal=self._principal)
            return row

    def experiment(self, experiment_id: str) -> Experiment:
        """Return an experiment.

        Raises:
            NotFoundError: there is none with this id.
        """
        with self._database.read() as connection:
            return row_by_id(connection, Experiment, experiment_id, principal=self._principal)

    def experiments(self, ids: Sequence[str]) -> list[Experiment]:
        """Return the experiments with these ids, oldest first; unknown ids are left out."""
        with self._database.read() as connection:
            rows = [e for part in _parts(ids) for e in records(connection, Experiment, id=part)]
        return sorted(rows, key=lambda e: e.seq)

    def children(self, parent_id: str) -> list[Experiment]:
        """Return the experiments of a screen by position, or the replays of one by age."""
        with self._database.read() as connection:
            rows = records(connection, Experiment, parent=parent_id)
        return sorted(rows, key=lambda e: (e.position is None, e.position or 0, e.seq))

    def children_of(self, ids: Sequence[str]) -> list[Experiment]:
        """Return the replays of experiments, or the experiments of screens, oldest first."""
        with self._database.read() as connection:
            return records(connection, Experiment, parent=list(ids))

    def find(
        self,
        *,
        tool: str | None = None,
        status: Status | None = None,
        checkpoint: str | None = None,
        context: str | None = None,
        perturbation: str | None = None,
        parent: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        request_digest: str | None = None,
        before: str | None = None,
        limit: int = 20,
    ) -> Page:
        """Return experiments, newest first, that match all that is given.

        `before` is the `next_before` of the page before; `text` is looked for in the request and
        the id, ignoring case; `request_digest` finds those that asked exactly the same; `limit`
        is at most 500.

        Raises:
            InputError: the status, the cursor or the limit is not one.
        """
        if tag is not None and self._database.revision < TAGS:
            return Page((), None)
        wanted = Filter(
            tool=tool,
            status=status,
            checkpoint=checkpoint,
            context=context,
            perturbation=perturbation,
            parent=parent,
            tag=tag,
            text=text,
            request_digest=request_digest,
            principal=self._principal,
        )
        standings = self._database.revision >= STANDING
        return page(
            self._database.read,
            wanted,
            self.statuses,
            lambda: self._locks.held_in(unsealed_ids(standings=standings)),
            before,
            limit,
            standings=standings,
            search=self._search,
        )

    def tags(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Return what experiments are tagged with, in order; those without any are left out."""
        if self._database.revision < TAGS or not ids:
            return {}
        query = select(schema.experiment.c.id, schema.tag.c.name).order_by(schema.tag.c.name)
        query = query.join(schema.tag, schema.tag.c.experiment_seq == schema.experiment.c.seq)
        names: dict[str, list[str]] = {}
        with self._database.read() as connection:
            for name, tag in connection.execute(query.where(schema.experiment.c.id.in_(ids))):
                names.setdefault(name, []).append(tag)
        return names

    def status(self, experiment_id: str) -> Status:
        """Return where an experiment stands.

        Raises:
            NotFoundError: there is none with this id.
        """
        with self._database.read() as connection:
            row_by_id(connection, Experiment, experiment_id, principal=self._principal)
            tried = has(connection, schema.attempt, experiment_id=experiment_id)
        # In this order: a process seals before it frees the lock.
        alive = bool(self._locks.held([experiment_id]))
        sealed = self.outcome(experiment_id)
        return status_of(sealed and sealed.kind, tried=tried, alive=alive)

    def statuses(self, ids: Sequence[str]) -> dict[str, Status]:
        """Return where experiments stand, all of which exist; `status` is for one."""
        # As in `status`, for many at once: who was tried, who is alive, who is sealed by now.
        if not ids:
            return {}
        tries = select(schema.attempt.c.experiment_id)
        with self._database.read() as connection:
            tried = set(connection.scalars(tries.where(schema.attempt.c.experiment_id.in_(ids))))
        alive = self._locks.held(ids)
        ends = select(schema.outcome.c.experiment_id, schema.outcome.c.kind)
        with self._database.read() as connection:
            rows = connection.execute(ends.where(schema.outcome.c.experiment_id.in_(ids)))
            sealed: dict[str, OutcomeKind] = {row.experiment_id: row.kind for row in rows}
        return {
            each: status_of(sealed.get(each), tried=each in tried, alive=each in alive)
            for each in ids
        }

    def outcome(self, experiment_id: str) -> Outcome | None:
        """Return how an experiment ended; None until it has."""
        with self._database.read() as connection:
            rows = records(connection, Outcome, experiment_id=experiment_id)
        return rows[0] if rows else None

    def sealed(self, ids: Sequence[str]) -> set[str]:
        """Return those of these experiments that have an outcome, in one transaction."""
        column = schema.outcome.c.experiment_id
        with self._database.read() as connection:
            return {
                each
                for part in _parts(ids)
                for each in connection.scalars(select(column).where(column.in_(part)))
            }

    def outcomes(self, ids: Sequence[str]) -> dict[str, Outcome]:
        """Return how experiments ended; those that have not are left out."""
        with self._database.read() as connection:
            rows = [
                outcome
                for part in _parts(ids)
                for outcome in records(connection, Outcome, experiment_id=part)
            ]
        return {outcome.experiment_id: outcome for outcome in rows}

    def cancel_requested(self, experiment_id: str) -> bool:
        """Return whether somebody asked that an experiment stop."""
        with self._database.read() as connection:
            return has(connection, schema.cancellation, experiment_id=experiment_id)

    def cancellations(self, ids: Sequence[str]) -> set[str]:
        """Return those of these experiments that somebody asked to stop."""
        column = schema.cancellation.c.experiment_id
        with self._database.read() as connection:
            return set(connection.scalars(select(column).where(column.in_(ids))))

    def environment(self, digest: str) -> dict[str, Any]:
        """Return what an outcome was computed on.

        Raises:
            InputError: no outcome has this environment.
        """
        if digest not in self._environments:
            with self._database.read() as connection:
                row = fetch(connection, schema.environment, digest=digest)
            if not row:
                message = f"there is no environment {quoted(digest)}; outcomes name theirs"
                raise InputError(message)
            self._environments[digest] = row[0]["document"]
        return json.loads(self._environments[digest])

    def verifications(self, experiment_id: str) -> list[Verification]:
        """Return the verdicts on an experiment, oldest first."""
        with self._database.read() as connection:
            return records(connection, Verification, experiment_id=experiment_id)

    def verifications_of(self, ids: Sequence[str]) -> list[Verification]:
        """Return the verdicts on experiments, oldest first."""
        with self._database.read() as connection:
            return records(connection, Verification, experiment_id=list(ids))

    def get_object(self, digest: str) -> bytes:
        """Return the bytes kept under a digest, checked.

        Raises:
            NotFoundError: there are none.
            TamperError: they are not what was put there.
        """
        return self._objects.get(digest)

    def object_file(self, digest: str) -> Path:
        """Return the file kept under a digest, checked: for what may be larger than memory.

        Raises:
            NotFoundError, TamperError: as `get_object`.
        """
        return self._objects.checked(digest)

    def object_path(self, digest: str) -> Path:
        """Return where an object is kept, not checked; the reader checks its bytes."""
        return self._objects.path(digest)

    def has_object(self, digest: str) -> bool:
        """Return whether something is kept under a digest."""
        return self._objects.has(digest)

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        *,
        anchors: Iterable[Head] = (),
    ) -> VerifyReport:
        """Return what is wrong with the ledger, after deriving every hash and reading every object.

        A file opened to read that came without any `objects/` is judged by its rows alone.

        Args:
            progress: called with what is done and how much there is.
            anchors: heads seen earlier, for example in results; those in `heads.txt` are added.
        """
        waiting = [
            Problem(
                None, f"the outcome of {e} still waits in the spool; open the ledger to record it"
            )
            for e in self._spool.waiting()
        ]
        alone = self.read_only and not self._objects.root.is_dir()
        audit = Audit(self._database, None if alone else self._objects, progress)
        return audit.run([*anchors, *self._heads.all()], waiting)


def _parts(ids: Sequence[str]) -> list[list[str]]:
    """Return ids in lists short enough for one statement each."""
    return [list(ids[i : i + _PART]) for i in range(0, len(ids), _PART)]
