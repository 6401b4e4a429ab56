"""Arguments and views that several tools share."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from lingshu_model.contracts import MAX_CELLS, MAX_SEED, Intervention
from lingshu_model.contracts.messages import Kind
from lingshu_tools.app import ASK_ABOVE_S, App
from lingshu_tools.calls.registry import Arguments
from lingshu_tools.calls.results import call_text
from lingshu_tools.calls.waiting import Pending, R
from lingshu_tools.errors import CostError
from lingshu_tools.execution.resuming import repeated
from lingshu_tools.experiments.designs import Design, design, new_experiment
from lingshu_tools.experiments.disk_space import require_free_space
from lingshu_tools.ledger.tagging import LONGEST, PATTERN
from lingshu_tools.report.evidence import (
    cost_sentence,
    design_cost,
    design_sentence,
    own_evidence,
    support_view,
)
from lingshu_tools.report.experiment_views import Shown, shown
from lingshu_tools.tools.clamp_argument import Clamps
from lingshu_tools.tools.context_argument import CONTEXT_SCHEMA, context_fields, context_map

MAX_WAIT_S = 45
MOST_STEPS = 256
MOST_GUIDANCE = 10
MAX_ROWS = 200
LONGEST_CALL = 2000
"""Characters of a call in a next step; a longer one is described instead."""
LOG1P = "log1p_cp10k: ln(1 + counts per 10,000)"


def score_units(units: str) -> str:
    """Return what results say of the units of a screen's score."""
    return {
        "log1p_cp10k": LOG1P,
        "cosine": "cosine of two effects, -1 to 1",
        "share of distance": "share of the distance of two mean profiles that is closed, at most 1",
    }.get(units, "sum of aims, each in standard deviations over trained perturbations")


class InterventionArgument(Arguments):
    """One thing done to the cells."""

    kind: Kind = Field(description="One it was trained on")
    target: str = Field(
        min_length=1,
        max_length=64,
        description="Gene symbol, alias or Ensembl id; or cytokine, drug",
    )
    dose: float | None = Field(default=None, gt=0, description="Only where it was trained with one")

    def wire(self) -> Intervention:
        """Return it as the engine's type."""
        return Intervention(kind=self.kind, target=self.target, dose=self.dose)


# Arguments that several tools have, each with one published description.
CheckpointName = Annotated[
    str | None, Field(max_length=100, description="Needed if there are several")
]
ContextArgument = Annotated[
    dict[str, str] | None,
    # Accepted in several forms, shown and published in one.
    BeforeValidator(context_map),
    PlainSerializer(context_fields, when_used="json-unless-none"),
    WithJsonSchema(CONTEXT_SCHEMA),
    Field(description='The cells, e.g. [{"field": "cell_line", "value": "THP-1"}]'),
]
NCells = Annotated[
    int, Field(ge=1, le=MAX_CELLS, description=f"Cells for each arm, 1 to {MAX_CELLS}")
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description="Equal seeds give equal cells")]
FirstCell = Annotated[
    int,
    # Streams are numbered by cell: a series may be continued for long.
    Field(ge=0, le=2**40, description="First cell, to continue a series"),
]
WaitS = Annotated[
    float,
    Field(ge=0, le=MAX_WAIT_S, description="0 to 45; it goes on after"),
]
Tags = Annotated[
    list[Annotated[str, Field(max_length=LONGEST, pattern=PATTERN)]],
    Field(
        max_length=8,
        description="Names to find it by",
    ),
]
DryRun = Annotated[bool, Field(description="Return the cost only")]
MaxSeconds = Annotated[
    float | None,
    Field(
        gt=0,
        description=f"Refuse if estimated longer; needed above {ASK_ABOVE_S:.0f}",
    ),
]
Steps = Annotated[int | None, Field(ge=1, le=MOST_STEPS, description="Of the network")]
Guidance = Annotated[float | None, Field(ge=0, le=MOST_GUIDANCE, description="w of the network")]
AllowUnfit = Annotated[
    bool,
    Field(description="Also where the fitness check failed"),
]
Normalise = Annotated[
    Literal["cp10k", "unresponsive"],
    Field(description="unresponsive: also scaled by genes without an effect"),
]
AnyId = Annotated[str, Field(min_length=1, max_length=80, description="exp_… or scr_…")]


class CellSettings(Arguments):
    """Which cells, how many, of which checkpoint."""

    context: ContextArgument = None
    n_cells: NCells = 256
    seed: Seed = 0
    first_cell: FirstCell = 0
    checkpoint: CheckpointName = None


class Simulation(CellSettings):
    """What the tools that run one experiment have in common."""

    interventions: list[InterventionArgument]
    tags: Tags = Field(default_factory=list[str])
    wait_s: WaitS = 4
    dry_run: DryRun = False
    max_seconds: MaxSeconds = None
    allow_unfit: AllowUnfit = False
    steps: Steps = None
    guidance: Guidance = None
    clamp: Clamps = Field(default_factory=dict[str, int])

    def design(self, app: App, tool: str) -> Design:
        """Return what is asked for, every name resolved."""
        return design(
            app,
            tool=tool,
            checkpoint=self.checkpoint,
            context=self.context,
            interventions=[i.wire() for i in self.interventions],
            n_cells=self.n_cells,
            seed=self.seed,
            first_cell=self.first_cell,
            allow_unfit=self.allow_unfit,
            steps=self.steps,
            guidance=self.guidance,
            clamp=self.clamp,
        )

    def begin(self, app: App, design: Design, show: Callable[[Shown], R]) -> Pending[R]:
        """Return the experiment, recorded and at work, as what is waited for.

        `show` makes the result of it afterwards, whatever state it is in then.
        """
        return begin_experiment(app, self, design, show)


def begin_experiment(
    app: App, arguments: Any, design: Design, show: Callable[[Shown], R]
) -> Pending[R]:
    """Return an experiment, recorded and at work, as what is waited for.

    Args:
        app: the application.
        arguments: of the call: `tags`, `wait_s` and `max_seconds` are read.
        design: of the experiment.
        show: makes the result of it afterwards, whatever state it is in then.

    Raises:
        CostError: its estimate is above what the call may take.
    """
    # Cost, then space, then the row: nothing is recorded of a call that is refused.
    seconds = design_cost(design).seconds
    require_affordable(app, design.tool, arguments, arguments.max_seconds, seconds)
    require_free_space(app, design)
    # The same call after a cancellation begins another experiment, which names the old one.
    row = repeated(app, new_experiment(app, design))
    experiment = app.ledger.begin(row, tags=arguments.tags)
    app.runner.launch([experiment.id])
    return Pending(
        name=experiment.id,
        ids=[experiment.id],
        wait_s=arguments.wait_s,
        # Read anew: by then it may have ended, or been cancelled by somebody else.
        finish=lambda: show(shown(app, experiment.id)),
    )


def require_affordable(
    app: App, tool: str, arguments: Arguments, limit: float | None, seconds: float | None
) -> None:
    """Refuse a call whose estimate is above its `max_seconds`, or above what needs one.

    Raises:
        CostError: with the estimate and the call that would be accepted.
    """
    # A limit of the call replaces that of the door.
    most = app.ask_above_s if limit is None else limit
    if most is None or seconds is None or seconds <= most:
        return
    # Rounded up, so that the call that is shown would be accepted.
    enough = math.ceil(seconds)
    call = printed(tool, arguments, max_seconds=enough) or f"The same with max_seconds={enough}"
    which = "which needs max_seconds" if limit is None else f"more than max_seconds={limit:g}"
    message = (
        f"{tool} would take about {seconds:,.0f} s of computing, {which}; nothing was begun. "
        f"{call} runs it; fewer cells or candidates cost less."
    )
    raise CostError(message, seconds)


def planned(app: App, design: Design, arguments: Arguments) -> dict[str, Any]:
    """Return the envelope of a dry run: the cost, and nothing written."""
    cost = design_cost(design)
    support = design.support
    return {
        "status": "planned",
        "summary": f"{design.label} in {design.place}: {cost_sentence(cost)}. "
        f"Nothing was run. {design_sentence(design)}",
        "units": {"cost.seconds": "seconds of computing"},
        "cost": cost,
        "support": support_view(support),
        **own_evidence(design),
        "ledger_head": str(app.ledger.head()),
        "next_step": run_text(design.tool, arguments),
    }


def run_text(tool: str, arguments: Arguments) -> str:
    """Return the next step of a dry run: the same call without `dry_run`."""
    text = printed(tool, arguments, dry_run=None)
    if text is None:
        return f"{tool} with the same arguments and dry_run=false runs it."
    return f"{text} runs it."


def printed(tool: str, arguments: Arguments, **changed: Any) -> str | None:
    """Return a call as it was made, with some arguments changed; None where it is too long."""
    # As it was made: defaults are not spelled out.
    given = arguments.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    whole = {name: value for name, value in (given | changed).items() if value is not None}
    text = call_text(tool, **whole)
    return None if len(text) > LONGEST_CALL else text
