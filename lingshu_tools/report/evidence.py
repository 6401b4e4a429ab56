"""What a checkpoint may be believed: support and held-out evidence, as views and as sentences.

The figure that is quoted is that of the question (`lingshu_tools.analysis.held_out`), never without
the best simple predictor's beside it. Where that is as good, or the interval includes 0, a sentence
says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lingshu_model.contracts import Checkpoint, Intervention, Support, Tier
from lingshu_model.contracts.user_cells import DRAWS
from lingshu_tools.analysis.held_out import (
    BORROWED,
    CONDITION,
    PREDICTOR_WORDS,
    TIER,
    TIER_WORDS,
    Figure,
    HeldOut,
    held_out,
    of_tier,
)
from lingshu_tools.calls.results import BaselineView, Cost, EvidenceView, HeldOutView, SupportView
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.sampling_options import default_sampling

PEARSON = "pearson_of_change"
NO_EVIDENCE = (
    "No held-out figure exists for {tier} perturbations of this checkpoint, so nothing but the "
    "training supports this prediction."
)
CONTROL = "Control cells: no effect is predicted, so no held-out figure applies."
NULL_LABEL = "A null label has no meaning, so no evidence supports an effect of it."


def support_view(support: Support) -> SupportView:
    """Return the view of one condition's support."""
    return SupportView(tier=support.tier, n_cells=support.n_cells, note=support.note)


def evidence_view(checkpoint: Checkpoint, tier: Tier) -> EvidenceView | None:
    """Return the held-out figures of a support tier, or None where none were measured."""
    measured = (checkpoint.evidence.get("tiers") or {}).get(tier)
    if not measured:
        return None
    # All held-out conditions, not the strongest of them, where the evidence has that figure.
    headline = measured.get("overall") or measured["headline"]
    baselines = headline.get("baselines") or {}
    return EvidenceView(
        tier=tier,  # type: ignore[arg-type]
        metric=headline["metric"],
        set=headline["set"],
        model=_figure(headline["model"]),
        baselines={name: _figure(value) for name, value in baselines.items()},
        verdict=str(headline.get("verdict", "not compared")),
        beats_trivial_baseline=_beats_simple(
            trivial=headline.get("beats_trivial_baseline"), figure=of_tier(checkpoint, tier)
        ),
    )


def _beats_simple(*, trivial: bool | None, figure: HeldOut | None) -> bool | None:
    """Return whether a tier beat every simple predictor, the training mean among them.

    Evidence files know only of predictors without cells of the condition itself (`trivial`).
    """
    if not trivial or figure is None or figure.level != TIER or figure.against_simple is None:
        return trivial
    return figure.against_simple == "better than"


def held_out_view(figure: HeldOut | None) -> HeldOutView | None:
    """Return the view of a question's held-out figure."""
    if figure is None:
        return None
    return HeldOutView(
        level=figure.level,
        tier=TIER_WORDS[figure.tier],
        of=figure.of,
        metric=figure.metric,
        value=figure.model.value,
        interval=list(figure.model.interval) if figure.model.interval else None,
        best_simple=figure.simple and predictor_words(figure.simple),
        best_simple_value=figure.best.value if figure.best else None,
        better_than_no_change=figure.better_than_nothing,
        against_best_simple=figure.against_simple,
        n_cells=figure.n_cells,
        n_contrasts=figure.n_contrasts,
        n_folds=figure.n_folds,
        adapted=figure.adapted,
    )


def held_out_sentence(figure: HeldOut | None, tier: str) -> str:
    """Return what a held-out figure says of a prediction, and of what it is the figure.

    Args:
        figure: of the question, or of the nearest that was held out; None = nothing was.
        tier: the support tier of the question.
    """
    if figure is None:
        return NO_EVIDENCE.format(tier=TIER_WORDS.get(tier, tier))
    said = _compared(figure)
    if figure.adapted:
        said += "; choices of the recipe were adapted to held-out cells of it"
    if figure.level == CONDITION:
        cells = f"{figure.n_cells} held-out cells" if figure.n_cells else "held-out cells"
        # The tiers differ where all cells of a seen condition were held out: a harder question.
        whole = " (none of them trained on)" if figure.tier != tier else ""
        return f"On {cells} of this condition{whole}: {said}."
    n = f"{figure.n_contrasts} " if figure.n_contrasts else ""
    pooled = f"pooled over {n}{TIER_WORDS[figure.tier]} conditions ({figure.of})"
    if figure.level == BORROWED:
        return (
            f"No {TIER_WORDS.get(tier, tier)} condition was held out; borrowed from another "
            f"question, {pooled}: {said}."
        )
    return f"Nothing was held out of this very condition; {pooled}: {said}."


def question_sentence(
    checkpoint: Checkpoint, context: Mapping[str, str], interventions: Sequence[Intervention]
) -> str:
    """Return one sentence on how far the prediction of a condition held up on held-out cells."""
    if not interventions:
        return CONTROL
    if any(i.kind == "sham" for i in interventions):
        return NULL_LABEL
    tier = checkpoint.support(context, interventions).tier
    return held_out_sentence(held_out(checkpoint, context, interventions), tier)


def tier_sentence(checkpoint: Checkpoint, tier: Tier) -> str:
    """Return the same of a whole support tier."""
    figure = of_tier(checkpoint, tier)
    if figure is None or figure.level != TIER:
        return held_out_sentence(figure, tier)
    n = f"{figure.n_contrasts} " if figure.n_contrasts else ""
    words = TIER_WORDS[tier]
    return f"Held out, {n}{words} conditions pooled ({figure.of}): {_compared(figure)}."


def own_evidence(design: Design) -> dict[str, Any]:
    """Return the fields of a result on the held-out evidence of one design; none of control cells.

    What was held out are changes under perturbations: it says nothing of control cells, nor of
    scores and completions of a user's cells.
    """
    if not design.interventions:
        return {"held_out": None, "evidence": None}
    figure = _figure_of(design)
    return {
        "held_out": held_out_view(figure),
        "evidence": evidence_view(design.checkpoint, design.support.tier),
    }


def design_sentence(design: Design) -> str:
    """Return one sentence on how far a design's prediction held up on held-out cells."""
    if design.mixture is None or not design.interventions:
        return question_sentence(design.checkpoint, design.context, design.interventions)
    return held_out_sentence(_figure_of(design), design.support.tier)


def _figure_of(design: Design) -> HeldOut | None:
    """Return the held-out figure of a design's question; of mixed contexts, that of their tier."""
    if design.mixture is None:
        return held_out(design.checkpoint, design.context, design.interventions)
    if any(i.kind == "sham" for i in design.interventions):
        return None
    return of_tier(design.checkpoint, design.support.tier)


def screen_sentence(figures: Sequence[HeldOut | None], checkpoint: Checkpoint, tier: Tier) -> str:
    """Return one sentence on the candidates of a screen.

    Args:
        figures: of each candidate.
        checkpoint: where the weakest tier's figure is, which is quoted where no candidate has
            a figure.
        tier: the weakest.
    """
    # Borrowed figures are of other questions, so they are not counted as the candidates' own.
    with_cells = [f for f in figures if f is not None and f.level == CONDITION]
    if not with_cells:
        return tier_sentence(checkpoint, tier)
    nothing = sum(not f.better_than_nothing for f in with_cells)
    holding = sum(f.holds for f in with_cells)
    rest = len(figures) - len(with_cells)
    # Numbers of none are left out: a concise answer of pairs is at its limit of tokens.
    worse = f" and not better than no change for {nothing}" if nothing else ""
    unknown = f"; {rest} have no held-out cells" if rest else ""
    return (
        f"On held-out cells of {len(with_cells)} candidates the predicted change was better than "
        f"every simple predictor for {holding}{worse}{unknown}."
    )


def predictor_words(name: str) -> str:
    """Return a simple predictor's name in words."""
    return PREDICTOR_WORDS.get(name, name.replace("_", " "))


def _compared(figure: HeldOut) -> str:
    """Return the figure, and whether no change or a simple predictor is as good or better."""
    metric = "Pearson of change" if figure.metric == PEARSON else figure.metric.replace("_", " ")
    said = f"{metric} {shown(figure.model)}"
    simple = ""
    if figure.simple and figure.best and figure.best.value is not None:
        # Three digits where two would make different figures look the same.
        # Compared as they would be printed.
        close = f"{figure.best.value:.2f}" == f"{figure.model.value or 0:.2f}"
        simple = f"{predictor_words(figure.simple)} {figure.best.value:.{3 if close else 2}f}"
        if close:
            said = f"{metric} {shown(figure.model, 3)}"
    if not figure.better_than_nothing:
        # `control_mean` is the prediction of no change, which the sentence names already.
        also = "" if figure.simple in (None, "control_mean") else f" (best simple: {simple})"
        return f"{said}, not better than no change{also}"
    if not simple:
        return f"{said}, compared with no simple predictor"
    if figure.against_simple == "better than":
        return f"{said}, better than the best simple predictor ({simple})"
    return f"{said}, {figure.against_simple} a simple predictor ({simple})"


def cost_of(checkpoint: Checkpoint, n_cells: int) -> Cost:
    """Return what sampling `n_cells` would take, and what that figure is based on."""
    cost = checkpoint.evidence.get("cost") or checkpoint.config.get("cost") or {}
    per_cell = cost.get("seconds_per_cell")
    if per_cell is None:
        return Cost(n_cells=n_cells, seconds=None, basis="no measured cost for this checkpoint")
    machine = cost.get("machine", "an unnamed machine")
    basis = f"{per_cell:.3g} s per cell, measured on {machine}; this machine may differ"
    return Cost(n_cells=n_cells, seconds=n_cells * per_cell, basis=basis)


def design_cost(design: Design) -> Cost:
    """Return what a design would take; a user's cells are moved, completed or scored."""
    cells = design.cells
    if cells is None:
        return _simulated_cost(design)
    if design.tool == "perturb_cells":
        basis = "a user's cells are moved, not sampled: seconds"
        return Cost(n_cells=design.n_cells, seconds=None, basis=basis)
    cost = cost_of(design.checkpoint, design.n_cells)
    if design.tool != "score_cells" or cost.seconds is None:
        return cost
    # Passes of the network per cell, over those of a sampled cell.
    # DRAWS for each context and for the simulated cells that scores are compared with, which take
    # `steps` more to be sampled.
    passes = (len(cells["against"]) + 1) * DRAWS + design.steps
    return Cost(
        n_cells=design.n_cells,
        seconds=cost.seconds * passes / design.steps,
        basis=f"{passes} passes of the network per cell; {cost.basis}",
    )


def _simulated_cost(design: Design) -> Cost:
    """Return the cost of simulated cells, in proportion to the passes of the network."""
    cost = cost_of(design.checkpoint, design.total_cells)
    default = default_sampling(design.checkpoint)
    # Guidance takes a second pass, of control.
    passes = design.steps * (2 if design.guidance else 1)
    measured = default.steps * (2 if default.guidance else 1)
    if cost.seconds is None or passes == measured:
        return cost
    return Cost(
        n_cells=cost.n_cells,
        seconds=cost.seconds * passes / measured,
        basis=f"{passes} passes of the network per cell instead of {measured}; {cost.basis}",
    )


def cost_sentence(cost: Cost) -> str:
    """Return a cost in words."""
    time = "an unknown time" if cost.seconds is None else f"about {cost.seconds:.2g} s"
    return f"{cost.n_cells:,} cells to sample, {time} ({cost.basis})"


def _figure(value: Mapping[str, Any] | float | None) -> BaselineView:
    if not isinstance(value, Mapping):
        return BaselineView(value=value)
    interval: Sequence[float] | None = value.get("interval")
    return BaselineView(value=value.get("value"), interval=list(interval) if interval else None)


def shown(figure: Figure, decimals: int = 2) -> str:
    """Return a figure with its interval."""
    if figure.value is None:
        return "undefined"
    value, *span = (f"{v:.{decimals}f}" for v in (figure.value, *(figure.interval or ())))
    return f"{value} [{', '.join(span)}]" if span else value
