"""Ledger rows as results: the part that is the same whatever the experiment.

Everything shown is derived from the row, its outcome and the checkpoint's evidence; nothing shown
is stored. Knows nothing of threads, doors or what a tool measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu_tools.experiments import Design, design_of
from lingshu_tools.honesty import evidence_view, support_view
from lingshu_tools.ledger import Experiment, Ledger, Outcome
from lingshu_tools.replays import locate
from lingshu_tools.results import Progress

if TYPE_CHECKING:
    from lingshu_tools.app import App

POLL_S = 30


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

        Whoever reads the file checks it: hashing a large one would outlast a call.
        """
        digest = self._kept(role)
        return (self.ledger.object_path(digest), digest) if digest else None

    def _kept(self, role: str) -> str | None:
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
    one = recorded(app, experiment_id)
    return Shown(one.ledger, one.experiment, one.outcome, design_of(app, one.experiment))


def envelope(app: App, one: Shown) -> dict[str, Any]:
    """Return the fields every result has, for any state; a tool overrides those it knows better."""
    experiment, design = one.experiment, one.design
    support = design.support
    return {
        "experiment_id": experiment.id,
        "ledger_head": str(one.ledger.head()),
        "support": support_view(support),
        "evidence": evidence_view(design.checkpoint, support.tier),
        **_state(app, one),
    }


def _state(app: App, one: Shown) -> dict[str, Any]:
    name = one.experiment.id
    if one.outcome is None:
        return _unfinished(app, one)
    if one.outcome.kind == "failed":
        return {
            "status": "failed",
            "summary": f"{one.where}: failed. {one.outcome.error}",
            "next_step": "Mend what the error names and ask again; this experiment stays failed.",
        }
    if one.outcome.kind == "cancelled":
        return {
            "status": "cancelled",
            "summary": f"{one.where}: cancelled before it was done.",
            "next_step": f'replay_experiment(id="{name}") runs it as a new experiment.',
        }
    return {"status": "succeeded", "summary": f"{one.where}: done."}


def _unfinished(app: App, one: Shown) -> dict[str, Any]:
    name = one.experiment.id
    status = one.ledger.status(name)
    again = f'get_experiment(id="{name}", wait_s={POLL_S})'
    if one.ledger.read_only:
        again = f'replay_experiment(id="{name}")'
        progress = Progress(done=0, total=one.design.total_cells)
    else:
        progress = app.runner.progress([name])
    trouble = app.runner.trouble(name)
    said = trouble or app.runner.note(name)
    return {
        "status": "interrupted" if trouble else status,
        "summary": f"{one.where}: {'interrupted' if trouble else status}, {progress.done} of "
        f"{progress.total} cells made." + (f" {said}" if said else ""),
        "progress": progress,
        "next_step": f"{again} {'tries again' if trouble else 'waits for the result'}.",
    }
