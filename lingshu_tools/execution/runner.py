"""Experiments at work: background threads that take ledger rows to their sealed outcomes.

Any process may run any unsealed experiment whose last worker is dead: what to do is in the row and
the engine hands back cells it has already made. A forked child has none of its parent's threads; it
begins with no experiment at work, and may launch its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from threading import Event, Lock, Thread

from lingshu_model.system import forks
from lingshu_tools.analysis import Objective
from lingshu_tools.calls.results import Progress
from lingshu_tools.calls.waiting import Watch, Watcher, wait_until_over
from lingshu_tools.errors import (
    BusyError,
    CancelledError,
    EngineError,
    InputError,
    LedgerError,
    LingshuError,
    LockedError,
    SealedError,
)
from lingshu_tools.execution.cancelling import withdraw
from lingshu_tools.execution.jobs import ENDED, ClosingError, Jobs
from lingshu_tools.experiments.designs import Design, cells_of, design_of
from lingshu_tools.experiments.findings import findings
from lingshu_tools.experiments.lookup import is_screen
from lingshu_tools.experiments.replays import record_verdict, replayed
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Attempt, Experiment, NewOutcome
from lingshu_tools.planner import objective_of
from lingshu_tools.system.incidents import report_incident

_CLOSE_S = 2.0
"""How long each thread may take to stop."""
# Between two tries while another program has the database locked.
_LOCKED_PAUSE_S = 1.0


class Runner:
    """The experiments this process works on."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """Begin with nothing at work; a lock that a thread of the parent held is left behind."""
        self._lock = Lock()
        self._watcher = Watcher(self)
        # Experiments of a launch until its thread ends; their troubles outlive it.
        self._active: set[str] = set()
        self._troubles: dict[str, str] = {}
        # Why an experiment waits for the database; taken back when it goes on.
        self._locked: dict[str, str] = {}
        self._totals: dict[str, int] = {}
        # Known outcomes: final, so never looked up again.
        self._ended: set[str] = set()
        # Sealed by this process, and not to be shown as ended before the verdict is written.
        self._judging: set[str] = set()
        self._threads: list[Thread] = []
        self._closing = Event()
        self._jobs = Jobs(self._workspace, self._closing)

    def launch(self, ids: Sequence[str]) -> None:
        """Work on experiments in one background thread, in order, all arms submitted first.

        Those sealed, or worked on here or by another living process, are left alone.
        """
        with self._lock:
            # Under the lock: of two threads that launch an experiment one gets it.
            mine = [i for i in ids if i not in self._active]
            self._active.update(mine)
        if not mine:
            return
        for i in mine:
            # Another try: what failed before may work now.
            self._troubles.pop(i, None)
        self._threads = [t for t in self._threads if t.is_alive()]
        thread = Thread(target=self._work, args=(mine,), name=f"lingshu {mine[0]}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self, ids: Sequence[str], wait_s: float) -> bool:
        """Wait up to `wait_s` seconds for outcomes; return whether all are sealed.

        Returns early when this process cannot go on with any of them.
        """
        if wait_s <= 0:
            return self.sealed(ids, ledger=True) == set(ids)
        watch = wait_until_over(lambda wake: self.watch(ids, wake), wait_s)
        return not watch.pending

    def watch(self, ids: Sequence[str], wake: Callable[[], None]) -> AbstractContextManager[Watch]:
        """Give a watch on experiments; `wake` is called from another thread when it changes."""
        return self._watcher.watch(ids, wake)

    def progress(self, ids: Sequence[str]) -> Progress:
        """Return how many cells of these experiments the engine has made, as far as is known."""
        return self.progress_of(ids, self.sealed(ids, ledger=True))

    def progress_of(self, ids: Sequence[str], sealed: set[str]) -> Progress:
        """Return how many cells of these experiments there are; all of those that are `sealed`."""
        totals = self._total_cells(ids)
        n_done = sum(totals[i] if i in sealed else self._cells_sampled(i) for i in ids)
        return Progress(done=n_done, total=sum(totals[i] for i in ids))

    def sealed(self, ids: Sequence[str], *, ledger: bool) -> set[str]:
        """Return those with an outcome, and a replay's verdict written where it is ours.

        Without `ledger`, as this process knows it. An outcome is final, so it is looked up once.
        """
        unknown = [i for i in ids if i not in self._ended] if ledger else []
        if unknown:
            self._ended |= self._workspace.ledger.sealed(unknown)
        return {i for i in ids if i in self._ended and i not in self._judging}

    def stopped(self, ids: Sequence[str]) -> bool:
        """Return whether this process cannot go on with any of these."""
        return any(i in self._troubles for i in ids)

    @property
    def active(self) -> frozenset[str]:
        """The experiments that are queued or at work here."""
        with self._lock:
            return frozenset(self._active)

    @property
    def n_cells_sampled(self) -> int:
        """How many cells the engine has made for this process."""
        return self._jobs.n_cells_sampled

    def cells_left(self) -> int:
        """Return how many cells of the experiments at work here are still to be made."""
        ids = sorted(self.active)
        progress = self.progress_of(ids, self.sealed(ids, ledger=False))
        return progress.total - progress.done

    def trouble(self, experiment_id: str) -> str | None:
        """Return why this process could not finish an unsealed experiment, or cannot yet."""
        return self._troubles.get(experiment_id) or self._locked.get(experiment_id)

    def note(self, experiment_id: str) -> str | None:
        """Return what the work on an experiment waits for; None where it goes on."""
        return self._jobs.note() if experiment_id in self._active else None

    def close(self) -> None:
        """Stop working; what is unsealed can be picked up by any process."""
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=_CLOSE_S)

    def _total_cells(self, ids: Sequence[str]) -> dict[str, int]:
        missing = [i for i in ids if i not in self._totals]
        for experiment in self._workspace.ledger.experiments(missing) if missing else ():
            self._totals[experiment.id] = cells_of(experiment.tool, experiment.request)
        return {i: self._totals[i] for i in ids}

    def _cells_sampled(self, experiment_id: str) -> int:
        return min(self._totals[experiment_id], self._jobs.n_computed(experiment_id))

    def _work(self, ids: Sequence[str]) -> None:
        try:
            # The list is complete before the first attempt, so all arms are in the engine's queue.
            for i, prepared in [(i, self._submitted(i)) for i in ids]:
                if self._closing.is_set():
                    return
                if prepared:
                    self._guarded(i, partial(self._attempt, *prepared))
        # What is unsealed stays so, for any other process.
        except ClosingError:
            pass
        except EngineError as error:
            for i in ids:
                self._troubles.setdefault(i, str(error))
        finally:
            with self._lock:
                self._active.difference_update(ids)
                self._jobs.forget(ids)
            self._watcher.nudge()

    def _submitted(self, experiment_id: str) -> tuple[Experiment, Design] | None:
        """Submit an experiment's arms ahead of its turn, so that the engine always has work."""
        prepared: list[tuple[Experiment, Design]] = []

        def submit() -> None:
            if self._workspace.ledger.status(experiment_id) in ENDED:
                return
            experiment = self._workspace.ledger.experiment(experiment_id)
            design = design_of(self._workspace, experiment)
            prepared.append((experiment, design))
            # What the engine refuses is refused again in the attempt, and sealed there.
            with suppress(InputError):
                for role, arm in design.arms.items():
                    self._jobs.submit(experiment, role, arm)
            # Cancelled while it was submitted: the engine may have got it after it was told to
            # stop.
            if self._workspace.ledger.cancel_requested(experiment_id):
                raise CancelledError(experiment_id)

        self._guarded(experiment_id, submit)
        return prepared[0] if prepared else None

    def _guarded(self, experiment_id: str, act: Callable[[], None]) -> None:
        """Act; what stops one experiment must not stop its siblings, an absent engine must.

        While another program keeps the database locked this waits and acts again: what has been
        made is in the engine, and an outcome in the spool.
        """
        while self._locked_out(experiment_id, act):
            if self._closing.wait(_LOCKED_PAUSE_S):
                return

    def _locked_out(self, experiment_id: str, act: Callable[[], None]) -> bool:
        """Act, and return whether nothing came of it because the database is locked."""
        locked: str | None = None
        try:
            act()
        # Another living process works on it.
        except BusyError:
            pass
        except (SealedError, CancelledError):
            # It ended elsewhere: what was submitted for it here is not to be computed.
            withdraw(self._workspace, experiment_id)
        # The end of the whole launch: without an engine the siblings would fail alike.
        except (EngineError, ClosingError):
            raise
        except LockedError as error:
            locked = str(error)
        except LingshuError as error:
            self._troubles[experiment_id] = str(error)
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            self._troubles[experiment_id] = _incident(experiment_id, error)
        finally:
            # Any other end than this one says that the database could be used.
            if locked is None:
                self._locked.pop(experiment_id, None)
            else:
                self._locked[experiment_id] = locked
            self._watcher.nudge()
        return locked is not None

    def _attempt(self, experiment: Experiment, design: Design) -> None:
        try:
            self._seal(experiment, design)
            if replayed(experiment):
                record_verdict(self._workspace, experiment)
            self._ended.add(experiment.id)
        except LockedError:
            # Comes back: the verdict of a replay is still to be written.
            raise
        except BaseException:
            self._judging.discard(experiment.id)
            raise
        self._judging.discard(experiment.id)

    def _seal(self, experiment: Experiment, design: Design) -> None:
        """Seal the experiment by what is computed for it."""
        try:
            # The attempt is a row and a lock: as long as it is held no other process begins one.
            with self._workspace.ledger.attempt(experiment.id) as attempt:
                outcome = self._outcome(attempt, experiment, design)
                # Before the outcome can be seen: calls of this process then wait for the verdict
                # too.
                self._judging.add(experiment.id)
                self._workspace.ledger.seal(attempt, outcome)
            if outcome.kind != "succeeded":
                withdraw(self._workspace, experiment.id)
        except SealedError:
            # Ours, if it waited in the spool while the database was locked.
            if experiment.id not in self._judging:
                raise

    def _outcome(self, attempt: Attempt, experiment: Experiment, design: Design) -> NewOutcome:
        started = time.monotonic()
        try:
            computed = self._jobs.computed(experiment, design, attempt.cancel_requested)
            objective, racing = self._objective(experiment, design)
            computed_findings = findings(design, computed.cells, objective, keep_cells=racing)
        except CancelledError:
            return NewOutcome(kind="cancelled", seconds=time.monotonic() - started)
        except (EngineError, LedgerError, ClosingError):
            # Neither the request nor the cells: another attempt may succeed.
            raise
        except InputError as error:
            return NewOutcome(kind="failed", error=str(error), seconds=time.monotonic() - started)
        except Exception as error:  # noqa: BLE001 - sealed as failed: another attempt would fail alike
            text = _incident(experiment.id, error)
            return NewOutcome(kind="failed", error=text, seconds=time.monotonic() - started)
        return NewOutcome(
            kind="succeeded",
            result=computed_findings.result,
            artifacts=computed_findings.artifacts,
            environment=computed.environment,
            seconds=time.monotonic() - started,
        )

    def _objective(self, experiment: Experiment, design: Design) -> tuple[Objective | None, bool]:
        """Return what the screen that an experiment belongs to scores, and whether it is a race."""
        parent = experiment.parent or ""
        if not is_screen(parent):
            return None, False
        plan = self._workspace.ledger.screen(parent).plan
        return objective_of(plan, design.checkpoint), "race" in plan


def _incident(experiment_id: str, error: Exception) -> str:
    incident = report_incident(experiment_id, error)
    return f"it failed for a reason of its own, not of the request (incident {incident})"
