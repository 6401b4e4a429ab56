"""What the two stages of a screen say of themselves: closed-form scores, and a race."""

from __future__ import annotations

from collections.abc import Sequence

from lingshu_tools.analysis.certainty import ScorePosterior
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.stored_effects import score_of
from lingshu_tools.planner import Plan, Ranking

SHOWN_RULES = 200
"""Characters of the rules that a sentence repeats."""


def closed_form(plan: Plan, design: Design) -> ScorePosterior | None:
    """Return the posterior of a candidate's score by stored effects; None without one."""
    return score_of(design, plan.objective, plan.residuals(design.support.tier))


def scoring_sentence(plan: Plan) -> str | None:
    """Return what was scored without simulation, and what cannot be known; None without rules."""
    scoring = plan.scoring
    if scoring is None:
        return None
    rules = ", ".join(scoring.rules)
    rules = rules if len(rules) <= SHOWN_RULES else f"{rules[:SHOWN_RULES]} …"
    n_guessed = scoring.n - scoring.n_unknown - scoring.n_trained
    said = (
        f"{scoring.n:,} candidates ({rules}) were scored in closed form, without simulation; "
        f"the {len(plan.candidates)} best that can be simulated are in the plan"
    )
    if not scoring.exact:
        said += " (best of a beam: a better one may have been missed)"
    known = (
        f" Training had cells of {scoring.n_trained:,} of them; {n_guessed:,} are predicted from "
        f"parts or features, which says nothing of synergy"
    )
    if scoring.n_untrained:
        known += f", {scoring.n_untrained:,} of these from features alone or unfit, not simulated"
    if scoring.n_unknown:
        known += f"; of {scoring.n_unknown:,} nothing is known"
    return f"{said}.{known}.{_spread(scoring.quantiles)}"


def race_caveats(plan: Plan, ranking: Ranking) -> list[str]:
    """Return whether the best of a race are settled, and what it cost."""
    state, race = ranking.race, plan.race
    if state is None or race is None or state.settled is None:
        return []
    cells = sum(len(scores) for scores in state.scores.values())
    # What a screen without a race would have spent.
    equal = len(plan.candidates) * plan.control.n_cells
    spent = f"{cells:,} perturbed cells, of {equal:,} in equal shares"
    # "Settled" is about Monte Carlo noise alone.
    if state.settled:
        return [
            f"The {race.top_n} best of those simulated are settled: with probability 0.95 no other "
            f"would score higher by {race.difference:g} with more cells ({spent}). Real cells may "
            "differ by the prediction error."
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
