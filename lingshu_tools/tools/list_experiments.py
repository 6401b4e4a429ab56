"""list_experiments: what is in the ledger, newest first, filtered and in pages."""

from typing import Literal

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROWS, Detail, fitting
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import Result, Truncated, View, call_text, render, text_table
from lingshu_tools.ledger import Listed

COUNTED_PAGES = 20
"""Pages of 100 rows that are counted beyond the one that is shown."""


class ListExperiments(Arguments):
    """Arguments of list_experiments."""

    tool: str | None = Field(
        default=None, max_length=40, description="Only of this tool, e.g. perturb_cells"
    )
    status: (
        Literal["queued", "running", "interrupted", "succeeded", "failed", "cancelled"] | None
    ) = Field(default=None, description="Only in this state")
    checkpoint: str | None = Field(default=None, max_length=100, description="Only of this one")
    perturbation: str | None = Field(
        default=None, max_length=200, description="Only of this one, as listed: STAT1 knockout"
    )
    context: str | None = Field(
        default=None, max_length=200, description="Only in this one, as listed: cell_line=THP-1"
    )
    parent: str | None = Field(
        default=None,
        max_length=80,
        description="Only of this screen, or replays of this experiment",
    )
    tag: str | None = Field(default=None, max_length=60, description="Only those with this tag")
    text: str | None = Field(
        default=None, max_length=200, description="Only rows whose request has this text"
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


class ListResult(Result):
    """A page of the ledger."""

    experiments: list[ListedView]
    next_before: str | None = None


def list_experiments(app: App, arguments: ListExperiments) -> ListResult:
    """Return one page of the ledger, newest first."""
    page = app.ledger.find(**arguments.model_dump(exclude={"detail"}))
    tags = app.ledger.tags([item.experiment.id for item in page.items])
    rows = [_row(item, tags.get(item.experiment.id, [])) for item in page.items]
    filters = {
        k: v
        for k, v in arguments.model_dump().items()
        if v and k not in ("limit", "before", "detail")
    }
    next_before = page.next_before
    if app.door != "python":
        rows = fitting(rows, detailed=arguments.detail == "detailed") if rows else rows
        if len(rows) < len(page.items):
            next_before = str(page.items[len(rows) - 1].experiment.seq)
    cut = None
    if next_before:
        more = call_text("list_experiments", **filters, before=next_before, limit=arguments.limit)
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
    wanted = arguments.model_dump(exclude={"detail", "before", "limit"})
    older, cursor = 0, before
    for _ in range(COUNTED_PAGES):
        page = app.ledger.find(**wanted, before=cursor, limit=100)
        older += len(page.items)
        if not page.next_before:
            return older, True
        cursor = page.next_before
    return older, False


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
        "Page through the ledger, newest first: every experiment of this home in any state, "
        "by tool, status, checkpoint, perturbation, context, parent, tag or text of the "
        "request. Use it to find an id again, or to see whether something was already run. "
        "Not for results: get_experiment. Units: cells per arm. Cost: free. Limits: 100 rows "
        "in one call, then before."
    ),
    arguments=ListExperiments,
    result=ListResult,
    run=list_experiments,
    text=_text,
)
