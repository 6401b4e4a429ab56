"""Cancelling: the ledger first, then the engine, whoever works on the experiments.

A request to stop is a row, so no attempt begins after it and a worker that lives sees it. The
engine is told by whoever cancels: the process that submitted the work may be gone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lingshu_tools.errors import LingshuError
from lingshu_tools.experiments.workspace import Bench
from lingshu_tools.ledger import Experiment


def cancel_all(bench: Bench, experiments: Sequence[Experiment]) -> str | None:
    """Cancel experiments; return why the engine could not be told, or None.

    Those that have ended stay as they are, but the engine forgets them all the same: it may have
    work of one that was cancelled while it did not answer, or before it was started again.
    """
    ids = [experiment.id for experiment in experiments]
    outcomes = bench.ledger.outcomes(ids)
    unsealed = [i for i in ids if i not in outcomes]
    if unsealed:
        bench.ledger.cancel_many(unsealed, principal=bench.principal)
    stopped = [i for i in ids if i not in outcomes or outcomes[i].kind == "cancelled"]
    principals = sorted({experiment.principal for experiment in experiments})
    try:
        if stopped:
            bench.engine.withdraw(stopped)
        for principal in principals:
            if stale := _stale(bench, principal):
                bench.engine.withdraw(stale)
    except LingshuError as error:
        return str(error)
    return None


def withdraw(bench: Bench, experiment_id: str) -> None:
    """Tell the engine that an experiment wants nothing any more; what prevents it goes to stderr.

    For workers, which have nobody to raise to: `cancel_experiment` tells the engine again.
    """
    try:
        bench.engine.withdraw([experiment_id])
    except LingshuError as error:
        sys.stderr.write(f"{experiment_id} has ended, and the engine cannot be told: {error}\n")


def _stale(bench: Bench, principal: str) -> list[str]:
    """Return the experiments in the engine's queue that the ledger says were cancelled."""
    queued = {name for job in bench.engine.unfinished(principal) for name in job.experiments}
    return sorted(bench.ledger.cancellations(sorted(queued)))
