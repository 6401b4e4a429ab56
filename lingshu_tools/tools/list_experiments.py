"""list_experiments: what is in the ledger, newest first, filtered and in pages."""

import json
import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROWS, Detail, fitting
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import Result, Truncated, View, call_text, render, text_table
from lingshu_tools.errors import InputError, quoted
from lingshu_tools.experiments.designs import context_label
from lingshu_tools.ledger import Listed, Page, Screen
from lingshu_tools.planner import shown_of_record
from lingshu_tools.tools.common import printed

# Screens have no index of their genes: they are read and searched here.
MOST_SCREENS = 1000
_NAMED = 4
"""Genes of an objective that a row names."""
_NOT_OF_THE_LEDGER = frozenset({"detail", "since", "kind", "objective"})
_OF_EXPERIMENTS = frozenset({"tool", "status", "perturbation", "context", "parent", "tag"})
_OTHER_FORM = (AttributeError, KeyError, TypeError, ValueError)
"""Errors of a plan of another version, or of an imported ledger: it hides no other screen."""
COUNTED_PAGES = 20
"""Pages of 100 rows that are counted beyond the one that is shown."""
COUNT_S = 0.5
"""Seconds that counting may take; a busy machine has other things to do."""


class ListExperiments(Arguments):
    """Arguments of list_experiments."""

    tool: str | None = Field(default=None, max_length=40, description="E.g. perturb_cells")
    status: (
        Literal["queued", "running", "interrupted", "succeeded", "failed", "cancelled"] | None
    ) = Field(default=None, description="Only in this state")
    checkpoint: str | None = Field(default=None, max_length=100, description="Its name")
    perturbation: str | None = Field(
        default=None, max_length=200, description="As listed: STAT1 knockout"
    )
    context: str | None = Field(
        default=None, max_length=200, description="As listed: cell_line=THP-1"
    )
    parent: str | None = Field(
        default=None,
        max_length=80,
        description="A screen, or an experiment for its replays",
    )
    tag: str | None = Field(default=None, max_length=60, description="Only those with this tag")
    text: str | None = Field(default=None, max_length=200, description="Text of the request")
    since: str | None = Field(
        default=None,
        pattern=r"^\d{4}-\d{2}-\d{2}(T[\d:.]+Z?)?$",
        description="First day, e.g. 2026-11-29 (UTC)",
    )
    kind: Literal["experiments", "screens"] = Field(
        default="experiments",
        description="screens: list screens instead, by text, objective, checkpoint, since",
    )
    objective: str | None = Field(
        default=None, max_length=64, description="Of screens: a gene to raise or lower"
    )
    before: str | None = Field(
        default=None, max_length=80, description="Cursor of the next page, from next_before"
    )
    limit: int = Field(default=ROWS, ge=1, le=100, description="Rows to show, 1 to 100")
    detail: Detail = "concise"


class ListedView(View):
    """One experiment."""

    detail_only = frozenset({"n_cells", "seed", "checkpoint", "parent"})

    experiment_id: str
    tool: str
    status: str
    perturbation: str | None
    context: str | None
    n_cells: int | None = None
    seed: int = 0
    checkpoint: str = ""
    parent: str | None = None
    tags: list[str] = Field(default_factory=list[str])
    created_at: str


class ScreenView(View):
    """One screen."""

    detail_only = frozenset({"checkpoint"})

    screen_id: str
    objective: str
    context: str
    n_candidates: int
    n_ended: int
    checkpoint: str = ""
    created_at: str


class ListResult(Result):
    """A page of the ledger."""

    experiments: list[ListedView]
    screens: list[ScreenView] = Field(default_factory=list[ScreenView])
    next_before: str | None = None


def list_experiments(app: App, arguments: ListExperiments) -> ListResult:
    """Return one page of the ledger, newest first.

    Raises:
        InputError: an argument that screens, or experiments, are not found by.
    """
    if arguments.kind == "screens":
        return _list_screens(app, arguments)
    if arguments.objective:
        message = f"objective={quoted(arguments.objective)} is of screens: add kind='screens'"
        raise InputError(message)
    # `since` is not a filter of the ledger: rows come newest first, so the first older one ends it.
    page = app.ledger.find(**arguments.model_dump(exclude={*_NOT_OF_THE_LEDGER}))
    newer = [item for item in page.items if _is_newer(item.experiment.created_at, arguments)]
    page = Page(tuple(newer), page.next_before if len(newer) == len(page.items) else None)
    tags = app.ledger.tags([item.experiment.id for item in page.items])
    rows = [_row(item, tags.get(item.experiment.id, [])) for item in page.items]
    # Repeated in the call of the next page.
    filters = {
        k: v
        for k, v in arguments.model_dump().items()
        if v and k not in ("limit", "before", "detail", "kind")
    }
    next_before = page.next_before
    if app.door != "python":
        rows = fitting(rows, detailed=arguments.detail == "detailed") if rows else rows
        if len(rows) < len(page.items):
            # The cursor is the number of the last row shown, not of the last one read.
            next_before = str(page.items[len(rows) - 1].experiment.seq)
    cut = None
    if next_before:
        more = call_text("list_experiments", **filters, before=next_before, limit=arguments.limit)
        # Counted for `total`; far back in a long ledger only a lower limit is known.
        older, every = _older(app, arguments, next_before)
        how = more if every else f"{more}; there are more than {len(rows) + older} in all"
        cut = Truncated(shown=len(rows), total=len(rows) + older, how_to_get_more=how)
    which = " with " + ", ".join(f"{k}={v!r}" for k, v in filters.items()) if filters else ""
    return ListResult(
        status="succeeded",
        summary=f"{len(rows)} experiments{which}{', and older ones' if cut else ''}, newest first.",
        ledger_head=str(app.ledger.head()),
        experiments=rows,
        next_before=next_before,
        truncated=cut,
        next_step=f"{call_text('get_experiment', id=rows[0].experiment_id)} shows the newest."
        if rows
        else f"{call_text('describe_model')} says what can be simulated.",
    )


def _older(app: App, arguments: ListExperiments, before: str) -> tuple[int, bool]:
    """Return how many rows follow a page, and whether these are all: counting has an end."""
    wanted = arguments.model_dump(exclude={*_NOT_OF_THE_LEDGER, "before", "limit"})
    older, cursor, end = 0, before, time.monotonic() + COUNT_S
    for _ in range(COUNTED_PAGES):
        if time.monotonic() > end:
            break
        page = app.ledger.find(**wanted, before=cursor, limit=100)
        newer = sum(_is_newer(item.experiment.created_at, arguments) for item in page.items)
        older += newer
        # The end of the ledger, or of the time that is asked for.
        if not page.next_before or newer < len(page.items):
            return older, True
        cursor = page.next_before
    return older, False


def _is_newer(created_at: str, arguments: ListExperiments) -> bool:
    # Both are UTC text of one form, so that their order is that of times. Without Z, which sorts
    # after digits, a shorter time comes before all that it begins.
    since = arguments.since
    return since is None or created_at.rstrip("Z") >= since.rstrip("Z")


def _list_screens(app: App, arguments: ListExperiments) -> ListResult:
    """Return one page of the screens, newest first."""
    given = arguments.model_fields_set & _OF_EXPERIMENTS
    unused = sorted(name for name in given if getattr(arguments, name) is not None)
    # Filters that screens do not have would be ignored in silence.
    if unused:
        message = (
            f"screens are not found by {', '.join(unused)}: leave it out, or list experiments "
            "(of one screen: parent=scr_…)"
        )
        raise InputError(message)
    if arguments.before is not None and not arguments.before.isdecimal():
        message = f"before={quoted(arguments.before)} is no cursor: pass next_before"
        raise InputError(message)
    known = app.ledger.find_screens(limit=MOST_SCREENS)
    matching = [screen for screen in known if _is_wanted(screen, arguments)]
    # Numbers of rows fall from newest to oldest.
    last = int(arguments.before) if arguments.before else None
    page = [screen for screen in matching if last is None or screen.seq < last]
    views = [_screen_view(app, screen) for screen in page[: arguments.limit]]
    if app.door != "python" and views:
        views = fitting(views, detailed=arguments.detail == "detailed")
    cut, next_before = None, None
    if len(views) < len(page):
        next_before = str(page[len(views) - 1].seq)
        more = printed("list_experiments", arguments, before=next_before)
        cut = Truncated(shown=len(views), total=len(matching), how_to_get_more=f"{more} shows more")
    rest = f" (the newest {MOST_SCREENS} are looked through)" if len(known) == MOST_SCREENS else ""
    more_text = call_text("get_experiment", id=views[0].screen_id) if views else ""
    return ListResult(
        status="succeeded",
        summary=f"{len(views)} of {len(matching)} screens, newest first{rest}.",
        ledger_head=str(app.ledger.head()),
        experiments=[],
        screens=views,
        next_before=next_before,
        truncated=cut,
        next_step=f"{more_text} shows the newest." if views else call_text("describe_model"),
    )


def _is_wanted(screen: Screen, arguments: ListExperiments) -> bool:
    plan = screen.plan
    genes = {gene.casefold() for gene in _named(plan)}
    # The plan as text: names of genes, contexts, candidates and seeds are all in it.
    text = f"{screen.id} {json.dumps(plan, ensure_ascii=False)}".casefold()
    return (
        _is_newer(screen.created_at, arguments)
        and (arguments.checkpoint is None or plan.get("checkpoint") == arguments.checkpoint)
        and (arguments.objective is None or arguments.objective.casefold() in genes)
        and (arguments.text is None or arguments.text.casefold() in text)
    )


def _named(plan: Mapping[str, Any]) -> list[str]:
    """Return what an objective names: genes, sets, perturbations, contexts."""
    try:
        record = plan.get("objective") or {}
        of_sets = [each["name"] for sets in record.get("sets", {}).values() for each in sets]
        labels = [aim["label"] for aim in record.get("aims", [])]
        named = [*record.get("lower", ()), *record.get("raise", ()), *of_sets, *labels]
    except _OTHER_FORM:
        return []
    return [str(name) for name in named]


def _screen_view(app: App, screen: Screen) -> ScreenView:
    plan = screen.plan
    children = [child.id for child in app.ledger.children(screen.id)]
    try:
        objective, context = _objective_text(plan), context_label(plan.get("context") or {})
        n_candidates = len(plan.get("candidates") or [])
    except _OTHER_FORM:
        objective, context, n_candidates = "a plan of another form", "", 0
    return ScreenView(
        screen_id=screen.id,
        objective=objective,
        context=context,
        n_candidates=n_candidates,
        n_ended=len(app.ledger.sealed(children)),
        checkpoint=str(plan.get("checkpoint", "")),
        created_at=screen.created_at,
    )


def _objective_text(plan: Mapping[str, Any]) -> str:
    objective = shown_of_record(plan["objective"]) if plan.get("objective") else {}
    parts = [
        f"{verb} {', '.join(genes[:_NAMED])}"
        + (f" and {len(genes) - _NAMED} more" if len(genes) > _NAMED else "")
        for verb, genes in objective.items()
        if genes
    ]
    return " and ".join(parts)


def _row(item: Listed, tags: list[str]) -> ListedView:
    e = item.experiment
    return ListedView(
        experiment_id=e.id,
        tool=e.tool,
        status=item.status,
        perturbation=e.perturbation,
        context=e.context,
        n_cells=e.request.get("n_cells"),
        seed=e.seed,
        checkpoint=e.checkpoint,
        parent=e.parent,
        tags=tags,
        created_at=e.created_at,
    )


def _text(result: ListResult) -> str:
    if result.screens:
        names = ("screen_id", "objective", "n_candidates", "n_ended", "created_at")
        table = ([getattr(screen, name) for name in names] for screen in result.screens)
        return render(result, text_table(names, table))
    rows = (
        (
            e.experiment_id,
            e.status,
            e.tool,
            e.perturbation,
            e.n_cells,
            e.created_at,
            ", ".join(e.tags),
        )
        for e in result.experiments
    )
    head = ("id", "status", "tool", "perturbation", "cells", "created", "tags")
    return render(result, text_table(head, rows) if result.experiments else "")


SPEC = ToolSpec(
    name="list_experiments",
    title="List experiments",
    description=(
        "Page through the ledger, newest first: every experiment of this home, by tool, status, "
        "checkpoint, perturbation, context, parent, tag or text; with kind=screens the screens, "
        "by text, objective or day. Use it to find an id, or what was already run. Not for "
        "results: get_experiment. Units: cells per arm. Cost: free. Limits: 100 rows in one call, "
        "then before."
    ),
    arguments=ListExperiments,
    result=ListResult,
    run=list_experiments,
    text=_text,
)
