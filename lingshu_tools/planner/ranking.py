"""Rankings: candidates ordered by how far their sealed cells move the objective.

Every outcome keeps its own score; the ranking is worked out from them whenever it is asked for and
stored nowhere, so it can never disagree with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lingshu_tools.analysis import (
    NullLabels,
    PredictionError,
    Score,
    benjamini_hochberg,
)
from lingshu_tools.analysis.certainty import (
    LEAST_LFSR,
    SUPPORTED,
    ScorePosterior,
    false_sign_rates,
    in_top,
)
from lingshu_tools.analysis.held_out import HeldOut
from lingshu_tools.analysis.pairs.pair_classes import PairClass
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.stored_effects import (
    Parts,
    parts_of,
    score_of,
    stored_effect,
    tangent_of,
)
from lingshu_tools.ledger import Experiment, Ledger, Outcome
from lingshu_tools.planner.plan import Plan
from lingshu_tools.planner.race import State

HIT_FDR = 0.05
TOP = 10
"""Most candidates that the top holds; a fifth of the candidates where they are fewer than 50."""


@dataclass(frozen=True)
class CombinationScore:
    """The score of a combination beside those of its parts, by stored effects; log1p_cp10k.

    Attributes:
        best: the part with the best score.
        best_score: that score.
        gain: of the combination over it.
        additive: sum of the parts' scores.
        saturating: score of the expectation that effects of several perturbations saturate.
        measured: whether training had cells of the combination. Without, its score is the
            saturating expectation, and says nothing of synergy.
        similarity: largest cosine of two parts' effects.
        parallel: whether two parts do nearly the same.
        pair: class of a measured pair; None of others.
    """

    best: str
    best_score: float
    gain: float
    additive: float
    saturating: float
    measured: bool
    similarity: float
    parallel: bool
    pair: PairClass | None = None


@dataclass(frozen=True)
class Ranked:
    """One candidate with a sealed outcome.

    Attributes:
        error: held-out error of such a score for its support tier; None where none was measured.
        p: against the null labels, two-sided; None without one.
        fdr: Benjamini-Hochberg over the whole screen; None until all candidates are done. Where
            effects are stored it is the share of wrong signs to expect among the candidates that
            are at least as certain.
        posterior: of the score, from the stored effect; None without one.
        in_top: probability to be among the `Ranking.k` best; None without posteriors.
        combination: how a combination's score compares with its parts'; None of single ones.
        held_out: figure of this very candidate, or the nearest that was held out.
    """

    design: Design
    experiment_id: str
    score: Score
    error: PredictionError | None
    p: float | None
    fdr: float | None = None
    held_out: HeldOut | None = None
    posterior: ScorePosterior | None = None
    in_top: float | None = None
    combination: CombinationScore | None = None

    @property
    def lfsr(self) -> float | None:
        """Local false sign rate of the score; None without a posterior."""
        return None if self.posterior is None else max(self.posterior.lfsr, LEAST_LFSR)

    @property
    def hit(self) -> bool | None:
        """Whether the sign of the score is called; None where it cannot be tested."""
        if self.posterior is not None:
            return self.posterior.lfsr <= SUPPORTED
        return None if self.fdr is None else self.fdr <= HIT_FDR

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
        k: how many are the top that `in_top` is about.
        race: how far the race is; None where every candidate gets as many cells.
    """

    rows: tuple[Ranked, ...]
    null: NullLabels | None
    why_no_null: str | None
    k: int = 0
    race: State | None = None


def rank(plan: Plan, ledger: Ledger, children: Sequence[Experiment]) -> Ranking:
    """Return the ranking of the children that have succeeded so far.

    Args:
        plan: what was planned.
        ledger: where outcomes are.
        children: the screen's experiments; the newest of a position counts.
    """
    stored = plan.control.checkpoint.effects is not None
    null, why = (None, None) if stored else null_labels(plan.control)
    latest = {child.position: child for child in children}
    outcomes = ledger.outcomes([child.id for child in latest.values()])
    state = race_state(plan, ledger, children) if plan.race else None
    rows = [
        replace(
            _ranked(plan, design, child, _score(plan, design, outcome, state, position), null),
            held_out=plan.held_out[position],
        )
        for position, design in enumerate(plan.designs)
        if (child := _newest(plan, latest, outcomes, position)) is not None
        and (outcome := outcomes.get(child.id)) is not None
    ]
    if len(rows) == len(plan.candidates):
        rows = _with_fdr(rows)
    rows, k = _with_chances(rows, plan.race.top_n if plan.race else None)
    return Ranking(tuple(sorted(rows, key=_best_first)), null, why, k, state)


def race_state(plan: Plan, ledger: Ledger, children: Sequence[Experiment]) -> State:
    """Return how far the race of a plan is, by the outcomes of its experiments.

    Raises:
        ValueError: the plan has no race.
    """
    if plan.race is None:
        message = "the plan has no race; all its candidates get n_cells"
        raise ValueError(message)
    latest = {child.position: child for child in children if child.position is not None}
    outcomes = ledger.outcomes([child.id for child in latest.values()])
    batches: dict[tuple[int, int], Sequence[float] | None] = {}
    n = len(plan.candidates)
    for position, child in latest.items():
        outcome = outcomes.get(child.id)
        # What was cancelled is missing; what failed has no score, and leaves the race.
        if outcome is not None and outcome.kind != "cancelled":
            score = ((outcome.result or {}).get("score") or {}).get("per_cell")
            batches[position // n, position % n] = score
    return plan.race.state(n, plan.control.n_cells, batches)


def _newest(
    plan: Plan,
    latest: Mapping[int | None, Experiment],
    outcomes: Mapping[str, Outcome],
    place: int,
) -> Experiment | None:
    """Return the newest experiment of a candidate that has succeeded; None without one."""
    n = len(plan.candidates)
    n_rounds = len(plan.race.rounds(plan.control.n_cells)) if plan.race else 1
    for round_ in reversed(range(n_rounds)):
        child = latest.get(round_ * n + place)
        outcome = outcomes.get(child.id) if child else None
        if outcome is not None and outcome.kind == "succeeded":
            return child
    return None


def _score(plan: Plan, design: Design, outcome: Outcome, state: State | None, place: int) -> Score:
    """Return the score of a candidate, over the cells of all rounds in a race."""
    tangent = tangent_of(design, plan.objective)
    score = Score.of_record((outcome.result or {})["score"], tangent)
    cells = state.scores.get(place) if state else None
    if cells is None or score.value is None:
        return score
    n = len(cells)
    se = float(cells.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return replace(score, value=float(cells.mean()), se=se, n_cells=n)


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
    score: Score,
    null: NullLabels | None,
) -> Ranked:
    if score.value is None:
        return Ranked(design, child.id, score, None, None)
    p = posterior = combination = None
    if null is not None and score.tangent is not None:
        p = null.score_p(score.tangent.weights, score.value, score.se)
    stored = stored_effect(design)
    if stored is not None and score.tangent is not None:
        posterior = score_of(design, plan.objective, plan.residuals(design.support.tier))
    if posterior is not None:
        combination = _combination(plan, design, parts_of(design, stored), posterior)
    predicted = score.value if posterior is None else posterior.mean
    error = _error(plan, design.support.tier, score.left_out, predicted)
    return Ranked(design, child.id, score, error, p, posterior=posterior, combination=combination)


def _combination(
    plan: Plan, design: Design, parts: Parts | None, posterior: ScorePosterior
) -> CombinationScore | None:
    if parts is None:
        return None
    targets = {i.target for i in design.interventions}

    def score(change: NDArray[np.float64]) -> float:
        return plan.objective.value(design.checkpoint.panel, change, targets) or 0.0

    scores = [score(mean) for mean in parts.means]
    best = int(np.argmax(scores))
    return CombinationScore(
        best=parts.labels[best],
        best_score=scores[best],
        gain=posterior.mean - scores[best],
        additive=score(parts.means.sum(axis=0)),
        saturating=score(parts.saturating),
        measured=parts.measured,
        similarity=parts.similarity,
        parallel=parts.parallel,
        pair=parts.pair,
    )


def _error(
    plan: Plan, tier: str, left_out: Sequence[str], predicted: float | None = None
) -> PredictionError | None:
    residuals = plan.residuals(tier)
    return residuals and residuals.of_objective(plan.objective, left_out, predicted)


def _with_chances(rows: Sequence[Ranked], top_n: int | None) -> tuple[list[Ranked], int]:
    """Return rows with their chances to be in the top, and how many the top are.

    A race is asked for `top_n`; else the top is a fifth of the candidates, at most `TOP`.
    """
    posteriors = [row.posterior for row in rows if row.posterior is not None]
    scored = sum(row.value is not None for row in rows)
    if not posteriors or len(posteriors) < scored:
        return list(rows), 0
    k = min(top_n or min(TOP, max(1, len(posteriors) // 5)), len(posteriors))
    chances = iter(in_top(posteriors, k).tolist())
    return [r if r.posterior is None else replace(r, in_top=next(chances)) for r in rows], k


def _with_fdr(rows: Sequence[Ranked]) -> list[Ranked]:
    if any(row.posterior is not None for row in rows):
        lfsr = np.array([np.nan if row.lfsr is None else row.lfsr for row in rows])
        rates = false_sign_rates(lfsr).tolist()
        return [
            row if row.posterior is None else replace(row, fdr=rate)
            for row, rate in zip(rows, rates, strict=True)
        ]
    tested = [row for row in rows if row.p is not None]
    fdr = benjamini_hochberg([row.p for row in tested if row.p is not None]).tolist()
    by_id = {row.experiment_id: q for row, q in zip(tested, fdr, strict=True)}
    return [replace(row, fdr=by_id.get(row.experiment_id)) for row in rows]


def _best_first(row: Ranked) -> tuple[bool, float, str]:
    return (row.value is None, -(row.value or 0.0), row.design.label)
