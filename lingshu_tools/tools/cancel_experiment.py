"""cancel_experiment: stop an experiment, or what is left of a screen; what is done is kept."""

from lingshu_tools.app import App
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import Result, call_text
from lingshu_tools.calls.waiting import Pending, next_wait_s
from lingshu_tools.errors import InputError
from lingshu_tools.execution.cancelling import cancel_all
from lingshu_tools.execution.replay_screens import unfinished_replays
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.lookup import is_screen, locate, locate_screen
from lingshu_tools.ledger import Experiment
from lingshu_tools.tools.common import AnyId

_WAIT_S = 1.5
"""How long a worker may take to stop before the call answers that it is still stopping."""


class CancelExperiment(Arguments):
    """Arguments of cancel_experiment."""

    id: AnyId


class CancelResult(Result):
    """What was stopped."""

    cancelled: list[str]
    kept: int


def cancel_experiment(app: App, arguments: CancelExperiment) -> Pending[CancelResult]:
    """Return what was stopped, after waiting briefly for a living worker to stop."""
    experiments = _experiments(app, arguments.id)
    ids = [experiment.id for experiment in experiments]
    # Before cancelling: what had ended by then was not stopped by this call.
    sealed = app.ledger.sealed(ids)
    stopping = [i for i in ids if i not in sealed]
    # Those that have ended too: the engine may still have work of them.
    trouble = cancel_all(app, experiments)
    return Pending(
        name=arguments.id,
        ids=stopping,
        wait_s=_WAIT_S,
        finish=lambda: _result(app, arguments.id, ids, stopping, trouble),
    )


def _result(
    app: App, name: str, ids: list[str], stopping: list[str], trouble: str | None
) -> CancelResult:
    outcomes = app.ledger.outcomes(ids)
    stopped = [i for i in stopping if i in outcomes and outcomes[i].kind == "cancelled"]
    kept = sum(outcome.kind == "succeeded" for outcome in outcomes.values())
    late = [i for i in stopping if i not in outcomes]
    screen = is_screen(name)
    caveats = [f"The engine could not be told, and may work on: {trouble}"] if trouble else []
    return CancelResult(
        # A worker stops between two sampling steps, perhaps after this answer.
        status="running" if late else "cancelled" if stopped else "succeeded",
        summary=_summary(name, len(stopped), kept, len(late)),
        caveats=caveats,
        ledger_head=str(app.ledger.head()),
        experiment_id=None if screen else name,
        screen_id=name if screen else None,
        cancelled=stopped,
        kept=kept,
        next_step=_next_step(name, late=bool(late), trouble=trouble is not None),
    )


def _next_step(name: str, *, late: bool, trouble: bool) -> str:
    if trouble:
        return f"{call_text('cancel_experiment', id=name)} tells the engine again."
    if late:
        wait = call_text("get_experiment", id=name, wait_s=next_wait_s())
        return f"{wait} shows when it has stopped."
    return f"{call_text('get_experiment', id=name)} shows what was kept, and how to go on."


def _experiments(app: App, name: str) -> list[Experiment]:
    """Return what an id stands for: an experiment; or a screen's, and their unfinished replays."""
    if is_screen(name):
        ledger, screen = locate_screen(app, name)
        candidates = candidates_of(ledger, screen.id)
        replays = unfinished_replays(app, [e.id for e in candidates])
        # Candidates of a read-only ledger ended long ago; their replays are of this home.
        experiments = replays if ledger.read_only else [*candidates, *replays]
    else:
        ledger, experiment = locate(app, name)
        experiments = [] if ledger.read_only else [experiment]
    if ledger.read_only and not experiments:
        message = f"{name!r} is in the read-only reference ledger; it ended long ago"
        raise InputError(message)
    return experiments


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
        "Stop an unfinished experiment (exp_…), or what is left of a screen (scr_…) and of its "
        "replays, in whatever process it runs. Use it when a result is not wanted any more. Not "
        "for ending a wait: get_experiment has the result later. Units: experiments. Cost: free. "
        "Limits: finished experiments are kept; run_screen or replay_experiment begins again what "
        "was cancelled."
    ),
    arguments=CancelExperiment,
    result=CancelResult,
    run=cancel_experiment,
    read_only=False,
    destructive=True,
)
