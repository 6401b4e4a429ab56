"""plan_screen: an objective and candidates become a recorded plan; nothing is simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
)

from lingshu_model.contracts import Tier
from lingshu_tools.analysis.certainty import LEAST_LFSR
from lingshu_tools.calls.concise import Detail
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import (
    Number,
    Result,
    SupportView,
    Truncated,
    View,
    call_text,
    render,
    text_table,
)
from lingshu_tools.errors import InputError, quoted
from lingshu_tools.experiments.designs import context_label, label_of
from lingshu_tools.ledger import Screen
from lingshu_tools.planner import Plan, Request, make_plan
from lingshu_tools.planner.choosing import left_out_words
from lingshu_tools.planner.objectives.gene_lists import weighted
from lingshu_tools.planner.ranking import errors_by_tier, null_labels
from lingshu_tools.planner.rules import rule_text
from lingshu_tools.report.evidence import (
    cost_of,
    cost_sentence,
    evidence_view,
    screen_sentence,
    tier_sentence,
)
from lingshu_tools.report.screen_text import (
    closed_form,
    listed,
    plan_summary,
    scoring_sentence,
    will_show,
    wont_show,
)
from lingshu_tools.tools.common import (
    CellSettings,
    InterventionArgument,
    score_units,
)
from lingshu_tools.tools.context_argument import context_map

if TYPE_CHECKING:
    from lingshu_tools.app import App

# Weakest last: the evidence shown for a mixed screen is that of its weakest tier.
TIERS: tuple[Tier, ...] = ("seen", "seen_elsewhere", "combination_of_seen", "unseen")
SHOWN_CANDIDATES = 50
SHOWN_BEST = 4
MOST_VALUES = 5_000_000
"""Candidates x genes of a plan whose best are shown: some seconds of reading effects."""
NAMED_UNFIT = 10


Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=500)]


class ObjectiveArgument(Arguments):
    """What to look for, and what candidates must not do; a larger score is better.

    The score of genes is the mean of sign x change over them. With several aims each is divided by
    its spread over trained perturbations, and the sum is the score.
    """

    up: Names = Field(
        default_factory=list,
        alias="raise",
        description="Genes, gene sets (Hallmark, Reactome, FILE.gmt#SET); STAT1:2 counts twice",
    )
    down: Names = Field(default_factory=list, alias="lower", description="The same")
    like: Names = Field(default_factory=list, description="Perturbations to resemble")
    unlike: Names = Field(default_factory=list, description="To reverse")
    toward: str | None = Field(
        default=None,
        max_length=500,
        description="Experiment id, or context cell_type=B cell",
    )
    magnitude: float | None = Field(default=None, description="1: large effect, -1: small")
    keep: Names = Field(
        default_factory=list, description="Genes that must stay within ± keep_within"
    )
    keep_within: float | None = Field(default=None, description="Default 0.5")
    avoid: Names = Field(default_factory=list, description="Targets: genes, sets, FILE.txt")
    only: Names = Field(default_factory=list, description="Allowed kinds, targets")

    @field_validator("toward", mode="before")
    @classmethod
    def _line(cls, given: Any) -> Any:
        """Return a context in any form as the line in which it is listed."""
        context = given if isinstance(given, str) else context_map(given)
        return context_label(context) if isinstance(context, dict) else context

    def request(self) -> Request:
        """Return it as the planner takes it.

        Raises:
            InputError: `toward` is neither an id nor a context.
        """
        name, weight = weighted(self.toward or "")
        toward: str | dict[str, str] | None = name or None
        if name and not name.startswith("exp_"):
            try:
                toward = context_map(name)
            except ValueError as error:
                message = (
                    f"toward={quoted(name)} is neither an experiment id exp_… nor a context such "
                    'as "cell_type=B cell"; describe_model lists contexts'
                )
                raise InputError(message) from error
        given = self.model_dump(exclude={"toward"})
        return Request(**given, toward=toward, toward_weight=weight)


# The fields are described in plan_screen, which is listed before.
WithoutDescriptions = WithJsonSchema(
    {
        "type": "object",
        "properties": {
            name: {key: field[key] for key in ("type", "items") if key in field}
            if "anyOf" not in field
            else {"type": field["anyOf"][0]["type"]}
            for name, field in ObjectiveArgument.model_json_schema()["properties"].items()
        },
    }
)


def _candidates(given: Any) -> Any:
    """Return candidates as a list in which rules are texts; `all_seen` alone stays a word."""
    if given in (["all_seen"], "all_seen"):
        return "all_seen"
    items: Any = [given] if rule_text(given) is not None else given
    if not isinstance(items, list):
        return given
    texts = [None if isinstance(item, list) else rule_text(item) for item in items]
    return [item if text is None else text for item, text in zip(items, texts, strict=True)]


def _as_texts(candidates: str | list[str | list[InterventionArgument]]) -> list[str]:
    """Return candidates in their published form."""
    if isinstance(candidates, str):
        return [candidates]
    return [c if isinstance(c, str) else label_of(i.wire() for i in c) for c in candidates]


# A combination is one candidate, so a candidate may be a list itself.
Candidates = Annotated[
    Literal["all_seen"] | list[str | list[InterventionArgument]],
    BeforeValidator(_candidates),
    PlainSerializer(_as_texts, when_used="json"),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
CANDIDATES = (
    '["all_seen"]: all that the context was trained on; else targets ("STAT1", "STAT1 knockout"), '
    'combinations ("JAK1 + STAT1"), rules ("all_panel", "pairs_of all_seen", '
    '"combinations_of 3 JAK1, JAK2, STAT1")'
)


class ScreenSettings(CellSettings):
    """What plan_screen and run_screen have in common beside objective and candidates."""

    budget: int | None = Field(
        default=None, ge=1, description="Most cells in all; n_cells is lowered to fit"
    )
    race: bool | None = Field(
        default=None,
        description="Sample in rounds until the top_n are settled; default: with rules",
    )
    top_n: int | None = Field(
        default=None, ge=1, le=200, description="Best candidates that a race settles; default 10"
    )


class PlanScreen(ScreenSettings):
    """Arguments of plan_screen."""

    detail: Detail = "concise"
    objective: ObjectiveArgument = Field(
        description='What to look for, e.g. {"lower": ["PSMB9", "STAT1"]}'
    )
    candidates: Candidates = Field(description=CANDIDATES)


class ScoredView(View):
    """A candidate's score in closed form: posterior mean and 95 % interval."""

    detail_only = frozenset({"interval"})

    perturbation: str
    score: Number
    interval: list[Number] = Field(default_factory=list[float])
    lfsr: Number


class PlanResult(Result):
    """A recorded plan."""

    detail_only = Result.detail_only | {"plan_digest", "will_show"}
    concise_lists = frozenset({"candidates"})

    objective: dict[str, list[str]]
    context: dict[str, str]
    n_cells: int
    n_candidates: int
    candidates: list[str] = Field(description="Perturbations, at most the first 50")
    best: list[ScoredView] = Field(
        default_factory=list["ScoredView"], description="By stored effects, nothing simulated"
    )
    plan_digest: str = Field(default="", description="Equal plans have equal digests")
    prediction_error: Number | None = Field(
        description="Held-out RMS error of such a score, weakest support tier; None if unmeasured"
    )
    sham_limit: Number | None = Field(description="No meaningless label had a score beyond ± this")
    will_show: list[str] = Field(default_factory=list[str])
    wont_show: list[str]


def plan_screen(app: App, arguments: PlanScreen) -> PlanResult:
    """Return the plan of a screen, recorded under an id that run_screen takes."""
    plan = requested_plan(app, arguments, arguments.objective, arguments.candidates)
    return plan_result(app, plan, recorded(app, plan))


def requested_plan(
    app: App, settings: ScreenSettings, objective: ObjectiveArgument, candidates: Candidates
) -> Plan:
    """Return the resolved plan of what was asked."""
    return make_plan(
        app,
        objective=objective.request(),
        candidates=candidates
        if isinstance(candidates, str)
        else [c if isinstance(c, str) else [i.wire() for i in c] for c in candidates],
        checkpoint=settings.checkpoint,
        context=settings.context,
        n_cells=settings.n_cells,
        seed=settings.seed,
        first_cell=settings.first_cell,
        budget=settings.budget,
        top_n=settings.top_n,
        race=settings.race,
    )


def recorded(app: App, plan: Plan) -> Screen:
    """Return the screen of a plan: this principal's oldest of that digest, or a new one."""
    mine = [s for s in app.ledger.find_screens(digest=plan.digest) if s.principal == app.principal]
    if mine:
        return min(mine, key=lambda s: s.seq)
    return app.ledger.record_screen(plan.record, principal=app.principal)


def plan_result(app: App, plan: Plan, screen: Screen | None) -> PlanResult:
    """Return what a plan would cost and show; without a screen it is not recorded."""
    labels = [d.label for d in plan.designs]
    checkpoint, tier = plan.control.checkpoint, weakest(plan)
    error, limit = errors_by_tier(plan).get(tier), sham_limit(plan)
    cost = cost_of(checkpoint, plan.total_cells)
    return PlanResult(
        status="planned",
        summary=plan_summary(
            plan, cost_sentence(cost), screen_sentence(plan.held_out, checkpoint, tier), error
        ),
        units=dict.fromkeys(
            ("best.score", "prediction_error", "sham_limit"), score_units(plan.objective.units)
        ),
        support=support_of(plan),
        evidence=evidence_view(checkpoint, tier),
        caveats=caveats_of(plan),
        screen_id=screen.id if screen else None,
        ledger_head=str(app.ledger.head()),
        next_step=call_text("run_screen", screen_id=screen.id) if screen else None,
        cost=cost,
        objective=plan.wanted.shown,
        context=dict(plan.control.context),
        n_cells=plan.control.n_cells,
        n_candidates=plan.n_candidates,
        candidates=labels[:SHOWN_CANDIDATES],
        best=_best(plan),
        plan_digest=plan.digest,
        prediction_error=error and error.rms,
        sham_limit=limit,
        will_show=will_show(limit),
        wont_show=wont_show(),
        truncated=_truncated(labels, screen),
    )


def _best(plan: Plan) -> list[ScoredView]:
    """Return the best candidates by stored effects; none where there are too many to read."""
    checkpoint = plan.control.checkpoint
    if checkpoint.effects is None or len(plan.candidates) * len(checkpoint.panel) > MOST_VALUES:
        return []
    scores = [(d.label, score) for d in plan.designs if (score := closed_form(plan, d))]
    ordered = sorted(scores, key=lambda pair: (-pair[1].mean, pair[0]))[:SHOWN_BEST]
    return [
        ScoredView(
            perturbation=label,
            score=score.mean,
            interval=list(score.interval),
            lfsr=max(score.lfsr, LEAST_LFSR),
        )
        for label, score in ordered
    ]


def _truncated(labels: list[str], screen: Screen | None) -> Truncated | None:
    """Return how many candidates are not named; None where all are."""
    if len(labels) <= SHOWN_CANDIDATES:
        return None
    all_of_them = {"screen_id": screen.id} if screen else {}
    more = call_text("run_screen", **all_of_them, top=len(labels))
    how = f"{more} ranks and names all of them"
    return Truncated(shown=SHOWN_CANDIDATES, total=len(labels), how_to_get_more=how)


def weakest(plan: Plan) -> Tier:
    """Return the weakest support tier among a plan's candidates."""
    return TIERS[max(i for i, tier in enumerate(TIERS) if plan.support_mix.get(tier))]


def support_of(plan: Plan) -> SupportView:
    """Return the support of a whole screen: a tier, or `mixed` with the number of each."""
    mix = plan.support_mix
    seen = [d.support.n_cells for d in plan.designs if d.support.tier == "seen"]
    cells = f"; at least {min(seen)} training cells of each seen one" if seen else ""
    return SupportView(
        tier=weakest(plan) if len(mix) == 1 else "mixed",
        n_cells=sum(seen),
        note=", ".join(f"{n} {t}" for t, n in mix.items()) + cells,
        mix={str(tier): n for tier, n in mix.items()},
    )


def caveats_of(plan: Plan, *, brief: bool = False) -> list[str]:
    """Return what holds for every reading of a plan's scores, run or not.

    `brief` leaves out what a plan says of its rules, of scores in closed form, and of tiers other
    than the weakest.
    """
    mix, checkpoint = plan.support_mix, plan.control.checkpoint
    sentences = [tier_sentence(checkpoint, t) for t in mix if t != weakest(plan) and not brief]
    sentences += repeated_candidates(plan)
    left_out = [
        d.label
        for d in plan.designs
        if plan.objective.left_out({i.target for i in d.interventions})
    ]
    if left_out:
        sentences.append(f"A target's own gene is left out of its score: {listed(left_out, 5)}.")
    sentences += left_out_words(plan.wanted.left_out)
    sentences += _unfit(plan)
    scoring = scoring_sentence(plan, brief=brief)
    sentences += [scoring] if scoring else []
    stored = plan.control.checkpoint.effects is not None
    why = None if stored else null_labels(plan.control)[1]
    return [*sentences, *([f"{why[0].upper()}{why[1:]}."] if why else [])]


def repeated_candidates(plan: Plan) -> list[str]:
    """Return a sentence on candidates that a request names more than once, by any name."""
    if not plan.repeated:
        return []
    named = ", ".join(plan.repeated[:NAMED_UNFIT])
    rest = len(plan.repeated) - NAMED_UNFIT
    more = f" and {rest} more of {len(plan.repeated)}" if rest > 0 else ""
    return [f"Named more than once and run once: {named}{more}."]


def _unfit(plan: Plan) -> list[str]:
    """Return a sentence that names candidates that the checkpoint refuses, with the reasons."""
    checkpoint = plan.control.checkpoint
    reasons = {d.label: checkpoint.unfit(d.context, d.interventions) for d in plan.designs}
    named = [f"{label} ({'; '.join(each)})" for label, each in reasons.items() if each]
    if not named:
        return []
    more = f" and {len(named) - NAMED_UNFIT} more" if len(named) > NAMED_UNFIT else ""
    return [
        f"Unfit: {', '.join(named[:NAMED_UNFIT])}{more}. Their sampled cells do not deliver the "
        "effect, so they are not ranked; perturb_cells takes allow_unfit=true."
    ]


def in_words(plan: Plan) -> str:
    """Return an objective as a phrase: `lower PSMB9, STAT1 and raise CD86`."""
    return plan.wanted.words


def sham_limit(plan: Plan) -> float | None:
    """Return the largest |score| of a null label; None without null labels or a stored effect."""
    if plan.control.checkpoint.effects is not None:
        return None
    null, _ = null_labels(plan.control)
    weights = plan.objective.weights(plan.control.checkpoint.panel)
    if null is None or weights is None:
        return None
    return null.largest_score(weights)


def _text(result: PlanResult) -> str:
    rows = [[c] for c in result.candidates]
    lines = [*(f"Shows: {s}" for s in result.will_show), *(f"Not: {s}" for s in result.wont_show)]
    return render(result, "\n".join([*lines, text_table(["candidate"], rows)]))


SPEC = ToolSpec(
    name="plan_screen",
    title="Plan a screen",
    description=(
        "Plan a screen of which candidates best raise or lower chosen genes: cost, support, "
        "held-out error, and what it will and will not show. The plan is recorded under a "
        "screen_id for run_screen; an equal plan has the same id. Use it before a large screen. "
        "All that rules name is scored in closed form; the best are in the plan. Not for one "
        "perturbation: perturb_cells. Units: score = mean(sign × change) in log1p_cp10k, without "
        "a target's own gene. Cost: free; nothing is simulated. Limits: 2,000 candidates to "
        "simulate, trained targets only."
    ),
    arguments=PlanScreen,
    result=PlanResult,
    run=plan_screen,
    text=_text,
    read_only=False,
    idempotent=True,
)
