"""Experiments at work: background threads that take ledger rows to their sealed outcomes.

Any process may run any unsealed experiment whose last worker is dead: what to do is in the row and
the engine hands back cells it has already made. Knows nothing of tools or how a result is shown.
"""

from __future__ import annotations

import secrets
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from threading import Condition, Event, Thread
from typing import Any

from lingshu_model.wire import ArmRequest, Cells, JobView, Requester
from lingshu_tools.analysis import Objective
from lingshu_tools.bench import Bench
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
from lingshu_tools.experiments import Design, design_of
from lingshu_tools.findings import findings
from lingshu_tools.ledger import Attempt, Experiment, NewOutcome
from lingshu_tools.planner import objective_of
from lingshu_tools.progress import report
from lingshu_tools.replays import group_of, record_verdict, replayed
from lingshu_tools.results import Progress

_SLICE_S = 1.0
"""How long one wait on the engine lasts, and so how late a cancellation may be noticed."""
_POLL_S = 0.5
"""How late an outcome that another process sealed is noticed; our own announce themselves."""
_LOCKED_PAUSE_S = 1.0
_ENDED = ("succeeded", "failed", "cancelled")
_RESUBMITS = 3


class Runner:
    """The experiments this process works on."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._changed = Condition()
        self._active: set[str] = set()
        self._jobs: dict[tuple[str, str], JobView] = {}
        self._troubles: dict[str, str] = {}
        self._locked: dict[str, str] = {}
        self._totals: dict[str, int] = {}
        self._ended: set[str] = set()
        self._judging: set[str] = set()
        self._threads: list[Thread] = []
        self._closing = Event()

    def launch(self, ids: Sequence[str]) -> None:
        """Work on experiments in one background thread, in order, all arms submitted first.

        Those sealed, or worked on here or by another living process, are left alone.
        """
        with self._changed:
            mine = [i for i in ids if i not in self._active]
            self._active.update(mine)
        if not mine:
            return
        for i in mine:
            self._troubles.pop(i, None)
        self._threads = [t for t in self._threads if t.is_alive()]
        thread = Thread(target=self._work, args=(mine,), name=f"lingshu {mine[0]}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self, ids: Sequence[str], wait_s: float) -> bool:
        """Wait up to `wait_s` seconds for outcomes; return whether all are sealed.

        Returns early when this process cannot go on with any of them.
        """
        deadline = time.monotonic() + wait_s
        pending = list(ids)
        while pending:
            if self._sealed(pending[0]):
                pending.pop(0)
                continue
            left = deadline - time.monotonic()
            if left <= 0 or any(i in self._troubles for i in pending):
                return False
            made = self.progress(ids)
            report(made.done, made.total)
            with self._changed:
                self._changed.wait(min(left, _POLL_S))
        return True

    def progress(self, ids: Sequence[str]) -> Progress:
        """Return how many cells of these experiments the engine has made, as far as is known."""
        made = [self._progress(i) for i in ids]
        return Progress(done=sum(p.done for p in made), total=sum(p.total for p in made))

    def trouble(self, experiment_id: str) -> str | None:
        """Return why this process could not finish an unsealed experiment, or cannot yet."""
        return self._troubles.get(experiment_id) or self._locked.get(experiment_id)

    def close(self) -> None:
        """Stop working; what is unsealed can be picked up by any process."""
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=2 * _SLICE_S)

    def _progress(self, experiment_id: str) -> Progress:
        if experiment_id not in self._totals:
            experiment = self._bench.ledger.experiment(experiment_id)
            roles = 1 if experiment.tool == "sample_cells" else 2
            self._totals[experiment_id] = experiment.request["n_cells"] * roles
        total = self._totals[experiment_id]
        # What is worked on here ends here: looking it up each time took a core from the engine.
        ours = experiment_id in self._active and experiment_id not in self._ended
        if not ours and self._sealed(experiment_id):
            return Progress(done=total, total=total)
        jobs = [v for (owner, _), v in list(self._jobs.items()) if owner == experiment_id]
        return Progress(done=min(total, sum(view.done for view in jobs)), total=total)

    def _sealed(self, experiment_id: str) -> bool:
        """Return whether there is an outcome, and a replay's verdict is written where it is ours.

        A seal is for ever, so it is asked for until then.
        """
        if experiment_id not in self._ended and self._bench.ledger.outcome(experiment_id):
            self._ended.add(experiment_id)
        return experiment_id in self._ended and experiment_id not in self._judging

    def _work(self, ids: Sequence[str]) -> None:
        try:
            for i, made in [(i, self._submitted(i)) for i in ids]:
                if self._closing.is_set():
                    return
                if made:
                    self._guarded(i, partial(self._attempt, *made))
        except EngineError as error:
            for i in ids:
                self._troubles.setdefault(i, str(error))
        finally:
            with self._changed:
                self._active.difference_update(ids)
                self._forget(ids)
                self._changed.notify_all()

    def _submitted(self, experiment_id: str) -> tuple[Experiment, Design] | None:
        """Submit an experiment's arms ahead of its turn, so that the engine always has work."""
        made: list[tuple[Experiment, Design]] = []

        def submit() -> None:
            if self._bench.ledger.status(experiment_id) in _ENDED:
                return
            experiment = self._bench.ledger.experiment(experiment_id)
            design = design_of(self._bench, experiment)
            made.append((experiment, design))
            for role, arm in design.arms.items():
                self._submit(experiment, role, arm)

        self._guarded(experiment_id, submit)
        return made[0] if made else None

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
        try:
            act()
            self._locked.pop(experiment_id, None)
        except (BusyError, SealedError, CancelledError):
            pass
        except EngineError:
            raise
        except LockedError as error:
            self._locked[experiment_id] = str(error)
            return True
        except LingshuError as error:
            self._troubles[experiment_id] = str(error)
        except Exception:  # noqa: BLE001 - a thread has nobody to raise to
            self._troubles[experiment_id] = _incident(experiment_id)
        finally:
            with self._changed:
                self._changed.notify_all()
        return False

    def _attempt(self, experiment: Experiment, design: Design) -> None:
        try:
            if not self._seal(experiment, design):
                return
            if replayed(experiment):
                record_verdict(self._bench, experiment)
            self._ended.add(experiment.id)
        except LockedError:
            # Comes back: the verdict of a replay is still to be written.
            raise
        except BaseException:
            self._judging.discard(experiment.id)
            raise
        self._judging.discard(experiment.id)

    def _seal(self, experiment: Experiment, design: Design) -> bool:
        """Return whether the experiment is sealed by what was made here."""
        try:
            with self._bench.ledger.attempt(experiment.id) as attempt:
                outcome = self._outcome(attempt, experiment, design)
                if outcome is None:
                    return False
                self._judging.add(experiment.id)
                self._bench.ledger.seal(attempt, outcome)
        except SealedError:
            # Ours, if it waited in the spool while the database was locked.
            if experiment.id not in self._judging:
                raise
        return True

    def _outcome(
        self, attempt: Attempt, experiment: Experiment, design: Design
    ) -> NewOutcome | None:
        started = time.monotonic()
        try:
            cells = self._cells(attempt, experiment, design)
            if cells is None:
                return None
            found = findings(design, cells, self._objective(experiment))
        except CancelledError:
            return NewOutcome(kind="cancelled", seconds=time.monotonic() - started)
        except (EngineError, LedgerError):
            # Neither the request nor the cells: another attempt may succeed.
            raise
        except InputError as error:
            return NewOutcome(kind="failed", error=str(error), seconds=time.monotonic() - started)
        except Exception:  # noqa: BLE001 - sealed as failed: another attempt would fail alike
            text = _incident(experiment.id)
            return NewOutcome(kind="failed", error=text, seconds=time.monotonic() - started)
        return NewOutcome(
            kind="succeeded",
            result=found.result,
            artifacts=found.artifacts,
            environment=environment(self._bench, design),
            seconds=time.monotonic() - started,
        )

    def _objective(self, experiment: Experiment) -> Objective | None:
        """Return what the screen that an experiment belongs to scores."""
        parent = experiment.parent or ""
        if not parent.startswith("scr_"):
            return None
        return objective_of(self._bench.ledger.screen(parent).plan)

    def _cells(
        self, attempt: Attempt, experiment: Experiment, design: Design
    ) -> dict[str, Cells] | None:
        """Return the cells of each arm; None when this process is closing."""
        views: dict[str, JobView] = {}
        for role, arm in design.arms.items():
            view = self._finished(attempt, experiment, role, arm)
            if view is None:
                return None
            views[role] = view
        return {role: self._bench.engine.cells(view.job_id) for role, view in views.items()}

    def _finished(
        self, attempt: Attempt, experiment: Experiment, role: str, arm: ArmRequest
    ) -> JobView | None:
        view = self._jobs.get((experiment.id, role)) or self._submit(experiment, role, arm)
        resubmits = 0
        while view.state != "succeeded":
            if _cancel_requested(attempt):
                self._stop(experiment)
                raise CancelledError(experiment.id)
            if self._closing.is_set():
                return None
            if view.state == "failed":
                message = f"the engine could not make the {role} cells: {view.error}"
                raise InputError(message)
            if view.state == "cancelled":
                # An arm shared with another experiment that was cancelled: ask for it again.
                resubmits += 1
                if resubmits > _RESUBMITS:
                    message = f"the {role} cells were cancelled {resubmits} times"
                    raise InputError(message)
                view = self._submit(experiment, role, arm)
            else:
                view = self._bench.engine.wait(view.job_id, _SLICE_S)
            self._jobs[experiment.id, role] = view
        return view

    def _submit(self, experiment: Experiment, role: str, arm: ArmRequest) -> JobView:
        fresh = experiment.id if replayed(experiment) else None
        requester = Requester(
            principal=experiment.principal,
            experiment=experiment.id,
            group=group_of(self._bench, experiment),
        )
        view = self._bench.engine.submit(arm, fresh=fresh, requester=requester)
        self._jobs[experiment.id, role] = view
        return view

    def _stop(self, experiment: Experiment) -> None:
        """Cancel an experiment's jobs, but for those that others here wait for as well."""
        jobs = list(self._jobs.items())
        shared = {v.job_id for (owner, _), v in jobs if owner != experiment.id}
        for (owner, _), view in jobs:
            mine = owner == experiment.id and view.job_id not in shared
            if mine and view.state not in _ENDED:
                self._bench.engine.cancel(view.job_id)
        self._forget([experiment.id])

    def _forget(self, ids: Sequence[str]) -> None:
        # Other threads add jobs meanwhile: copy the keys, which is one step, before dropping any.
        for key in list(self._jobs):
            if key[0] in ids:
                self._jobs.pop(key, None)


def _cancel_requested(attempt: Attempt) -> bool:
    """Return whether it is to stop, as far as a locked database lets one see; it is asked again."""
    try:
        return attempt.cancel_requested()
    except LockedError:
        return False


def environment(bench: Bench, design: Design) -> dict[str, Any]:
    """Return what the engine's numbers depend on, and the versions beside it."""
    info = bench.engine.info(design.checkpoint.name)
    here = {"lingshu_tools": _version("lingshu-tools"), "numpy": _version("numpy")}
    if info is None:
        return {"versions": here, "profile": {}, "profile_digest": None}
    return {
        "versions": {**here, "engine": info.version},
        "profile": info.profile,
        "profile_digest": info.profile_digest,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _incident(experiment_id: str) -> str:
    incident = secrets.token_hex(4)
    sys.stderr.write(f"incident {incident} in {experiment_id}:\n{traceback.format_exc()}")
    return f"it failed for a reason of its own, not of the request (incident {incident})"
