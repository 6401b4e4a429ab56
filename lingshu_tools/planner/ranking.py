"""Rankings: candidates ordered by how far their sealed cells move the objective.

Every outcome keeps its own score; the ranking is worked out from them whenever it is asked for and
stored nowhere, so it can never disagree with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lingshu_tools.analysis import (
    NullLabels,
    PredictionError,
    Residuals,
    Score,
    benjamini_hochberg,
)
from lingshu_tools.analysis.held_out import HeldOut
from lingshu_tools.experiments.designs import Design
from lingshu_tools.ledger import Experiment, Ledger, Outcome
from lingshu_tools.planner.plan import Plan


@dataclass(frozen=True)
class Ranked:
    """One candidate with a sealed outcome.

    Attributes:
        error: held-out error of such a score for its support tier; None where none was measured.
        p: against the null labels, two-sided; None without one.
        fdr: Benjamini-Hochberg over the whole screen; None until all candidates are done.
        held_out: figure of this very candidate, or the nearest that was held out.
    """

    design: Design
    experiment_id: str
    score: Score
    error: PredictionError | None
    p: float | None
    fdr: float | None = None
    held_out: HeldOut | None = None

    @property
    def value(self) -> float | None:
        """The score, log1p_cp10k; None where there is none."""
        return self.score.value


@dataclass(frozen=True)
class Ranking:
    """The candidates done so far, best first, those without a score last.

    Attributes:
        null: the null labels behind the FDR; None where there is none for this plan.
        why_no_null: why there is none.
    """

    rows: tuple[Ranked, ...]
    null: NullLabels | None
    why_no_null: str | None


def rank(plan: Plan, ledger: Ledger, children: Sequence[Experiment]) -> Ranking:
    """Return the ranking of the children that have succeeded so far.

    Args:
        plan: what was planned.
        ledger: where outcomes are.
        children: the screen's experiments; the newest of a position counts.
    """
    null, why = null_labels(plan.control)
    latest = {child.position: child for child in children}
    outcomes = ledger.outcomes([child.id for child in latest.values()])
    rows = [
        replace(_ranked(plan, design, child, outcome, null), held_out=plan.held_out[position])
        for position, design in enumerate(plan.designs)
        if (child := latest.get(position)) is not None
        and (outcome := outcomes.get(child.id)) is not None
        and outcome.kind == "succeeded"
    ]
    if len(rows) == len(plan.candidates):
        rows = _with_fdr(rows)
    return Ranking(tuple(sorted(rows, key=_best_first)), null, why)


def null_labels(design: Design) -> tuple[NullLabels | None, str | None]:
    """Return the null labels that fit a design, or None and the reason."""
    checkpoint = design.checkpoint
    null = NullLabels.from_evidence(checkpoint.evidence, checkpoint.panel)
    if null is None:
        return None, (f"no significance: {checkpoint.name} has no recorded effects of null labels")
    if null.steps not in (None, design.steps):
        return None, (
            f"no significance: the null labels of {checkpoint.name} were sampled with "
            f"{null.steps} steps, this with {design.steps}"
        )
    return null, None


def errors_by_tier(plan: Plan) -> Mapping[str, PredictionError]:
    """Return the held-out error of the whole objective's score for each support tier present."""
    errors = {t: _error(plan, t, ()) for t in plan.support_mix}
    return {tier: error for tier, error in errors.items() if error is not None}


def _ranked(
    plan: Plan,
    design: Design,
    child: Experiment,
    outcome: Outcome,
    null: NullLabels | None,
) -> Ranked:
    panel = design.checkpoint.panel
    score = Score.of_record((outcome.result or {})["score"], plan.objective, panel)
    if score.value is None:
        return Ranked(design, child.id, score, None, None)
    p = None
    if null is not None and score.weights is not None:
        p = null.score_p(score.weights, score.value, score.se)
    error = _error(plan, design.support.tier, score.left_out)
    return Ranked(design, child.id, score, error, p)


def _error(plan: Plan, tier: str, left_out: Sequence[str]) -> PredictionError | None:
    residuals = Residuals.from_evidence(plan.control.checkpoint.evidence, tier)
    return residuals and residuals.of_objective(plan.objective, left_out)


def _with_fdr(rows: Sequence[Ranked]) -> list[Ranked]:
    tested = [row for row in rows if row.p is not None]
    fdr = benjamini_hochberg([row.p for row in tested if row.p is not None]).tolist()
    by_id = {row.experiment_id: q for row, q in zip(tested, fdr, strict=True)}
    return [replace(row, fdr=by_id.get(row.experiment_id)) for row in rows]


def _best_first(row: Ranked) -> tuple[bool, float, str]:
    return (row.value is None, -(row.value or 0.0), row.design.label)
