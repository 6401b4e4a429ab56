"""The ledger: what was asked is committed before it is computed, and sealed once.

    begin    an experiment row, in its own commit
    attempt  a lock held while somebody works on it, and a row that says who
    seal     its one outcome; the artifacts are on the disk before the row

`running` and `interrupted` are looked up, never stored, so nothing has to be repaired after a
crash.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection

from lingshu_tools.errors import (
    BusyError,
    CancelledError,
    LedgerError,
    LockedError,
    SealedError,
)
from lingshu_tools.ledger import beginning, schema, sealing, tagging
from lingshu_tools.ledger.backend import backend_of
from lingshu_tools.ledger.canonical import digest_bytes
from lingshu_tools.ledger.chain import append
from lingshu_tools.ledger.database import Database
from lingshu_tools.ledger.home import open_home
from lingshu_tools.ledger.liveness import Lock
from lingshu_tools.ledger.migrations import TAGS
from lingshu_tools.ledger.objects import ObjectStore
from lingshu_tools.ledger.reading import Reading
from lingshu_tools.ledger.records import (
    Experiment,
    Measurement,
    NewExperiment,
    NewOutcome,
    Outcome,
    Screen,
    Status,
    Verdict,
    Verification,
)
from lingshu_tools.ledger.rows import new_id, now, record, table_of, text_of
from lingshu_tools.ledger.sqlite import SqliteBackend
from lingshu_tools.system.deadline import time_limit

R = TypeVar("R")
Admit = Callable[[Sequence[NewExperiment], Callable[[], list[Experiment]]], list[Experiment]]
"""What decides whether experiments may begin."""
_INGEST_S = 1.0


class Attempt:
    """Living work on one experiment: nobody else can begin any until it or its process ends.

    Use it as a context manager. Left without a seal, the experiment is `interrupted`, and the next
    attempt starts afresh.
    """

    def __init__(self, ledger: "Ledger", experiment_id: str, attempt_id: str, lock: Lock) -> None:
        self.experiment_id = experiment_id
        self.id = attempt_id
        self._ledger = ledger
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it can still be sealed."""
        return self._lock.held

    def cancel_requested(self) -> bool:
        """Return whether somebody, in this process or another, asked that it stop."""
        return self._ledger.cancel_requested(self.experiment_id)

    def close(self) -> None:
        """Let others at the experiment; a second time does nothing."""
        self._lock.release()


class Ledger(Reading):
    """Experiments, their outcomes and all that refers to them, in one chain.

    Safe to use from several threads and processes: each call is its own short transaction.
    """

    def __init__(self, database: Database, home: Path, objects: ObjectStore) -> None:
        """Join the parts; `open` and `open_read_only` are the ways in."""
        super().__init__(database, home, objects)
        self._server = os.getpid(), new_id("srv")
        self._admit: Admit = lambda _, record: record()

    @classmethod
    def open(cls, home: Path, *, url: str | None = None) -> Self:
        """Return the ledger of `home`, made where there is none; outcomes that wait are taken in.

        Args:
            home: holds `experiments.db`, `objects/` and what goes with them.
            url: another database, as `backend_of` takes it; the objects stay in `home`. By default
                `LINGSHU_LEDGER`, or the file in `home`.

        Raises:
            LedgerError: it cannot be opened for writing, or has another format.
        """
        url = url or os.environ.get("LINGSHU_LEDGER")
        open_home(home)
        local = SqliteBackend(home / "experiments.db", writable=True)
        database = Database.open(backend_of(url) if url else local)
        self = cls(database, home, ObjectStore(home / "objects"))
        self._heads.add(self.head())
        # Opening it only to read must not wait long for a process that writes.
        with time_limit(_INGEST_S), suppress(LockedError):
            for experiment_id in self._spool.waiting():
                self._ingest_if_possible(experiment_id)
        return self

    @classmethod
    def open_read_only(cls, database: Path, *, objects: Path | None = None) -> Self:
        """Return a ledger to read; nothing is written or locked, on the disk or beside it.

        Args:
            database: its file.
            objects: its object store; by default `objects/` beside the file.

        Raises:
            LedgerError: there is no ledger there.
        """
        home = database.parent
        store = ObjectStore(objects or home / "objects", writable=False)
        backend = SqliteBackend(database, writable=False)
        return cls(Database.open_read_only(backend), home, store)

    # Screens

    def record_screen(self, plan: Mapping[str, Any], *, principal: str = "local") -> Screen:
        """Return a new screen with this plan."""
        text = text_of(plan)
        values = {"plan": text, "digest": digest_bytes(text.encode()), "principal": principal}
        return self._add(Screen, "scr", values)

    def record_measurements(
        self, screen_id: str, payload: Mapping[str, Any], *, principal: str = "local"
    ) -> Measurement:
        """Return wet-lab values, recorded for a screen.

        Raises:
            NotFoundError: there is no such screen.
        """
        self.screen(screen_id)
        text = text_of(payload)
        values = {"payload": text, "digest": digest_bytes(text.encode())}
        values |= {"screen_id": screen_id, "principal": principal}
        return self._add(Measurement, "mea", values)

    # Experiments

    def begin(self, request: NewExperiment, *, tags: Sequence[str] = ()) -> Experiment:
        """Return the experiment, recorded; the one made earlier with the same client key, if any.

        Raises:
            InputError: the client key stands for another request, the request is no JSON, or a tag
                is none.
            NotFoundError: its parent does not exist.
        """
        return self.begin_many([request], tags=tags)[0]

    def begin_many(
        self, requests: Sequence[NewExperiment], *, tags: Sequence[str] = ()
    ) -> list[Experiment]:
        """Return experiments recorded together, tags and all: all of them or none."""
        rows = [beginning.row_of(request) for request in requests]
        self._check_tags(tags)

        def work(connection: Connection) -> list[Experiment]:
            begun = beginning.begin(connection, rows)
            for experiment, name in product(begun, tags):
                tagging.add(connection, experiment, name, experiment.principal)
            return begun

        begun = self._admit(requests, lambda: self._database.write(work))
        beginning.note(begun)
        return begun

    def as_seen_by(self, principal: str, admit: Admit | None = None) -> Self:
        """Return this ledger as one principal sees it: what others recorded is not found.

        `admit(requests, record)` returns `record()`, which begins the experiments requested, or
        raises.
        """
        seen = copy(self)
        seen._principal = principal
        seen._admit = admit or self._admit
        return seen

    def tag(
        self, experiment_id: str, tags: Sequence[str], *, principal: str = "local"
    ) -> list[str]:
        """Return all that an experiment is tagged with, these included; a tag is never taken away.

        Raises:
            InputError: a tag is none: what one looks like is said.
            NotFoundError: there is no such experiment.
        """
        experiment = self.experiment(experiment_id)
        self._check_tags(tags)

        def work(connection: Connection) -> None:
            for name in tags:
                tagging.add(connection, experiment, name, principal)

        self._database.write(work)
        return self.tags([experiment_id]).get(experiment_id, [])

    # Outcomes

    def attempt(self, experiment_id: str) -> Attempt:
        """Return living work on an experiment; seal or close it.

        Raises:
            NotFoundError: there is no such experiment.
            BusyError: somebody alive works on it.
            SealedError: it has its outcome.
            CancelledError: it was to stop, and is sealed as cancelled now.
            LockedError: the database is locked; an outcome that waits in the spool still does.
        """
        self.experiment(experiment_id)
        self._ingest(experiment_id)
        if self._server[0] != os.getpid():
            # A forked process is a worker of its own.
            self._server = os.getpid(), new_id("srv")
        _, server_id = self._server
        lock = self._locks.acquire(experiment_id)
        if lock is None:
            message = f"{experiment_id} is being worked on; wait for it with get_experiment"
            raise BusyError(message)
        try:
            attempt_id = self._database.write(lambda c: sealing.start(c, experiment_id, server_id))
            if attempt_id is None:
                message = f"{experiment_id} was cancelled before it was finished"
                raise CancelledError(message)
        except BaseException:
            lock.release()
            raise
        return Attempt(self, experiment_id, attempt_id, lock)

    def seal(self, attempt: Attempt, outcome: NewOutcome) -> Outcome:
        """Return the outcome, recorded for ever; the attempt is closed.

        Raises:
            InputError: the result is no JSON; the attempt lives on and can be sealed as failed.
            SealedError: another attempt was first.
            LockedError: the database stays locked: the outcome is kept in a file, and the next
                attempt, or the next process that opens the ledger, records it.
            LedgerError: the attempt is closed, or the database cannot be written: the outcome is
                kept in the same way.
        """
        if not attempt.alive:
            message = f"attempt {attempt.id} at {attempt.experiment_id} is over: start another"
            raise LedgerError(message)
        document = self._ending(attempt, outcome)
        with attempt:
            try:
                row = self._database.write(lambda c: sealing.seal(c, document))
            except SealedError:
                raise
            except LedgerError as error:
                path = self._spool.put(attempt.experiment_id, document)
                message = (
                    f"{error}. The outcome is safe in {path}, to be recorded once the database "
                    "takes it"
                )
                kind = LockedError if isinstance(error, LockedError) else LedgerError
                raise kind(message) from error
        return record(Outcome, row)

    def cancel(self, experiment_id: str, *, principal: str = "local") -> Status:
        """Return the status after asking that an experiment stop; see `cancel_many`.

        Raises:
            NotFoundError: there is no such experiment.
        """
        return self.cancel_many([experiment_id], principal=principal)[experiment_id]

    def cancel_many(
        self, experiment_ids: Sequence[str], *, principal: str = "local"
    ) -> dict[str, Status]:
        """Return the status of each experiment after asking that all of them stop.

        One that nobody works on is `cancelled` at once; `running` means that the process at work
        sees the request and stops; an outcome stays what it is. All requests are recorded before
        the first experiment is sealed.

        Raises:
            NotFoundError: there is no such experiment.
        """
        for name in experiment_ids:
            self._ingest(name)
        owner = self._principal
        self._database.write(
            lambda c: beginning.ask_to_stop(c, experiment_ids, principal, owner=owner)
        )
        # No attempt begins after this commit, so no other process will begin to work on these.
        alive = self._locks.held(experiment_ids)
        free = [name for name in experiment_ids if name not in alive]
        self._database.write(lambda c: beginning.stop(c, free))
        return self.statuses(experiment_ids)

    # Replays

    def record_verification(
        self,
        experiment_id: str,
        verdict: Verdict,
        *,
        differs: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        replay_id: str | None = None,
    ) -> Verification:
        """Return the verdict of a replay, recorded.

        Args:
            experiment_id: what was replayed.
            verdict: how the replay compares.
            differs: what is not the same.
            environment: what the replay ran on.
            replay_id: the experiment that the replay is.

        Raises:
            NotFoundError: an experiment does not exist.
        """
        for known in (experiment_id, replay_id):
            if known is not None:
                self.experiment(known)

        def work(connection: Connection) -> dict[str, Any]:
            return append(
                connection,
                schema.verification,
                id=new_id("ver"),
                experiment_id=experiment_id,
                replay_id=replay_id,
                verdict=verdict,
                differs=text_of(differs or {}),
                environment_digest=sealing.record_environment(connection, environment),
                created_at=now(),
            )

        return record(Verification, self._database.write(work))

    # Objects

    def put_object(self, data: bytes | Iterable[bytes]) -> str:
        """Return the digest under which `data`, whole or in pieces, is kept from now on."""
        return self._objects.put(data)

    def _check_tags(self, tags: Sequence[str]) -> None:
        for name in tags:
            tagging.check(name)
        if tags and self.schema < TAGS:
            message = (
                f"{self.name} has the schema {self.schema}, which has no tags: "
                "`lingshu ledger migrate` adds them"
            )
            raise LedgerError(message)

    def _ending(self, attempt: Attempt, outcome: NewOutcome) -> dict[str, Any]:
        digests: dict[str, str] = {}
        sizes: dict[str, int] = {}
        for role, given in sorted(outcome.artifacts.items()):
            digest = given if isinstance(given, str) else self._objects.put(given)
            known = self._objects.checked(digest) if digest is given else self._objects.path(digest)
            digests[role], sizes[digest] = digest, known.stat().st_size
        values = {f.name: getattr(outcome, f.name) for f in fields(outcome)}
        values |= {"artifacts": digests, "sizes": sizes}
        return sealing.ending(attempt.experiment_id, attempt.id, **values)

    def _ingest_if_possible(self, experiment_id: str) -> None:
        # Where it cannot be recorded yet it stays in the spool, and `verify` reports it.
        try:
            self._ingest(experiment_id)
        except LockedError:
            raise
        except LedgerError:
            return

    def _ingest(self, experiment_id: str) -> None:
        """Record an outcome that waits, unless somebody else is at it."""
        document = self._spool.get(experiment_id)
        if document is None:
            return
        with ExitStack() as stack:
            if lock := self._locks.acquire(experiment_id):
                stack.callback(lock.release)
                with suppress(SealedError):
                    self._database.write(lambda c: sealing.seal(c, document))
                self._spool.drop(experiment_id)

    def _add(self, kind: type[R], prefix: str, values: Mapping[str, Any]) -> R:
        def work(connection: Connection) -> dict[str, Any]:
            stamp = {"id": new_id(prefix), "created_at": now()}
            return append(connection, table_of(kind), **values, **stamp)

        return record(kind, self._database.write(work))
