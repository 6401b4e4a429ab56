"""perturb_cells: a perturbation in a context, against its own paired control."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROWS, Detail, fitting
from lingshu_tools.calls.registry import ToolSpec
from lingshu_tools.calls.results import Number, Result, Truncated, call_text, render, text_table
from lingshu_tools.calls.waiting import Pending, next_wait_s
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import (
    Design,
    design_of_user_cells,
    label_of,
    resolve_checkpoint,
    resolve_interventions,
)
from lingshu_tools.experiments.gene_names import resolve_genes
from lingshu_tools.experiments.stored_effects import note_of, stored_effect
from lingshu_tools.report.effect_view import MONTE_CARLO, effect_fields
from lingshu_tools.report.experiment_views import Shown, envelope
from lingshu_tools.report.kept_rows import cut
from lingshu_tools.report.normalisation import MOVED
from lingshu_tools.report.result_parts import GeneEffect, Magnitude, TargetCheck
from lingshu_tools.tools.common import (
    InterventionArgument,
    Normalise,
    Simulation,
    planned,
)
from lingshu_tools.tools.gene_set_tests import (
    INDEPENDENT_GENES,
    EnrichmentArgument,
    EnrichmentView,
    enrichment_fields,
    resolve_collection,
    sets_table,
)
from lingshu_tools.tools.user_cells_argument import (
    MOST_PERTURBED,
    CellsWhere,
    UserCellsPath,
    UserCellsView,
    caveats_of,
    cells_view,
    context_of,
    names_left_out,
    read_or_state,
    waiting_fields,
)
from lingshu_tools.user_cells import ReadCells

GENERAL = frozenset({MONTE_CARLO, INDEPENDENT_GENES})
DEFAULT_TOP = 5
SETS, SETS_DETAILED = 1, 20
"""Gene sets of a concise and of a detailed result."""
TOP_BESIDE_SETS = 2
"""Genes of a concise result that has gene sets, unless `top` says otherwise."""
UNUSED = ("context", "first_cell", "allow_unfit", "steps", "guidance", "clamp")
"""Arguments that have no meaning for a user's cells."""


class PerturbCells(Simulation):
    """Arguments of perturb_cells."""

    interventions: list[InterventionArgument] = Field(
        min_length=1,
        max_length=16,
        description='What is done, e.g. [{"kind": "knockout", "target": "STAT1"}]; order is free',
    )
    genes: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Show these genes",
    )
    top: int = Field(default=DEFAULT_TOP, ge=1, le=200, description="Strongest genes to show")
    normalise: Normalise = "cp10k"
    enrichment: EnrichmentArgument = None
    detail: Detail = "concise"
    cells: UserCellsPath = None
    cells_where: CellsWhere = None


class PerturbResult(Result):
    """The effect of a perturbation."""

    detail_only = Result.detail_only | {"effect_note", "moved_umi_share", "responder_share"}
    general_caveats = GENERAL

    perturbation: str
    context: dict[str, str]
    n_cells: int
    effect_source: str | None = Field(
        default=None,
        description="Where the effect comes from: this condition's cells (and other contexts), "
        "carried from other contexts, combination, or features; None: learned by the network",
    )
    effect_note: str | None = Field(
        default=None, description="How the effect was estimated, with the numbers that limit it"
    )
    responder_share: Number | None = Field(
        default=None, description="Of cells, that respond; the others escaped. None: all alike"
    )
    magnitude: Magnitude | None = None
    null_check: str | None = None
    moved_umi_share: Number | None = Field(
        default=None, description="Of the UMI of control cells, that called genes hold"
    )
    target_check: list[TargetCheck] = Field(default_factory=list[TargetCheck])
    genes: list[GeneEffect] = Field(default_factory=list[GeneEffect])
    user_cells: UserCellsView | None = None
    enrichment: EnrichmentView | None = None


def perturb_cells(app: App, arguments: PerturbCells) -> PerturbResult | Pending[PerturbResult]:
    """Return the paired effect of a perturbation, once it is there; the cost of a dry run."""
    if arguments.cells is None and arguments.cells_where:
        message = "cells_where chooses among the cells of a file: name it with cells=…"
        raise InputError(message)
    cells = None if arguments.cells is None else _user_cells(app, arguments)
    if isinstance(cells, PerturbResult):
        return cells
    design = cells.design if cells else arguments.design(app, "perturb_cells")
    if arguments.genes and "top" in arguments.model_fields_set:
        message = (
            f"top={arguments.top} has no use beside genes=[…], which are all shown; leave one out"
        )
        raise InputError(message, {"top": None})
    if arguments.genes:
        # Refused now rather than after the cells were made.
        resolve_genes(design.checkpoint, arguments.genes)
    if arguments.enrichment:
        resolve_collection(app, arguments.enrichment)
    if arguments.dry_run:
        return _planned(app, design, arguments, cells and cells.report)
    return arguments.begin(
        app,
        design,
        lambda record: show_effect(
            app,
            record,
            genes=arguments.genes,
            limit=len(arguments.genes) if arguments.genes else _top(app, arguments),
            detailed=arguments.detail == "detailed",
            enrichment=arguments.enrichment,
            normalise=arguments.normalise,
        ),
    )


def _top(app: App, arguments: PerturbCells) -> int:
    """Return how many genes to show; gene sets, and what is said of a user's cells, take places."""
    whole = app.door == "python" or arguments.detail == "detailed"
    if whole or "top" in arguments.model_fields_set:
        return arguments.top
    top = arguments.top - 3 * (arguments.normalise != "cp10k")
    top = top if arguments.enrichment is None else min(top, TOP_BESIDE_SETS)
    return max(top if arguments.cells is None else top - 1, 1)


def show_effect(
    app: App,
    record: Shown,
    *,
    genes: list[str] | None = None,
    limit: int = ROWS,
    offset: int = 0,
    detailed: bool = False,
    enrichment: str | None = None,
    normalise: str = "cp10k",
) -> PerturbResult:
    """Return a perturbation experiment in whatever state it is; as many genes as fit."""
    fields = envelope(app, record)
    if record.succeeded:
        fields |= effect_fields(
            record, genes=genes, limit=limit, offset=offset, normalise=normalise
        )
        fields["caveats"] = [*fields["caveats"], *caveats_of(record.design)]
        rows: list[GeneEffect] = fields["genes"]
        kept = rows if app.door == "python" else fitting(rows, detailed=detailed)
        if len(kept) == DEFAULT_TOP and not detailed and app.door != "python":
            # The caveats of a small panel and of the checkpoint take the place of a gene each.
            small = any(c.startswith(MOVED[:12]) for c in fields["caveats"])
            taken = small + len(record.design.checkpoint.caveats)
            kept = kept[: len(kept) - taken] if genes is None else kept
        if len(kept) < len(rows):
            known: Truncated | None = fields["truncated"]
            total = known.total if known else offset + len(rows)
            more = cut(len(kept), total, record.experiment.id, offset)
            if genes:
                # The rest is named again: of this page, and what follows it in the call.
                symbols = resolve_genes(record.design.checkpoint, genes)
                names = [row.gene for row in rows]
                names += symbols[symbols.index(names[-1]) + 1 :]
                more = cut(len(kept), total, record.experiment.id, genes=names)
            fields |= {"genes": kept, "truncated": more}
        if enrichment:
            most = SETS_DETAILED if detailed or app.door == "python" else SETS
            tested = enrichment_fields(app, record, enrichment, limit=most, detailed=detailed)
            fields = with_sets(fields, tested)
    elif enrichment and record.outcome is None:
        again = call_text(
            "get_experiment", id=record.experiment.id, enrichment=enrichment, wait_s=next_wait_s()
        )
        fields["next_step"] = f"{again} waits for the result and tests the gene sets."
    return PerturbResult(**fields, **_facts(record.design))


def with_sets(fields: dict[str, Any], tested: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a result with those of a test of gene sets."""
    return fields | {
        "enrichment": tested["enrichment"],
        "summary": f"{fields['summary']} {tested['sentence']}",
        "caveats": [*fields["caveats"], INDEPENDENT_GENES],
        "next_step": tested["next_step"] or fields["next_step"],
    }


def _facts(design: Design) -> dict[str, Any]:
    stored = stored_effect(design)
    strengths = stored.responders if stored else None
    return {
        "perturbation": design.label,
        "context": dict(design.context),
        "n_cells": design.n_cells,
        "effect_source": stored.source if stored else None,
        "effect_note": note_of(design, stored) if stored else None,
        "responder_share": strengths.share if strengths else None,
        "user_cells": cells_view(design),
    }


@dataclass(frozen=True)
class _UserCells:
    """The design on a user's cells, and the report of the reading."""

    design: Design
    report: Mapping[str, Any]


def _user_cells(app: App, arguments: PerturbCells) -> _UserCells | PerturbResult:
    """Return the design on the cells of a file; the state while the file is read."""
    checkpoint = resolve_checkpoint(app, arguments.checkpoint)
    wanted = [each.wire() for each in arguments.interventions]
    interventions = resolve_interventions(checkpoint, wanted)
    most, unused = MOST_PERTURBED, UNUSED
    cells = read_or_state(app, arguments, checkpoint, interventions, most=most, unused=unused)
    if not isinstance(cells, ReadCells):
        return PerturbResult(
            **waiting_fields(app, "perturb_cells", arguments, cells),
            perturbation=label_of(interventions),
            context={},
            n_cells=arguments.n_cells,
        )
    design = design_of_user_cells(
        app,
        tool="perturb_cells",
        checkpoint=checkpoint,
        context=context_of(cells),
        interventions=interventions,
        cells=cells.record,
        n_cells=cells.n_cells,
        seed=arguments.seed,
    )
    return _UserCells(design, cells.report)


def _planned(
    app: App, design: Design, arguments: PerturbCells, report: Mapping[str, Any] | None
) -> PerturbResult:
    """Return the result of a dry run; of a user's cells it names the genes."""
    fields, facts = planned(app, design, arguments), _facts(design)
    if report is not None:
        fields |= {"truncated": names_left_out(report), "caveats": caveats_of(design)}
        facts["user_cells"] = cells_view(design, report)
    return PerturbResult(**fields, **facts)


def gene_table(genes: list[GeneEffect]) -> str:
    """Return genes as tab-separated lines."""
    stored = any(g.lfsr is not None for g in genes)
    # With stored effects the certainty of a sign, else its rate against null labels.
    span = ("change", "interval") if stored else ("mc_interval", "change")
    head = ("gene", "log2FC", *span, "prediction_error")
    certain = ("lfsr", "certainty") if stored else ("sham_q",)
    names = ("gene", "log2_fold_change", *head[2:], *certain)
    return text_table((*head, *certain), ([getattr(g, name) for name in names] for g in genes))


def _text(result: PerturbResult) -> str:
    tables = [gene_table(result.genes) if result.genes else ""]
    tables += [sets_table(result.enrichment)] if result.enrichment else []
    return render(result, "\n".join(tables))


SPEC = ToolSpec(
    name="perturb_cells",
    title="Perturb cells in silico",
    description=(
        "Simulate 1 to 16 interventions together, in a trained context or in your own cells "
        "(`cells`, at most 5,000; the effect is carried to them), and compare with the paired "
        "control: strongest genes with intervals, size of the whole effect, the target's own "
        "gene. Use it for one perturbation. Not for ranking many: run_screen. Not a measurement: "
        "quote the held-out evidence. Units: log1p_cp10k. Cost: seconds for 256 cells; dry_run "
        "estimates. Limits: trained targets only, as describe_model lists them."
    ),
    arguments=PerturbCells,
    result=PerturbResult,
    run=perturb_cells,
    text=_text,
    read_only=False,
    idempotent=False,
    simulates=True,
)
