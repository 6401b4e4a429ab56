"""The effect of a target that was never perturbed, predicted from perturbed targets.

Two candidates predict each target from the others: their mean change m, and m plus a ridge
regression of the deviations from m on the target's features (`lingshu_model.effects.features`).
Targets of one context share its control cells, whose noise makes every target similar to the mean
of the others. The expected covariance is subtracted before weights are fitted
(`lingshu_model.effects.stacking`), and a weight of the mean below 1 shrinks to no change.

The block of features and the ridge penalty are those with the smallest squared error over targets
left out in turn. Features are used only if they lower that error by more than its standard error
over targets; otherwise the prediction is the mean alone. The change of a target's own gene is the
mean over the other targets' own genes, limited to minus the gene's control level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lingshu_model.effects.features import Blocks
from lingshu_model.effects.moments import Floats, Ints
from lingshu_model.effects.residuals import Residuals
from lingshu_model.effects.shrink import Posterior
from lingshu_model.effects.stacking import Left, stack

RIDGES = (1.0, 3.0, 10.0)
"""Ridge penalties that are compared; features are scaled to a mean squared length of 1."""
FEWEST = 4
"""Smallest number of perturbed targets from which another is predicted."""
SIMPLEST = 0.0
"""Targets that the mean alone counts as in stacking: there are enough of them without it."""
MIN_TARGETS = 2
"""Smallest number of targets with their own gene measured from which that of another is."""


@dataclass(frozen=True)
class Perturbed:
    """Targets perturbed in one context.

    Attributes:
        targets: names.
        change: of mean log1p_cp10k, [targets, genes].
        noise: squared standard errors, the same shape.
        shrunken: posterior means, the same shape; the response of the regression on features.
        control: mean level of the context's control cells, [genes].
        control_noise: its squared standard error, [genes].
        variance: variance between cells, [genes].
        own: column of each target's own gene, -1 where not measured, [targets].
    """

    targets: tuple[str, ...]
    change: Floats
    noise: Floats
    shrunken: Floats
    control: Floats
    control_noise: Floats
    variance: Floats
    own: Ints


@dataclass(frozen=True)
class Unseen:
    """The predicted effect of a target that was never perturbed.

    Attributes:
        effect: posterior mean, sd and lfsr, [genes].
        block: name of the features that are used; empty where the mean predicts as well.
        share: weight of the mean.
        targets: number of targets that it is predicted from.
    """

    effect: Posterior
    block: str
    share: float
    targets: int

    @property
    def note(self) -> str:
        """Where the effect comes from, in a sentence."""
        basis = f"{self.share:.2f} of the mean change of {self.targets} perturbed targets"
        if not self.block:
            return f"{basis}; no feature of targets predicts better"
        return f"{basis}, and how targets alike in {self.block} differ from it"


@dataclass(frozen=True)
class _Ridge:
    """A ridge regression: the name of its features and its penalty."""

    block: str
    penalty: float


@dataclass(frozen=True)
class Parts:
    """The parts of a prediction: `lingshu_model.contracts.effects.Unseen` without its features.

    Attributes:
        share_mean: weight times mean change, [genes].
        slope: [features, genes]; no features where none are used.
        block: name of the features that are used; empty = none.
        base, per_square, least: parts of the error variance, [genes] (`Residuals.variance_parts`).
        floor: minus the control level, the smallest change, [genes].
        own: change of a target's own gene; None where too few are known.
    """

    share_mean: Floats
    slope: Floats
    block: str
    base: Floats
    per_square: Floats
    least: Floats
    floor: Floats
    own: float | None


class TargetModel:
    """Predicts the effects of unseen targets in one context."""

    def __init__(self, perturbed: Perturbed, blocks: Blocks) -> None:
        """Choose features and weights.

        Args:
            perturbed: targets that were perturbed.
            blocks: features by name, [targets, features] each.

        Raises:
            ValueError: too few targets were perturbed.
        """
        if len(perturbed.targets) < FEWEST:
            message = (
                f"{len(perturbed.targets)} targets were perturbed in this context; "
                f"at least {FEWEST} are needed before anything is said of another"
            )
            raise ValueError(message)
        self._p = perturbed
        self._blocks = {name: block for name, block in blocks.items() if block.any()}
        known = np.isfinite(perturbed.change)
        self._change = np.where(known, perturbed.change, 0.0)
        self._shared = float(np.nansum(perturbed.control_noise))
        n = len(perturbed.targets)
        # Mean of the other targets, for every target left out, [targets, genes].
        self._mean = (self._change.sum(axis=0) - self._change) / (n - 1)
        alone = self._weights([self._mean])
        self.ridge, self.weights = None, alone
        best = self._best(alone)
        if best:
            self.ridge = best
            self.weights = self._weights([self._mean, self._mean + self._left_out(best)])
        self._residuals = self._fit_residuals()
        self._own_change = self._fit_own_gene()

    def parts(self) -> "Parts":
        """Return the parts from which the effect of any target is predicted."""
        p, known = self._p, self._p.control
        features = 0 if self.ridge is None else self._blocks[self.ridge.block].shape[1]
        slope = np.zeros((features, p.change.shape[1]))
        if self.ridge is not None:
            slope = self.weights[1] * self._slope(self.ridge, np.ones(len(p.targets), bool))
        noise = np.nan_to_num(np.nanmean(p.noise, axis=0)) / len(p.targets)
        base, per_square, least = self._residuals.variance_parts(noise)
        block = self.ridge.block if self.ridge and self.weights[1] > 0 else ""
        return Parts(
            share_mean=float(self.weights.sum()) * self._change.mean(axis=0),
            slope=slope if block else slope[:0],
            block=block,
            base=base,
            per_square=per_square,
            least=least,
            floor=np.where(np.isfinite(known), -known, 0.0),
            own=self._own_change,
        )

    def to(self, features: Mapping[str, Floats], own: int = -1) -> Unseen:
        """Return the effect of a target.

        Args:
            features: its row of every block, [features] each.
            own: column of its own gene, -1 where not measured.
        """
        p, mean = self._p, self._change.mean(axis=0)
        share = float(self.weights.sum())
        predicted = share * mean
        block = ""
        if self.ridge is not None and self.weights[1] > 0:
            block = self.ridge.block
            slope = self._slope(self.ridge, np.ones(len(p.targets), bool))
            predicted = predicted + self.weights[1] * (features[block] @ slope)
        if own >= 0 and self._own_change is not None:
            predicted[own] = self._own_change
        predicted = np.maximum(predicted, np.where(np.isfinite(p.control), -p.control, -np.inf))
        noise = np.nanmean(p.noise, axis=0) / len(p.targets)
        sd = self._residuals.sd(predicted, np.nan_to_num(noise))
        return Unseen(Posterior.normal(predicted, sd), block, share, len(p.targets))

    def _weights(self, candidates: Sequence[Floats]) -> Floats:
        """Return the stacked weights of predictions [targets, genes] of left-out targets."""
        # All targets have the same control mean in their change, and so in the others' mean.
        p = self._p
        shared = np.full(len(candidates), self._shared)
        rows = range(len(p.targets))
        left = [
            Left(p.change[i], p.noise[i], np.stack([c[i] for c in candidates]), shared)
            for i in rows
        ]
        return stack(left, simplest=SIMPLEST)[0]

    def _best(self, alone: Floats) -> _Ridge | None:
        """Return the features that predict clearly better than the mean alone, or None."""
        without = self._errors(alone[0] * self._mean)
        options = [_Ridge(name, penalty) for name in self._blocks for penalty in RIDGES]
        gains = [without - self._errors(alone[0] * self._mean + self._left_out(o)) for o in options]
        if not options:
            return None
        best = max(range(len(options)), key=lambda i: gains[i].mean())
        gain = gains[best]
        # One standard error: where features do not clearly help, the simpler model is kept.
        sure = gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain))
        return options[best] if sure else None

    def _errors(self, predicted: Floats) -> Floats:
        """Return each target's squared error over genes other than its own, [targets]."""
        residual = np.where(np.isfinite(self._p.change), self._p.change - predicted, 0.0)
        inside = np.flatnonzero(self._p.own >= 0)
        residual[inside, self._p.own[inside]] = 0.0
        return (residual**2).sum(axis=1)

    def _left_out(self, ridge: _Ridge) -> Floats:
        """Return the features' part of the prediction of each left-out target, [targets, genes]."""
        n = len(self._p.targets)
        features = self._blocks[ridge.block]
        rest = ~np.eye(n, dtype=bool)
        return np.stack([features[i] @ self._slope(ridge, rest[i]) for i in range(n)])

    def _slope(self, ridge: _Ridge, rows: np.ndarray) -> Floats:
        """Return the regression on features, [features, genes].

        Args:
            ridge: features and penalty.
            rows: targets that it is fitted to, bool [targets].
        """
        # One scale for all targets, so that a penalty has the same strength for every block.
        features = self._blocks[ridge.block]
        scale = max(float((features**2).sum() / len(features)), 1e-12)
        f, y = features[rows] / np.sqrt(scale), self._p.shrunken[rows]
        # Dual form of ridge regression, F' (F F' + penalty I)^-1 y: [targets, targets] is small.
        inverse = np.linalg.inv(f @ f.T + ridge.penalty * np.eye(len(f)))
        return f.T @ (inverse @ (y - y.mean(axis=0))) / np.sqrt(scale)

    def _fit_residuals(self) -> Residuals:
        """Return the error variance of the predictions of left-out targets."""
        p = self._p
        predicted = self.weights.sum() * self._mean
        if self.ridge is not None:
            predicted = predicted + self.weights[1] * self._left_out(self.ridge)
        level = np.nan_to_num(p.control)
        return Residuals.of(p.change, p.noise, predicted, p.variance, level)

    def _fit_own_gene(self) -> float | None:
        """Return the mean change of targets on their own genes; None with too few of them."""
        p = self._p
        inside = np.flatnonzero(p.own >= 0)
        result = p.shrunken[inside, p.own[inside]]
        return float(result.mean()) if len(result) >= MIN_TARGETS else None
