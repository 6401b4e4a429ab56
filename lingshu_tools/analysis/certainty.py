"""Certainty of a sign, of genes and of scores, from the posterior that a checkpoint stores.

A gene's posterior is taken as mass p0 at no change and N(m, s^2) for the rest, the three found from
its mean, sd and local false sign rate. A score sum_g w_g b_g has the quantile function
sum_g Q(w_g b_g; u): the errors of the genes are taken as fully dependent, which is the widest that
a sum of them can be (the largest in convex order), since how they depend on each other is not
stored. With one gene it is that gene's posterior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.posterior import Posterior, normal_tail, parts
from lingshu_tools.analysis.effects import Floats

Word = Literal["supported", "suggestive", "not distinguishable from no effect"]
SUPPORTED, SUGGESTIVE = 0.05, 0.2
"""Local false sign rates up to which a sign is supported, and suggestive."""
LEAST_LFSR = 0.001
"""Smallest rate that is shown: some hundred calls of a rotation cannot tell smaller ones apart."""
DRAWS = 4000
# Beyond 8 sd double precision cannot tell the tail from 0; 641 points are steps of 0.025 sd.
_Z = np.linspace(-8.0, 8.0, 641)
"""Normal scores at which quantile functions are kept."""
_U = normal_tail(-_Z)


def word(lfsr: float | None) -> Word | None:
    """Return how certain a sign is, on the fixed scale; None where nothing is known."""
    if lfsr is None or not np.isfinite(lfsr):
        return None
    if lfsr <= SUPPORTED:
        return "supported"
    return "suggestive" if lfsr <= SUGGESTIVE else "not distinguishable from no effect"


def false_sign_rates(lfsr: Floats) -> Floats:
    """Return, for each sign, the mean lfsr of all that are at least as certain (Stephens 2017).

    It is the share of wrong signs to expect among them; NaN stays NaN.
    """
    rates = np.full(lfsr.shape, np.nan)
    # lfsr of any order; NaN (not measured) takes no part in the means.
    known = np.flatnonzero(np.isfinite(lfsr))
    order = known[np.argsort(lfsr[known], kind="stable")]
    ascending = lfsr[order]
    # Equal rates have an equal mean: of all that are no less certain, ties included.
    upto = np.searchsorted(ascending, ascending, side="right")
    rates[order] = np.cumsum(ascending)[upto - 1] / upto
    return rates


@dataclass(frozen=True)
class ScorePosterior:
    """The posterior of a score.

    Attributes:
        mean: log1p_cp10k.
        interval: 2.5 and 97.5 % quantiles.
        lfsr: local false sign rate.
        quantiles: at the normal scores of this module.
    """

    mean: float
    interval: tuple[float, float]
    lfsr: float
    quantiles: Floats


def score_posterior(posterior: Posterior, weights: NDArray[np.float64]) -> ScorePosterior:
    """Return the posterior of sum w b over genes; `posterior` and `weights` are [genes]."""
    # Genes of weight 0 are left out, since an unmeasured one among them would make the sum NaN.
    used = np.flatnonzero(weights)
    w = weights[used]
    kept = Posterior(posterior.mean[used], posterior.sd[used], posterior.lfsr[used])
    at_zero, m, s = parts(kept)
    # [normal scores]: quantile functions add up where all genes are high or low together.
    # A negative weight mirrors the normal part, so its mean changes sign and its sd does not.
    quantiles = _quantiles(at_zero, w * m, np.abs(w) * s).sum(axis=1)
    # The stored rate of a single gene is exact; that of the table has its resolution.
    lfsr = float(posterior.lfsr[used[0]]) if len(used) == 1 else _wrong(quantiles)
    low, high = np.interp((-1.959964, 1.959964), _Z, quantiles).tolist()
    return ScorePosterior(float(w @ posterior.mean[used]), (low, high), lfsr, quantiles)


def normal_score(
    mean: float, sd: float, limits: tuple[float, float] = (-np.inf, np.inf)
) -> ScorePosterior:
    """Return the posterior of a score that is normal, and cannot lie outside of `limits`."""
    quantiles = np.clip(mean + sd * _Z, *limits)
    low, high = np.interp((-1.959964, 1.959964), _Z, quantiles).tolist()
    tail = float(normal_tail(np.array([abs(mean) / max(sd, 1e-300)]))[0]) if mean else 0.5
    return ScorePosterior(mean, (low, high), tail, quantiles)


def in_top(posteriors: Sequence[ScorePosterior], k: int, seed: int = 0) -> Floats:
    """Return the probability of each score to be among the `k` largest, [scores].

    Scores are drawn independently. The control cells that they share make their differences less
    uncertain than that, so the probabilities are nearer to k / n than they need be.
    """
    # 11 keeps this stream apart from other uses of the same seed.
    generator = np.random.Generator(np.random.Philox(key=[11, seed]))
    # Large screens have fewer draws, to bound [scores, draws]; sd of a probability is .016 at most.
    n = DRAWS if len(posteriors) <= 200 else DRAWS // 4
    z = generator.normal(size=(len(posteriors), n))
    draws = np.stack(
        [np.interp(row, _Z, p.quantiles) for row, p in zip(z, posteriors, strict=True)]
    )
    # Ties, such as candidates without any effect, are broken at random.
    ranks = np.lexsort((generator.random(draws.shape), -draws), axis=0)
    # ranks[r, d] is the score that has rank r in draw d.
    counts = np.bincount(ranks[:k].ravel(), minlength=len(posteriors))
    return counts / n


def _quantiles(at_zero: Floats, m: Floats, s: Floats) -> Floats:
    """Return the quantile functions of the genes' terms, [normal scores, genes]."""
    # [genes]: the mass of the normal part; not 0, as it is a divisor.
    share = np.maximum(1 - at_zero, 1e-12)
    # P(term < 0), at which the jump of height p0 at 0 begins.
    below = share * normal_tail(m / np.maximum(s, 1e-300))  # [genes]
    u = _U[:, None]
    lower = m + s * _normal_quantile(u / share)
    upper = m + s * _normal_quantile((u - at_zero) / share)
    return np.where(u < below, lower, np.where(u <= below + at_zero, 0.0, upper))


def _normal_quantile(u: Floats) -> Floats:
    """Return the normal score of a probability, from the table of this module."""
    return np.interp(u, _U, _Z)


def _wrong(quantiles: Floats) -> float:
    """Return the chance of the less likely sign, mass at 0 counting as wrong."""
    # P(score <= 0) and P(score >= 0), read off where the quantile function leaves 0.
    not_above = _U[np.flatnonzero(quantiles <= 0)]
    above = _U[np.flatnonzero(quantiles < 0)]
    at_most = float(not_above[-1]) if len(not_above) else float(_U[0])
    at_least = 1 - float(above[-1]) if len(above) else 1.0
    return min(at_most, at_least)
