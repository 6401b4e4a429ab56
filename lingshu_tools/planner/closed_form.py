"""Scores of many candidates from the effects that a checkpoint stores; no cell is simulated.

With m_p the change of an objective's genes under the single perturbation p, f = 1 / (1 + s (k - 1))
the saturation of k perturbations and [low, high] the range of the context, a combination changes
the genes by clip(f sum_p m_p, low, high), as `lingshu_model.contracts.combining` has it. Only the
genes of the objective are read, so a block of candidates is a few array operations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, islice
from math import comb

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_model.contracts.effects import NoEffectError
from lingshu_tools.analysis import Objective

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
BLOCK_VALUES = 4_000_000
"""Candidates x genes of one block: 32 MB for each of a few arrays."""


@dataclass(frozen=True)
class Singles:
    """What is known of single perturbations on the genes of an objective.

    Attributes:
        interventions: those of which something is known.
        means: posterior mean changes, log1p_cp10k, [perturbations, genes].
        targeted: whether a gene is the perturbation's target, the same shape.
        signs: 1 for a gene to raise, -1 for one to lower, [genes].
        lowest, highest: how far trained conditions take each gene, [genes].
        saturation: s.
        unknown: interventions of which nothing is known.
    """

    interventions: tuple[Intervention, ...]
    means: Floats
    targeted: NDArray[np.bool_]
    signs: Floats
    lowest: Floats
    highest: Floats
    saturation: float
    unknown: tuple[Intervention, ...]
    target_numbers: Integers
    """Equal numbers are equal targets, which cannot be combined, [perturbations]."""

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        context: Mapping[str, str],
        interventions: Sequence[Intervention],
        objective: Objective,
    ) -> "Singles | None":
        """Return what a checkpoint stores of interventions; None where it stores no effects."""
        effects = checkpoint.effects
        if effects is None or effects.context(context) is None:
            return None
        place = {gene: i for i, gene in enumerate(checkpoint.panel)}
        genes = np.array([place[gene] for gene in objective.genes])
        known: list[Intervention] = []
        unknown: list[Intervention] = []
        means: list[Floats] = []
        for intervention in interventions:
            try:
                posterior = effects.effect(context, [intervention]).posterior
            except NoEffectError:
                unknown.append(intervention)
                continue
            known.append(intervention)
            means.append(posterior.mean[genes])
        saturation, value_range = effects.combining(context)
        shape = (len(known), len(genes))
        targeted = [[i.target == gene for gene in objective.genes] for i in known]
        return cls(
            tuple(known),
            np.array(means).reshape(shape),
            np.array(targeted, bool).reshape(shape),
            np.array([1.0] * len(objective.up) + [-1.0] * len(objective.down)),
            value_range.lowest[genes],
            value_range.highest[genes],
            saturation.strength,
            tuple(unknown),
            np.unique([i.target for i in known], return_inverse=True)[1].astype(np.intp),
        )

    def subset(self, kept: Sequence[bool]) -> "Singles":
        """Return the same of some of the perturbations."""
        rows = np.flatnonzero(np.array(kept, bool))
        return replace(
            self,
            interventions=tuple(self.interventions[i] for i in rows),
            means=self.means[rows],
            targeted=self.targeted[rows],
            target_numbers=self.target_numbers[rows],
        )

    def scores(self, members: Integers) -> Floats:
        """Return the scores of combinations; NaN where every gene, or a target twice, is in one.

        Args:
            members: numbers of the perturbations of each, [combinations, size].
        """
        scores = self._score(self._change(members), members)
        return np.where(self._repeated(members), np.nan, scores)

    def block_rows(self) -> int:
        """Return how many combinations one block holds."""
        return max(1, BLOCK_VALUES // max(1, self.means.shape[1]))

    def _factor(self, size: int) -> float:
        return 1.0 / (1.0 + self.saturation * (size - 1))

    def _change(self, members: Integers) -> Floats:
        total = self._sum(self.means, members)
        if members.shape[1] == 1:
            return total
        return np.clip(self._factor(members.shape[1]) * total, self.lowest, self.highest)

    def _score(self, change: Floats, members: Integers) -> Floats:
        if not self.targeted.any():
            return (change * self.signs).sum(axis=1) / len(self.signs)
        kept = ~self._any_targeted(members)
        n_kept = kept.sum(axis=1)
        # No matrix product, whose last bits depend on how many rows there are.
        total = (change * kept * self.signs).sum(axis=1)
        return np.where(n_kept > 0, total / np.maximum(n_kept, 1), np.nan)

    def _repeated(self, members: Integers) -> NDArray[np.bool_]:
        numbers = self.target_numbers[members]
        numbers.sort(axis=1)
        return (np.diff(numbers, axis=1) == 0).any(axis=1)

    def _sum(self, values: Floats, members: Integers) -> Floats:
        total = values[members[:, 0]]
        for column in range(1, members.shape[1]):
            total = total + values[members[:, column]]
        return total

    def _any_targeted(self, members: Integers) -> NDArray[np.bool_]:
        targeted = self.targeted[members[:, 0]]
        for column in range(1, members.shape[1]):
            targeted = targeted | self.targeted[members[:, column]]
        return targeted


@dataclass(frozen=True)
class Best:
    """The best combinations of a rule.

    Attributes:
        members: numbers of their perturbations, best first, [kept, size].
        scores: log1p_cp10k, [kept].
        n: combinations of the rule.
        n_scored: how many of them were scored one by one.
        exact: whether no combination that was left out can be better than the kept ones.
        sample: scores of all, or of those scored, that the quantiles are of.
    """

    members: Integers
    scores: Floats
    n: int
    n_scored: int
    exact: bool
    sample: Floats


def every(singles: Singles, size: int, keep: int) -> Best:
    """Return the `keep` best of all combinations of `size`, every one scored."""
    n = len(singles.interventions)
    best = Kept(size, keep)
    seen: list[Floats] = []
    for members in member_blocks(n, size, singles.block_rows()):
        scores = singles.scores(members)
        best.add(members, scores)
        seen.append(scores)
    sample = np.concatenate(seen) if seen else np.empty(0)
    total = comb(n, size)
    return Best(best.members, best.scores, total, total, exact=True, sample=sample)


def member_blocks(n: int, size: int, rows: int) -> Iterator[Integers]:
    """Give all combinations of `size` of `n` numbers in lexicographic order, [rows, size] each."""
    remaining = combinations(range(n), size)
    while block := list(islice(remaining, rows)):
        flat = np.fromiter(chain.from_iterable(block), np.intp, len(block) * size)
        yield flat.reshape(-1, size)


class Kept:
    """The best combinations so far; of equal scores the first in order of numbers."""

    def __init__(self, size: int, most: int) -> None:
        self.members = np.empty((0, size), np.intp)
        self.scores = np.empty(0)
        self._most = most

    @property
    def least(self) -> float:
        """The score that another must exceed; minus infinity while there is space."""
        return float(self.scores[-1]) if len(self.scores) == self._most else -np.inf

    def add(self, members: Integers, scores: Floats) -> None:
        """Take in what is better than the worst that is kept."""
        better = np.flatnonzero(scores >= self.least) if self._most else np.empty(0, np.intp)
        if not len(better):
            return
        joined = np.concatenate([self.members, members[better]])
        values = np.concatenate([self.scores, scores[better]])
        # The last key counts first.
        keys = [*(joined[:, c] for c in reversed(range(joined.shape[1]))), -values]
        order = np.lexsort(keys)[: self._most]
        self.members, self.scores = joined[order], values[order]
