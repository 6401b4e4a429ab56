"""find_genes: a gene's name, whether it is measured and was perturbed, its expression."""

from collections.abc import Set
from functools import lru_cache

from pydantic import Field

from lingshu_model.contracts import Checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.concise import ROWS, Detail, fitting
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import Number, Result, Truncated, View, finite, render, text_table
from lingshu_tools.errors import InputError, NotFoundError, nearest
from lingshu_tools.experiments.designs import context_label, resolve_checkpoint
from lingshu_tools.experiments.gene_directory import real_genes
from lingshu_tools.experiments.gene_names import Match, gene_names
from lingshu_tools.tools.common import CheckpointName, printed
from lingshu_tools.tools.example_calls import control_call, perturbation_call

# Contexts of which the expression is shown at most.
_CONTEXTS = 8
_NAMED = 20
"""Names in a summary."""
AMBIGUOUS = "a name of several measured genes: "
"""`matched_by` of such a name, before their symbols."""
UNMEASURED = "not measured: "
"""`matched_by` of a gene that exists and is not on the panel, before its symbols."""


class FindGenes(Arguments):
    """Arguments of find_genes."""

    names: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Symbols, aliases, previous symbols or Ensembl ids to resolve",
    )
    query: str | None = Field(
        default=None, min_length=1, max_length=64, description="Part of a name, to search by"
    )
    limit: int | None = Field(
        default=None, ge=1, le=200, description="Genes to show, 1 to 200; default: all names, or 8"
    )
    offset: int = Field(default=0, ge=0, le=100_000, description="Genes to skip")
    detail: Detail = "concise"
    checkpoint: CheckpointName = None


class ExpressionView(View):
    """A gene in the unperturbed training cells of one context."""

    context: str
    mean: Number | None


class GeneView(View):
    """One name, resolved or not."""

    detail_only = frozenset({"matched_by", "ensembl"})

    asked: str
    gene: str | None = Field(description="Panel symbol; null: not on the panel")
    matched_by: str | None = None
    ensembl: str | None = None
    measured: bool
    perturbed_by: list[str] = Field(description="Intervention kinds trained on this gene")
    expression: list[ExpressionView] = Field(default_factory=list[ExpressionView])
    nearest: list[str] = Field(
        default_factory=list[str], description="Names like it, where it was not found"
    )


class FindResult(Result):
    """The genes asked for."""

    genes: list[GeneView]


def find_genes(app: App, arguments: FindGenes) -> FindResult:
    """Return names resolved, or the genes that a part of a name is in."""
    checkpoint = resolve_checkpoint(app, arguments.checkpoint)
    if (arguments.names is None) == (arguments.query is None):
        message = "give names=[…] to resolve them, or query='…' to search, and not both"
        raise InputError(message)
    detailed = arguments.detail == "detailed"
    # Of one gene, expression in every context is shown; of many, that in one context.
    alone = arguments.names is not None and len(arguments.names) == 1
    contexts = _CONTEXTS if detailed or alone or app.door == "python" else 1
    if arguments.names is not None:
        views = [_resolved(checkpoint, name, contexts) for name in arguments.names]
    else:
        query = arguments.query or ""
        matches = gene_names(checkpoint).search(query)
        views = [_gene_view(checkpoint, query, match, contexts) for match in matches]
    # Names are all shown; a search is cut.
    limit = arguments.limit or (ROWS if arguments.names is None else len(views))
    rows = views[arguments.offset : arguments.offset + limit]
    if app.door != "python":
        rows = fitting(rows, detailed=detailed)
    return FindResult(
        status="succeeded",
        summary=_summary(checkpoint, arguments, views),
        units={"mean": "log1p_cp10k, mean over unperturbed training cells"},
        caveats=_caveats(checkpoint, contexts),
        ledger_head=str(app.ledger.head()),
        genes=rows,
        truncated=_truncated(arguments, len(rows), len(views)),
        next_step=_next_step(checkpoint, rows),
    )


def _caveats(checkpoint: Checkpoint, contexts: int) -> list[str]:
    n_contexts = len(checkpoint.contexts)
    if n_contexts <= contexts:
        return []
    shown = f"the first {contexts} contexts" if contexts > 1 else "the first context"
    return [f"expression is that in {shown} of {n_contexts}"]


def _truncated(arguments: FindGenes, shown: int, total: int) -> Truncated | None:
    """Return what was left out after the genes shown, and the call that shows more of them."""
    if shown == total:
        return None
    # After the last page back to the first.
    offset = arguments.offset + shown if arguments.offset + shown < total else 0
    more = printed("find_genes", arguments, offset=offset) or f"The same with offset={offset}"
    how = f"{more} shows more; a longer query finds fewer" if arguments.query else f"{more} does"
    return Truncated(shown=shown, total=total, how_to_get_more=how)


def _next_step(checkpoint: Checkpoint, rows: list[GeneView]) -> str:
    """Return a call on one of the genes, or where none was perturbed one on another gene."""
    shown = {
        target
        for row in rows
        if row.perturbed_by
        for _, target in (
            _trained(checkpoint, gene_names(checkpoint).find(row.gene))
            if row.gene
            else _trained_unmeasured(checkpoint, row.asked)
        )
    }
    run = perturbation_call(checkpoint, shown) if shown else None
    if run:
        return f"{run} simulates one of them."
    run = perturbation_call(checkpoint)
    if run:
        return f"None of these was perturbed in training; {run} simulates a gene that was."
    return f"No perturbation was trained; {control_call(checkpoint)} simulates control cells."


def _resolved(checkpoint: Checkpoint, name: str, contexts: int) -> GeneView:
    try:
        return _gene_view(checkpoint, name, gene_names(checkpoint).find(name), contexts)
    except NotFoundError:
        genes = real_genes(name)
        # A name of several genes, some of which are measured, is refused only as ambiguous.
        here = [gene for gene in genes if _is_measured(checkpoint, gene)]
        prefix = AMBIGUOUS if here else UNMEASURED
        return GeneView(
            asked=name,
            gene=None,
            matched_by=f"{prefix}{', '.join(here or genes)}" if genes else None,
            ensembl=None,
            measured=False,
            # A target need not be on the panel, and may be asked for by another name.
            perturbed_by=_kinds(_trained_unmeasured(checkpoint, name)),
            # For a gene that exists, a similar name is another gene's.
            nearest=here if genes else nearest(name, checkpoint.panel),
        )


def _is_measured(checkpoint: Checkpoint, gene: str) -> bool:
    try:
        return bool(gene_names(checkpoint).find(gene).symbol)
    except NotFoundError:
        return False


def _gene_view(checkpoint: Checkpoint, arguments: str, match: Match, contexts: int) -> GeneView:
    return GeneView(
        asked=arguments,
        gene=match.symbol,
        matched_by=match.matched_by,
        ensembl=checkpoint.panel_entries[match.index].get("ensembl"),
        measured=True,
        perturbed_by=_kinds(_trained(checkpoint, match)),
        expression=_expression(checkpoint, match.index, contexts),
        nearest=[],
    )


def _kinds(trained: list[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(kind for kind, _ in trained))


def _trained(checkpoint: Checkpoint, match: Match) -> list[tuple[str, str]]:
    """Return kind and label of every trained target that is a gene of the panel.

    A screen's labels may be older symbols than those of its panel, or the other way round.
    """
    entry = checkpoint.panel_entries[match.index]
    others = {n.casefold() for n in (*(entry.get("aliases") or ()), *(entry.get("previous") or ()))}
    # Few targets have another label than the panel's symbol, so 18,080 symbols are seldom compared.
    others &= {label.casefold() for label in _labels(checkpoint)}
    if others:
        # A name that is the symbol of another gene of the panel is that gene's.
        others -= {symbol.casefold() for symbol in checkpoint.panel}
    return _labelled(checkpoint, others | {match.symbol.casefold()})


def _trained_unmeasured(checkpoint: Checkpoint, name: str) -> list[tuple[str, str]]:
    """Return the same of a name that is not on the panel."""
    keys = {key.strip().casefold() for key in (name, *real_genes(name))}
    # The directory of human genes, which takes 36 MB, is read for names off the panel alone.
    same = {label.casefold() for label in _labels(checkpoint) if keys & _names_of(label)}
    return _labelled(checkpoint, keys | same)


def _labels(checkpoint: Checkpoint) -> Set[str]:
    return {label for targets in checkpoint.targets.values() for label in targets}


def _labelled(checkpoint: Checkpoint, labels: Set[str]) -> list[tuple[str, str]]:
    # Null labels are no genes.
    kinds = [(kind, targets) for kind, targets in checkpoint.targets.items() if kind != "sham"]
    return [(kind, t) for kind, targets in kinds for t in targets if t.casefold() in labels]


@lru_cache(maxsize=4096)
def _names_of(target: str) -> frozenset[str]:
    """Return a target's label and the symbol of its gene, if it is a single one."""
    genes = real_genes(target)
    names = (target, *genes) if len(genes) == 1 else (target,)
    return frozenset(name.casefold() for name in names)


def _expression(checkpoint: Checkpoint, index: int, contexts: int) -> list[ExpressionView]:
    means = checkpoint.reference.get("mean_log1p_cp10k")
    if means is None:
        return []
    # Rows of the training reference, [conditions, genes], that are of control cells.
    controls = [
        (row, entry["context"])
        for row, entry in enumerate(checkpoint.config["seen"])
        if not entry["interventions"]
    ]
    return [
        ExpressionView(context=context_label(context), mean=finite(means[row, index]))
        for row, context in controls[:contexts]
    ]


def _unmeasured(view: GeneView) -> str:
    """Return why a known name has no gene of the panel."""
    matched_by = view.matched_by or ""
    if matched_by.startswith(AMBIGUOUS):
        return f"{matched_by}; name one"
    symbols = matched_by.removeprefix(UNMEASURED)
    named = "" if symbols == view.asked else f"{symbols}, "
    target = f"; its {', '.join(view.perturbed_by)} was trained" if view.perturbed_by else ""
    return f"{named}a gene, not measured{target}"


def _summary(checkpoint: Checkpoint, arguments: FindGenes, views: list[GeneView]) -> str:
    panel = f"the {len(checkpoint.panel)}-gene panel of {checkpoint.name}"
    if arguments.query is not None:
        return f"{len(views)} genes of {panel} have {arguments.query!r} in a name."
    missing = [
        f"{v.asked} ({_unmeasured(v)})" if v.matched_by else f"{v.asked} (no known gene)"
        for v in views
        if v.gene is None
    ]
    sentence = f"{len(views) - len(missing)} of {len(views)} names are on {panel}"
    if not missing:
        return f"{sentence}."
    rest = len(missing) - _NAMED
    more = f" and {rest} more of {len(missing)}, which `genes` has" if rest > 0 else ""
    return f"{sentence}; not on it: {', '.join(missing[:_NAMED])}{more}."


def _text(result: FindResult) -> str:
    rows = (
        (
            g.asked,
            g.gene,
            ", ".join(g.perturbed_by) or None,
            g.expression[0].mean if g.expression else None,
            ", ".join(g.nearest) or None,
        )
        for g in result.genes
    )
    head = ("asked", "gene", "perturbed_by", "mean log1p_cp10k", "nearest")
    return render(result, text_table(head, rows) if result.genes else "")


SPEC = ToolSpec(
    name="find_genes",
    title="Find genes",
    description=(
        "Resolve gene symbols, aliases, previous symbols or Ensembl ids (names), or search by "
        "part of a name (query): whether the panel measures a gene, which interventions were "
        "trained on it, and its mean in unperturbed training cells. Use it for any symbol you are "
        "not sure of. Not for effects: perturb_cells. Units: log1p_cp10k. Cost: free. Limits: 200 "
        "names in one call; unknown names come back with the nearest."
    ),
    arguments=FindGenes,
    result=FindResult,
    run=find_genes,
    text=_text,
)
