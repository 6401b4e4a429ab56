"""compare_experiments: the effects of two to ten experiments side by side; nothing is simulated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lingshu_tools.analysis.certainty import SUPPORTED
from lingshu_tools.calls.concise import Detail, fitting
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import (
    Result,
    Truncated,
    call_text,
    render,
    text_table,
)
from lingshu_tools.errors import InputError, quoted
from lingshu_tools.experiments.designs import context_label
from lingshu_tools.experiments.gene_names import resolve_genes
from lingshu_tools.experiments.lookup import is_screen
from lingshu_tools.report.comparison import Comparison, Show, Side
from lingshu_tools.report.comparison_views import (
    MANY,
    ComparedView,
    GeneDifference,
    PairView,
    compared_view,
    differing,
    gene_views,
    pair_view,
    pairing_of,
)
from lingshu_tools.report.experiment_views import Shown, shown
from lingshu_tools.tools.common import MAX_ROWS, printed

if TYPE_CHECKING:
    from lingshu_tools.app import App

_GENES, _FEW = 4, 2
"""Genes of a concise result: of two or three experiments, and of more."""
_TOKENS, _TOKENS_OF_MANY = 2_000, 900
"""What the genes of a detailed result may take."""
# Genes that a sentence names.
_NAMED = 3
INDEPENDENT = (
    "effects are taken as independent; those of one context share control cells, so their "
    "difference is less uncertain than interval and lfsr say"
)
POSTERIOR_MEANS = (
    "changes are posterior means (model_mean of perturb_cells); its change is of simulated cells"
)
NOT_HELD_OUT = "no held-out figure exists for a difference: quote that of each experiment"


class CompareExperiments(Arguments):
    """Arguments of compare_experiments."""

    ids: list[Annotated[str, Field(min_length=1, max_length=80)]] = Field(
        min_length=2,
        max_length=10,
        description="Finished perturb_cells experiments, exp_…; the others are compared with "
        "the first",
    )
    show: Show = Field(
        default="different",
        description="Genes to list: different, shared (certain in all, one sign), opposite",
    )
    genes: list[str] | None = Field(
        default=None, min_length=1, max_length=100, description="Show these genes instead"
    )
    limit: int | None = Field(default=None, ge=1, le=MAX_ROWS, description="Genes to show")
    offset: int = Field(default=0, ge=0, le=100_000, description="Genes to skip")
    detail: Detail = "concise"


class CompareResult(Result):
    """Experiments side by side."""

    detail_only = Result.detail_only | {"pairs", "left_out"}
    general_caveats = frozenset({INDEPENDENT, NOT_HELD_OUT})
    concise_lists = frozenset({"experiments", "differs"})

    experiments: list[ComparedView]
    differs: list[str] = Field(description="What is not the same: field and values")
    pairing: str
    n_genes: int
    n_different: int | None
    n_shared: int
    n_opposite: int
    left_out: list[str] = Field(
        default_factory=list[str], description="Targets' own genes, not counted"
    )
    genes: list[GeneDifference]
    pairs: list[PairView] = Field(default_factory=list[PairView])


def compare_experiments(app: App, arguments: CompareExperiments) -> CompareResult:
    """Return how the effects of finished experiments differ and agree.

    Raises:
        InputError: they are not perturbations that succeeded, or are named twice.
    """
    sides = compared_sides(app, arguments.ids)
    comparison = Comparison(sides)
    # Positions in the comparison's genes, in the order in which they are shown.
    rows = _rows(comparison, arguments)
    limit = arguments.limit or _limit(arguments, len(sides))
    chosen = rows[arguments.offset : arguments.offset + limit]
    detailed = arguments.detail == "detailed"
    genes = gene_views(comparison, chosen)
    # Only where a model reads the result: a program has no limit of tokens.
    if app.door != "python":
        tokens = _TOKENS if len(sides) <= MANY else _TOKENS_OF_MANY
        genes = fitting(genes, detailed=detailed, tokens=tokens)
    return CompareResult(
        status="succeeded",
        summary=_summary(comparison),
        units=dict.fromkeys(("changes", "difference", "mc_difference"), "log1p_cp10k"),
        caveats=_caveats(comparison),
        ledger_head=str(sides[0].record.ledger.head()),
        next_step=_next_step(comparison, arguments, rows),
        truncated=_truncated(arguments, len(genes), len(rows)),
        experiments=[compared_view(comparison, i) for i in range(len(sides))],
        differs=differing(comparison, detailed=detailed or app.door == "python"),
        pairing=pairing_of(comparison),
        n_genes=comparison.listed,
        n_different=int(comparison.different.sum()) if any(comparison.differences) else None,
        n_shared=int(comparison.shared.sum()),
        n_opposite=int(comparison.opposite.sum()),
        left_out=comparison.left_out,
        genes=genes,
        pairs=[pair_view(comparison, a, b) for b in range(len(sides)) for a in range(b)],
    )


def compared_sides(app: App, ids: Sequence[str]) -> list[Side]:
    """Return the experiments of a comparison, in the order of their ids.

    Raises:
        InputError: they are not perturbations that succeeded, or are named twice.
    """
    return [Side(record) for record in _records(app, ids)]


def _records(app: App, ids: Sequence[str]) -> list[Shown]:
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        message = f"ids names {quoted(twice)} twice; give each experiment once"
        raise InputError(message)
    screens = [i for i in ids if is_screen(i)]
    if screens:
        message = (
            f"{quoted(screens[0])} is a screen, and this compares experiments: give the "
            f"experiment_id of its rows ({call_text('get_experiment', id=screens[0])} lists them)"
        )
        raise InputError(message)
    records = [shown(app, i) for i in ids]
    kinds = {record.experiment.tool for record in records}
    # Other tools have no paired control, so no effect.
    if kinds != {"perturb_cells"}:
        which = ", ".join(f"{r.experiment.id} is of {r.experiment.tool}" for r in records)
        problem = "are of different tools" if len(kinds) > 1 else "have no effect to compare"
        message = (
            f"these experiments {problem}: {which}. Give experiments of perturb_cells, which have "
            "a paired control each"
        )
        raise InputError(message)
    for record in records:
        if not record.succeeded:
            name = record.experiment.id
            state = record.ledger.status(name)
            message = (
                f"{name} is {state}, so it has no effect yet; "
                f"{call_text('get_experiment', id=name)} shows how to go on"
            )
            raise InputError(message)
    return records


def _rows(comparison: Comparison, arguments: CompareExperiments) -> list[int]:
    if arguments.genes is None:
        return comparison.order(arguments.show)
    if arguments.show != "different":
        message = (
            f"show={arguments.show!r} has no use beside genes=[…], which are all shown; leave one "
            "out"
        )
        raise InputError(message, {"show": None})
    # By the names of the first checkpoint; all panels are matched by symbol.
    names = resolve_genes(comparison.sides[0].design.checkpoint, arguments.genes)
    elsewhere = [name for name in names if name not in comparison.genes]
    if elsewhere:
        message = f"{', '.join(elsewhere)}: not on the panel of every experiment; leave it out"
        checkpoint = comparison.sides[0].design.checkpoint
        # As the call names them: an alias is left out by the name that was given.
        given = [n for n in arguments.genes if set(resolve_genes(checkpoint, [n])) & {*elsewhere}]
        raise InputError(message, dict.fromkeys(given))
    return [comparison.genes.index(name) for name in names]


def _limit(arguments: CompareExperiments, n_sides: int) -> int:
    if arguments.detail == "detailed":
        return MAX_ROWS
    # Genes that are named are all shown.
    return max(_GENES if n_sides < MANY else _FEW, len(arguments.genes or ()))


def _summary(comparison: Comparison) -> str:
    sides, n = comparison.sides, comparison.listed
    labels = [_label(side, comparison) for side in sides]
    shared, opposite = int(comparison.shared.sum()), int(comparison.opposite.sum())
    certain = "supported" if any(comparison.differences) else "beyond Monte Carlo noise"
    agreed = [comparison.agreement(0, i) for i in range(1, len(sides))]
    pearson = [a.pearson for a in agreed if a.pearson is not None]
    if len(sides) == 2:
        begin = f"{labels[1]} against {labels[0]}: "
        extent = f"Pearson {pearson[0]:.2f} over {agreed[0].n_genes} genes" if pearson else ""
    else:
        begin = f"{len(sides) - 1} experiments against {labels[0]}: "
        extent = f"Pearson {min(pearson):.2f} to {max(pearson):.2f}" if pearson else ""
    where = "in both" if len(sides) == 2 else "in all"
    said = (
        f"of {n} genes {shared} have a {certain} change with one sign {where} and {opposite} have "
        f"opposite signs{f'; {extent}' if extent else ''}. {_different(comparison)}"
    )
    return begin + said


def _different(comparison: Comparison) -> str:
    if not any(comparison.differences):
        return "No effects are stored, so the certainty of differences is not known."
    number = int(comparison.different.sum())
    if not number:
        return "No gene's difference is supported (lfsr <= 0.05)."
    order = [g for g in comparison.order("different") if comparison.different[g]]
    # Of several experiments the difference of the one that differs most.
    gaps = {g: comparison.differences[comparison.other(g) - 1] for g in order}
    means = {g: float(d.mean[g]) for g, d in gaps.items() if d is not None}
    largest = sorted(means, key=lambda g: -abs(means[g]))[:_NAMED]
    names = ", ".join(f"{comparison.genes[g]} {means[g]:+.2f}" for g in largest)
    return (
        f"The difference from the first is supported (lfsr <= {SUPPORTED:g}) for {number}, "
        f"largest (log1p_cp10k) {names}."
    )


def _label(side: Side, comparison: Comparison) -> str:
    contexts = {context_label(s.design.context) for s in comparison.sides}
    where = f" in {context_label(side.design.context)}" if len(contexts) > 1 else ""
    return f"{side.design.label}{where}"


def _caveats(comparison: Comparison) -> list[str]:
    sides = comparison.sides
    caveats = [NOT_HELD_OUT]
    if any(comparison.differences):
        caveats.append(INDEPENDENT)
    if any(side.posterior is not None for side in sides):
        # Two numbers of one gene would look like a contradiction.
        caveats.append(POSTERIOR_MEANS)
    questions = [side.question for side in sides]
    # Seeds and numbers of cells are compared like that.
    if any(q == questions[0] for q in questions[1:]):
        caveats.append(
            "experiments of the same checkpoint, context and perturbation have one posterior: "
            "they differ by the noise of simulation alone"
        )
    if len({side.design.checkpoint.digest for side in sides}) > 1:
        panels = {len(side.positions) for side in sides}
        caveats.append(
            f"different checkpoints: {len(comparison.genes)} genes are on every panel "
            f"(panels of {', '.join(map(str, sorted(panels)))}), and CP10K of other panels is "
            "another scale"
        )
    if any(side.posterior is None for side in sides):
        caveats.append(
            "an experiment without a stored effect: its changes are simulated, and certain means "
            "beyond Monte Carlo noise"
        )
    return caveats


def _next_step(comparison: Comparison, arguments: CompareExperiments, rows: list[int]) -> str:
    names = [comparison.genes[g] for g in rows[:_NAMED]]
    if arguments.show != "different" and not names:
        return f"There are none; {_again(arguments, show=None)} shows the largest differences."
    if arguments.show == "different" and arguments.genes is None:
        if comparison.opposite.any():
            return f"{_again(arguments, show='opposite')} lists genes with opposite signs."
        if comparison.shared.any():
            return f"{_again(arguments, show='shared')} lists what they share."
    more = call_text("get_experiment", id=arguments.ids[0], genes=names)
    return f"{more} shows these genes with their evidence."


def _truncated(arguments: CompareExperiments, n_shown: int, total: int) -> Truncated | None:
    if n_shown >= total:
        return None
    after = arguments.offset + n_shown
    # At the end it leads back to the first page.
    more = _again(arguments, offset=after if after < total else 0)
    return Truncated(shown=n_shown, total=total, how_to_get_more=f"{more} shows more genes")


def _again(arguments: CompareExperiments, **changed: Any) -> str:
    """Return the call with some arguments changed; only these where it names many experiments."""
    if len(arguments.ids) < MANY:
        return str(printed("compare_experiments", arguments, **changed))
    given = ", ".join(f"{name}={json.dumps(value)}" for name, value in changed.items() if value)
    return f"The same call with {given or 'show left out'}"


def _text(result: CompareResult) -> str:
    head = ("gene", "changes", "other", "difference", "interval", "lfsr", "mc_interval")
    rows = [[getattr(g, name) for name in head] for g in result.genes]
    lines = [
        f"{i}. {e.perturbation} {e.experiment_id}" for i, e in enumerate(result.experiments, 1)
    ]
    differs = [f"Differs: {text}" for text in result.differs]
    return render(result, "\n".join([*lines, *differs, result.pairing, text_table(head, rows)]))


SPEC = ToolSpec(
    name="compare_experiments",
    title="Compare experiments",
    description=(
        "Compare 2 to 10 finished perturb_cells experiments with the first: genes that differ, "
        "with posterior and Monte Carlo intervals apart; genes they share or move opposite ways; "
        "agreement; what differs in request, checkpoint and numerics. Use it for two "
        "perturbations, contexts, seeds or checkpoints. Not for ranking: run_screen; not for "
        "synergy: perturb_cells of the combination. Units: log1p_cp10k. Cost: free. Limits: genes "
        "on every panel, 200 in one call."
    ),
    arguments=CompareExperiments,
    result=CompareResult,
    run=compare_experiments,
    text=_text,
)
