"""What the two stages of a screen say of themselves: closed-form scores, and a race."""

from __future__ import annotations

from collections.abc import Sequence

from lingshu_tools.analysis import PredictionError
from lingshu_tools.analysis.certainty import ScorePosterior
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.stored_effects import score_of
from lingshu_tools.planner import Plan, Ranked, Ranking

OPEN = (0.1, 0.9)
"""Chances to be in the top between which a candidate's place is open."""
FEWEST_REST = 3
SHOWN_RULES = 200
"""Characters of the rules that a sentence repeats."""


def closed_form(plan: Plan, design: Design) -> ScorePosterior | None:
    """Return the posterior of a candidate's score by stored effects; None without one."""
    return score_of(design, plan.objective, plan.residuals(design.support.tier))


def scoring_sentence(plan: Plan, *, brief: bool = False) -> str | None:
    """Return what was scored without simulation, and what cannot be known; None without rules.

    `brief` is for a ranking: without the rules and the quantiles of all scores, which the plan has.
    """
    scoring = plan.scoring
    if scoring is None:
        return None
    rules = ", ".join(scoring.rules)
    rules = rules if len(rules) <= SHOWN_RULES else f"{rules[:SHOWN_RULES]} …"
    by = "" if brief else f" ({rules})"
    n_guessed = scoring.n - scoring.n_unknown - scoring.n_trained
    said = (
        f"{scoring.n:,} candidates{by} were scored in closed form; the "
        f"{len(plan.candidates)} best that can be simulated are in the plan"
    )
    if not scoring.exact:
        said += " (best of a beam: a better one may have been missed)"
    known = (
        f" {scoring.n_trained:,} have training cells; {n_guessed:,} are predicted from parts or "
        f"features, which says nothing of synergy"
    )
    if scoring.n_untrained:
        known += f", {scoring.n_untrained:,} of these from features alone or unfit, not simulated"
    if scoring.n_unknown:
        known += f"; of {scoring.n_unknown:,} nothing is known"
    return f"{said}.{known}.{'' if brief else _spread(scoring.quantiles)}"


def plan_summary(plan: Plan, cost: str, evidence: str, error: PredictionError | None) -> str:
    """Return what a plan shows and does not, how well such predictions held, and what it costs.

    Args:
        plan: the plan.
        cost: in words.
        evidence: a sentence on held-out figures.
        error: held-out error of its scores; None where it is not known.
    """
    apart = "by how much it errs is not known"
    if error is not None:
        apart = f"scores closer than about {error.rms:.2g} are not told apart"
    n = plan.control.n_cells
    cells = f"{n} paired cells each"
    if plan.race is not None:
        cells = (
            f"{len(plan.candidates)} raced to settle the {plan.race.top_n} best, up to {n} cells "
            "each"
        )
    return (
        f"A screen of {plan.n_candidates:,} perturbations to {plan.wanted.words} shows how the "
        f"model orders them, not what real cells do: {apart}. {evidence} {cells[0].upper()}"
        f"{cells[1:]}: {cost}{_cheaper(plan)}."
    )


def _cheaper(plan: Plan) -> str:
    """Return what costs less, in words."""
    stored = plan.control.checkpoint.effects is not None
    return "; the closed form in `best` takes none" if stored else "; fewer n_cells cost less"


def will_show(limit: float | None) -> list[str]:
    """Return what a screen shows; `limit` is the largest |score| of a null label, if known."""
    known = (
        ""
        if limit is None
        else f", and which scores pass ±{limit:.2g}, the largest of the null labels"
    )
    return [
        f"How the checkpoint orders these candidates on this objective{known}.",
        "For every candidate a paired effect on all genes, kept as an experiment of its own.",
    ]


def wont_show() -> list[str]:
    """Return what no screen shows; what this one does not is in its summary."""
    return ["Other candidates, dose, time, viability; more cells narrow mc_interval."]


def rest_sentence(scored: Sequence[Ranked], named: int) -> str:
    """Return how the scores of the candidates that are not named are spread; empty without any."""
    rest = sorted(row.value or 0.0 for row in scored[named:])
    if len(rest) < FEWEST_REST:
        return ""
    middle = rest[len(rest) // 2]
    return f" Others {rest[0]:.2g} to {rest[-1]:.2g}, median {round(middle, 2) + 0.0:.2g}."


def change_sentence(scored: Sequence[Ranked], k: int) -> str:
    """Return what would change the top `k` most; empty where it is settled or nothing is known.

    A candidate whose chance to be in the top is near one half is that whose measurement tells most.
    """
    chances = [(row.in_top, row.design.label) for row in scored if row.in_top is not None]
    open_ = [(abs(p - 0.5), p, label) for p, label in chances if OPEN[0] < p < OPEN[1]]
    if not open_ or k < 1:
        return ""
    named = ", ".join(f"{label} {p:.2f}" for _, p, label in sorted(open_)[:2])
    return f" Open (chance of the top {k}): {named}."


def race_caveats(plan: Plan, ranking: Ranking) -> list[str]:
    """Return whether the best of a race are settled, and what it cost."""
    state, race = ranking.race, plan.race
    if state is None or race is None or state.settled is None:
        return []
    cells = sum(len(scores) for scores in state.scores.values())
    # What a screen without a race would have spent.
    equal = len(plan.candidates) * plan.control.n_cells
    spent = f"{cells:,} cells, of {equal:,} in equal shares"
    # "Settled" is about Monte Carlo noise alone.
    if state.settled:
        return [
            f"The {race.top_n} best are settled: with probability 0.95 more cells put no other "
            f"{race.difference:g} higher ({spent}); real cells may."
        ]
    if not state.over:
        return []
    return [
        f"The {race.top_n} best are not settled to {race.difference:g} with {plan.control.n_cells} "
        f"cells each ({spent})."
    ]


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names in a row; how many more there are is said."""
    rest = len(names) - most
    more = f" and {rest} more of {len(names)}" if rest > 0 else ""
    return f"{', '.join(names[:most])}{more}"


def _spread(quantiles: tuple[float, ...]) -> str:
    if not quantiles:
        return ""
    # Of all scores: 5, 50, 95 % and the largest.
    low, middle, high, most = quantiles
    return f" Their scores: 5 % {low:.2f}, median {middle:.2f}, 95 % {high:.2f}, best {most:.2f}."
