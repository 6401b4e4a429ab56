"""sample_cells: cells of a condition, and how they compare with the training cells of it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from lingshu_model.contracts import MAX_CELLS
from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROWS, Detail, fitting, is_short
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
from lingshu_tools.experiments.contexts.naming import context_label
from lingshu_tools.experiments.contexts.populations import CONTROL
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.findings import QUANTILES, training_figures
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

BRIEF = ((ROWS, ROWS), (ROWS, 6), (ROWS, 4), (ROWS, 3), (6, 3), (4, 3), (3, 2))
"""Kinds of cells and genes of a concise result, as many as fit."""
UNITS = {
    "library_quantiles": "count (UMI per cell)",
    "zero_rate": "share of counts that are 0",
    "mean": "log1p_cp10k",
    "training_mean": "log1p_cp10k",
}


FITTED = "training cells are what the checkpoint was fitted to, not held-out ones"
PROPORTIONS = "proportions are those of the training cells, however these were sorted or subsampled"
UNFIT = "{where} failed the fitness check ({reasons}): such cells do not deliver the effect"
MOST_UNFIT = 4
"""Contexts of a mixed population that are named as unfit."""
FEW_CELLS, RARE = 30, 0.1
"""Training cells of a context that is hardly learned, and the share of such cells that is said."""
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


class Composition(View):
    """Cells of one kind in a mixed population."""

    cells: str
    share: Number
    training_share: Number


class SampleResult(Result):
    """What was sampled."""

    general_caveats = SAMPLE_GENERAL

    perturbation: str
    context: dict[str, str]
    n_cells: int
    quality: Quality | None = None
    composition: list[Composition] = Field(default_factory=list[Composition])
    genes: list[GeneMean] = Field(default_factory=list[GeneMean])


def sample_cells(app: App, arguments: SampleCells) -> SampleResult | Pending[SampleResult]:
    """Return the quality of freshly sampled cells, once they are there; the cost of a dry run."""
    design = arguments.design(app, "sample_cells")
    if arguments.dry_run:
        return SampleResult(**planned(app, design, arguments), **_facts(design))
    return arguments.begin(
        app,
        design,
        lambda record: show_sample(
            app, record, limit=arguments.top, detailed=arguments.detail != "concise"
        ),
    )


def show_sample(
    app: App,
    record: Shown,
    *,
    limit: int = ROWS,
    offset: int = 0,
    genes: Sequence[str] | None = None,
    detailed: bool = False,
) -> SampleResult:
    """Return a sampling experiment in whatever state it is; `genes` alone if named."""
    fields, facts = envelope(app, record), _facts(record.design)
    if not record.succeeded:
        return SampleResult(**fields, **facts)
    sizes = [(MAX_CELLS, limit)]
    # Names of cells may be long; who asks for more rows gets them.
    if record.design.mixture and not detailed and limit <= ROWS and genes is None:
        sizes = [(kinds, min(rows, limit)) for kinds, rows in BRIEF]
    while True:
        kinds, rows = sizes.pop(0)
        shown = _succeeded(record, rows, offset, genes, kinds)
        result = SampleResult(**fields | shown, **facts)
        if not sizes or is_short(result):
            return result


def _succeeded(
    record: Shown, limit: int, offset: int, genes: Sequence[str] | None, kinds: int
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
    rows = composition(record)
    kinds_shown = fitting(rows[:kinds], detailed=True)
    mixed = _most(rows, len(kinds_shown))
    return {
        "summary": f"{record.where}: {mixed}median library {quantiles[2]:.0f} UMI, "
        f"{quality.zero_rate:.0%} zeros. {compared}",
        "units": UNITS,
        "caveats": [
            # Before its length is measured: every answer from the checkpoint has them.
            *record.design.checkpoint.caveats,
            *page.caveats,
            FITTED,
            *unfit_caveats(record.design),
            *mixing_caveats(record.design),
            *sampling_caveats(record.design.checkpoint, record.design.sampling),
        ],
        "quality": quality,
        "composition": kinds_shown,
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


def composition(record: Shown) -> list[Composition]:
    """Return the kinds of cells of a mixed population, the most frequent in training first."""
    mixture, n = record.design.mixture, record.design.n_cells
    if mixture is None:
        return []
    return [
        Composition(cells=value, share=cells / n, training_share=share)
        for value, cells, share in mixture.composition(record.result["composition"])
    ]


def unfit_caveats(design: Design) -> list[str]:
    """Return that cells do not deliver the effect, with the contexts of which that was measured."""
    if not design.interventions:
        return []
    mixture = design.mixture
    contexts = [part.context for part in mixture.parts] if mixture else [design.context]
    reasons = [design.checkpoint.unfit(context, design.interventions) for context in contexts]
    if not any(reasons):
        return []
    if mixture is None:
        return [UNFIT.format(where="this condition", reasons="; ".join(reasons[0]))]
    # Of a mixed population, the contexts, by what differs: others may well deliver the effect.
    failed = [
        context_label({field: context[field] for field in mixture.mixed_fields})
        for context, each in zip(contexts, reasons, strict=True)
        if each
    ]
    more = [f"{len(failed) - MOST_UNFIT} more"] if len(failed) > MOST_UNFIT else []
    where = f"{len(failed)} of {len(contexts)} contexts"
    return [UNFIT.format(where=where, reasons="; ".join(failed[:MOST_UNFIT] + more))]


def mixing_caveats(design: Design) -> list[str]:
    """Return what a reader must know of the proportions of a mixed population."""
    mixture = design.mixture
    if mixture is None:
        return []
    said = [PROPORTIONS]
    pooled = [name for name in mixture.mixed_fields if name != mixture.shown_field]
    if pooled:
        numbers = [f"{len({p.context[f] for p in mixture.parts})} of {f}" for f in pooled]
        said.append(f"pooled over {' and '.join(numbers)}; those of a single one may differ much")
    # Of each part its training cells of the perturbation, or of control.
    few = sum(part.weight for part in mixture.parts if part.weight < FEW_CELLS)
    share = few / sum(part.weight for part in mixture.parts)
    if share >= RARE:
        said.append(
            f"{share:.0%} are of contexts with fewer than {FEW_CELLS} training cells, of which the "
            "network learns little"
        )
    if mixture.of == CONTROL and design.interventions:
        said.append("proportions are those of control cells: not every context has perturbed ones")
    return said


def _most(rows: list[Composition], kinds: int) -> str:
    """Return the most frequent kinds of cells in words, and what is beyond the `kinds` shown."""
    if not rows:
        return ""
    most = ", ".join(f"{row.cells} {row.share:.0%}" for row in rows[:3])
    rest = rows[kinds:]
    others = f" ({len(rest)} further with {sum(r.share for r in rest):.0%} not shown)"
    return f"{most}{others if rest else ''}; "


def _quality(record: Shown) -> Quality:
    result, design = record.result, record.design
    zeros = training_figures(design, "zero_rate")
    return Quality(
        quantiles=list(QUANTILES),
        library_quantiles=result["library_quantiles"],
        training_library_quantiles=_training_libraries(design),
        zero_rate=result["zero_rate"],
        training_zero_rate=None if zeros is None else finite(float(zeros)),
        pearson_of_means=result["pearson_with_training"],
    )


def _training_libraries(design: Design) -> list[float] | None:
    if design.mixture is None:
        library = training_figures(design, "library_quantiles")
        return None if library is None else library.tolist()
    if design.support.tier != "seen":
        return None
    # Quantiles of a mixture are no means of quantiles: the parts' depths, ln UMI, are pooled.
    of = partial(design.checkpoint.depth_quantiles, interventions=design.interventions)
    depths = [of(part.context) for part in design.mixture.parts]
    each = [w / len(d) for w, d in zip(design.mixture.weights, depths, strict=True) for _ in d]
    values = np.concatenate(depths)
    order = np.argsort(values)
    cumulative = np.cumsum(np.array(each)[order])
    return np.exp(np.interp(QUANTILES, cumulative, values[order])).tolist()


def _training_means(design: Design) -> dict[str, float]:
    values = training_figures(design, "mean_log1p_cp10k")
    if values is None:
        return {}
    return dict(zip(design.checkpoint.panel, values.tolist(), strict=True))


def _facts(design: Design) -> dict[str, Any]:
    return {
        "perturbation": design.label,
        "context": dict(design.context),
        "n_cells": design.n_cells,
    }


def sample_table(result: SampleResult) -> str:
    """Return the composition and the highest genes as tab-separated lines."""
    kinds = [(c.cells, c.share, c.training_share) for c in result.composition]
    genes = [(g.gene, g.mean, g.training_mean) for g in result.genes]
    tables = (
        (("cells", "share", "training_share"), kinds),
        (("gene", "mean", "training_mean"), genes),
    )
    return "\n".join(text_table(head, rows) for head, rows in tables if rows)


def _text(result: SampleResult) -> str:
    return render(result, sample_table(result))


SPEC = ToolSpec(
    name="sample_cells",
    title="Sample cells",
    description=(
        "Sample whole simulated cells of a context, control by default, and compare them with "
        "training cells: library sizes, zero rate, highest genes, correlation of means. A context "
        "field left out mixes all its values in training proportions: PBMC of a donor. Use it to "
        "check a context, or for cells as a file (export_experiment). Not for the effect of a "
        "perturbation: perturb_cells pairs it with its control. Units: UMI; means in "
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
