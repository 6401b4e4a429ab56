"""The candidates that a batch is chosen from: those of the plan, and some of other directions.

A plan that came from rules holds the best candidates, which may all be of one pathway. So beside
them the single perturbations are taken, and, direction by direction, the best combinations without
any member of the directions before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lingshu_model.contracts import Intervention
from lingshu_model.contracts.posterior import Posterior
from lingshu_tools.analysis.certainty import ScorePosterior
from lingshu_tools.planner.batch import DRAWS, SCORES, UNCLEAR, Pool, pool_of
from lingshu_tools.planner.beam import best_combinations
from lingshu_tools.planner.candidates import Perturbation
from lingshu_tools.planner.choosing import within
from lingshu_tools.planner.closed_form import Singles
from lingshu_tools.planner.plan import Plan
from lingshu_tools.planner.ranking import Ranked, Ranking
from lingshu_tools.planner.rules import resolve_rule

EACH = 12
"""Combinations for each direction that is set aside."""
MOST_DIRECTIONS = 8
MOST_SINGLES = 400
"""Single perturbations of a pool; of more the best by score are taken."""


def proposal_pool(plan: Plan, seed: int) -> Pool | None:
    """Return the candidates of a plan and of other directions; None where none has a score."""
    checkpoint, context = plan.control.checkpoint, plan.control.context
    fit = [c for c in plan.candidates if not checkpoint.unfit(context, c)]
    return pool_of(plan.control, plan.objective, [*fit, *_others(plan, seed)], seed)


def simulated_pool(ranking: Ranking, seed: int) -> Pool | None:
    """Return the candidates of a ranking; None where none is done.

    For checkpoints without stored effects: scores are those of simulated cells, with their Monte
    Carlo error and the held-out error. What candidates have in common is not known.
    """
    rows = [row for row in ranking.rows if row.value is not None]
    if not rows:
        return None
    scores = [_normal(row.value or 0.0, _sd(row)) for row in rows]
    generator = np.random.Generator(np.random.Philox(key=[18, seed]))
    z = generator.normal(size=(DRAWS, len(rows)))
    means = np.array([score.mean for score in scores])
    return Pool(
        tuple(row.design.interventions for row in rows),
        tuple(scores),
        means,
        means + z * np.array([_sd(row) for row in rows]),
        (UNCLEAR,) * len(rows),
    )


def _sd(row: Ranked) -> float:
    return float(np.hypot(row.score.se or 0.0, row.error.rms if row.error else 0.0))


def _normal(mean: float, sd: float) -> ScorePosterior:
    tail = Posterior.normal(np.array([mean]), np.array([sd])).lfsr
    half = 1.959964 * sd
    return ScorePosterior(mean, (mean - half, mean + half), float(tail[0]), mean + sd * SCORES)


def _others(plan: Plan, seed: int) -> list[Perturbation]:
    if plan.scoring is None:
        return []
    checkpoint, context = plan.control.checkpoint, plan.control.context
    constraints = plan.wanted.constraints
    sizes: dict[int, list[Intervention]] = {}
    for text in plan.scoring.rules:
        rule = resolve_rule(checkpoint, context, text, None)
        allowed = [p for p in rule.parts if constraints.allows(p)]
        trained = [p for p in allowed if checkpoint.seen(context, (p,))]
        fit = [p for p in trained if not checkpoint.unfit(context, (p,))]
        sizes.setdefault(rule.size, []).extend(fit)
    result: list[Perturbation] = []
    for size, parts in sizes.items():
        result += _ladder(plan, parts, size, seed)
    return within(constraints, plan.control, result)[0]


def _ladder(plan: Plan, parts: Sequence[Intervention], size: int, seed: int) -> list[Perturbation]:
    """Return the best of each direction, of what is left when the directions before are gone."""
    singles = Singles.of(
        plan.control.checkpoint,
        plan.control.context,
        parts,
        plan.objective,
        plan.wanted.constraints.keep_of(plan.control),
    )
    if singles is None or not singles.interventions:
        return []
    best = best_combinations(singles, 1, MOST_SINGLES)
    scored = np.isfinite(best.scores)
    alone = [(singles.interventions[int(i)],) for i in best.members[scored, 0]]
    if size == 1:
        return list(alone)
    pool = pool_of(plan.control, plan.objective, alone, seed)
    if pool is None:
        return []
    result: list[Perturbation] = []
    left = {i.sort_key for i in singles.interventions}
    for direction in list(dict.fromkeys(pool.directions))[:MOST_DIRECTIONS]:
        kept = singles.subset([i.sort_key in left for i in singles.interventions])
        if len(kept.interventions) < size:
            break
        combined = best_combinations(kept, size, EACH)
        result += [
            tuple(sorted((kept.interventions[int(i)] for i in row), key=lambda i: i.sort_key))
            for row in combined.members
        ]
        members = zip(pool.candidates, pool.directions, strict=True)
        left -= {c[0].sort_key for c, d in members if d == direction}
    return result
