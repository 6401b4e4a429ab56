"""Adaptive shrinkage: the posterior of each effect under a prior that the data choose.

An effect b with the estimate d ~ N(b, s^2) has the prior (Stephens 2017, with alpha = 1: effects in
units of their standard errors are exchangeable over genes)

    b / s ~ sum_k pi_k N(0, sigma_k^2),   sigma_0 = 0,

with sigma_k on a grid that doubles from a tenth to above the largest estimate. So many effects of
exactly 0 and few of any size can be represented at the same time. The weights pi maximise the
marginal likelihood by EM, one prior for each condition in each context. `NULL` pseudo-effects count
beside its effects where the data do not decide: they are distributed as the effects of all
conditions are, with one more condition of no effect among these (`pooled_prior`). With pseudo-
effects of 0 alone, weak effects at 50 UMI a cell were put at 0 altogether (docs/log.md). Genes of
which an arm is expected to hold fewer than `SEEN` cells have a prior of their own (`Shrinkage`):
they can show hardly any effect, and where they are most of the genes, as in sparse data, a common
prior would put the effects of all others at 0 as well.

Where the arms have different replicates, what differs between these is common to many genes: an
animal is older, or its sample was kept longer. All genes then change by chance at once, and 0 is no
likely value. `across` shrinks in two steps. By the noise of cells alone: psi, the change between
these replicates. Then from psi, with the variance between replicates as noise, under the mixture
with every sigma raised to that which keeps a share c of a gene's change; its weights are fitted as
if there were `DIMENSIONS` genes. So all genes keep c, and a gene beyond what replicates explain
keeps more. c is the posterior mean of tau^2 / (tau^2 + r^2), r^2 the variance between replicates,
where psi has `DIMENSIONS` independent values and 1 - c a uniform prior (Strawderman 1971). The lfsr
is the larger of this prior's and that of the mixture with its point at 0.

The local false sign rate (lfsr) of an effect is min(P(b >= 0 | d), P(b <= 0 | d)), the probability
that its more likely sign is wrong; mass at exactly 0 counts as wrong.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, ndtr

from lingshu_model.contracts.posterior import Posterior
from lingshu_model.effects.moments import Floats

__all__ = ["Mixture", "Posterior", "Shrinkage", "across", "combine", "fit_prior", "posterior"]

SEEN = 3.0
"""Expected number of an arm's cells with a gene below which the gene has the prior of rare ones."""
FEWEST_GENES = 20
"""Fewest genes that have a prior of their own."""
NULL = 10.0
"""Number of pseudo-effects (as many as ashr puts at 0)."""
LEAST = 0.1
"""Smallest sigma, in standard errors."""
BIN = 0.05
"""Width of the bins in which |z| is counted up to `LINEAR`; beyond it they widen with |z|."""
LINEAR = 10.0
"""|z| up to which bins have equal width."""
ROUNDS = 1000
"""Largest number of accelerated EM steps."""
TOLERANCE = 1e-7
"""Gain of log likelihood per effect at which EM stops."""
DIMENSIONS = 8.0
"""Number of independent values to which differences between replicates amount, over all genes."""
DEPARTING = 100
"""Fewest genes from which kappa, how far a context departs from its prior, is estimated."""


@dataclass(frozen=True)
class Mixture:
    """Prior of effects, in their standard errors.

    Attributes:
        sigma: of each component, ascending from 0, [components].
        weight: pi, sums to 1, [components].
    """

    sigma: Floats
    weight: Floats


def fit_prior(
    change: Floats, noise: Floats, pooled: Mixture | None = None, genes: float | None = None
) -> Mixture:
    """Return the prior of a condition's effects, fitted to their estimates.

    Args:
        change: estimates, [genes]; NaN = not measured, left out.
        noise: their squared standard errors, [genes].
        pooled: how pseudo-effects are distributed, `pooled_prior`; all at 0 by default.
        genes: number of independent genes that they amount to; as many as there are by default.

    Returns:
        The mixture; all weight at 0 where nothing is measured.
    """
    size = _sizes(change, noise)
    if not len(size):
        return Mixture(np.zeros(1), np.ones(1))
    sigma = _grid(size)
    extra = _at_zero(len(sigma))
    if pooled is not None and pooled.sigma[-1] >= sigma[-1]:
        sigma, extra = pooled.sigma, pooled.weight
    return _fitted(size, sigma, NULL * extra, genes)


def pooled_prior(change: Floats, noise: Floats) -> Mixture:
    """Return how the effects of several conditions are distributed, one of no effect among them.

    Args:
        change: estimates, [conditions, genes]; NaN = not measured.
        noise: their squared standard errors, the same shape.
    """
    size = _sizes(change, noise)
    n = len(change)
    if n < 2 or not len(size):
        return Mixture(np.zeros(1), np.ones(1))
    sigma = _grid(size)
    null = _at_zero(len(sigma))
    # As many measured conditions as the others of any one, and the one of no effect.
    weight = ((n - 1) * _fitted(size, sigma, NULL * null).weight + null) / n
    return Mixture(sigma, weight)


def _sizes(change: Floats, noise: Floats) -> Floats:
    """Return |z| of what is measured, [effects]."""
    known = np.isfinite(change) & (noise > 0)
    return np.abs(change[known]) / np.sqrt(noise[known])


def _grid(size: Floats) -> Floats:
    """Return sigma, [components]: Stephens' grid for effects of |z| `size`."""
    # From well below one standard error to sigma^2 = 4 (z^2 - 1) of the largest.
    largest = max(2.0 * np.sqrt(max(float(_binned(size)[0].max()) ** 2 - 1.0, 1.0)), 2.0 * LEAST)
    doublings = int(np.ceil(np.log2(largest / LEAST)))
    return np.concatenate([[0.0], largest / 2.0 ** np.arange(doublings, -1, -1.0)])


def _at_zero(components: int) -> Floats:
    """Return weights that are all at the first component, which is 0, [components]."""
    weight = np.zeros(components)
    weight[0] = 1.0
    return weight


def _fitted(size: Floats, sigma: Floats, extra: Floats, genes: float | None = None) -> Mixture:
    """Return the mixture of components `sigma` fitted to |z|, with pseudo-effects `extra`.

    |z| count as `genes` values, by default as many as they are.
    """
    z, times = _binned(size)
    if genes is not None:
        times *= min(genes / times.sum(), 1.0)
    # [bins, components]; only ratios of likelihoods within a row matter to EM.
    log = _log_density(z, sigma)
    return Mixture(sigma, _weights(np.exp(log - log.max(axis=1, keepdims=True)), times, extra))


def posterior(change: Floats, noise: Floats, prior: Mixture) -> Posterior:
    """Return posterior mean, sd and lfsr of effects, [genes] each; 0, 0 and 1 where NaN.

    Args:
        change: estimates, [genes]; NaN = not measured.
        noise: their squared standard errors, [genes].
        prior: of the effects in standard errors.
    """
    known = np.isfinite(change) & (noise > 0)
    s = np.sqrt(np.where(known, noise, 1.0))
    z = np.where(known, change, 0.0) / s
    # Logarithms: the densities of a strong effect underflow in all but the widest components.
    log = _log_density(z, prior.sigma) + np.log(np.maximum(prior.weight, 1e-300))
    # Posterior weight of each component, [genes, components].
    share = np.exp(log - log.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    # In standard errors the noise is 1: component k shrinks z by sigma^2 / (1 + sigma^2), and the
    # same number is its posterior variance.
    kept = prior.sigma**2 / (1.0 + prior.sigma**2)
    mean = (share @ kept) * z
    variance = share @ kept + z**2 * (share @ kept**2) - mean**2
    # A component's effect is N(kept z, kept): the chance of the other sign is Phi(-|z| sqrt(kept)).
    wrong = ndtr(-np.abs(z)[:, None] * np.sqrt(kept))
    wrong[:, prior.sigma == 0] = 1.0  # an effect of 0 has no right sign
    lfsr = (share * wrong).sum(axis=1)
    sd = np.sqrt(np.maximum(variance, 0.0))
    return Posterior(
        np.where(known, mean * s, 0.0), np.where(known, sd * s, 0.0), np.where(known, lfsr, 1.0)
    )


@dataclass(frozen=True)
class Shrinkage:
    """Shrinks the effects of one condition at a time, rare genes by a prior of their own.

    Attributes:
        rare: genes with the prior of rare ones, bool [genes].
        pooled: how effects of all conditions are distributed, of the other and of rare genes.
    """

    rare: NDArray[np.bool_]
    pooled: tuple[Mixture, Mixture]

    @classmethod
    def of(cls, change: Floats, noise: Floats, seen: Floats) -> "Shrinkage":
        """Return the shrinkage of the conditions of a data set.

        Args:
            change: estimates, [conditions, genes]; NaN = not measured.
            noise: their squared standard errors, the same shape.
            seen: expected number of an arm's cells with a gene, [genes].
        """
        rare = seen < SEEN
        # A prior of a handful of genes would be that of chance.
        if min(rare.sum(), (~rare).sum()) < FEWEST_GENES:
            rare = np.zeros_like(rare)
        parts = (~rare, rare)
        pooled = tuple(pooled_prior(change[:, part], noise[:, part]) for part in parts)
        return cls(rare, (pooled[0], pooled[1]))

    def posterior(self, change: Floats, noise: Floats) -> Posterior:
        """Return posterior mean, sd and lfsr of a condition's effects, [genes] each.

        Args:
            change: estimates, [genes]; NaN = not measured.
            noise: their squared standard errors, [genes].
        """
        # Posterior mean, sd and lfsr, [3, genes].
        result = np.zeros((3, len(change)))
        for part, pooled in zip((~self.rare, self.rare), self.pooled, strict=True):
            d, s2 = change[part], noise[part]
            shrunken = posterior(d, s2, fit_prior(d, s2, pooled))
            result[:, part] = shrunken.mean, shrunken.sd, shrunken.lfsr
        return Posterior(*result)


def across(here: Posterior, between: Floats) -> Posterior:
    """Return the posterior of the effect in further replicates.

    Args:
        here: posterior of psi, the change between these replicates, from the noise of cells alone.
        between: squared standard error of psi as an estimate of the effect, which comes of how
            replicates differ, [genes].
    """
    # The noise of psi is that of replicates, and what the cells leave open.
    noise = between + here.sd**2
    # 0 where a gene is not measured, [genes].
    known = noise > 0
    psi = np.where(known, here.mean, np.nan)
    prior = fit_prior(psi, noise, genes=DIMENSIONS)
    kept = _kept(here, between)
    wide = Mixture(np.maximum(prior.sigma, np.sqrt(kept / (1.0 - kept))), prior.weight)
    result = posterior(psi, noise, wide)
    # A floor under sigma takes the mass from 0, so every sign would be surer than the data show.
    lfsr = np.maximum(result.lfsr, posterior(psi, noise, prior).lfsr)
    return Posterior(result.mean, result.sd, lfsr)


def _kept(here: Posterior, between: Floats) -> float:
    """Return c, the share of every gene's change that is kept, between 1 / 6 and 1.

    With b = 1 - c, n = `DIMENSIONS` and x = sum E[psi^2] / sum r^2, the posterior of b is
    proportional to b^(n / 2) exp(-b n x / 2) on (0, 1), a truncated gamma distribution.

    Args:
        here: posterior of psi.
        between: r^2, [genes].
    """
    x = float((here.mean**2 + here.sd**2).sum()) / max(float(between.sum()), 1e-12)
    shape, rate = DIMENSIONS / 2 + 1, DIMENSIONS / 2 * max(x, 1e-6)
    mean = shape / rate * gammainc(shape + 1, rate) / gammainc(shape, rate)
    return float(np.clip(1.0 - mean, 0.0, 1.0 - 1e-9))


def combine(change: Floats, noise: Floats, centre: Floats, spread: Floats) -> Posterior:
    """Return the posterior of effects with the prior N(centre, kappa spread^2).

    kappa is 1 or more: where the estimates depart from the prior by more than it says, the prior
    has less weight in all genes.

    Args:
        change: estimates, [genes]; where NaN, the posterior is the prior.
        noise: their squared standard errors, [genes].
        centre: prior means, [genes].
        spread: prior standard deviations, [genes].
    """
    known = np.isfinite(change) & (noise > 0)
    precision = np.where(known, 1.0 / np.where(known, noise, 1.0), 0.0)
    variance = np.maximum(spread, 1e-9) ** 2
    variance *= _departure(change[known], noise[known], centre[known], variance[known])
    other = 1.0 / variance
    mean = (precision * np.where(known, change, 0.0) + other * centre) / (precision + other)
    return Posterior.normal(mean, 1.0 / np.sqrt(precision + other))


def _departure(change: Floats, noise: Floats, centre: Floats, variance: Floats) -> float:
    """Return kappa: squared departures from the prior over what its variance says, at least 1.

    By the method of moments, E (d - m)^2 = s^2 + kappa t^2, each gene weighted by 1 / (s^2 + t^2).

    Args:
        change: d, [genes].
        noise: s^2, [genes].
        centre: m, prior means, [genes].
        variance: t^2, prior variances, [genes].
    """
    if len(change) < DEPARTING:
        return 1.0
    weight = 1.0 / (noise + variance)
    excess = float(weight @ ((change - centre) ** 2 - noise))
    return max(1.0, excess / float(weight @ variance))


def _binned(size: Floats) -> tuple[Floats, Floats]:
    """Return values of |z|, [bins], and the number of effects with about that value, [bins]."""
    place = np.where(size < LINEAR, size, LINEAR * (1 + np.log(np.maximum(size, LINEAR) / LINEAR)))
    bins, times = np.unique(np.rint(place / BIN), return_counts=True)
    middle = bins * BIN
    beyond = LINEAR * np.exp(middle / LINEAR - 1)
    # EM then runs over some hundred bins instead of 18,080 genes.
    return np.where(middle < LINEAR, middle, beyond).astype(np.float64), times.astype(np.float64)


def _log_density(z: Floats, sigma: Floats) -> Floats:
    """Return ln N(z; 0, 1 + sigma^2) without its constant, [effects, components]."""
    variance = 1.0 + sigma**2
    return -0.5 * (np.log(variance) + z[:, None] ** 2 / variance)


def _weights(likelihood: Floats, times: Floats, extra: Floats) -> Floats:
    """Return the weights of greatest penalised likelihood, [components], by accelerated EM.

    SQUAREM (Varadhan and Roland 2008): two EM steps give a direction and a step length, by which
    the weights are extrapolated. If that lowers the likelihood, the two EM steps are taken instead.

    Args:
        likelihood: of each bin under each component, up to a factor per bin, [bins, components].
        times: number of effects of each bin, [bins].
        extra: number of pseudo-effects of each component, `NULL` in all.
    """
    n = float(times.sum())

    def em(weight: Floats) -> Floats:
        # E and M step in one: the expected number of effects in each component, over all of them.
        responsible = times / np.maximum(likelihood @ weight, 1e-300)
        return (weight * (responsible @ likelihood) + extra) / (n + NULL)

    def gain(weight: Floats) -> float:
        logs = times @ np.log(np.maximum(likelihood @ weight, 1e-300))
        return float(logs + extra @ np.log(np.maximum(weight, 1e-300)))

    weight = np.full(likelihood.shape[1], 1.0 / likelihood.shape[1])
    value = gain(weight)
    for _ in range(ROUNDS):
        first = em(weight)
        second = em(first)
        r, v = first - weight, second - 2 * first + weight
        # The paper's steplength S3, -|r| / |v|; -1 would be the two EM steps themselves.
        step = -float(np.linalg.norm(r)) / max(float(np.linalg.norm(v)), 1e-12)
        far = np.maximum(weight - 2 * step * r + step**2 * v, 0.0)
        # One more EM step stabilises the extrapolation.
        far = em(far / far.sum())
        reached = gain(far)
        if reached < value:
            far, reached = second, gain(second)
        weight, before, value = far, value, reached
        if value - before < TOLERANCE * n:
            break
    return weight
