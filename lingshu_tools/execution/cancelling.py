"""Cancelling: the ledger first, then the engine, whichever process works on the experiments.

A request to stop is a row, so no attempt begins after it and a worker that lives sees it. The
engine is informed by the process that cancels: the process that submitted the work may be gone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lingshu_tools.errors import LingshuError
from lingshu_tools.experiments.workspace import Workspace
from lingshu_tools.ledger import Experiment


def cancel_all(workspace: Workspace, experiments: Sequence[Experiment]) -> str | None:
    """Cancel experiments; return why the engine could not be told, or None.

    Those that have ended stay as they are, but the engine forgets them all the same: it may have
    work of one that was cancelled while it did not answer, or before it was started again.
    """
    ids = [experiment.id for experiment in experiments]
    outcomes = workspace.ledger.outcomes(ids)
    # The ledger first: a worker that begins an attempt meanwhile sees the request.
    unsealed = [i for i in ids if i not in outcomes]
    if unsealed:
        workspace.ledger.cancel_many(unsealed, principal=workspace.principal)
    # Those that succeeded or failed have nothing in the queue that belongs to them.
    stopped = [i for i in ids if i not in outcomes or outcomes[i].kind == "cancelled"]
    principals = sorted({experiment.principal for experiment in experiments})
    try:
        if stopped:
            workspace.engine.withdraw(stopped)
        # The engine shows a principal its jobs alone, so each is asked for by itself.
        for principal in principals:
            if stale := _stale(workspace, principal):
                workspace.engine.withdraw(stale)
    except LingshuError as error:
        return str(error)
    return None


def withdraw(workspace: Workspace, experiment_id: str) -> None:
    """Tell the engine that an experiment wants nothing any more; what prevents it goes to stderr.

    For workers, which have nobody to raise to: `cancel_experiment` tells the engine again.
    """
    try:
        workspace.engine.withdraw([experiment_id])
    except LingshuError as error:
        sys.stderr.write(f"{experiment_id} has ended, and the engine cannot be told: {error}\n")


def _stale(workspace: Workspace, principal: str) -> list[str]:
    """Return the experiments in the engine's queue that the ledger says were cancelled."""
    queued = {name for job in workspace.engine.unfinished(principal) for name in job.experiments}
    return sorted(workspace.ledger.cancellations(sorted(queued)))
