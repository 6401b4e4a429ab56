"""A plate of candidates that are good together, and not one by one.

The scores of all candidates are drawn jointly: a combination moves with its parts,

    score_c = mean_c + f sum_p (score_p - mean_p) + rest,

with f the saturation of k perturbations, score_p drawn from the posterior of part p alone, and a
rest of the variance that is left. A pick is the candidate that adds most to the expected best of
the plate, then the one most likely to be a hit: at least half as good as the best is expected to
be. Candidates of one effect direction (cosine of the changes of other genes, `PARALLEL` or more to
the best of them) share a part of the plate, so that no pathway fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_tools.analysis import Objective, Residuals
from lingshu_tools.analysis.certainty import SUPPORTED, ScorePosterior
from lingshu_tools.experiments.designs import Design, label_of
from lingshu_tools.experiments.stored_effects import PARALLEL, score_of, stored_effect
from lingshu_tools.planner.candidates import Perturbation

Floats = NDArray[np.float64]
Key = tuple[str, str, float]
Aim = Literal["best", "hits"]
DRAWS = 2000
HIT_SHARE = 0.5
UNCLEAR = "no clear effect"
SCORES = np.linspace(-8.0, 8.0, 641)
"""Normal scores of the quantiles that a `ScorePosterior` keeps."""


@dataclass(frozen=True)
class Pool:
    """Candidates with a joint posterior.

    Attributes:
        candidates: in order of the mean score, best first.
        scores: their posteriors.
        means: expected scores, [candidates]; no measured value is in them.
        draws: joint draws of the scores, [draws, candidates].
        directions: the direction of each: label of the best candidate that has it.
    """

    candidates: tuple[Perturbation, ...]
    scores: tuple[ScorePosterior, ...]
    means: Floats
    draws: Floats
    directions: tuple[str, ...]

    @property
    def hit_at(self) -> float:
        """The score of a hit, log1p_cp10k."""
        return HIT_SHARE * float(self.means.max())

    @property
    def hit_chances(self) -> Floats:
        """Probability of each candidate to be a hit."""
        return (self.draws >= self.hit_at).mean(axis=0)


@dataclass(frozen=True)
class Pick:
    """One candidate of a batch, with what it adds.

    Attributes:
        place: in the pool.
        expected_best: of the picks so far, log1p_cp10k.
    """

    place: int
    expected_best: float


@dataclass(frozen=True)
class Batch:
    """A plate's candidates in the order in which they were picked.

    Attributes:
        picks: the candidates.
        n_directions: effect directions among them, those without a clear effect left out.
        expected_hits: how many hits are expected.
    """

    picks: tuple[Pick, ...]
    n_directions: int
    expected_hits: float


def pool_of(
    control: Design, objective: Objective, candidates: Sequence[Perturbation], seed: int
) -> Pool | None:
    """Return candidates with their joint posterior; None where none has a score.

    Args:
        control: the context, as the design whose interventions a candidate replaces.
        objective: what is scored.
        candidates: in any order; those without a score are left out.
        seed: of the draws.
    """
    known = _Known(control, objective)
    scored = [(c, s) for c in dict.fromkeys(candidates) if (s := known.score(c)) is not None]
    if not scored:
        return None
    scored.sort(key=lambda pair: (-pair[1].mean, label_of(pair[0])))
    ordered = tuple(c for c, _ in scored)
    scores = tuple(s for _, s in scored)
    return Pool(
        ordered,
        scores,
        np.array([s.mean for s in scores]),
        known.draws(ordered, scores, seed),
        known.directions(ordered),
    )


def choose(
    pool: Pool,
    n: int,
    *,
    n_directions: int = 3,
    aim: Aim = "best",
    left_out: Sequence[int] = (),
) -> Batch:
    """Return the `n` candidates that are good together, as far as there are so many.

    Args:
        pool: the candidates.
        n: how many.
        n_directions: fewest effect directions, as far as the pool has them.
        aim: `best`: the expected best of the plate, then hits; `hits`: the expected hits.
        left_out: places that are not to be picked.
    """
    free = [p for p in range(len(pool.candidates)) if p not in set(left_out)]
    chances, most = pool.hit_chances, ceil(n / n_directions)
    best = np.full(len(pool.draws), -np.inf)
    picks: list[Pick] = []
    used: dict[str, int] = {}
    while free and len(picks) < n:
        allowed = _allowed(pool, free, used, most, n_directions, n - len(picks))
        gains = {p: _gain(best, pool.draws[:, p]) if aim == "best" else 0.0 for p in allowed}
        place = min(
            allowed, key=lambda p: (-round(gains[p], 3), -round(chances[p], 3), -pool.means[p], p)
        )
        best = np.maximum(best, pool.draws[:, place])
        picks.append(Pick(place, float(best.mean())))
        used[pool.directions[place]] = used.get(pool.directions[place], 0) + 1
        free.remove(place)
    return _batch(pool, picks)


def batch_of(pool: Pool, places: Sequence[int]) -> Batch:
    """Return given candidates of a pool as a batch, in their order."""
    best = np.full(len(pool.draws), -np.inf)
    picks: list[Pick] = []
    for place in places:
        best = np.maximum(best, pool.draws[:, place])
        picks.append(Pick(place, float(best.mean())))
    return _batch(pool, picks)


def _batch(pool: Pool, picks: Sequence[Pick]) -> Batch:
    chances = pool.hit_chances
    clear = {pool.directions[pick.place] for pick in picks} - {UNCLEAR}
    hits = float(sum(chances[pick.place] for pick in picks))
    return Batch(tuple(picks), len(clear), hits)


def _gain(best: Floats, draws: Floats) -> float:
    """Return what a candidate adds to the expected best."""
    if np.isneginf(best[0]):
        return float(draws.mean())
    return float(np.maximum(draws - best, 0.0).mean())


def _allowed(
    pool: Pool, free: list[int], used: dict[str, int], most: int, n_directions: int, left: int
) -> list[int]:
    """Return the places that leave space for other directions; all where no other is left."""
    clear = [p for p in free if pool.directions[p] != UNCLEAR]
    fresh = [p for p in clear if pool.directions[p] not in used]
    missing = n_directions - sum(d != UNCLEAR for d in used)
    if fresh and missing > 0 and left <= missing:
        return fresh
    within = [p for p in clear if used.get(pool.directions[p], 0) < most]
    unclear = [p for p in free if pool.directions[p] == UNCLEAR]
    # A direction beyond its share is worth more than a candidate that does nothing known.
    return within or clear or unclear


def _moved(score: ScorePosterior | None, z: Floats) -> Floats:
    """Return how far a draw of a part's score is from its mean; 0 where it has no score."""
    return np.zeros_like(z) if score is None else np.interp(z, SCORES, score.quantiles) - score.mean


class _Known:
    """What a checkpoint stores of the candidates of a context."""

    def __init__(self, control: Design, objective: Objective) -> None:
        self._checkpoint: Checkpoint = control.checkpoint
        self._control, self._objective = control, objective
        self._scores: dict[Perturbation, ScorePosterior | None] = {}
        self._by_tier: dict[str, Residuals | None] = {}

    def score(self, candidate: Perturbation) -> ScorePosterior | None:
        """Return the posterior of a candidate's score; None without one."""
        if candidate not in self._scores:
            design = self._design(candidate)
            score = score_of(design, self._objective, self._residuals(design.support.tier))
            self._scores[candidate] = score
        return self._scores[candidate]

    def draws(
        self, candidates: Sequence[Perturbation], scores: Sequence[ScorePosterior], seed: int
    ) -> Floats:
        """Return joint draws, [draws, candidates]; the parts of combinations are shared."""
        generator = np.random.Generator(np.random.Philox(key=[18, seed]))
        by_key = {i.sort_key: i for c in candidates for i in c}
        parts = [by_key[key] for key in sorted(by_key)]
        z = generator.normal(size=(len(parts), DRAWS))
        moved = {
            part.sort_key: _moved(self.score((part,)), row)
            for part, row in zip(parts, z, strict=True)
        }
        rest = generator.normal(size=(len(candidates), DRAWS))
        columns = [
            self._drawn(c, s, moved, rest[row])
            for row, (c, s) in enumerate(zip(candidates, scores, strict=True))
        ]
        return np.stack(columns, axis=1)

    def _drawn(
        self,
        candidate: Perturbation,
        score: ScorePosterior,
        moved: dict[Key, Floats],
        rest: Floats,
    ) -> Floats:
        if len(candidate) == 1:
            return score.mean + moved[candidate[0].sort_key]
        effects = self._checkpoint.effects
        factor = effects.saturation.factor(len(candidate)) if effects else 1.0
        shared = factor * np.sum([moved[i.sort_key] for i in candidate], axis=0)
        sd = (score.interval[1] - score.interval[0]) / (2 * 1.959964)
        return score.mean + shared + np.sqrt(max(sd**2 - float(shared.var()), 0.0)) * rest

    def directions(self, candidates: Sequence[Perturbation]) -> tuple[str, ...]:
        """Return the direction of each candidate; the first of a direction names it."""
        leaders: list[tuple[str, Floats]] = []
        result: list[str] = []
        targets = {i.target for c in candidates for i in c}
        others = np.array([gene not in targets for gene in self._checkpoint.panel])
        for candidate in candidates:
            unit = self._unit(candidate, others)
            if unit is None:
                result.append(UNCLEAR)
                continue
            near = [name for name, other in leaders if float(unit @ other) >= PARALLEL]
            if not near:
                leaders.append((label_of(candidate), unit))
            result.append(near[0] if near else label_of(candidate))
        return tuple(result)

    def _unit(self, candidate: Perturbation, others: NDArray[np.bool_]) -> Floats | None:
        """Return the direction of an effect over genes that no candidate targets; None: no gene."""
        stored = stored_effect(self._design(candidate))
        # A combination is as clear as its clearest part: its own posterior has no mass at 0.
        if stored is None or not any(self._clear(i, others) for i in candidate):
            return None
        mean = np.where(others, stored.posterior.mean, 0.0)
        length = float(np.linalg.norm(mean))
        return mean / length if length > 0 else None

    def _clear(self, part: Intervention, others: NDArray[np.bool_]) -> bool:
        """Return whether the sign of a gene that no candidate targets is supported."""
        stored = stored_effect(self._design((part,)))
        return stored is not None and bool((stored.posterior.lfsr[others] <= SUPPORTED).any())

    def _residuals(self, tier: str) -> Residuals | None:
        """Return held-out residuals; read where the objective has aims only."""
        if self._objective.aims and tier not in self._by_tier:
            read = Residuals.from_evidence(self._checkpoint.evidence, tier)
            self._by_tier[tier] = read and read.over(self._checkpoint.panel)
        return self._by_tier.get(tier)

    def _design(self, candidate: Perturbation) -> Design:
        return replace(self._control, interventions=candidate)
