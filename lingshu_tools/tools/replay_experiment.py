"""replay_experiment: an experiment or a screen run again from its rows: did the same come back?"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROWS, fitting
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import (
    Progress,
    Result,
    ResultStatus,
    Truncated,
    View,
    call_text,
    render,
    text_table,
)
from lingshu_tools.calls.waiting import Pending, next_wait_s
from lingshu_tools.errors import InputError
from lingshu_tools.execution.replay_screens import (
    VERDICTS,
    Replayed,
    begin_replays,
    counts_of,
    replays_so_far,
)
from lingshu_tools.execution.resuming import begin_again
from lingshu_tools.experiments.designs import design_of
from lingshu_tools.experiments.lookup import is_screen, locate, locate_screen
from lingshu_tools.experiments.replays import Comparison, begin_replay, replayed, verdict_of
from lingshu_tools.experiments.roots import require_same_file
from lingshu_tools.ledger import Experiment, Ledger, Screen, Status
from lingshu_tools.report.experiment_views import envelope, shown
from lingshu_tools.tools.common import AnyId, WaitS
from lingshu_tools.tools.user_cells_argument import restored

_SAID = {
    "exact": "exact: the same cells, bit for bit, under the same numerics profile",
    "same_kind": "same_kind: the same cells, bit for bit, although the numerics profile differs",
    "equivalent": "equivalent: other cells, as the numerics profile differs, with effects that "
    "agree within Monte Carlo error; not a reproduction",
    "different": "different: neither the cells nor the effects agree as they should",
}
_REASON = "differs names what changed; a checkpoint, a driver or a build is the usual reason."


class ReplayExperiment(Arguments):
    """Arguments of replay_experiment."""

    id: AnyId
    wait_s: WaitS = 4
    limit: int = Field(
        default=ROWS, ge=1, le=2000, description="Of a screen: experiments to show, worst first"
    )


class ReplayedView(View):
    """A finished experiment of a screen and its replay."""

    replay_of: str
    perturbation: str | None
    experiment_id: str | None = Field(description="The replay; null: none yet")
    status: str
    verdict: str | None


class ReplayResult(Result):
    """A replay: `experiment_id` is the new experiment, `replay_of` the one replayed.

    Of a screen, `verdict` is the worst, once all that is finished of it has one.
    """

    replay_of: str
    verdict: str | None = Field(
        description="exact, same_kind, equivalent, different; null: not yet"
    )
    differs: dict[str, Any] = Field(description="What is not the same: numerics, artifacts, counts")
    verification_written: bool
    verdicts: dict[str, int] = Field(
        default_factory=dict[str, int], description="Of a screen: how many there are of each"
    )
    replays: list[ReplayedView] = Field(
        default_factory=list[ReplayedView], description="Of a screen: its experiments, worst first"
    )


def replay_experiment(app: App, arguments: ReplayExperiment) -> Pending[ReplayResult]:
    """Return the verdict of running an experiment or a screen again, once it is there.

    One that was cancelled or failed is begun again, which is no comparison.
    """
    if is_screen(arguments.id):
        return _screen(app, arguments)
    ledger, original = locate(app, arguments.id)
    outcome = ledger.outcome(original.id)
    # Without an outcome in a read-only ledger it is run here for the first time.
    if outcome is None and not ledger.read_only:
        message = (
            f"{arguments.id!r} has not finished, so there is nothing to compare a replay with. "
            f"{call_text('get_experiment', id=arguments.id, wait_s=next_wait_s())} finishes it."
        )
        raise InputError(message)
    succeeded = outcome is not None and outcome.kind == "succeeded"
    # Before a row is begun: without its cells a replay would fail, and stay so.
    _require_cells(app, original)
    begin = begin_replay if succeeded else begin_again
    replay = begin(app, ledger, original)
    app.runner.launch([replay.id])
    # What the original was, for the sentence of a first result.
    kind = outcome.kind if outcome else "not finished"
    kept = not ledger.read_only
    return Pending(
        name=replay.id,
        ids=[replay.id],
        wait_s=arguments.wait_s,
        finish=lambda: _shown(app, replay, original.id, kind, kept=kept),
    )


def _require_cells(app: App, original: Experiment) -> None:
    """Read a user's cells again where the home no longer has them.

    Raises:
        InputError: their file is not as it was, or is still being read.
    """
    design = design_of(app, original)
    require_same_file(app.home, original.id, design.cells)
    if not restored(app, design):
        again = call_text("replay_experiment", id=original.id, wait_s=next_wait_s())
        message = f"the cells of {original.id} are being read from their file: {again} goes on"
        raise InputError(message)


def _shown(app: App, replay: Experiment, name: str, kind: str, *, kept: bool) -> ReplayResult:
    """Return a replay in whatever state it is; `kept` says that its verdict is recorded."""
    record = shown(app, replay.id)
    of = replayed(replay)
    verdict = verdict_of(app, replay) if of else None
    fields = envelope(app, record)
    if record.succeeded:
        fields |= _compared(replay, of if verdict and of else name, kind, verdict)
    return ReplayResult(
        **fields,
        replay_of=of or name,
        verdict=verdict.verdict if verdict else None,
        differs=verdict.differs if verdict else {},
        verification_written=verdict is not None and kept,
    )


def _screen(app: App, arguments: ReplayExperiment) -> Pending[ReplayResult]:
    ledger, screen = locate_screen(app, arguments.id)
    ids = [e.id for e in begin_replays(app, ledger, screen.id)]
    app.runner.launch(ids)
    return Pending(
        name=screen.id,
        ids=ids,
        wait_s=arguments.wait_s,
        finish=lambda: _screen_shown(app, ledger, screen, arguments.limit),
    )


def _screen_shown(app: App, ledger: Ledger, screen: Screen, limit: int) -> ReplayResult:
    replays = replays_so_far(app, ledger, screen.id)
    # Statuses in one query, for some hundred replays.
    where = app.ledger.statuses([record.replay.id for record in replays if record.replay])
    # Sorted before it is cut: what differs must not be left out.
    views = sorted((_replayed_view(record, where) for record in replays), key=_worst_first)[:limit]
    views = fitting(views, detailed=True) if app.door != "python" and views else views
    differs = {o.original.id: o.verdict.differs for o in replays if o.verdict and o.verdict.differs}
    counts = counts_of(replays)
    judged = sum(counts.values())
    status = _status(app, replays, set(where.values()))
    # `counts` has the best first; only when all are judged is the last the worst of all.
    worst = list(counts)[-1] if judged == len(replays) else None
    candidates = len(screen.plan["candidates"])
    # Of a replay: it computes its control arm anew.
    cells = screen.plan["n_cells"] * 2
    return ReplayResult(
        status=status,
        summary=_summary(screen.id, counts, len(replays), worst),
        caveats=_caveats(app, replays, candidates),
        screen_id=screen.id,
        ledger_head=str(app.ledger.head()),
        next_step=_next_step(screen.id, status, worst),
        progress=Progress(done=judged * cells, total=len(replays) * cells),
        truncated=_truncated(screen.id, len(views), limit, len(replays)),
        replay_of=screen.id,
        verdict=worst,
        differs={v.replay_of: differs[v.replay_of] for v in views if v.replay_of in differs},
        verification_written=bool(judged) and not ledger.read_only,
        verdicts=counts,
        replays=views,
    )


def _replayed_view(record: Replayed, where: Mapping[str, Status]) -> ReplayedView:
    return ReplayedView(
        replay_of=record.original.id,
        perturbation=record.original.perturbation,
        experiment_id=record.replay.id if record.replay else None,
        status=where[record.replay.id] if record.replay else "queued",
        verdict=record.verdict.verdict if record.verdict else None,
    )


def _worst_first(view: ReplayedView) -> tuple[int, int]:
    ended = ("failed", "cancelled", "interrupted", "queued", "running", "succeeded")
    # Without a verdict first of all, then the worst.
    verdict = VERDICTS.index(view.verdict) if view.verdict else len(VERDICTS)
    return (-verdict, ended.index(view.status))


def _status(app: App, replays: Sequence[Replayed], where: set[Status]) -> ResultStatus:
    if _troubles(app, replays):
        return "interrupted"
    # Unfinished ones come first: the rest may still change.
    if where & {"queued", "running", "interrupted"} or not all(record.replay for record in replays):
        return "running"
    if "failed" in where:
        return "failed"
    return "cancelled" if "cancelled" in where else "succeeded"


def _troubles(app: App, replays: Sequence[Replayed]) -> list[str]:
    troubles = {app.runner.trouble(record.replay.id) for record in replays if record.replay}
    return sorted(text for text in troubles if text)


def _summary(name: str, counts: Mapping[str, int], total: int, worst: str | None) -> str:
    named = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "none yet"
    if worst is None:
        return f"Replay of {name}: {sum(counts.values())} of {total} experiments judged: {named}."
    sentence = f"Replay of {name}, its {total} finished experiments: {named}."
    return f"{sentence} The worst is {_SAID[worst]}."


def _caveats(app: App, replays: Sequence[Replayed], candidates: int) -> list[str]:
    caveats = [f"The replay stopped: {text}" for text in _troubles(app, replays)]
    for kind in ("failed", "cancelled"):
        names = [
            record.original.perturbation or record.original.id
            for record in replays
            if record.outcome and record.outcome.kind == kind
        ]
        if names:
            caveats.append(f"Replays {kind}, so without a verdict: {', '.join(names[:10])}.")
    if len(replays) < candidates:
        caveats.append(f"Only the {len(replays)} finished of {candidates} candidates are replayed.")
    return caveats


def _next_step(name: str, status: ResultStatus, worst: str | None) -> str | None:
    again = call_text("replay_experiment", id=name, wait_s=next_wait_s())
    if status == "running":
        return f"{again} goes on with it."
    if status == "succeeded":
        return None if worst == "exact" else _REASON
    return f"{again} begins again what has no verdict, once what the caveats name is mended."


def _truncated(name: str, shown: int, limit: int, total: int) -> Truncated | None:
    if shown >= total:
        return None
    # Cut by the tokens of a result: a larger limit would show no more.
    if shown < limit:
        how = f"{call_text('list_experiments', parent=name)} pages through the experiments"
    else:
        how = f"{call_text('replay_experiment', id=name, limit=total)} shows more"
    return Truncated(shown=shown, total=total, how_to_get_more=how)


def _compared(
    replay: Experiment, name: str, kind: str, comparison: Comparison | None
) -> dict[str, Any]:
    if comparison is None:
        return {
            "summary": f"{name} was {kind}, so this is a first result, not a comparison.",
            "next_step": f"{call_text('get_experiment', id=replay.id)} shows it.",
        }
    return {
        "summary": verdict_sentence(name, comparison.verdict, comparison.differs),
        "units": {"differs.counts.largest_difference": "count (UMI)"},
        "next_step": None if comparison.verdict == "exact" else _REASON,
    }


def verdict_sentence(name: str, verdict: str, differs: Mapping[str, Any]) -> str:
    """Return in words how the replay of an experiment ended."""
    named = ", ".join(list(differs.get("environment") or {})[:5])
    sentence = f"Replay of {name} from its row, computed anew: {_SAID[verdict]}."
    return sentence + (f" The environments differ in {named}." if named else "")


def _text(result: ReplayResult) -> str:
    rows = (
        (r.replay_of, r.perturbation, r.experiment_id, r.status, r.verdict) for r in result.replays
    )
    head = ("replay_of", "perturbation", "experiment_id", "status", "verdict")
    return render(result, text_table(head, rows) if result.replays else "")


SPEC = ToolSpec(
    name="replay_experiment",
    title="Replay an experiment",
    description=(
        "Run a finished experiment, or all of a screen, again from its ledger row and compare bit "
        "for bit: exact (same cells, same numerics), same_kind (same cells, other numerics), "
        "equivalent (other cells, effects agree) or different, with what differs. The verdict is "
        "recorded. Use it to prove a result, or to begin a cancelled or failed experiment again. "
        "Not for another seed or more cells: perturb_cells. Units: a verdict. Cost: as the "
        "original. Limits: needs the checkpoint; a screen's replay goes on when called again."
    ),
    arguments=ReplayExperiment,
    result=ReplayResult,
    run=replay_experiment,
    text=_text,
    read_only=False,
    idempotent=False,
    simulates=True,
)
