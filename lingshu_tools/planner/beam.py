"""The best combinations of too many to score one by one: partial sets, best first.

A partial set of j of k perturbations is kept while an upper limit of what it can become exceeds the
worst combination that is kept. The limit takes for every gene the best perturbation that may
follow, adds it (additive limit), and stops at the range of the context (saturating limit):

    limit_g = min(f (t_g + (k - j) max_p m_pg), highest_g)    for a gene to raise.

Partial sets above the width of the beam are dropped; where the limit of a dropped one exceeds what
was kept, the result is not exact, and says so.
"""

from dataclasses import replace
from math import comb

import numpy as np
from numpy.typing import NDArray

from lingshu_tools.planner.closed_form import (
    Best,
    Floats,
    Integers,
    Kept,
    Singles,
    every,
    member_blocks,
)

MOST_SCORED = 2_000_000
"""Combinations that are scored one by one; of more than that, partial sets are pruned."""
_ROUNDING = 1e-9
_FIRST = 20_000
"""Combinations of the best single perturbations from which the search begins."""


def best_combinations(singles: Singles, size: int, keep: int, most: int = MOST_SCORED) -> Best:
    """Return the `keep` best combinations of `size`.

    Args:
        singles: the perturbations that are combined.
        size: how many are combined.
        keep: how many are returned.
        most: up to how many combinations are all scored.
    """
    if comb(len(singles.interventions), size) <= most:
        return every(singles, size, keep)
    if not singles.linear:
        return _of_the_best(singles, size, keep, most)
    return _Search(singles, size, keep, most).result()


def _of_the_best(singles: Singles, size: int, keep: int, most: int) -> Best:
    """Return the best combinations of the best single perturbations, as many as are scored.

    Partial sets have no limit where scores are no plain mean over genes, or genes are to stay.
    """
    n = size
    while comb(n + 1, size) <= most:
        n += 1
    alone = np.nan_to_num(
        singles.scores(np.arange(len(singles.interventions))[:, None]), nan=-np.inf
    )
    first = np.sort(np.argsort(-alone, kind="stable")[:n])
    chosen = np.zeros(len(alone), bool)
    chosen[first] = True
    best = every(singles.subset(chosen.tolist()), size, keep)
    total = comb(len(alone), size)
    return replace(best, members=first[best.members], n=total, exact=False)


class _Search:
    def __init__(self, singles: Singles, size: int, keep: int, most: int) -> None:
        self._singles, self._size = singles, size
        n = len(singles.interventions)
        alone = np.nan_to_num(singles.scores(np.arange(n)[:, None]), nan=-np.inf)
        # Best first, so that what may follow a partial set is weaker than what it has.
        self._order = np.argsort(-alone, kind="stable")
        signed = (singles.means * singles.signs)[self._order]  # [perturbations, genes]
        self._signed = signed
        after = np.maximum.accumulate(signed[::-1], axis=0)[::-1]
        self._after = np.concatenate([after[1:], np.full((1, signed.shape[1]), -np.inf)])
        raising = singles.signs > 0
        self._highest = np.where(raising, singles.highest, -singles.lowest)
        self._lowest = np.where(raising, singles.lowest, -singles.highest)
        self._exclusive = singles.targeted.any(axis=0)
        self._kept, self._threshold = Kept(size, keep), Kept(size, keep)
        self._width = max(1, most // (n * max(1, size - 1)))
        self._dropped = -np.inf
        self._sample: list[Floats] = []

    def result(self) -> Best:
        n = len(self._order)
        self._begin()
        sets = np.arange(n)[:, None]
        for n_members in range(1, self._size):
            sets = self._promising(sets, self._size - n_members)
            sets = self._extended(sets)
        for rows in self._blocks(sets):
            self._take(rows)
        sample = np.concatenate(self._sample) if self._sample else np.empty(0)
        return Best(
            self._kept.members,
            self._kept.scores,
            comb(n, self._size),
            len(sample),
            exact=bool(self._dropped < self._kept.least),
            sample=sample,
        )

    def _begin(self) -> None:
        """Score the combinations of the best singles, so that pruning has something to exceed."""
        n = self._size
        while comb(n + 1, self._size) <= _FIRST and n < len(self._order):
            n += 1
        for members in member_blocks(n, self._size, self._singles.block_rows()):
            self._threshold.add(members, self._singles.scores(self._order[members]))

    def _take(self, sets: Integers) -> None:
        members = np.sort(self._order[sets], axis=1)
        scores = self._singles.scores(members)
        self._kept.add(members, scores)
        self._sample.append(scores)

    def _promising(self, sets: Integers, missing: int) -> Integers:
        """Return the partial sets that may become better than what is kept, `width` at most."""
        parts = [self._limits(rows, missing) for rows in self._blocks(sets)]
        limits = np.concatenate(parts) if parts else np.empty(0)
        possible = np.flatnonzero(limits >= self._threshold.least - _ROUNDING)
        order = possible[np.argsort(-limits[possible], kind="stable")]
        if len(order) > self._width:
            self._dropped = max(self._dropped, float(limits[order[self._width]]))
            order = order[: self._width]
        return sets[np.sort(order)]

    def _limits(self, sets: Integers, missing: int) -> Floats:
        total = self._signed[sets[:, 0]]  # [sets, genes]
        for column in range(1, sets.shape[1]):
            total = total + self._signed[sets[:, column]]
        factor = 1.0 / (1.0 + self._singles.saturation * (self._size - 1))
        best = factor * (total + missing * self._after[sets[:, -1]])
        return self._mean_limit(np.clip(best, self._lowest, self._highest), missing, sets)

    def _mean_limit(self, genes: Floats, missing: int, sets: Integers) -> Floats:
        """Return the largest mean over genes when targets that may follow are left out."""
        if not self._exclusive.any():
            return genes.mean(axis=1)
        targeted = self._singles.targeted[self._order][sets].any(axis=1)
        kept = np.where(targeted, np.nan, genes)
        limits = _mean(kept)
        # A gene that a later target takes out of the score may be its worst.
        worst = np.where(self._exclusive & ~targeted, genes, np.inf)
        worst.sort(axis=1)
        total, count = np.nansum(kept, axis=1), np.isfinite(kept).sum(axis=1)
        for out in range(1, min(missing, int(self._exclusive.sum())) + 1):
            total = total - np.where(np.isfinite(worst[:, out - 1]), worst[:, out - 1], 0.0)
            count = count - np.isfinite(worst[:, out - 1])
            mean = np.where(count > 0, total / np.maximum(count, 1), -np.inf)
            limits = np.maximum(limits, mean)
        return limits

    def _extended(self, sets: Integers) -> Integers:
        """Return every set with one more perturbation that comes later in the order."""
        n = len(self._order)
        counts = n - 1 - sets[:, -1]
        repeated = np.repeat(sets, counts, axis=0)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        later = repeated[:, -1] + 1 + np.arange(len(repeated)) - first
        return np.concatenate([repeated, later[:, None]], axis=1)

    def _blocks(self, sets: Integers) -> list[Integers]:
        rows = self._singles.block_rows()
        return [sets[start : start + rows] for start in range(0, len(sets), rows)]


def _mean(values: Floats) -> Floats:
    count = np.isfinite(values).sum(axis=1)
    total = np.nansum(values, axis=1)
    means: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), -np.inf)
    return means
