"""replay_experiment: run an experiment again from its row and say whether the same came back.

Knows nothing of verdicts, which `replays` gives, or of threads.
"""

from typing import Any

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.errors import InputError
from lingshu_tools.ledger import Experiment
from lingshu_tools.registry import Arguments, ToolSpec
from lingshu_tools.replays import Comparison, begin_replay, locate, verdict_of
from lingshu_tools.results import Result
from lingshu_tools.tools.common import ExperimentId, WaitS
from lingshu_tools.views import envelope, shown
from lingshu_tools.waiting import Pending

_SAID = {
    "exact": "exact: the same cells, bit for bit, under the same numerics profile",
    "same_kind": "same_kind: the same cells, bit for bit, although the numerics profile differs",
    "equivalent": "equivalent: other cells, as the numerics profile differs, with effects that "
    "agree within Monte Carlo error; not a reproduction",
    "different": "different: neither the cells nor the effects agree as they should",
}


class ReplayExperiment(Arguments):
    """Arguments of replay_experiment."""

    id: ExperimentId
    wait_s: WaitS = 4


class ReplayResult(Result):
    """A replay: `experiment_id` is the new experiment, `replay_of` the one replayed."""

    replay_of: str
    verdict: str | None = Field(
        description="exact, same_kind, equivalent, different; null: not yet"
    )
    differs: dict[str, Any] = Field(description="What is not the same: numerics, artifacts, counts")
    verification_written: bool


def replay_experiment(app: App, asked: ReplayExperiment) -> Pending[ReplayResult]:
    """Return the verdict of running an experiment again, once it is there."""
    ledger, original = locate(app, asked.id)
    outcome = ledger.outcome(original.id)
    if outcome is None:
        message = (
            f"{asked.id!r} has not finished, so there is nothing to compare a replay with. "
            f'get_experiment(id="{asked.id}", wait_s=30) finishes it.'
        )
        raise InputError(message)
    replay = begin_replay(app, ledger, original)
    app.runner.launch([replay.id])
    kept = not ledger.read_only
    return Pending(
        name=replay.id,
        ids=[replay.id],
        wait_s=asked.wait_s,
        finish=lambda: _shown(app, replay, original.id, outcome.kind, kept=kept),
    )


def _shown(app: App, replay: Experiment, name: str, kind: str, *, kept: bool) -> ReplayResult:
    """Return a replay in whatever state it is; `kept` says that its verdict is recorded."""
    one = shown(app, replay.id)
    found = verdict_of(app, replay)
    fields = envelope(app, one)
    if one.succeeded:
        fields |= _compared(name, kind, found)
    return ReplayResult(
        **fields,
        replay_of=name,
        verdict=found.verdict if found else None,
        differs=found.differs if found else {},
        verification_written=found is not None and kept,
    )


def _compared(name: str, kind: str, found: Comparison | None) -> dict[str, Any]:
    if found is None:
        return {
            "summary": f"{name} had {kind}, so this is a first result, not a comparison.",
            "next_step": "get_experiment shows it.",
        }
    numerics = found.differs.get("environment") or {}
    named = ", ".join(list(numerics)[:5])
    return {
        "summary": f"Replay of {name} from its row, computed anew: {_SAID[found.verdict]}."
        + (f" The environments differ in {named}." if named else ""),
        "units": {"differs.counts.largest_difference": "count (UMI)"},
        "next_step": None
        if found.verdict == "exact"
        else "differs names what changed; a checkpoint, a driver or a build is the usual reason.",
    }


SPEC = ToolSpec(
    name="replay_experiment",
    title="Replay an experiment",
    description=(
        "Run a finished experiment again from its ledger row alone, bypassing stored results, and "
        "compare bit for bit. Verdict: exact (same cells, same numerics profile), same_kind (same "
        "cells, other profile), equivalent (other cells, effects agree within Monte Carlo error) "
        "or different; differs says what is not the same. The replay is a new experiment linked to "
        "the old one and the verdict is written in the ledger. Works for the shipped reference "
        "ledger. Costs as much as the original."
    ),
    arguments=ReplayExperiment,
    result=ReplayResult,
    run=replay_experiment,
    read_only=False,
    idempotent=False,
    simulates=True,
)
