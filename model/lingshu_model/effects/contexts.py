"""The effect of a condition carried over to a context in which it was never seen.

With K contexts that have the condition, candidates are stacked with weights found by leaving each
of the K out (`lingshu_model.effects.stacking`):

    mean shift      mean of the K changes, with weights 1 / (variance between contexts + noise)
    perturbed mean  mean of the K perturbed profiles, same weights, minus the target's control mean
    nearest         change in the context with the nearest control mean
    related         Gaussian process over control profiles (`lingshu_model.effects.process`)
    no change       weights may sum to less than 1

With fewer than `ALL` contexts there are two candidates, the mean shift and the one that gives the
smallest error together with it; with one or two contexts the mean shift alone. A mean level cannot
be below 0, so every candidate is limited to minus the control mean.

The posterior sd comes from the residuals of left-out contexts (`lingshu_model.effects.residuals`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lingshu_model.effects.moments import Floats, Ints
from lingshu_model.effects.process import choose_rho, distances, predict
from lingshu_model.effects.residuals import Residuals
from lingshu_model.effects.shrink import Posterior
from lingshu_model.effects.stacking import Left, stack

MEAN, PERTURBED, NEAREST, RELATED = "mean shift", "perturbed mean", "nearest", "related"
CANDIDATES = (MEAN, PERTURBED, NEAREST, RELATED)
ALL = 6
"""Number of contexts from which all candidates are stacked."""
TWO = 3
"""Number of contexts from which two candidates are stacked."""


@dataclass(frozen=True)
class Sources:
    """The changes of a condition in the contexts that have it.

    Attributes:
        contexts: names.
        change: of mean log1p_cp10k, [contexts, genes]; NaN where not measured.
        noise: squared standard errors, the same shape.
        control: mean levels of the control cells, the same shape.
        control_noise: their squared standard errors, the same shape.
        variance: variance between cells of each gene, [genes].
    """

    contexts: tuple[str, ...]
    change: Floats
    noise: Floats
    control: Floats
    control_noise: Floats
    variance: Floats

    def __len__(self) -> int:
        return len(self.contexts)

    def take(self, rows: Ints) -> "Sources":
        """Return the contexts `rows`."""
        return Sources(
            tuple(self.contexts[i] for i in rows),
            self.change[rows],
            self.noise[rows],
            self.control[rows],
            self.control_noise[rows],
            self.variance,
        )


@dataclass(frozen=True)
class Carried:
    """An effect carried to a further context.

    Attributes:
        effect: posterior mean, sd and lfsr, [genes].
        weights: of the candidates with a weight above 0.
        contexts: number of contexts that it comes from.
    """

    effect: Posterior
    weights: Mapping[str, float]
    contexts: int

    @property
    def note(self) -> str:
        """Where the effect comes from, in a sentence."""
        if self.contexts < TWO:
            number = "one context" if self.contexts == 1 else "two contexts"
            return f"the mean change in {number}; too few to know how contexts differ"
        parts = ", ".join(f"{name} {weight:.2f}" for name, weight in self.weights.items())
        return f"carried from {self.contexts} contexts, weights by leaving each out: {parts}"


class Carrier:
    """Carries one condition's effect to contexts in which it was not seen."""

    def __init__(self, sources: Sources) -> None:
        """Fit weights and errors.

        Raises:
            ValueError: there is no context to carry from.
        """
        if not len(sources):
            message = "no context has this condition, so there is no effect to carry over"
            raise ValueError(message)
        self.sources = sources
        self._rho = 0.0
        if len(sources) >= TWO:
            distance = distances(sources.control)
            self._rho = choose_rho(sources.change, sources.noise, distance)
        left = [self._left(i) for i in range(len(sources))] if len(sources) > 1 else []
        self.names, self.weights = self._stacked(left)
        self._errors = self._residuals(left) if left else None

    def to(self, control: Floats) -> Carried:
        """Return the effect in another context.

        Args:
            control: mean level of its control cells, [genes]; NaN where not measured. Such genes
                are predicted from the other contexts, without a limit below.
        """
        k = len(self.sources)
        candidates = self._candidates(self.sources, control)
        mean = _floored(self.weights @ np.stack([candidates[n] for n in self.names]), control)
        named = {n: float(w) for n, w in zip(self.names, self.weights, strict=True) if w > 0}
        return Carried(Posterior.normal(mean, self._sd(mean)), named, k)

    def _sd(self, mean: Floats) -> Floats:
        """Return the posterior sd of a prediction, [genes]."""
        s, k = self.sources, len(self.sources)
        noise = _mean_over(s.noise, np.ones(k)) / k
        if self._errors is None:
            # One context does not show how contexts differ: an sd as large as the effect is taken.
            return np.sqrt(noise + mean**2)
        return self._errors.sd(mean, noise)

    def _left(self, i: int) -> Left:
        """Return what the other contexts predict for context `i`, all candidates."""
        s = self.sources
        candidates = self._candidates(s.take(np.delete(np.arange(len(s)), i)), s.control[i])
        # The control mean of context i is in this candidate and in the change that it predicts, so
        # their noise is correlated; `stack` subtracts that.
        shared = np.nansum(s.control_noise[i])
        return Left(
            s.change[i],
            s.noise[i],
            np.stack(list(candidates.values())),
            np.array([shared if name == PERTURBED else 0.0 for name in candidates]),
        )

    def _candidates(self, sources: Sources, control: Floats) -> dict[str, Floats]:
        """Return every candidate's prediction [genes] for a context with control mean `control`."""
        share = _shares(sources)
        perturbed = _mean_over(sources.control + sources.change, share)
        known = np.isfinite(sources.change).any(axis=0)
        # Squared distance of control profiles over genes that both contexts measure.
        gap = np.where(np.isfinite(sources.control - control), sources.control - control, 0.0)
        nearest = sources.change[int((gap**2).sum(axis=1).argmin())]
        mean = _mean_over(sources.change, share)
        result = {
            MEAN: mean,
            PERTURBED: np.where(np.isfinite(control) & known, perturbed - control, mean),
            NEAREST: np.where(np.isfinite(nearest), nearest, mean),
        }
        if len(self.sources) >= TWO:
            distance = distances(np.vstack([sources.control, control]))
            result[RELATED] = predict(sources.change, sources.noise, distance, self._rho)
        return {name: _floored(value, control) for name, value in result.items()}

    def _stacked(self, left: Sequence[Left]) -> tuple[tuple[str, ...], Floats]:
        """Return the names of the candidates that are used, and their weights."""
        if len(left) < TWO:
            return (MEAN,), np.ones(1)
        if len(left) >= ALL:
            return CANDIDATES, stack(left)[0]
        # Few contexts cannot determine four weights: the mean shift (0) with one other candidate.
        pairs = {other: stack([_only(each, [0, other]) for each in left]) for other in (1, 2, 3)}
        best = min(pairs, key=lambda other: pairs[other][1])
        return (MEAN, CANDIDATES[best]), pairs[best][0]

    def _residuals(self, left: Sequence[Left]) -> Residuals:
        """Return the error variance of predictions, from the left-out contexts."""
        chosen = [CANDIDATES.index(n) for n in self.names]
        predicted = np.stack([self.weights @ each.candidates[chosen] for each in left])
        s = self.sources
        level = np.nan_to_num(s.control).mean(axis=0)
        return Residuals.of(s.change, s.noise, predicted, s.variance, level)


def _only(left: Left, chosen: list[int]) -> Left:
    return Left(left.change, left.noise, left.candidates[chosen], left.shared[chosen])


def _floored(change: Floats, control: Floats) -> Floats:
    """Return changes limited to minus the control mean; no limit where it is NaN."""
    return np.maximum(change, np.where(np.isfinite(control), -control, -np.inf))


def _mean_over(values: Floats, share: Floats) -> Floats:
    """Return the weighted mean over contexts that measure a gene, 0 where none does, [genes].

    Args:
        values: [contexts, genes].
        share: weights, [contexts].
    """
    known = np.isfinite(values)
    weight = known * share[:, None]
    total = weight.sum(axis=0)
    summed = (weight * np.where(known, values, 0.0)).sum(axis=0)
    return np.divide(summed, total, out=np.zeros_like(summed), where=total > 0)


def _spread(values: Floats) -> Floats:
    """Return the variance between contexts, [genes]."""
    known = np.isfinite(values)
    mean = _mean_over(values, np.ones(len(values)))
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
    return squares / np.maximum(known.sum(axis=0) - 1, 1)


def _shares(sources: Sources) -> Floats:
    """Return the weight of each context in a mean, [contexts], sum 1.

    Inverse variance weights of a random-effects model (DerSimonian and Laird 1986): 1 / (variance
    between contexts + noise of the context). One weight for all genes, so that a mean profile is a
    mean of profiles.
    """
    k = len(sources)
    if k == 1:
        return np.ones(1)
    known = np.isfinite(sources.change).all(axis=0)
    if not known.any():
        return np.full(k, 1.0 / k)
    noise = sources.noise[:, known].mean(axis=1)
    # Observed variance between contexts is the true one plus the mean sampling noise.
    between = float(_spread(sources.change[:, known]).mean()) - float(noise.mean())
    weight = 1.0 / (max(between, 0.0) + np.maximum(noise, 1e-12))
    return weight / weight.sum()
