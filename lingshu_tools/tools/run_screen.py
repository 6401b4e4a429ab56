"""run_screen: run or resume a plan, and rank its candidates.

Every candidate is an experiment of its own with the screen as its parent; all are begun in one
transaction and handed to the engine at once, so the engine goes on when this process dies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lingshu_tools.analysis import NullLabels
from lingshu_tools.analysis.certainty import SUPPORTED
from lingshu_tools.analysis.held_out import CONDITION
from lingshu_tools.calls.concise import Detail, fitting, is_short
from lingshu_tools.calls.registry import ToolSpec
from lingshu_tools.calls.results import (
    Progress,
    Result,
    ResultStatus,
    Truncated,
    call_text,
    render,
)
from lingshu_tools.calls.waiting import Pending, R, next_wait_s
from lingshu_tools.errors import InputError
from lingshu_tools.execution.screens import begin_screen, candidates_of, stopped_of
from lingshu_tools.experiments.lookup import locate_screen
from lingshu_tools.ledger import Experiment, Ledger, Screen, Status
from lingshu_tools.planner import Plan, Ranked, Ranking, plan_of, race_state, rank
from lingshu_tools.planner.ranking import HIT_FDR
from lingshu_tools.report.evidence import cost_of, evidence_view, screen_sentence, shown
from lingshu_tools.report.ranking_rows import RankedView, ranked_view, ranking_table
from lingshu_tools.report.screen_text import (
    change_sentence,
    listed,
    race_caveats,
    rest_sentence,
)
from lingshu_tools.tools.common import (
    MAX_ROWS,
    DryRun,
    MaxSeconds,
    Tags,
    WaitS,
    require_affordable,
    run_text,
    score_units,
)
from lingshu_tools.tools.plan_screen import (
    Candidates,
    ObjectiveArgument,
    ScreenSettings,
    WithoutDescriptions,
    caveats_of,
    in_words,
    plan_result,
    recorded,
    repeated_candidates,
    requested_plan,
    support_of,
    weakest,
)

if TYPE_CHECKING:
    from lingshu_tools.app import App

ENDED = ("succeeded", "failed", "cancelled")
NAMED_LEADERS = 2
BEST = 4
"""Candidates of a concise ranking."""
ALL_ROWS = 40
"""A ranking that is no longer is offered whole; a longer one in pages."""


class RunScreen(ScreenSettings):
    """Arguments of run_screen: a recorded plan's id, or the arguments of plan_screen."""

    screen_id: str | None = Field(
        default=None,
        max_length=80,
        description="A plan's id, scr_…; beside it only tags, wait_s, dry_run and top",
    )
    objective: Annotated[ObjectiveArgument | None, WithoutDescriptions] = Field(
        default=None, description='Without screen_id: what to look for, e.g. {"lower": ["STAT1"]}'
    )
    candidates: Candidates | None = Field(
        default=None,
        description='Without screen_id: ["all_seen"], targets, combinations ("JAK1 + STAT1") or '
        'rules ("pairs_of all_seen")',
    )
    tags: Tags = Field(default_factory=list[str])
    wait_s: WaitS = 4
    dry_run: DryRun = False
    max_seconds: MaxSeconds = None
    top: int = Field(default=BEST, ge=1, le=2000, description="Best candidates to show, 1 to 2000")
    detail: Detail = "concise"


class ScreenResult(Result):
    """A screen's ranking so far."""

    detail_only = Result.detail_only | {"support", "context"}

    objective: dict[str, list[str]]
    context: dict[str, str] = Field(default_factory=dict[str, str])
    n_cells: int
    n_candidates: int
    n_done: int
    top_k: int | None = None
    ranking: list[RankedView]


def run_screen(app: App, arguments: RunScreen) -> ScreenResult | Pending[ScreenResult]:
    """Return the ranking of a screen, once it is there; the cost of a dry run.

    What was cancelled or failed is begun again. A screen of the reference ledger that is not
    finished is run in this home, by the same plan.
    """
    if arguments.screen_id is None:
        ledger, known, plan = app.ledger, None, _requested_plan(app, arguments)
    else:
        ledger, known = locate_screen(app, _alone(arguments.screen_id, arguments))
        plan = plan_of(app, known.plan)
    if arguments.dry_run:
        return _cost_only(app, arguments, plan, known)
    caveats = repeated_candidates(plan)
    detailed = arguments.detail == "detailed"
    if known and ledger.read_only:
        if _finished(ledger, plan, known):
            return screen_shown(app, known.id, top=arguments.top, detailed=detailed)
        caveats = [
            *caveats,
            f"{known.id} is in the read-only reference ledger: its plan is run in this home",
        ]
        known = None
    screen = known or recorded(app, plan)
    seconds = cost_of(plan.control.checkpoint, _cells_to_begin(app, plan, screen)).seconds
    require_affordable(app, "run_screen", arguments, arguments.max_seconds, seconds)
    begin_screen(app, plan, screen, arguments.tags)
    race = app.races.join(plan, screen, arguments.tags) if plan.race else None

    def finish() -> ScreenResult:
        result = screen_shown(app, screen.id, top=arguments.top, detailed=detailed)
        return result.model_copy(update={"caveats": [*caveats, *result.caveats]})

    if race:
        return Pending(
            name=screen.id, ids=(), wait_s=arguments.wait_s, finish=finish, watched=race.watch
        )
    return take_up_screen(app, screen.id, arguments.wait_s, finish)


def take_up_screen(
    app: App, screen_id: str, wait_s: float, finish: Callable[[], R]
) -> R | Pending[R]:
    """Return a screen as what is waited for, after going on with what no living process works on.

    `finish` makes the result of it. A screen that was only planned stays so, one of the reference
    ledger is only read, and of one that has ended there is nothing to wait for.
    """
    ledger, screen = locate_screen(app, screen_id)
    if ledger.read_only:
        return finish()
    there = candidates_of(ledger, screen.id)
    ids = [child.id for child in there]
    plan = plan_of(app, screen.plan)
    if plan.race and ids and not stopped_of(ledger, there):
        race = app.races.join(plan, screen)
        return Pending(name=screen.id, ids=(), wait_s=wait_s, finish=finish, watched=race.watch)
    ended = ledger.sealed(ids)
    left = [i for i in ids if i not in ended]
    if not left:
        return finish()
    app.runner.launch(left)
    return Pending(name=screen.id, ids=ids, wait_s=wait_s, finish=finish)


def screen_shown(
    app: App,
    screen_id: str,
    *,
    top: int = BEST,
    offset: int = 0,
    detailed: bool = False,
    whole: bool = False,
) -> ScreenResult:
    """Return the ranking of a screen as it is; nothing is begun or waited for.

    `offset` best candidates are left out, and then `top` are shown: as far as they fit in one
    result, or `whole`.
    """
    ledger, screen = locate_screen(app, screen_id)
    plan, children = plan_of(app, screen.plan), candidates_of(ledger, screen_id)
    rows = slice(offset, offset + top)
    return _result(app, ledger, screen, plan, children, rows, detailed=detailed, whole=whole)


def ranking_of(app: App, screen_id: str) -> tuple[Plan, Ranking]:
    """Return a screen's plan and its whole ranking so far; nothing is started."""
    ledger, screen = locate_screen(app, screen_id)
    plan = plan_of(app, screen.plan)
    return plan, rank(plan, ledger, candidates_of(ledger, screen_id))


def _cells_to_begin(app: App, plan: Plan, screen: Screen) -> int:
    """Return the cells of the candidates that were not begun yet, and of their shared control."""
    there = candidates_of(app.ledger, screen.id)
    if plan.race:
        state = race_state(plan, app.ledger, there)
        begun = plan.race.rounds(plan.control.n_cells)[state.round][0]
        left = 0 if state.over else len(state.active) + 1
        return left * (plan.control.n_cells - begun)
    left = len(plan.candidates) - len(there)
    return (left + 1) * plan.control.n_cells if left else 0


def _finished(ledger: Ledger, plan: Plan, screen: Screen) -> bool:
    there = candidates_of(ledger, screen.id)
    if plan.race:
        return race_state(plan, ledger, there).over
    outcomes = ledger.outcomes([e.id for e in there])
    succeeded = [o for o in outcomes.values() if o.kind == "succeeded"]
    return len(succeeded) == len(plan.candidates)


def _requested_plan(app: App, arguments: RunScreen) -> Plan:
    if arguments.objective is None or arguments.candidates is None:
        missing = "objective" if arguments.objective is None else "candidates"
        message = (
            f"run_screen has neither screen_id nor {missing}; give the screen_id of plan_screen, "
            'or objective and candidates, e.g. {"objective": {"lower": ["STAT1"]}, '
            '"candidates": ["all_seen"]}'
        )
        raise InputError(message)
    return requested_plan(app, arguments, arguments.objective, arguments.candidates)


def _alone(screen_id: str, arguments: RunScreen) -> str:
    planned = {*ScreenSettings.model_fields, "objective", "candidates"}
    extra = sorted(arguments.model_fields_set & planned)
    if extra:
        message = (
            f"screen_id={screen_id!r} names a whole plan, so {', '.join(extra)} must be left out; "
            "to change them, leave screen_id out and give objective and candidates"
        )
        raise InputError(message, dict.fromkeys(extra))
    return screen_id


def _cost_only(app: App, arguments: RunScreen, plan: Plan, screen: Screen | None) -> ScreenResult:
    planned = plan_result(app, plan, screen)
    shared: dict[str, Any] = {k: getattr(planned, k) for k in Result.model_fields}
    shared["next_step"] = run_text("run_screen", arguments)
    return ScreenResult(**shared, **_plan_fields(plan), n_done=0, ranking=[])


def _plan_fields(plan: Plan) -> dict[str, Any]:
    return {
        "objective": plan.wanted.shown,
        "context": dict(plan.control.context),
        "n_cells": plan.control.n_cells,
        "n_candidates": plan.n_candidates,
    }


def _result(
    app: App,
    ledger: Ledger,
    screen: Screen,
    plan: Plan,
    children: Sequence[Experiment],
    rows: slice,
    *,
    detailed: bool,
    whole: bool,
) -> ScreenResult:
    where = ledger.statuses([child.id for child in children])
    statuses: list[Status] = [where[child.id] for child in children]
    ranking = rank(plan, ledger, children)
    troubles = _troubles(app, screen, children)
    status = "interrupted" if troubles else _status(statuses)
    if status == "succeeded" and ranking.race and not ranking.race.over:
        # Between two rounds nothing is at work for a moment.
        status = "running"
    keep = plan.wanted.constraints.keep
    views = [ranked_view(row, keep) for row in ranking.rows[rows]]
    whole = whole or app.door == "python"
    views = views if whole else fitting(views, detailed=detailed)
    tier = weakest(plan)
    result = ScreenResult(
        **_plan_fields(plan),
        status=status,
        summary=_summary(plan, ranking),
        units=dict.fromkeys(
            ("score", "mc_interval", "prediction_error"), score_units(plan.objective.units)
        ),
        support=support_of(plan),
        evidence=evidence_view(plan.control.checkpoint, tier),
        caveats=[
            # Before its length is measured: every answer from the checkpoint has them.
            *plan.control.checkpoint.caveats,
            *troubles,
            *_caveats(ranking, children, statuses),
            *race_caveats(plan, ranking),
            # The plan has its rules and the spread of scores in closed form; here are rows.
            *caveats_of(plan, brief=True),
        ],
        screen_id=screen.id,
        ledger_head=str(ledger.head()),
        next_step=_next_step(ledger, screen, status, ranking),
        progress=_progress(plan, ranking, statuses),
        n_done=len(ranking.rows),
        top_k=ranking.k or None,
        ranking=views,
    )
    # Rows of combinations are longer; a call that names `top` gets them all the same.
    shorten = not whole and not detailed and rows.stop - rows.start <= BEST
    while True:
        present = slice(rows.start, rows.start + len(result.ranking))
        truncated = _truncated(plan, screen.id, present, len(ranking.rows))
        result = result.model_copy(update={"truncated": truncated})
        if not shorten or len(result.ranking) < 2 or is_short(result):
            return result
        result = result.model_copy(update={"ranking": result.ranking[:-1]})


def _status(statuses: Sequence[Status]) -> ResultStatus:
    present = set(statuses)
    if not present:
        return "planned"
    if present == {"queued"}:
        return "queued"
    if present & {"queued", "running"}:
        return "running"
    return next(s for s in ("interrupted", "cancelled", "succeeded", "failed") if s in present)


def _progress(plan: Plan, ranking: Ranking, statuses: Sequence[Status]) -> Progress:
    if ranking.race:
        cells = [len(scores) for scores in ranking.race.scores.values()]
        n_done = sum(cells) + max(cells, default=0)
        return Progress(done=n_done, total=n_done if ranking.race.over else plan.total_cells)
    ended = sum(s in ENDED for s in statuses)
    arms = ended + 1 if ended else 0
    return Progress(done=arms * plan.control.n_cells, total=plan.total_cells)


def _summary(plan: Plan, ranking: Ranking) -> str:
    checkpoint, tier = plan.control.checkpoint, weakest(plan)
    held_out = screen_sentence(plan.held_out, checkpoint, tier)
    scored = [row for row in ranking.rows if row.value is not None]
    counts = f"{len(ranking.rows)} of {len(plan.candidates)} done"
    if not scored:
        return f"Screen to {in_words(plan)}: {counts}, none ranked yet."
    more = f"{rest_sentence(scored, NAMED_LEADERS)}{change_sentence(scored, ranking.k)}"
    return f"{_leaders(plan, scored)}{_hits(scored, ranking.null)}{more} {held_out}" + (
        "" if len(ranking.rows) == len(plan.candidates) else f" So far {counts}."
    )


def _leaders(plan: Plan, scored: Sequence[Ranked]) -> str:
    first, *others = scored[:NAMED_LEADERS]
    names = ", ".join([_leader(first), *(f"{r.design.label} {r.value:.2f}" for r in others)])
    error = scored[0].error
    known = (
        "held-out prediction error unknown"
        if error is None
        else f"held-out prediction error {error.rms:.2f}, n = {error.n_perturbations}"
    )
    return f"To {in_words(plan)}, predicted best: {names} ({plan.objective.units}; {known})."


def _leader(row: Ranked) -> str:
    held_out = row.held_out
    figure = held_out.model if held_out and held_out.level == CONDITION else None
    known = "" if figure is None else f" (held-out Pearson {shown(figure)})"
    return f"{row.design.label} {row.value:.2f}{known}"


def _hits(scored: Sequence[Ranked], null: NullLabels | None) -> str:
    tested = [r for r in scored if r.hit is not None]
    if not tested:
        return ""
    hits = [r for r in tested if r.hit]
    better = sum((r.value or 0) > 0 for r in hits)
    if tested[0].posterior is not None:
        wanted = f", {better} as wanted" if hits else ""
        return (
            f" The sign of {len(hits)} of {len(tested)} scores is supported (lfsr <= "
            f"{SUPPORTED:g}){wanted}."
        )
    if null is not None and null.n_shams + 1 < 1 / HIT_FDR:
        return (
            f" By rank among {null.n_shams} null labels p is at least 1 in {null.n_shams + 1}, so "
            "no score can stand out at 5 % FDR."
        )
    return (
        f" Against null labels {len(hits)} of {len(tested)} stand out at 5 % FDR, {better} "
        "of them the wanted way."
    )


def _troubles(app: App, screen: Screen, children: Sequence[Experiment]) -> list[str]:
    stuck = {t for c in children if (t := app.runner.trouble(c.id))}
    trouble = app.races.trouble(screen.id)
    stuck |= {trouble} if trouble else set()
    return [f"The screen stopped: {text}" for text in sorted(stuck)]


def _caveats(
    ranking: Ranking, children: Sequence[Experiment], statuses: Sequence[Status]
) -> list[str]:
    caveats: list[str] = []
    for state in ("failed", "cancelled"):
        names = [
            c.perturbation or "" for c, s in zip(children, statuses, strict=True) if s == state
        ]
        if names:
            caveats.append(f"{state.capitalize()}, so not ranked: {listed(names)}.")
    unscored = [r.design.label for r in ranking.rows if r.value is None]
    if unscored:
        caveats.append(f"Without a score (no gene but its own is left): {listed(unscored)}.")
    parallel = [
        r.design.label for r in scored_rows(ranking) if r.combination and r.combination.parallel
    ]
    if parallel:
        caveats.append(
            "parallel_effects: the parts do nearly the same alone, as genes of one pathway do, so "
            f"their gain is no sign of synergy: {listed(parallel)}."
        )
    return [*caveats, *_close(ranking)]


def scored_rows(ranking: Ranking) -> list[Ranked]:
    """Return the candidates that have a score."""
    return [row for row in ranking.rows if row.value is not None]


def _close(ranking: Ranking) -> list[str]:
    scored = [r for r in ranking.rows if r.value is not None]
    if not scored or scored[0].error is None:
        return []
    error_rms = scored[0].error.rms
    near = sum((scored[0].value or 0) - (r.value or 0) <= error_rms for r in scored)
    return [f"The first {near} lie within one prediction error of the best."] if near > 1 else []


def _next_step(ledger: Ledger, screen: Screen, status: ResultStatus, ranking: Ranking) -> str:
    run = call_text("run_screen", screen_id=screen.id)
    if status == "planned":
        return run
    if status in ("queued", "running", "interrupted") and ledger.read_only:
        return f"{run} runs it in this home."
    if status in ("queued", "running"):
        return call_text("get_experiment", id=screen.id, wait_s=next_wait_s())
    if status in ("interrupted", "failed"):
        return f"{run} goes on with it, once what the caveats name is mended."
    if status == "cancelled":
        return f"{run} begins again what was cancelled; what is done is kept."
    if not any(row.value is not None for row in ranking.rows):
        first = ranking.rows[0].experiment_id
        return f"{call_text('get_experiment', id=first)} shows the effect of one without a score."
    return call_text("plot_experiment", id=screen.id, kind="ranking")


def _truncated(plan: Plan, screen_id: str, rows: slice, total: int) -> Truncated | None:
    shown = range(total)[rows]
    if len(shown) == total:
        return None
    if total == len(plan.candidates) and total <= ALL_ROWS and not shown.start:
        how = f"{call_text('run_screen', screen_id=screen_id, top=total)} shows all"
    else:
        # Unlike run_screen, this begins nothing again.
        offset = shown.stop if shown.stop < total else 0
        how = call_text("get_experiment", id=screen_id, limit=MAX_ROWS, offset=offset)
    return Truncated(shown=len(shown), total=total, how_to_get_more=how)


def _text(result: ScreenResult) -> str:
    return render(result, ranking_table(result.ranking) if result.ranking else "")


SPEC = ToolSpec(
    name="run_screen",
    title="Run a screen",
    description=(
        "Run or resume a screen, by screen_id or by objective and candidates, and rank every "
        "candidate, best first, each a paired experiment. Use it to compare many perturbations on "
        "one objective. Not for one perturbation: perturb_cells. Ranks are predictions: quote "
        "prediction_error, the held-out error, larger than mc_interval, the sampling noise. "
        "Units: score = mean(sign × change) in log1p_cp10k, without a target's own gene. Cost: "
        "(candidates + 1) × n_cells cells; dry_run estimates. Limits: 2,000 candidates; while "
        "status is running, call next_step."
    ),
    arguments=RunScreen,
    result=ScreenResult,
    run=run_screen,
    text=_text,
    read_only=False,
    simulates=True,
)
