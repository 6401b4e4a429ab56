"""Stage two of a screen: cells are spent only where the best candidates are not settled yet.

Candidates share control cells and random streams (common random numbers), so the scores of two of
them are compared cell by cell, which cancels most of the noise. Cells come in rounds that double
what there is. After a round, the difference d of every candidate to each of the best has an
interval that holds at all rounds at once, a confidence sequence (Waudby-Smith 2021, theorem 2.1):
with n cells, their standard deviation s and a = alpha / candidates^2,

    mean of d +- s sqrt(2 (n r^2 + 1) / (n r)^2 log(sqrt(n r^2 + 1) / a)).

A candidate is dropped when it cannot be better than any of the `top_n` best by `difference`. The
race is settled when nothing but the best is left, and that holds of every dropped one. Halving a
round by rank alone would drop candidates of which too little is known for that (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ALPHA = 0.05
FIRST_ROUND = 16
"""Cells of the first round."""
_TUNED_AT = 64
"""Cells at which the intervals are narrowest."""


@dataclass(frozen=True)
class State:
    """How far a race is.

    Attributes:
        round: the round that is to be sampled, or was the last one.
        active: places of the candidates that are in it.
        missing: of these, those without cells of this round yet.
        settled: whether the best are settled, by the last complete round; None before the first.
        over: whether there is nothing more to sample.
        scores: per-cell scores of every candidate with cells, in cell order, by place.
    """

    round: int
    active: tuple[int, ...]
    missing: tuple[int, ...]
    settled: bool | None
    over: bool
    scores: Mapping[int, Floats]


@dataclass(frozen=True)
class Race:
    """How a race is run.

    Attributes:
        top_n: how many best are wanted.
        difference: between scores that need not be settled, log1p_cp10k.
    """

    top_n: int
    difference: float

    @property
    def record(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)

    def rounds(self, n_cells: int) -> list[tuple[int, int]]:
        """Return first cell and number of cells of each round, up to `n_cells` in all."""
        result: list[tuple[int, int]] = []
        first = 0
        while first < n_cells:
            size = min(max(first, FIRST_ROUND), n_cells - first)
            result.append((first, size))
            first += size
        return result

    def state(
        self,
        n_candidates: int,
        n_cells: int,
        batches: Mapping[tuple[int, int], Sequence[float] | None],
    ) -> State:
        """Return how far the race is.

        Args:
            n_candidates: how many began.
            n_cells: most cells of one candidate.
            batches: per-cell scores by (round, place); None of one that has none.
        """
        active = tuple(range(n_candidates))
        scores: dict[int, Floats] = {}
        settled: bool | None = None
        last = len(self.rounds(n_cells)) - 1
        for round_ in range(last + 1):
            missing = tuple(p for p in active if (round_, p) not in batches)
            complete = not missing
            for place in active:
                batch = batches.get((round_, place))
                if batch is not None:
                    scores[place] = np.concatenate([scores.get(place, np.empty(0)), batch])
            if complete:
                active = tuple(p for p in active if batches[round_, p] is not None)
                settled = self._settled(active, scores, n_candidates)
            over = complete and bool(settled or round_ == last or not active)
            if missing or over:
                return State(round_, active, missing, settled, over, scores)
            active = self._kept(active, scores, n_candidates)
        raise AssertionError(last)

    def _settled(
        self, active: Sequence[int], scores: Mapping[int, Floats], n_candidates: int
    ) -> bool:
        best = best_first(active, scores)[: self.top_n]
        others = [p for p in scores if p not in best]
        return not self._possible(best, others, scores, n_candidates)

    def _kept(
        self, active: Sequence[int], scores: Mapping[int, Floats], n_candidates: int
    ) -> tuple[int, ...]:
        ordered = best_first(active, scores)
        best, rest = ordered[: self.top_n], ordered[self.top_n :]
        return tuple(sorted([*best, *self._possible(best, rest, scores, n_candidates)]))

    def _possible(
        self,
        best: Sequence[int],
        others: Sequence[int],
        scores: Mapping[int, Floats],
        n_candidates: int,
    ) -> list[int]:
        """Return those of the others that may be better than one of the best by `difference`."""
        alpha = ALPHA / n_candidates**2
        possible: list[int] = []
        for n in sorted({len(scores[p]) for p in others}):
            group = [p for p in others if len(scores[p]) == n]
            values = np.stack([scores[p] for p in group])  # [others, cells]
            limits = np.full(len(group), -np.inf)
            for b in best:
                m = min(n, len(scores[b]))
                differences = values[:, :m] - scores[b][:m]
                limits = np.maximum(limits, upper_limits(differences, alpha, self.difference))
            possible += [
                p for p, limit in zip(group, limits, strict=True) if limit > self.difference
            ]
        return possible


def upper_limits(differences: Floats, alpha: float, least_sd: float) -> Floats:
    """Return upper limits of mean differences that hold at every number of cells at once.

    Args:
        differences: per-cell differences of two candidates over the same cells, [pairs, cells].
        alpha: probability that a limit is exceeded.
        least_sd: standard deviation that a few equal cells are not believed to be below.
    """
    n = differences.shape[1]
    if n < 2:
        return np.full(len(differences), np.inf)
    deviation = np.maximum(differences.std(axis=1, ddof=1), least_sd)
    squared = (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / _TUNED_AT
    grown = n * squared + 1
    width = sqrt(2 * grown / (n**2 * squared) * log(sqrt(grown) / alpha))
    return differences.mean(axis=1) + deviation * width


def best_first(
    places: Sequence[int] | Mapping[int, Floats], scores: Mapping[int, Floats]
) -> list[int]:
    """Return places by mean score, the best first."""
    return sorted(places, key=lambda p: (-float(scores[p].mean()), p))
