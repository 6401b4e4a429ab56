"""Scores of many candidates from the effects that a checkpoint stores; no cell is simulated.

With m_p the change of an objective's genes under the single perturbation p, f = 1 / (1 + s (k - 1))
the saturation of k perturbations and [low, high] the range of the context, a combination changes
the genes by clip(f sum_p m_p, low, high), as `lingshu_model.contracts.combining` has it. Only the
genes of the objective are read, so a block of candidates is a few array operations; aims (like
another perturbation, toward other cells, magnitude) are of all genes. The error of a combination,
which a cosine needs, is that of its parts: f^2 sum_p v_p.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, islice
from math import comb

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_model.contracts.effects import NoEffectError
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_model.contracts.posterior import Posterior
from lingshu_tools.analysis import Aim, Objective
from lingshu_tools.planner.objectives.guard import Floats, Guard, Integers, Keep, any_of, total_of

BLOCK_VALUES = 4_000_000
"""Candidates x genes of one block: 32 MB for each of a few arrays."""


@dataclass(frozen=True)
class Singles:
    """What is known of single perturbations on the genes of an objective.

    Attributes:
        interventions: those of which something is known.
        means: posterior mean changes, log1p_cp10k, [perturbations, genes].
        targeted: whether a gene is the perturbation's target, the same shape.
        signs: weight of a gene to raise, minus that of one to lower, 0 of others, [genes].
        lowest, highest: how far trained conditions take each gene, [genes].
        saturation: s.
        unknown: interventions of which nothing is known.
        target_numbers: equal numbers are equal targets, which cannot be combined, [perturbations].
        aims: further ones, of all genes; they need `variances`.
        scale: what the score of genes is divided by where there are aims.
        variances: of the changes in a new experiment, [perturbations, genes].
        guard: genes that are to stay as they are; None without.
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
    aims: tuple[Aim, ...] = ()
    scale: float = 1.0
    variances: Floats | None = None
    guard: Guard | None = None

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        context: Mapping[str, str],
        interventions: Sequence[Intervention],
        objective: Objective,
        keep: Keep | None = None,
    ) -> Singles | None:
        """Return what a checkpoint stores of interventions; None where it stores no effects."""
        effects = checkpoint.effects
        if effects is None or effects.context(context) is None:
            return None
        place = {gene: i for i, gene in enumerate(checkpoint.panel)}
        used = list(checkpoint.panel) if objective.aims else list(objective.genes)
        genes = np.array([place[gene] for gene in used])
        kept = np.array([place[gene] for gene in keep.genes] if keep else [], np.intp)
        known: list[Intervention] = []
        unknown: list[Intervention] = []
        posteriors: list[Posterior] = []
        errors: list[Floats] = []
        for intervention in interventions:
            try:
                posterior = effects.effect(context, [intervention]).posterior
            except NoEffectError:
                unknown.append(intervention)
                continue
            known.append(intervention)
            posteriors.append(_at(posterior, genes, kept))
            if objective.aims:
                tier = checkpoint.support(context, [intervention]).tier
                model = ErrorModel.from_evidence(checkpoint.evidence, tier)
                errors.append(model.sd(posterior, checkpoint.gene_variance)[genes] ** 2)
        saturation, value_range = effects.combining(context)
        shape, n = (len(known), len(genes)), len(genes)
        means = np.array([p.mean for p in posteriors]).reshape(len(known), n + len(kept))
        variances = np.array([p.sd**2 for p in posteriors]).reshape(len(known), n + len(kept))
        weight = objective.gene_weights
        signs = {g: weight.get(g, 1.0) for g in objective.up}
        signs |= {g: -weight.get(g, 1.0) for g in objective.down}
        ranges = value_range.lowest, value_range.highest
        return cls(
            tuple(known),
            means[:, :n],
            _targeted(known, used).reshape(shape),
            np.array([signs.get(gene, 0.0) for gene in used]),
            ranges[0][genes],
            ranges[1][genes],
            saturation.strength,
            tuple(unknown),
            np.unique([i.target for i in known], return_inverse=True)[1].astype(np.intp),
            objective.aims,
            objective.scale,
            np.array(errors).reshape(shape) if objective.aims else None,
            keep
            and Guard(
                means[:, n:],
                variances[:, n:],
                _targeted(known, keep.genes).reshape(len(known), len(kept)),
                ranges[0][kept],
                ranges[1][kept],
                checkpoint.gene_variance[kept],
                keep,
            ),
        )

    def subset(self, kept: Sequence[bool]) -> Singles:
        """Return the same of some of the perturbations."""
        rows = np.flatnonzero(np.array(kept, bool))
        return replace(
            self,
            interventions=tuple(self.interventions[i] for i in rows),
            means=self.means[rows],
            targeted=self.targeted[rows],
            target_numbers=self.target_numbers[rows],
            variances=None if self.variances is None else self.variances[rows],
            guard=self.guard and self.guard.subset(rows),
        )

    @property
    def linear(self) -> bool:
        """Whether a score is a plain mean over genes, which has limits that prune partial sets."""
        return not self.aims and self.guard is None and bool((np.abs(self.signs) == 1.0).all())

    def scores(self, members: Integers) -> Floats:
        """Return the scores of combinations; NaN where every gene, or a target twice, is in one.

        Args:
            members: numbers of the perturbations of each, [combinations, size].
        """
        scores = self._score(self._change(members), members)
        refused = self._repeated(members)
        if self.guard is not None:
            factor = self._factor(members.shape[1])
            refused = refused | ~self.guard.stays(members, factor)
        return np.where(refused, np.nan, scores)

    def block_rows(self) -> int:
        """Return how many combinations one block holds."""
        return max(1, BLOCK_VALUES // max(1, self.means.shape[1]))

    def _factor(self, size: int) -> float:
        return 1.0 / (1.0 + self.saturation * (size - 1))

    def _change(self, members: Integers) -> Floats:
        total = total_of(self.means, members)
        if members.shape[1] == 1:
            return total
        return np.clip(self._factor(members.shape[1]) * total, self.lowest, self.highest)

    def _score(self, change: Floats, members: Integers) -> Floats:
        if self.aims:
            return self._score_of_aims(change, members)
        if not self.targeted.any():
            return (change * self.signs).sum(axis=1) / np.abs(self.signs).sum()
        return self._score_of_genes(change, ~any_of(self.targeted, members))

    def _score_of_genes(self, change: Floats, kept: NDArray[np.bool_]) -> Floats:
        weight = (kept * np.abs(self.signs)).sum(axis=1)
        # No matrix product, whose last bits depend on how many rows there are.
        total = (change * kept * self.signs).sum(axis=1)
        return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)

    def _score_of_aims(self, change: Floats, members: Integers) -> Floats:
        kept = ~any_of(self.targeted, members)
        variances = np.zeros_like(self.means) if self.variances is None else self.variances
        variance = self._factor(members.shape[1]) ** 2 * total_of(variances, members)
        scores = np.zeros(len(members))
        if self.signs.any():
            scores = self._score_of_genes(change, kept) / self.scale
        for aim in self.aims:
            scores = scores + aim.factor * aim.value(change, variance, kept)
        return scores

    def _repeated(self, members: Integers) -> NDArray[np.bool_]:
        numbers = self.target_numbers[members]
        numbers.sort(axis=1)
        return (np.diff(numbers, axis=1) == 0).any(axis=1)


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


def _at(posterior: Posterior, genes: Integers, kept: Integers) -> Posterior:
    """Return a posterior of the genes that are scored, and of those that are to stay."""
    places = np.concatenate([genes, kept])
    return Posterior(posterior.mean[places], posterior.sd[places], posterior.lfsr[places])


def _targeted(interventions: Sequence[Intervention], genes: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([[i.target == gene for gene in genes] for i in interventions], bool)
