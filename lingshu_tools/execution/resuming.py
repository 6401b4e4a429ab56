"""Experiments begun again in place of those that were cancelled or failed.

An outcome is final, so nothing takes up an experiment that has one: a new row is begun, which names
the old one. The name stands in its client key, so that however many ask at once begin it once:

    again/OLD              an experiment by itself, whose parent is OLD; or a replay, whose parent
                           is the experiment that it replays
    SCREEN/POSITION/OLD    a candidate of a screen, whose parent is the screen
"""

from __future__ import annotations

from collections.abc import Sequence

from lingshu_tools.experiments.designs import AGAIN, design_of, replaces, row_like
from lingshu_tools.experiments.disk_space import require_free_space
from lingshu_tools.experiments.replays import begin_replay, replayed
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment, Ledger, NewExperiment, digest_json

_LATEST = 20
"""Experiments of one request that are looked at: newest first, replays and candidates between."""


def is_stopped(ledger: Ledger, experiment: Experiment) -> bool:
    """Return whether an experiment was cancelled, or is about to be."""
    outcome = ledger.outcome(experiment.id)
    if outcome is None:
        return ledger.cancel_requested(experiment.id)
    return outcome.kind == "cancelled"


def newest(ledger: Ledger, experiment: Experiment) -> Experiment:
    """Return the experiment that stands in the place of this one: itself, unless begun again."""
    later = experiment
    # A replacement may have been cancelled and replaced in turn.
    while replacements := _replacements(ledger, later):
        later = replacements[-1]
    return later


def begin_again(workspace: Workspace, ledger: Ledger, stopped: Experiment) -> Experiment:
    """Return the experiment in place of one of `ledger` that was cancelled or failed, begun if new.

    Raises:
        InputError: the checkpoint here is not the one it was to be made with.
    """
    if ledger.read_only:
        return begin_replay(workspace, ledger, stopped)
    last = newest(ledger, stopped)
    outcome = ledger.outcome(last.id)
    # Somebody has begun it again already, and it is at work or finished.
    if not is_stopped(ledger, last) and not (outcome and outcome.kind == "failed"):
        return last
    require_free_space(workspace, design_of(workspace, last))
    return ledger.begin(in_place_of(workspace, last))


def in_place_of(workspace: Workspace, old: Experiment) -> NewExperiment:
    """Return the row that asks the same as an experiment and names it."""
    if old.position is not None:
        return row_like(workspace, old, client_key=f"{old.parent}/{old.position}/{old.id}")
    # What a replay replays must stay known; the experiment in its place is named by the key.
    parent = old.parent if replayed(old) else old.id
    return row_like(workspace, old, parent=parent, client_key=f"{AGAIN}/{old.id}")


def repeated(workspace: Workspace, row: NewExperiment) -> NewExperiment:
    """Return the row of an experiment by itself, which names the one before if that was cancelled.

    The one before is the newest of the same request, tool and principal.
    """
    # Newest first.
    page = workspace.ledger.find(request_digest=digest_json(row.request), limit=_LATEST)
    alone = [
        item.experiment
        for item in page.items
        if (item.experiment.tool, item.experiment.principal) == (row.tool, row.principal)
        # Candidates and replays have rows of their own, which a single call does not continue.
        and item.experiment.position is None
        and replayed(item.experiment) is None
    ]
    if not alone or not is_stopped(workspace.ledger, alone[0]):
        return row
    return in_place_of(workspace, alone[0])


def _replacements(ledger: Ledger, old: Experiment) -> Sequence[Experiment]:
    # Children of the old one (by itself), and its siblings (of a screen, or other replays).
    beside = [*ledger.children(old.id), *(ledger.children(old.parent) if old.parent else ())]
    return sorted((e for e in beside if replaces(e) == old.id), key=lambda e: e.seq)
