"""score_cells: how typical a user's cells are of a context, and which context fits them best."""

import math
from typing import Any

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.calls.registry import ToolSpec
from lingshu_tools.calls.results import Number, Result, View, call_text, render, text_table
from lingshu_tools.calls.waiting import Pending
from lingshu_tools.experiments.designs import (
    Design,
    context_label,
    design_of_user_cells,
    resolve_checkpoint,
    resolve_context,
)
from lingshu_tools.report.experiment_views import Shown, envelope
from lingshu_tools.tools.common import begin_experiment, planned
from lingshu_tools.tools.user_cells_argument import (
    UserCellsCall,
    UserCellsView,
    caveats_of,
    cells_view,
    context_of,
    nearest_contexts,
    read_or_state,
    require_network,
    waiting_fields,
)
from lingshu_tools.user_cells import ReadCells

# Cells of a call: each takes several passes of the network for every context.
MOST_SCORED = 512
CONTEXTS = 3
"""Trained contexts that are scored: the one that is named, and the most similar ones."""
UNITS = {"bits": "bits per gene; lower is more typical", "share": "share of cells"}
ESTIMATE = (
    "bits per gene are a bound on the negative log-likelihood, estimated from 8 random sets of "
    "hidden genes per cell; they compare contexts and cells on the same genes, not data sets"
)
SCORE_GENERAL = frozenset({ESTIMATE})


class ScoreCells(UserCellsCall):
    """Arguments of score_cells."""


class ContextScore(View):
    """How well a context predicts the cells; `more_than_best` is paired, cell by cell."""

    context: dict[str, str]
    bits: Number | None
    se: Number | None
    more_than_best: Number | None
    more_se: Number | None
    best_share: Number | None = Field(description="Share of cells that this context fits best")


class Typical(View):
    """Whether cells score as simulated cells of the first context do, equally deep."""

    context: dict[str, str]
    verdict: str
    usual_share: Number | None = Field(description="Of cells up to simulated ones' 95 % quantile")
    simulated_bits: Number | None


class ScoreResult(Result):
    """Scores of a user's cells."""

    general_caveats = SCORE_GENERAL

    n_cells: int
    contexts: list[ContextScore] = Field(default_factory=list[ContextScore])
    typical: Typical | None = None
    user_cells: UserCellsView | None = None


def score_cells(app: App, arguments: ScoreCells) -> ScoreResult | Pending[ScoreResult]:
    """Return the scores of a user's cells, once they are there; the cost of a dry run."""
    checkpoint = resolve_checkpoint(app, arguments.checkpoint)
    require_network(checkpoint)
    named = arguments.context and [resolve_context(checkpoint, arguments.context)]
    cells = read_or_state(app, arguments, checkpoint, most=MOST_SCORED)
    if not isinstance(cells, ReadCells):
        fields = waiting_fields(app, "score_cells", arguments, cells)
        return ScoreResult(**fields, n_cells=arguments.n_cells)
    contexts = [*(named or []), *nearest_contexts(cells, checkpoint, CONTEXTS)]
    # The named context first, since typical is meant of it; then the most similar, each once.
    against = [c for i, c in enumerate(contexts) if c not in contexts[:i]][:CONTEXTS]
    design = design_of_user_cells(
        app,
        tool="score_cells",
        checkpoint=checkpoint,
        # The cells stand for themselves: they are scored under contexts, not taken for one.
        context=context_of(cells),
        interventions=(),
        cells={**cells.record, "against": against},
        n_cells=cells.n_cells,
        seed=arguments.seed,
    )
    if arguments.dry_run:
        view = cells_view(design, cells.report)
        fields = planned(app, design, arguments)
        return ScoreResult(**fields, n_cells=design.n_cells, user_cells=view)
    return begin_experiment(app, arguments, design, lambda record: show_score(app, record))


def show_score(app: App, record: Shown) -> ScoreResult:
    """Return a scoring experiment in whatever state it is."""
    fields = envelope(app, record)
    if record.succeeded:
        fields |= _succeeded(record)
    design = record.design
    return ScoreResult(**fields, n_cells=design.n_cells, user_cells=cells_view(design))


def _succeeded(record: Shown) -> dict[str, Any]:
    result, design = record.result, record.design
    rows = [ContextScore(**row) for row in result["contexts"]]
    # The best first, without a score last; `against` keeps the order of the request.
    rows.sort(key=lambda row: math.inf if row.bits is None else row.bits)
    first = dict((design.cells or {})["against"][0])
    return {
        "summary": _summary(design, rows, result, first),
        "units": UNITS,
        "caveats": [ESTIMATE, *caveats_of(design), *_alike(design, rows)],
        "contexts": rows,
        "typical": Typical(
            context=first,
            verdict=result["verdict"],
            usual_share=result["usual_share"],
            simulated_bits=result["simulated_bits"],
        ),
        "next_step": f"{call_text('replay_experiment', id=record.experiment.id)} proves it.",
    }


def _summary(
    design: Design, rows: list[ContextScore], result: dict[str, Any], first: dict[str, str]
) -> str:
    best = rows[0]
    where = f"{design.n_cells} cells of {context_label(design.context)}"
    bits = "no finite score" if best.bits is None else f"{best.bits:.3g} bits per gene"
    second = _margin(rows) if len(rows) > 1 else ""
    # A verdict on another context than the best must not read as one on the best.
    of = (
        "As cells of it"
        if best.context == first
        else f"Not it but the context that was named, else the most similar, is what they were "
        f"compared with: as cells of {context_label(first)}"
    )
    return (
        f"{where}: best fits {context_label(best.context)} ({bits}"
        f"{second}). {of} they are {result['verdict']}: "
        f"{result['usual_share']:.0%} score as 95% of simulated cells do."
    )


def _margin(rows: list[ContextScore]) -> str:
    """Return the next context and its distance to the best, as a phrase; may be empty."""
    second = rows[1]
    more, se = second.more_than_best, second.more_se
    if more is None:
        return ""
    phrase = f"; next of the {len(rows)} scored {context_label(second.context)}, {more:+.3g} bits"
    if se is None:
        return f"{phrase}, how certain is unknown of one cell"
    # Paired over cells: twice the standard error, about a 95 % interval.
    low, high = more - 2 * se, more + 2 * se
    apart = "" if low > 0 else ", not told apart"
    return f"{phrase}, 95 % interval {low:.2g} to {high:.2g}{apart}"


def _alike(design: Design, rows: list[ContextScore]) -> list[str]:
    """Return what the scored contexts have in common where other trained contexts differ in it."""
    # Of a user's cells the stand-in for them has no field of a trained context.
    trained = [c for c in design.checkpoint.contexts if c.keys() == rows[0].context.keys()]
    shared = {
        name: value
        for name, value in rows[0].context.items()
        if all(row.context.get(name) == value for row in rows)
        and any(context[name] != value for context in trained)
    }
    if len(rows) < 2 or not shared:
        return []
    rest = ", ".join(name for name in rows[0].context if name not in shared)
    return [
        f"All {len(rows)} contexts that were scored have {context_label(shared)}: which fits best "
        f"is a question of {rest} among them, and says nothing against other "
        f"{' and '.join(shared)}."
    ]


def score_table(result: ScoreResult) -> str:
    """Return the contexts as tab-separated lines, the best first."""
    head = ("context", "bits", "se", "more_than_best", "more_se", "best_share")
    rows = ((context_label(r.context), *(getattr(r, n) for n in head[1:])) for r in result.contexts)
    return text_table(head, rows) if result.contexts else ""


def _text(result: ScoreResult) -> str:
    return render(result, score_table(result))


SPEC = ToolSpec(
    name="score_cells",
    title="Score your cells",
    description=(
        "Score cells of your own h5ad file: bits per gene under the most similar trained contexts "
        "(lower fits better), which context fits best, and whether the cells are typical of it. "
        "Use it before perturb_cells on your cells, or to check a label. Not for classification "
        "or other species. Units: bits per gene. Cost: seconds for 64 cells; dry_run estimates. "
        "Limits: 512 cells, of more a random part; checkpoints with a network."
    ),
    arguments=ScoreCells,
    result=ScoreResult,
    run=score_cells,
    text=_text,
    read_only=False,
    idempotent=False,
    simulates=True,
)
