"""sample_cells: cells of a condition, and how they compare with the training cells of it."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROWS, Detail
from lingshu_tools.calls.registry import ToolSpec
from lingshu_tools.calls.results import (
    Number,
    Result,
    View,
    call_text,
    finite,
    render,
    text_table,
)
from lingshu_tools.calls.waiting import Pending
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.findings import QUANTILES, seen_row
from lingshu_tools.experiments.gene_names import resolve_genes
from lingshu_tools.experiments.sampling_options import sampling_caveats
from lingshu_tools.report.experiment_views import Shown, envelope
from lingshu_tools.report.kept_rows import kept_rows
from lingshu_tools.report.result_parts import GeneMean
from lingshu_tools.tools.common import (
    InterventionArgument,
    Simulation,
    planned,
)

UNITS = {
    "library_quantiles": "count (UMI per cell)",
    "zero_rate": "share of counts that are 0",
    "mean": "log1p_cp10k",
    "training_mean": "log1p_cp10k",
}


FITTED = "training cells are what the checkpoint was fitted to, not held-out ones"
SAMPLE_GENERAL = frozenset({FITTED})


class SampleCells(Simulation):
    """Arguments of sample_cells."""

    interventions: list[InterventionArgument] = Field(
        default_factory=list[InterventionArgument],
        max_length=16,
        description="Default: control",
    )
    top: int = Field(default=ROWS, ge=1, le=50, description="Highest genes to show")
    detail: Detail = "concise"


class Quality(View):
    """Sampled cells against the training cells of the same condition."""

    quantiles: list[float] = Field(description="The quantiles that the library sizes are given at")
    library_quantiles: list[Number]
    training_library_quantiles: list[Number] | None
    zero_rate: Number
    training_zero_rate: Number | None
    pearson_of_means: Number | None = Field(
        description="Pearson correlation over genes of mean log1p_cp10k with the training cells"
    )


class SampleResult(Result):
    """What was sampled."""

    general_caveats = SAMPLE_GENERAL

    perturbation: str
    context: dict[str, str]
    n_cells: int
    quality: Quality | None = None
    genes: list[GeneMean] = Field(default_factory=list[GeneMean])


def sample_cells(app: App, arguments: SampleCells) -> SampleResult | Pending[SampleResult]:
    """Return the quality of freshly sampled cells, once they are there; the cost of a dry run."""
    design = arguments.design(app, "sample_cells")
    if arguments.dry_run:
        return SampleResult(**planned(app, design, arguments), **_facts(design))
    return arguments.begin(
        app, design, lambda record: show_sample(app, record, limit=arguments.top)
    )


def show_sample(
    app: App,
    record: Shown,
    *,
    limit: int = ROWS,
    offset: int = 0,
    genes: Sequence[str] | None = None,
) -> SampleResult:
    """Return a sampling experiment in whatever state it is; `genes` alone if named."""
    fields = envelope(app, record)
    if record.succeeded:
        fields |= _succeeded(record, limit, offset, genes)
    return SampleResult(**fields, **_facts(record.design))


def _succeeded(
    record: Shown, limit: int, offset: int, genes: Sequence[str] | None
) -> dict[str, Any]:
    quality = _quality(record)
    quantiles = record.result["library_quantiles"]
    page = kept_rows(
        record.result,
        record.experiment.id,
        limit=limit,
        offset=offset,
        genes=None if genes is None else resolve_genes(record.design.checkpoint, genes),
    )
    trained = _training_means(record.design)
    pearson = quality.pearson_of_means
    if pearson is None:
        compared = "No training cells of exactly this condition to compare with."
    else:
        compared = (
            f"Their mean expression correlates {pearson:.3f} (Pearson) with the training cells'; "
            "that is a check on fit, not on prediction."
        )
    return {
        "summary": f"{record.where}: median library {quantiles[2]:.0f} UMI, "
        f"{quality.zero_rate:.0%} zeros. {compared}",
        "units": UNITS,
        "caveats": [
            *page.caveats,
            FITTED,
            *sampling_caveats(record.design.checkpoint, record.design.sampling),
        ],
        "quality": quality,
        "genes": [
            GeneMean(
                gene=row["gene"], mean=row["value"], training_mean=finite(trained.get(row["gene"]))
            )
            for row in page.rows
        ],
        "truncated": page.truncated,
        "next_step": _next_step(record),
    }


def _next_step(record: Shown) -> str:
    if record.stored("cells"):
        return (
            f"{call_text('export_experiment', id=record.experiment.id)} writes the cells to a file."
        )
    return f"{call_text('replay_experiment', id=record.experiment.id)} makes the cells again."


def _quality(record: Shown) -> Quality:
    result, design = record.result, record.design
    row = seen_row(design)
    reference = design.checkpoint.reference if row is not None else {}
    library = reference.get("library_quantiles")
    zeros = reference.get("zero_rate")
    return Quality(
        quantiles=list(QUANTILES),
        library_quantiles=result["library_quantiles"],
        training_library_quantiles=None if library is None else library[row].tolist(),
        zero_rate=result["zero_rate"],
        training_zero_rate=None if zeros is None else finite(float(zeros[row])),
        pearson_of_means=result["pearson_with_training"],
    )


def _training_means(design: Design) -> dict[str, float]:
    row = seen_row(design)
    if row is None:
        return {}
    values = design.checkpoint.reference["mean_log1p_cp10k"][row]
    return dict(zip(design.checkpoint.panel, values.tolist(), strict=True))


def _facts(design: Design) -> dict[str, Any]:
    return {
        "perturbation": design.label,
        "context": dict(design.context),
        "n_cells": design.n_cells,
    }


def sample_table(result: SampleResult) -> str:
    """Return the highest genes as tab-separated lines."""
    rows = ((g.gene, g.mean, g.training_mean) for g in result.genes)
    return text_table(("gene", "mean", "training_mean"), rows) if result.genes else ""


def _text(result: SampleResult) -> str:
    return render(result, sample_table(result))


SPEC = ToolSpec(
    name="sample_cells",
    title="Sample cells",
    description=(
        "Sample whole simulated cells of a context, control by default, and compare them with its "
        "training cells: library sizes, zero rate, highest genes, correlation of means. Use it to "
        "check a context, or to get cells as a file with export_experiment. Not for the effect of "
        "a perturbation: perturb_cells pairs it with its control. Units: UMI; means in "
        "log1p_cp10k. Cost: seconds_per_cell of describe_model; dry_run estimates. Limits: 1 to "
        "100,000 cells."
    ),
    arguments=SampleCells,
    result=SampleResult,
    run=sample_cells,
    text=_text,
    read_only=False,
    idempotent=False,
    simulates=True,
)
