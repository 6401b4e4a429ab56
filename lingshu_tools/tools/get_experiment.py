"""get_experiment: the state or result of an experiment or a screen, begun by anyone, any day.

It asks the tool that made it.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from lingshu_tools.app import App
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import Number, Result, View, render
from lingshu_tools.calls.waiting import Pending
from lingshu_tools.children import Answer, Work
from lingshu_tools.errors import InputError, MissingCheckpointError, quoted
from lingshu_tools.experiments.designs import replaces
from lingshu_tools.experiments.lookup import is_screen, locate_screen
from lingshu_tools.experiments.replays import replayed, verdict_of
from lingshu_tools.planner import plan_of
from lingshu_tools.report.experiment_views import Recorded, Shown, recorded, shown
from lingshu_tools.report.result_parts import (
    GeneEffect,
    GeneMean,
    Magnitude,
    TargetCheck,
)
from lingshu_tools.report.row_view import experiment_fields, screen_fields
from lingshu_tools.tools.common import (
    MAX_ROWS,
    AnyId,
    Normalise,
    WaitS,
)
from lingshu_tools.tools.complete_cells import COMPLETE_GENERAL, show_completed
from lingshu_tools.tools.gene_set_tests import (
    EnrichmentArgument,
    EnrichmentView,
    begin_enrichment,
    enrichment_fields,
    resolve_collection,
    sets_table,
)
from lingshu_tools.tools.perturb_cells import GENERAL, gene_table, show_effect, with_sets
from lingshu_tools.tools.run_screen import (
    BEST,
    RankedView,
    ScreenResult,
    screen_shown,
    take_up_screen,
)
from lingshu_tools.tools.sample_cells import SAMPLE_GENERAL, Composition, Quality, show_sample
from lingshu_tools.tools.score_cells import (
    SCORE_GENERAL,
    ContextScore,
    Typical,
    show_score,
)
from lingshu_tools.tools.unfinished_files import created_at_of
from lingshu_tools.tools.user_cells_argument import UserCellsView

Detail = Literal["summary", "effects", "genes", "provenance"]
# Rows by detail where no limit is given.
_ROWS: dict[str, int] = {"summary": 5, "effects": 50, "genes": 50, "provenance": 0}
MOST_PARTS = 40
"""Contexts of a mixture that the provenance shows."""
_SETS = 3
"""Gene sets of a summary."""


class GetExperiment(Arguments):
    """Arguments of get_experiment."""

    id: AnyId
    detail: Detail = Field(
        default="summary",
        description="effects: pages of genes, strongest first; genes: those named; provenance: "
        "request, digests, numerics",
    )
    genes: list[str] | None = Field(
        default=None, min_length=1, max_length=100, description="Show these genes (detail=genes)"
    )
    normalise: Normalise = "cp10k"
    enrichment: EnrichmentArgument = None
    limit: int | None = Field(
        default=None, ge=1, le=MAX_ROWS, description=f"Rows to show, 1 to {MAX_ROWS}"
    )
    offset: int = Field(default=0, ge=0, le=100_000, description="Rows to skip")
    wait_s: WaitS = 0


class Replay(View):
    """How a replay compares with the experiment it replays."""

    of: str
    verdict: str
    differs: dict[str, Any]


class Provenance(View):
    """Everything an experiment's numbers follow from."""

    request: dict[str, Any]
    request_digest: str
    panel_digest: str
    principal: str
    door: str
    created_at: str
    parent: str | None
    in_place_of: str | None = Field(
        description="The cancelled or failed experiment that this one was begun in place of"
    )
    tags: list[str]
    artifacts: dict[str, str]
    environment: dict[str, Any] | None
    seconds: float | None
    verifications: list[dict[str, Any]]


class GetResult(Result):
    """An experiment or a screen; fields that do not apply to it are null."""

    detail_only = Result.detail_only | {
        "moved_umi_share",
        "responder_share",
        "effect_note",
        "user_cells",
    }
    general_caveats = GENERAL | SAMPLE_GENERAL | SCORE_GENERAL | COMPLETE_GENERAL

    tool: str
    perturbation: str | None = None
    context: dict[str, str] | None = None
    n_cells: int | None = None
    effect_source: str | None = None
    effect_note: str | None = None
    magnitude: Magnitude | None = None
    null_check: str | None = None
    responder_share: Number | None = None
    moved_umi_share: Number | None = None
    target_check: list[TargetCheck] | None = None
    genes: list[GeneEffect] | list[GeneMean] | None = None
    quality: Quality | None = None
    composition: list[Composition] = Field(default_factory=list[Composition])
    enrichment: EnrichmentView | None = None
    ranking: list[RankedView] | None = Field(default=None, description="Of a screen")
    user_cells: UserCellsView | None = None
    contexts: list[ContextScore] | None = Field(default=None, description="Of score_cells")
    typical: Typical | None = None
    drawn_genes: int | None = None
    pearson_with_training: Number | None = None
    replay: Replay | None = None
    provenance: Provenance | None = None


def get_experiment(app: App, arguments: GetExperiment) -> GetResult | Pending[GetResult]:
    """Return an experiment, after taking it up again where its worker has died.

    Raises:
        InputError: an argument that the detail does not use, or an unknown id.
    """
    _check_used(arguments)
    if is_screen(arguments.id):
        return _screen(app, arguments)
    try:
        record = shown(app, arguments.id)
    except MissingCheckpointError as error:
        # Both need the panel, which a row does not keep.
        if arguments.enrichment or arguments.normalise != "cp10k":
            raise
        return _without_checkpoint(app, arguments, error)
    # Gene sets need an effect; of an unfinished experiment its state is shown.
    if arguments.enrichment and record.succeeded:
        return _enriched(app, record, arguments)
    # Taken up again wherever it was left; launching what another process works on does nothing.
    if record.outcome is None and not record.ledger.read_only:
        app.runner.launch([arguments.id])
        if arguments.wait_s:
            return Pending(
                name=arguments.id,
                ids=[arguments.id],
                wait_s=arguments.wait_s,
                finish=lambda: _ended(app, shown(app, arguments.id), arguments),
            )
        # Read again: it may have ended at once.
        record = shown(app, arguments.id)
    return _experiment(app, record, arguments)


def _enriched(app: App, record: Shown, arguments: GetExperiment) -> GetResult | Pending[GetResult]:
    """Return the gene sets of an effect in place of its genes, once they are tested."""
    work = begin_enrichment(app, record, resolve_collection(app, arguments.enrichment or ""))
    return created_at_of(
        work,
        record.experiment.id,
        arguments.wait_s,
        lambda: _ended(app, record, arguments, work),
    )


def _ended(
    app: App, record: Shown, arguments: GetExperiment, work: Answer | Work | None = None
) -> GetResult:
    """Return an experiment, with the gene sets where they are asked for and it succeeded."""
    result = _experiment(app, record, arguments)
    if not (arguments.enrichment and record.succeeded):
        return result
    tested = enrichment_fields(
        app,
        record,
        arguments.enrichment,
        limit=arguments.limit or (_SETS if arguments.detail == "summary" else _ROWS["effects"]),
        offset=arguments.offset,
        detailed=arguments.detail == "effects",
        work=work,
    )
    fields: dict[str, Any] = {n: getattr(result, n) for n in GetResult.model_fields}
    # The gene sets are shown in place of what is said of genes.
    fields |= dict.fromkeys(("genes", "truncated", "target_check", "null_check", "magnitude"))
    return GetResult(**with_sets(fields, tested))


def _check_used(arguments: GetExperiment) -> None:
    """Refuse what the detail that is asked for would leave unused."""
    # What the caller set, defaults left out.
    given, detail = arguments.model_fields_set, arguments.detail
    elsewhere = is_screen(arguments.id) or arguments.enrichment or detail == "provenance"
    if arguments.normalise != "cp10k" and elsewhere:
        message = (
            f"normalise={arguments.normalise!r} is for the genes of one experiment: leave it "
            "out of screens, of detail='provenance' and beside enrichment"
        )
        raise InputError(message)
    if arguments.enrichment and (arguments.genes or detail in ("genes", "provenance")):
        message = (
            f"enrichment={quoted(arguments.enrichment)} shows gene sets in place of genes: leave "
            "out genes, and use detail='summary' or 'effects'"
        )
        raise InputError(message)
    unused: list[str] = []
    # Rows of genes are no part of the record that is asked for.
    if detail == "provenance":
        unused = sorted(given & {"genes", "limit", "offset"})
    elif arguments.genes and detail == "effects":
        unused = ["genes"]
    elif detail == "genes" and not arguments.genes:
        message = "detail='genes' needs genes=[…]; detail='effects' pages through all of them"
        raise InputError(message)
    if unused:
        message = (
            f"detail={detail!r} does not use {', '.join(unused)}; leave it out, or use "
            "detail='genes' for named genes and 'effects' for pages"
        )
        raise InputError(message)


def _experiment(app: App, record: Shown, arguments: GetExperiment) -> GetResult:
    detail: Detail = (
        "genes" if arguments.genes and arguments.detail == "summary" else arguments.detail
    )
    # The further columns and the caveat take the tokens of some rows.
    few = 3 if arguments.normalise != "cp10k" and detail == "summary" else 0
    few = 0 if app.door == "python" else few
    limit = arguments.limit or max(1, _ROWS[detail] - few, len(arguments.genes or ()))
    detailed = detail != "summary"
    if arguments.normalise != "cp10k" and record.experiment.tool != "perturb_cells":
        message = (
            f"normalise={arguments.normalise!r} is for effects, and {arguments.id} is of "
            f"{record.experiment.tool}; leave it out"
        )
        raise InputError(message)
    _check_genes(arguments, record)
    page: dict[str, Any] = {"genes": arguments.genes, "limit": limit, "offset": arguments.offset}
    if record.experiment.tool == "sample_cells":
        result: Result = show_sample(app, record, **page, detailed=detailed)
    elif record.experiment.tool == "complete_cells":
        result = show_completed(app, record, **page)
    elif record.experiment.tool == "score_cells":
        result = show_score(app, record)
    else:
        result = show_effect(app, record, **page, detailed=detailed, normalise=arguments.normalise)
    # The tool's own view, under the names that this result has in common with it.
    fields = {name: getattr(result, name) for name in type(result).model_fields}
    if detail == "provenance":
        fields |= {"genes": None, "composition": [], "truncated": None}
        fields["provenance"] = _provenance(record)
    return GetResult(tool=record.experiment.tool, replay=_replay(app, record), **fields)


def _check_genes(arguments: GetExperiment, record: Recorded) -> None:
    """Refuse named genes of an experiment that has none."""
    if arguments.genes and record.experiment.tool == "score_cells":
        message = f"{arguments.id} scores cells as a whole: leave out genes"
        raise InputError(message)


def _without_checkpoint(
    app: App, arguments: GetExperiment, missing: MissingCheckpointError
) -> GetResult:
    record = recorded(app, arguments.id)
    _check_genes(arguments, record)
    limit = arguments.limit or max(1, _ROWS[arguments.detail], len(arguments.genes or ()))
    fields = experiment_fields(
        record, missing, limit=limit, offset=arguments.offset, genes=arguments.genes
    )
    if arguments.detail == "provenance":
        fields |= {"genes": None, "composition": [], "truncated": None}
        fields["provenance"] = _provenance(record)
    return GetResult(tool=record.experiment.tool, replay=_replay(app, record), **fields)


def _screen(app: App, arguments: GetExperiment) -> GetResult | Pending[GetResult]:
    if arguments.enrichment:
        message = (
            f"enrichment is of one experiment, and {arguments.id!r} is a screen: give the "
            "experiment_id of a row"
        )
        raise InputError(message)
    if arguments.genes or arguments.detail in ("genes", "provenance"):
        message = (
            f"detail={arguments.detail!r} with genes={quoted(arguments.genes)} is for one "
            f"experiment, and {arguments.id!r} is a screen. Ask for its summary, then for the "
            "experiment_id of a row."
        )
        raise InputError(message)
    detailed = arguments.detail == "effects"
    rows = arguments.limit or (MAX_ROWS if detailed else BEST)
    ledger, screen = locate_screen(app, arguments.id)
    try:
        # Only to see whether its checkpoint is here.
        plan_of(app, screen.plan)
    except MissingCheckpointError as error:
        return GetResult(tool="run_screen", **screen_fields(ledger, screen, error))

    # Made after the wait, whatever state the screen is in then.
    def finish() -> GetResult:
        offset = arguments.offset
        return _shown_screen(
            screen_shown(app, arguments.id, top=rows, offset=offset, detailed=detailed)
        )

    return take_up_screen(app, arguments.id, arguments.wait_s, finish)


def _shown_screen(screen: ScreenResult) -> GetResult:
    fields = {name: getattr(screen, name) for name in Result.model_fields}
    return GetResult(tool="run_screen", ranking=screen.ranking, **fields)


def _replay(app: App, record: Recorded) -> Replay | None:
    of = replayed(record.experiment)
    if of is None or record.ledger.read_only:
        return None
    verdict = verdict_of(app, record.experiment)
    return verdict and Replay(of=of, verdict=verdict.verdict, differs=verdict.differs)


def _provenance(record: Recorded) -> Provenance:
    row, outcome = record.experiment, record.outcome
    digest = outcome and outcome.environment_digest
    return Provenance(
        request=_short(row.request),
        request_digest=row.request_digest,
        panel_digest=row.panel_digest,
        principal=row.principal,
        door=row.door,
        created_at=row.created_at,
        parent=row.parent,
        in_place_of=replaces(row),
        tags=record.ledger.tags([row.id]).get(row.id, []),
        artifacts=dict(outcome.artifacts) if outcome else {},
        environment=dict(record.ledger.environment(digest)) if digest else None,
        seconds=outcome.seconds if outcome else None,
        verifications=[
            {"replay": v.replay_id, "verdict": v.verdict, "at": v.created_at}
            for v in record.ledger.verifications(row.id)
        ],
    )


def _short(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with the first contexts of a long mixture alone, and their number."""
    mixture = request.get("mixture")
    if mixture is None or len(mixture["parts"]) <= MOST_PARTS:
        return dict(request)
    first = mixture["parts"][:MOST_PARTS]
    return {**request, "mixture": {**mixture, "parts": first, "n_parts": len(mixture["parts"])}}


def _text(result: GetResult) -> str:
    effects = [g for g in result.genes or () if isinstance(g, GeneEffect)]
    if result.enrichment:
        return render(result, sets_table(result.enrichment))
    return render(result, gene_table(effects) if effects else "")


SPEC = ToolSpec(
    name="get_experiment",
    title="Get an experiment or a screen",
    description=(
        "State or result of an experiment (exp_…) or a screen (scr_…), begun in any session. Use "
        "it to pick up what is running, and for more of a result: detail effects (pages of "
        "genes), genes (those named), provenance (request, digests, numerics, replays). Not for "
        "drawing: plot_experiment. Units: as in the result. Cost: free; an unfinished experiment "
        "whose worker died is taken up again. Limits: 200 rows in one call, then offset."
    ),
    arguments=GetExperiment,
    result=GetResult,
    run=get_experiment,
    text=_text,
    read_only=True,
)
