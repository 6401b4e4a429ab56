"""complete_cells: genes that a user's cells do not measure drawn given those that they do."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROWS
from lingshu_tools.calls.registry import ToolSpec
from lingshu_tools.calls.results import (
    Number,
    Result,
    call_text,
    finite,
    render,
    text_table,
)
from lingshu_tools.calls.waiting import Pending
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import (
    Design,
    context_label,
    design_of_user_cells,
    resolve_checkpoint,
    resolve_context,
)
from lingshu_tools.experiments.findings import seen_row
from lingshu_tools.experiments.gene_names import resolve_genes
from lingshu_tools.experiments.sampling_options import resolve_clamp
from lingshu_tools.report.experiment_views import Shown, envelope
from lingshu_tools.report.kept_rows import kept_rows
from lingshu_tools.report.result_parts import GeneMean
from lingshu_tools.tools.clamp_argument import Clamps
from lingshu_tools.tools.common import begin_experiment, planned
from lingshu_tools.tools.user_cells_argument import (
    UserCellsCall,
    UserCellsView,
    caveats_of,
    cells_view,
    nearest_contexts,
    read_or_state,
    require_network,
    waiting_fields,
)
from lingshu_tools.user_cells import ReadCells

MOST_COMPLETED = 2_000
UNITS = {"mean": "log1p_cp10k", "training_mean": "log1p_cp10k"}
DRAWN = (
    "drawn genes are samples of the model given the measured ones, not measurements; a mean over "
    "cells says more than a single count"
)
NOTHING_DRAWN = (
    "nothing was drawn: the context measures no gene that these cells lack; name one that does"
)
COMPLETE_GENERAL = frozenset({DRAWN})


class CompleteCells(UserCellsCall):
    """Arguments of complete_cells."""

    clamp: Clamps = Field(default_factory=dict[str, int])
    top: int = Field(default=ROWS, ge=1, le=50, description="Highest drawn genes to show")


class CompleteResult(Result):
    """A user's cells with the genes filled in that they lacked."""

    general_caveats = COMPLETE_GENERAL

    context: dict[str, str]
    n_cells: int
    drawn_genes: int | None = None
    pearson_with_training: Number | None = Field(
        default=None, description="Of drawn genes' means with training cells: a check of fit"
    )
    genes: list[GeneMean] = Field(default_factory=list[GeneMean])
    user_cells: UserCellsView | None = None


def complete_cells(app: App, arguments: CompleteCells) -> CompleteResult | Pending[CompleteResult]:
    """Return a user's cells with unmeasured genes drawn, once they are there."""
    checkpoint = resolve_checkpoint(app, arguments.checkpoint)
    require_network(checkpoint)
    named = resolve_context(checkpoint, arguments.context) if arguments.context else None
    # Before the file is read: a wrong name is told at once.
    clamped = resolve_clamp(checkpoint, arguments.clamp)
    cells = read_or_state(app, arguments, checkpoint, most=MOST_COMPLETED)
    # The file is read in the background; the same call goes on with it.
    if not isinstance(cells, ReadCells):
        fields = waiting_fields(app, "complete_cells", arguments, cells)
        return CompleteResult(**fields, context=named or {}, n_cells=arguments.n_cells)
    # Without a name the trained context whose control cells are most similar.
    context = named or next(iter(nearest_contexts(cells, checkpoint, 1)), None)
    if context is None:
        message = f"{checkpoint.name} has no context with control cells to complete cells of"
        raise InputError(message)
    design = design_of_user_cells(
        app,
        tool="complete_cells",
        checkpoint=checkpoint,
        context=context,
        interventions=(),
        # The request keeps them with the cells: both decide what is drawn.
        cells={**cells.record, "clamp": clamped},
        n_cells=cells.n_cells,
        seed=arguments.seed,
    )
    if arguments.dry_run:
        facts: dict[str, Any] = {
            **_facts(design),
            "user_cells": cells_view(design, cells.report),
        }
        return CompleteResult(**planned(app, design, arguments), **facts)

    def show(record: Shown) -> CompleteResult:
        return show_completed(app, record, limit=arguments.top)

    return begin_experiment(app, arguments, design, show)


def show_completed(
    app: App,
    record: Shown,
    *,
    limit: int = ROWS,
    offset: int = 0,
    genes: Sequence[str] | None = None,
) -> CompleteResult:
    """Return a completing experiment in whatever state it is; `genes` alone if named."""
    fields = envelope(app, record)
    if record.succeeded:
        fields |= _succeeded(record, limit, offset, genes)
    return CompleteResult(**fields, **_facts(record.design))


def _succeeded(
    record: Shown, limit: int, offset: int, genes: Sequence[str] | None
) -> dict[str, Any]:
    result, design = record.result, record.design
    # Highest means first, as the outcome keeps them.
    page = kept_rows(
        result,
        record.experiment.id,
        limit=limit,
        offset=offset,
        genes=None if genes is None else resolve_genes(design.checkpoint, genes),
    )
    # log1p_cp10k of training cells by symbol, beside the drawn means.
    trained: dict[str, float] = {}
    if (row := seen_row(design)) is not None:
        means = design.checkpoint.reference["mean_log1p_cp10k"][row]
        trained = dict(zip(design.checkpoint.panel, means.tolist(), strict=True))
    export = call_text("export_experiment", id=record.experiment.id)
    n = result["drawn_genes"]
    return {
        "summary": f"{design.n_cells} cells of {(design.cells or {})['file']}: {n:,} genes that "
        f"they do not measure are drawn as in {context_label(design.context)}, given "
        f"{result['measured_genes']:,} measured ones, which stay as they are.",
        "units": UNITS,
        "caveats": [*page.caveats, DRAWN if n else NOTHING_DRAWN, *caveats_of(design)],
        "drawn_genes": n,
        "pearson_with_training": result["pearson_with_training"],
        "genes": [
            GeneMean(
                gene=item["gene"],
                mean=item["value"],
                training_mean=finite(trained.get(item["gene"])),
            )
            for item in page.rows
        ],
        "truncated": page.truncated,
        "next_step": f"{export} writes the cells; var['in_file'] tells measured genes from drawn.",
    }


def _facts(design: Design) -> dict[str, Any]:
    return {
        "context": dict(design.context),
        "n_cells": design.n_cells,
        "user_cells": cells_view(design),
    }


def complete_table(result: CompleteResult) -> str:
    """Return the highest drawn genes as tab-separated lines."""
    rows = ((g.gene, g.mean, g.training_mean) for g in result.genes)
    return text_table(("gene", "mean", "training_mean"), rows) if result.genes else ""


def _text(result: CompleteResult) -> str:
    return render(result, complete_table(result))


SPEC = ToolSpec(
    name="complete_cells",
    title="Complete your cells",
    description=(
        "Fill in the genes that cells of your own h5ad file do not measure: the network draws "
        "them given the measured ones, which stay, in the most similar trained context or the one "
        "named. `clamp` sets genes to counts first. Use it to bring cells onto the whole panel; "
        "export_experiment writes the h5ad. Not for an effect: perturb_cells. Drawn counts are no "
        "measurements. Units: UMI. Cost: as sample_cells; dry_run estimates. Limits: 2,000 cells, "
        "of more a random part; checkpoints with a network."
    ),
    arguments=CompleteCells,
    result=CompleteResult,
    run=complete_cells,
    text=_text,
    read_only=False,
    idempotent=False,
    simulates=True,
)
