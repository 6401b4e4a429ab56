"""cancel_experiment: stop an experiment, or what is left of a screen; what is done is kept.

Knows nothing of which process is at work; the ledger tells it.
"""

from lingshu_tools.app import App
from lingshu_tools.errors import InputError
from lingshu_tools.registry import Arguments, ToolSpec
from lingshu_tools.replays import locate
from lingshu_tools.results import Result
from lingshu_tools.tools.common import AnyId
from lingshu_tools.waiting import Pending

_WAIT_S = 1.5
"""How long a worker may take to stop before the call answers that it is still stopping."""


class CancelExperiment(Arguments):
    """Arguments of cancel_experiment."""

    id: AnyId


class CancelResult(Result):
    """What was stopped."""

    cancelled: list[str]
    kept: int


def cancel_experiment(app: App, asked: CancelExperiment) -> Pending[CancelResult]:
    """Return what was stopped, after waiting briefly for a living worker to stop."""
    ids = _ids(app, asked.id)
    open_ids = [i for i in ids if app.ledger.outcome(i) is None]
    for i in open_ids:
        app.ledger.cancel(i, principal=app.principal)
    return Pending(
        name=asked.id,
        ids=open_ids,
        wait_s=_WAIT_S,
        finish=lambda: _result(app, asked, ids, open_ids),
    )


def _result(app: App, asked: CancelExperiment, ids: list[str], open_ids: list[str]) -> CancelResult:
    outcomes = {i: app.ledger.outcome(i) for i in ids}
    stopped = [i for i in open_ids if (o := outcomes[i]) and o.kind == "cancelled"]
    kept = sum(o is not None and o.kind == "succeeded" for o in outcomes.values())
    late = [i for i in open_ids if outcomes[i] is None]
    screen = asked.id.startswith("scr_")
    return CancelResult(
        status="running" if late else "cancelled" if stopped else "succeeded",
        summary=_summary(asked.id, len(stopped), kept, len(late)),
        ledger_head=str(app.ledger.head()),
        experiment_id=None if screen else asked.id,
        screen_id=asked.id if screen else None,
        cancelled=stopped,
        kept=kept,
        next_step=f'get_experiment(id="{asked.id}") shows what was kept.'
        if not late
        else f'get_experiment(id="{asked.id}", wait_s=5) shows when it has stopped.',
    )


def _ids(app: App, name: str) -> list[str]:
    if name.startswith("scr_"):
        return [e.id for e in app.ledger.children(app.ledger.screen(name).id)]
    ledger, experiment = locate(app, name)
    if ledger.read_only:
        message = f"{name!r} is in the read-only reference ledger; it ended long ago"
        raise InputError(message)
    return [experiment.id]


def _summary(name: str, stopped: int, kept: int, late: int) -> str:
    if late:
        return f"{name}: told to stop; {late} still at work stop between two sampling steps."
    if stopped:
        return f"{name}: {stopped} experiment(s) cancelled, {kept} finished and kept."
    return f"{name}: nothing to cancel; it had ended already."


SPEC = ToolSpec(
    name="cancel_experiment",
    title="Cancel an experiment or a screen",
    description=(
        "Stop an unfinished experiment (exp_…), or all that is left of a screen (scr_…), in "
        "whatever process it runs. Finished experiments and their cells are kept; a cancelled one "
        "stays in the ledger as cancelled and cannot be resumed (replay_experiment runs it anew)."
    ),
    arguments=CancelExperiment,
    result=CancelResult,
    run=cancel_experiment,
    read_only=False,
    destructive=True,
)
