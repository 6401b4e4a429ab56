"""Ledger rows as results: the part that is the same whatever the experiment.

Everything shown is derived from the row, its outcome and the checkpoint's evidence; nothing shown
is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu_tools.calls.results import Progress, call_text
from lingshu_tools.calls.waiting import next_wait_s
from lingshu_tools.execution.resuming import newest
from lingshu_tools.experiments.designs import Design, design_of
from lingshu_tools.experiments.lookup import locate
from lingshu_tools.ledger import Experiment, Ledger, Outcome
from lingshu_tools.report.evidence import own_evidence, support_view

if TYPE_CHECKING:
    from lingshu_tools.app import App


@dataclass(frozen=True)
class Recorded:
    """One experiment as the ledger has it: its row, the ledger it is in and its outcome."""

    ledger: Ledger
    experiment: Experiment
    outcome: Outcome | None

    @property
    def result(self) -> dict[str, Any]:
        """The sealed result; empty unless it succeeded."""
        return dict((self.outcome and self.outcome.result) or {})

    @property
    def succeeded(self) -> bool:
        """Whether there is something to show."""
        return self.outcome is not None and self.outcome.kind == "succeeded"

    def artifact(self, role: str) -> bytes | None:
        """Return a stored artifact, checked against its digest; None where it is not kept here."""
        digest = self._kept(role)
        return self.ledger.get_object(digest) if digest else None

    def artifact_file(self, role: str) -> tuple[Path, str] | None:
        """Return the file of a stored artifact and its digest; None where it is not kept here.

        The reader of the file checks it: hashing a large one would outlast a call.
        """
        digest = self._kept(role)
        return (self.ledger.object_path(digest), digest) if digest else None

    def stored(self, *roles: str) -> bool:
        """Return whether the artifacts of these roles are kept here."""
        return all(self._kept(role) for role in roles)

    def _kept(self, role: str) -> str | None:
        # A ledger may come without the objects that its rows name.
        digest = self.outcome and self.outcome.artifacts.get(role)
        return digest if digest and self.ledger.has_object(digest) else None


@dataclass(frozen=True)
class Shown(Recorded):
    """One experiment to be shown, with the design that its row and its checkpoint give."""

    design: Design

    @property
    def where(self) -> str:
        """The experiment in words: perturbation, context, cells."""
        return self.design.where


def recorded(app: App, experiment_id: str) -> Recorded:
    """Return an experiment of this home's ledger or of the reference ledger; no checkpoint is read.

    Raises:
        NotFoundError: no such experiment.
    """
    ledger, experiment = locate(app, experiment_id)
    return Recorded(ledger, experiment, ledger.outcome(experiment.id))


def shown(app: App, experiment_id: str) -> Shown:
    """Return an experiment of this home's ledger or of the reference ledger, to be shown.

    Raises:
        NotFoundError: no such experiment.
        MissingCheckpointError: its checkpoint is not here.
    """
    record = recorded(app, experiment_id)
    return Shown(
        record.ledger, record.experiment, record.outcome, design_of(app, record.experiment)
    )


def envelope(app: App, record: Shown) -> dict[str, Any]:
    """Return the fields every result has, for any state; a tool overrides those it knows better."""
    experiment, design = record.experiment, record.design
    support = design.support
    return {
        "experiment_id": experiment.id,
        "ledger_head": str(record.ledger.head()),
        "support": support_view(support),
        **own_evidence(design),
        **_state(app, record),
    }


def _state(app: App, record: Shown) -> dict[str, Any]:
    if record.outcome is None:
        return _unfinished(app, record)
    if record.outcome.kind == "failed":
        return {
            "status": "failed",
            "summary": f"{record.where}: failed. {record.outcome.error}",
            "next_step": f"{_again(record)} Mend first what the error names.",
        }
    if record.outcome.kind == "cancelled":
        return {
            "status": "cancelled",
            "summary": f"{record.where}: cancelled before it was done.",
            "next_step": _again(record),
        }
    return {"status": "succeeded", "summary": f"{record.where}: done."}


def _again(record: Shown) -> str:
    """Return what begins an experiment again that was cancelled or failed, or where that was done.

    Its outcome stays: another experiment is begun in its place.
    """
    row = record.experiment
    # Nothing is begun again in a read-only ledger, so there is no later one to look for.
    if not record.ledger.read_only:
        later = newest(record.ledger, row)
        if later.id != row.id:
            shows = call_text("get_experiment", id=later.id, wait_s=next_wait_s())
            return f"{shows} shows the experiment begun in its place."
        # A candidate is begun again by its screen, which knows what else it lacks.
        if row.position is not None:
            again = call_text("run_screen", screen_id=row.parent)
            return f"{again} begins again what its screen lacks."
    return f"{call_text('replay_experiment', id=row.id)} begins it again, as a new experiment."


def _unfinished(app: App, record: Shown) -> dict[str, Any]:
    name = record.experiment.id
    status = record.ledger.status(name)
    if record.ledger.read_only:
        # No process of this home works on a row of a read-only ledger.
        progress = Progress(done=0, total=record.design.total_cells)
    else:
        progress = app.runner.progress([name])
    # Known to this process alone: another may be able to go on.
    trouble = app.runner.trouble(name)
    said = trouble or app.runner.note(name)
    return {
        "status": "interrupted" if trouble else status,
        "summary": f"{record.where}: {'interrupted' if trouble else status}, {progress.done} of "
        f"{progress.total} cells made." + (f" {said}" if said else ""),
        "progress": progress,
        "next_step": _go_on(record, again=bool(trouble)),
    }


def _go_on(record: Shown, *, again: bool) -> str:
    if record.ledger.read_only:
        run = call_text("replay_experiment", id=record.experiment.id)
        return f"{run} runs it in this home, as a new experiment."
    wait = call_text("get_experiment", id=record.experiment.id, wait_s=next_wait_s())
    return f"{wait} {'tries again' if again else 'waits for the result'}."
