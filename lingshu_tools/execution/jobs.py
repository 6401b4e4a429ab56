"""The engine's jobs for the experiments of this process, and the cells that they give.

An engine that cannot be used for a while (it does not answer, another version is at work, its queue
is full) is asked again until it can; `note` says meanwhile what it is waited for. Cells are handed
out only if they answer the very arms that were asked for, all under one numerics profile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from threading import Event, get_ident
from typing import Any, TypeVar

from lingshu_model.contracts import ArmRequest, Cells, JobView, Origin, Requester
from lingshu_model.contracts.user_cells import score_columns
from lingshu_tools.errors import (
    CancelledError,
    CellsGoneError,
    EngineBusyError,
    EngineError,
    ForeignAnswerError,
    InputError,
    LockedError,
)
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.replays import CELL_ROLES, group_of, replayed
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment
from lingshu_tools.system.deadline import time_limit

T = TypeVar("T")
ENDED = ("succeeded", "failed", "cancelled")
_SLICE_S = 1.0
"""How long one wait on the engine lasts, and so how late a cancellation may be noticed."""
_PATIENCE_S = (10.0, 120.0)
"""How long an answer is waited for before the request is repeated: at first, and at most."""
# Between two requests to an engine that cannot be used.
_PAUSE_S = 0.5
_SILENT_S = 2.0
"""After how long an engine that does not answer is mentioned."""
# Beyond this an arm that is lost or cancelled again and again is an error.
_RESUBMITS = 3


class ClosingError(Exception):
    """This process stops working; another can take the experiment up."""


@dataclass(frozen=True)
class Computed:
    """The cells of an experiment's arms by role, and the environment they were computed in."""

    cells: dict[str, Cells]
    environment: dict[str, Any]


class Jobs:
    """Views of jobs by experiment and role; usable from several threads."""

    def __init__(self, workspace: Workspace, closing: Event) -> None:
        """Start without any job; `closing` is set when this process stops working."""
        self._workspace, self._closing = workspace, closing
        # By experiment and role; dictionaries are changed one key at a time, which needs no lock.
        self._views: dict[tuple[str, str], JobView] = {}
        self._note: str | None = None
        self.n_cells_sampled = 0
        # When each thread's request ought to have been answered at the latest.
        self._due: dict[int, float] = {}

    def submit(self, experiment: Experiment, role: str, arm: ArmRequest) -> JobView:
        """Return the job of an arm, submitted when the engine can take it.

        Raises:
            InputError: the engine cannot compute it; the message says why.
            CancelledError, ClosingError: it is no longer wanted.
            EngineError: there is no engine, and none can be started.
        """
        # A replay is computed anew under this name; submitted again, it is the same job.
        fresh = experiment.id if replayed(experiment) else None
        requester = Requester(
            principal=experiment.principal,
            experiment=experiment.id,
            group=group_of(self._workspace, experiment),
        )

        def ask() -> JobView:
            # Only where it is set, so that an engine without this argument will do.
            more = {"allow_unfit": True} if experiment.request.get("allow_unfit") else {}
            return self._workspace.engine.submit(arm, fresh=fresh, requester=requester, **more)

        def stopped() -> bool:
            return self._workspace.ledger.cancel_requested(experiment.id)

        view = self._patiently(experiment, ask, stopped)
        self._keep(experiment, role, view)
        return view

    def computed(
        self, experiment: Experiment, design: Design, stopped: Callable[[], bool]
    ) -> Computed:
        """Return the cells of a design's arms when they are there.

        Raises:
            InputError: the engine cannot compute them.
            CancelledError: `stopped()` was true.
            ClosingError: this process stops working.
            EngineError: there is no engine, or it answers for other requests than those asked.
        """
        for _ in range(_RESUBMITS):
            try:
                views = {
                    role: self._finished(experiment, role, arm, stopped)
                    for role, arm in design.arms.items()
                }
                cells = {
                    role: self._cells(experiment, design, role, views[role], stopped)
                    for role in views
                }
            except CellsGoneError:
                self.forget([experiment.id])
                continue
            # Pairs are pairs only under one profile: an engine may have been replaced in between.
            if len({view.profile_digest for view in views.values()}) == 1:
                return Computed(cells, _environment(next(iter(views.values()))))
            self.forget([experiment.id])
        message = (
            f"the engine's cells of {experiment.id} were gone or under several numerics profiles "
            f"{_RESUBMITS} times: call get_experiment to try again"
        )
        raise EngineError(message)

    def n_computed(self, experiment_id: str) -> int:
        """Return how many cells of an experiment are computed, as far as is known."""
        views = [self._views.get((experiment_id, role)) for role in CELL_ROLES]
        return sum(view.done for view in views if view)

    def note(self) -> str | None:
        """Return why work does not go on for now; None where it does."""
        # A copy of the values: other threads change the dictionary.
        late = time.monotonic() - min(list(self._due.values()), default=time.monotonic())
        if self._note is None and late > _SILENT_S:
            return (
                f"The engine has not answered for {late:.0f} s: it may be starting, loading a "
                "checkpoint, or stopped. The work goes on when it answers; `lingshu engine stop` "
                "ends one that is stuck."
            )
        return self._note

    def forget(self, ids: Sequence[str]) -> None:
        """Drop the views of experiments that have ended, or that are to be asked for anew."""
        # Other threads add jobs meanwhile: copy the keys, which is one step, before dropping any.
        for key in list(self._views):
            if key[0] in ids:
                self._views.pop(key, None)

    def _finished(
        self, experiment: Experiment, role: str, arm: ArmRequest, stopped: Callable[[], bool]
    ) -> JobView:
        view = self._views.get((experiment.id, role)) or self.submit(experiment, role, arm)
        resubmits = 0
        while view.state != "succeeded":
            if _is_stopped(stopped):
                raise CancelledError(experiment.id)
            if view.state == "failed":
                message = f"the engine could not make the {role} cells: {view.error}"
                raise InputError(message)
            if view.state == "cancelled":
                # An arm shared with another experiment that was cancelled: ask for it again.
                resubmits += 1
                if resubmits > _RESUBMITS:
                    message = f"the {role} cells were cancelled {resubmits} times"
                    raise InputError(message)
                view = self.submit(experiment, role, arm)
            else:
                view = self._waited(experiment, view.job_id, stopped)
            self._keep(experiment, role, view)
        return view

    def _keep(self, experiment: Experiment, role: str, view: JobView) -> None:
        before = self._views.get((experiment.id, role))
        self._views[experiment.id, role] = view
        if before is not None:
            # The first view may have cells of an earlier process, which this one did not wait for.
            self.n_cells_sampled += max(view.done - before.done, 0)

    def _waited(self, experiment: Experiment, job_id: str, stopped: Callable[[], bool]) -> JobView:
        def ask() -> JobView:
            return self._workspace.engine.wait(job_id, _SLICE_S)

        return self._patiently(experiment, ask, stopped, wait_s=_SLICE_S)

    def _cells(
        self,
        experiment: Experiment,
        design: Design,
        role: str,
        view: JobView,
        stopped: Callable[[], bool],
    ) -> Cells:
        cells = self._patiently(
            experiment, lambda: self._workspace.engine.cells(view.job_id), stopped
        )
        arm = design.arms[role]
        if cells.origin and cells.origin.profile != view.profile_digest:
            # Computed anew by an engine that replaced the one that had them.
            message = f"the {role} cells are under {cells.origin.profile} by now"
            raise CellsGoneError(message)
        # Bound to the request twice, by the arm's digest and by the profile of the job.
        expected = Origin(arm.digest, view.profile_digest)
        width = score_columns(arm) if arm.against else len(design.checkpoint.panel)
        # Scores have a column for each context and draw, cells one for each gene.
        shape = arm.n_cells, width
        if cells.origin != expected or cells.shape != shape:
            message = (
                f"the engine sent {cells.shape} counts of {cells.origin} for the {role} cells of "
                f"{experiment.id}, which are {shape} of {expected}: they were not used"
            )
            raise ForeignAnswerError(message)
        return cells

    def _patiently(
        self,
        experiment: Experiment,
        ask: Callable[[], T],
        stopped: Callable[[], bool],
        wait_s: float = 0.0,
    ) -> T:
        """Return what `ask` returns as soon as the engine can be used.

        Args:
            experiment: on whose behalf.
            ask: one request, which may be repeated.
            stopped: whether the experiment is no longer wanted.
            wait_s: seconds that the engine is asked to wait before it answers.
        """
        patience, longest = _PATIENCE_S
        while not self._closing.is_set():
            # By thread, since several wait at once; what is overdue longest is what `note` tells.
            self._due[get_ident()] = time.monotonic() + wait_s
            try:
                with time_limit(wait_s + patience):
                    answer = ask()
            except EngineBusyError as error:
                self._note = f"{error}."
            else:
                self._note = None
                return answer
            finally:
                self._due.pop(get_ident(), None)
            if _is_stopped(stopped):
                raise CancelledError(experiment.id)
            # A slow engine gets more time at each request, and is asked less often.
            patience = min(2 * patience, longest)
            self._closing.wait(_PAUSE_S)
        raise ClosingError(experiment.id)


def _is_stopped(stopped: Callable[[], bool]) -> bool:
    """Return whether it is, as far as a locked database lets one see; it is asked again."""
    try:
        return stopped()
    except LockedError:
        return False


def _environment(view: JobView) -> dict[str, Any]:
    """Return what a job's counts depend on, and the versions beside it."""
    return {
        "versions": {
            "lingshu_tools": _version("lingshu-tools"),
            "numpy": _version("numpy"),
            "engine": view.version,
        },
        "profile": view.profile or {},
        "profile_digest": view.profile_digest,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
