"""describe_model: what the checkpoints can do, what they have seen, how far to believe them.

Starts nothing and reads no weights.
"""

from typing import Any

from pydantic import Field

from lingshu_model import __version__
from lingshu_model.contracts import (
    MAX_CELLS,
    PROTOCOL,
    Checkpoint,
    CheckpointError,
    Intervention,
)
from lingshu_tools.analysis.held_out import TIER_WORDS, HeldOut, of_each
from lingshu_tools.app import App
from lingshu_tools.calls.concise import Detail
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import (
    EvidenceView,
    Number,
    Result,
    Truncated,
    View,
    call_text,
    render,
)
from lingshu_tools.errors import EngineError, NotFoundError
from lingshu_tools.experiments.designs import (
    MAX_COUNTS,
    context_label,
    label_of,
    resolve_checkpoint,
)
from lingshu_tools.experiments.sampling_options import default_sampling
from lingshu_tools.report.evidence import (
    cost_of,
    evidence_view,
    predictor_words,
    tier_sentence,
)
from lingshu_tools.tools.common import CheckpointName
from lingshu_tools.tools.example_calls import (
    control_call,
    exemplary,
    genes_call,
    perturbation_call,
)

_ROWS, _FEW = 50, 4
"""Rows of each list of a detailed and of a concise result."""
PREDICTIONS = "simulated cells are predictions; only evidence on held-out cells supports them"


class DescribeModel(Arguments):
    """Arguments of describe_model."""

    checkpoint: CheckpointName = None
    limit: int | None = Field(
        default=None, ge=1, le=200, description="Rows of each list, at most 50 in one result"
    )
    offset: int = Field(default=0, ge=0, le=100_000, description="Rows to skip in each list")
    detail: Detail = "concise"

    @property
    def rows(self) -> int:
        """Rows of each list; more than 50 come in pages."""
        return min(self.limit or (_ROWS if self.detail == "detailed" else _FEW), _ROWS)


class KindView(View):
    """The trained targets of one kind of intervention."""

    kind: str
    n_targets: int
    targets: list[str]


class HeldOutRow(View):
    """The held-out figure of one condition."""

    condition: str
    tier: str
    value: Number | None
    interval: list[Number] | None
    best_simple: str | None
    best_simple_value: Number | None
    holds: bool = Field(description="Better than every simple predictor")
    n_cells: int | None


class EngineState(View):
    """The engine, if one runs; describing never starts it."""

    state: str
    device: str | None = None
    dtype: str | None = None
    queued: int = 0
    running: int = 0


class ModelView(View):
    """One checkpoint."""

    detail_only = frozenset(
        {
            "digest",
            "panel_digest",
            "n_shams",
            "steps",
            "guidance",
            "max_cells_per_experiment",
            "cost_basis",
            "n_training_cells",
            "evidence",
            "tiers_without_evidence",
        }
    )

    name: str
    digest: str = ""
    n_genes: int
    panel_digest: str = ""
    n_contexts: int
    contexts: list[dict[str, str]]
    kinds: list[KindView]
    n_shams: int = 0
    n_training_cells: int = 0
    steps: int = 0
    guidance: float = 0
    max_cells_per_experiment: int = Field(default=0, description="For each arm of perturb_cells")
    seconds_per_cell: Number | None
    cost_basis: str = ""
    evidence: list[EvidenceView] = Field(default_factory=list[EvidenceView])
    tiers_without_evidence: list[str] = Field(default_factory=list[str])
    n_held_out: int
    held_out: list[HeldOutRow] = Field(
        default_factory=list[HeldOutRow], description="Pearson of change, of one checkpoint"
    )


class DescribeResult(Result):
    """The checkpoints and the engine."""

    general_caveats = frozenset({PREDICTIONS})

    checkpoints: list[ModelView]
    engine: EngineState


def describe_model(app: App, arguments: DescribeModel) -> DescribeResult:
    """Return the named checkpoint, or all of them, and the engine's state."""
    if arguments.checkpoint:
        checkpoints, damaged = [resolve_checkpoint(app, arguments.checkpoint)], list[str]()
    else:
        checkpoints, damaged = _readable(app)
    views = [_view(c, arguments, alone=len(checkpoints) == 1) for c in checkpoints]
    return DescribeResult(
        status="succeeded",
        summary=" ".join(_sentence(c) for c in checkpoints)
        or "No checkpoint is installed: LINGSHU_CHECKPOINTS names folders that hold some.",
        units={"seconds_per_cell": "seconds of computing per sampled cell"},
        evidence=_first_evidence(checkpoints),
        caveats=[
            PREDICTIONS,
            *damaged,
        ],
        ledger_head=str(app.ledger.head()),
        next_step=_next_step(checkpoints),
        checkpoints=views,
        engine=_engine(app),
        truncated=_cut(views, arguments),
    )


def _cut(views: list[ModelView], arguments: DescribeModel) -> Truncated | None:
    """Return which list has the most rows left, and the call that shows them."""
    # By what is left, so that the page advances the list that is farthest behind.
    left = [
        (total - arguments.offset - shown, shown, total, view.name)
        for view in views
        for shown, total in (
            (len(view.contexts), view.n_contexts),
            (len(view.held_out), view.n_held_out),
            *((len(k.targets), k.n_targets) for k in view.kinds),
        )
    ]
    rest, shown, total, name = max(left, default=(0, 0, 0, ""))
    if rest <= 0:
        return None
    # A list of which nothing was shown begins at the same offset.
    offset = arguments.offset + arguments.rows if shown else arguments.offset
    form = {"detail": "detailed"} if arguments.detail == "detailed" else {"limit": _ROWS}
    more = call_text("describe_model", checkpoint=name, offset=offset, **form)
    return Truncated(shown=shown, total=total, how_to_get_more=f"{more} shows more of each list")


def _next_step(checkpoints: list[Checkpoint]) -> str | None:
    """Return calls on the checkpoint that serves as an example."""
    if not checkpoints:
        return None
    first = exemplary(checkpoints)
    run = perturbation_call(first) or control_call(first)
    return f"{run} simulates a condition; {genes_call(first)} resolves names."


def _readable(app: App) -> tuple[list[Checkpoint], list[str]]:
    """Return the checkpoints that can be read, and what is wrong with the others."""
    checkpoints: list[Checkpoint] = []
    damaged: list[str] = []
    for name in app.catalogue.names():
        try:
            checkpoint = resolve_checkpoint(app, name)
            # Reading now finds what is damaged: it becomes a caveat, and the others are still
            # described.
            _view(
                checkpoint, DescribeModel(), alone=True
            )  # reads all of its files that are not weights
        except (CheckpointError, NotFoundError) as error:
            damaged.append(f"checkpoint {name!r} cannot be used: {error}")
        else:
            checkpoints.append(checkpoint)
    return checkpoints, damaged


def _sentence(checkpoint: Checkpoint) -> str:
    known = {k: len(v) for k, v in checkpoint.targets.items() if k != "sham"}
    kinds = ", ".join(f"{n} {kind} targets" for kind, n in known.items()) or "no interventions"
    contexts = checkpoint.contexts
    where = context_label(contexts[0]) if len(contexts) == 1 else f"{len(contexts)} contexts"
    return (
        f"{checkpoint.name}: {len(checkpoint.panel)} genes, {where}, {kinds}. "
        f"{tier_sentence(checkpoint, 'seen')}"
    )


def _view(checkpoint: Checkpoint, arguments: DescribeModel, *, alone: bool) -> ModelView:
    rows = slice(arguments.offset, arguments.offset + arguments.rows)
    each = of_each(checkpoint)
    seen = checkpoint.targets
    # From what the checkpoint knows best to what it knows least.
    tiers = ("seen", "seen_elsewhere", "combination_of_seen", "unseen")
    views = {tier: evidence_view(checkpoint, tier) for tier in tiers}
    default = default_sampling(checkpoint)
    cost = cost_of(checkpoint, 1)
    return ModelView(
        name=checkpoint.name,
        digest=checkpoint.digest,
        n_genes=len(checkpoint.panel),
        panel_digest=checkpoint.panel_digest,
        n_contexts=len(checkpoint.contexts),
        contexts=checkpoint.contexts[rows],
        kinds=[
            KindView(kind=kind, n_targets=len(names), targets=names[rows])
            for kind, names in seen.items()
            if kind != "sham"
        ],
        n_shams=len(seen.get("sham", ())),
        n_training_cells=sum(_cells_seen(checkpoint)),
        steps=default.steps,
        guidance=default.guidance,
        # Of two arms, within the counts that one experiment may have.
        max_cells_per_experiment=min(MAX_CELLS, MAX_COUNTS // (2 * len(checkpoint.panel))),
        seconds_per_cell=cost.seconds,
        cost_basis=cost.basis,
        evidence=[view for view in views.values() if view],
        tiers_without_evidence=[tier for tier, view in views.items() if view is None],
        n_held_out=len(each),
        # Of several checkpoints the rows would fill the answer.
        held_out=[_row(checkpoint, *e) for e in each[rows]] if alone else [],
    )


def _row(
    checkpoint: Checkpoint,
    context: dict[str, str],
    interventions: list[dict[str, Any]],
    figure: HeldOut,
) -> HeldOutRow:
    where = f" in {context_label(context)}" if len(checkpoint.contexts) > 1 else ""
    return HeldOutRow(
        condition=f"{label_of(Intervention(**i) for i in interventions)}{where}",
        tier=TIER_WORDS[figure.tier],
        value=figure.model.value,
        interval=list(figure.model.interval) if figure.model.interval else None,
        best_simple=figure.simple and predictor_words(figure.simple),
        best_simple_value=figure.best.value if figure.best else None,
        holds=figure.holds,
        n_cells=figure.n_cells,
    )


def _cells_seen(checkpoint: Checkpoint) -> list[int]:
    # Null labels are control cells under another label: counting them would count cells twice.
    entries: list[dict[str, Any]] = checkpoint.config["seen"]
    return [
        e["n_cells"] for e in entries if not any(i["kind"] == "sham" for i in e["interventions"])
    ]


def _first_evidence(checkpoints: list[Checkpoint]) -> EvidenceView | None:
    return evidence_view(checkpoints[0], "seen") if len(checkpoints) == 1 else None


def _engine(app: App) -> EngineState:
    try:
        info = app.engine.info()
    except EngineError as error:
        return EngineState(state=f"not usable now: {error}")
    if info is None:
        return EngineState(state="not running; the first simulation starts it")
    state = "running"
    # Described, not replaced: this call starts nothing and ends nothing.
    if (info.version, info.protocol) != (__version__, PROTOCOL):
        state = f"running lingshu {info.version}, which is replaced once it has no work left"
    return EngineState(
        state=state,
        device=str(info.profile["device"]) if "device" in info.profile else None,
        dtype=str(info.profile["dtype"]) if "dtype" in info.profile else None,
        queued=info.queued,
        running=info.running,
    )


def _text(result: DescribeResult) -> str:
    lines = [
        f"{c.name} {kind.kind}: {', '.join(kind.targets)}"
        for c in result.checkpoints
        for kind in c.kinds
    ]
    return render(result, "\n".join([*lines, f"engine: {result.engine.state}"]))


SPEC = ToolSpec(
    name="describe_model",
    title="Describe the virtual cell",
    description=(
        "What the checkpoints can simulate: contexts, kinds of intervention and trained targets, "
        "panel size, seconds per cell, and held-out evidence beside simple predictors: by support "
        "tier, and of one checkpoint a row per condition. Use it first, and before saying how far "
        "a result may be believed. Not for one gene: find_genes. Units: seconds per sampled cell. "
        "Cost: free. Limits: lists come in pages of limit rows."
    ),
    arguments=DescribeModel,
    result=DescribeResult,
    run=describe_model,
    text=_text,
)
