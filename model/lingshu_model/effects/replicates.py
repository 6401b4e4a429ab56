"""Variance between replicates beyond that of their cells: intra-class correlation, moderated.

Cells of one replicate (donor, animal, batch) are not independent. With v a gene's variance between
cells, the mean of a replicate of n cells has the variance v (rho + 1 / n), where rho is the
intra-class correlation (Kish 1965). It is estimated from Cochran's Q over the replicates of every
contrast (DerSimonian and Laird 1986):

    Q = sum_r w_r (y_r - y)^2,   w_r = 1 / noise_r
    E[Q] = df + rho v C,         C = sum w - sum w^2 / sum w

Few replicates determine rho of a single gene badly, so s2 = Q / df is moderated towards the common
distribution of all genes, s2 ~ s0^2 F(df, d0) (Smyth 2004). Few replicates can also agree by chance
in all genes: two animals may. Where the arms of a contrast have different replicates, a prior rho
counts as `PRIOR_DF` degrees of freedom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

from lingshu_model.effects.moments import Floats

FEWEST_GENES = 10
"""Informative genes below which no common distribution is fitted."""
PRIOR_RHO = 0.04
"""Prior of unpaired replicates: the rho of airway cells of five pigs (docs/log.md)."""
PRIOR_DF = 6.0
"""Degrees of freedom that the prior counts as."""
SMALLEST = 1e-12
"""Smallest divisor."""


@dataclass(frozen=True)
class Family:
    """One quantity measured in several replicates.

    Attributes:
        value: [replicates, genes]; NaN where a replicate does not measure the gene.
        noise: squared standard errors if all cells were independent, the same shape.
        variance: variance between cells, [genes], the unit of rho.
        per_cell: squared standard errors in units of `variance`, [replicates]: 1 / cells, or the
            sum of both arms' where the value is a change.
    """

    value: Floats
    noise: Floats
    variance: Floats
    per_cell: Floats

    @property
    def weight(self) -> Floats:
        """1 / noise, 0 where not measured."""
        known = np.isfinite(self.value)
        return np.where(known, 1.0 / np.maximum(np.where(known, self.noise, 1.0), SMALLEST), 0.0)

    @property
    def df(self) -> Floats:
        """Replicates that measure a gene, less 1, [genes]."""
        return np.maximum(np.isfinite(self.value).sum(axis=0) - 1.0, 0.0)

    def cochran(self) -> Floats:
        """Return Q of each gene, [genes]."""
        weight, value = self.weight, np.nan_to_num(self.value)
        mean = (weight * value).sum(axis=0) / np.maximum(weight.sum(axis=0), SMALLEST)
        return (weight * (value - mean) ** 2).sum(axis=0)

    def slope(self) -> Floats:
        """Return v C of each gene, the derivative of E[Q] with respect to rho, [genes]."""
        weight = self.weight
        total = np.maximum(weight.sum(axis=0), SMALLEST)
        return self.variance * (total - (weight**2).sum(axis=0) / total)

    def mean(self, rho: Floats, typical: float) -> tuple[Floats, Floats, Floats]:
        """Return the mean over replicates, its squared standard error, and the part of rho in it.

        Replicates have weights 1 / (typical + per_cell), the same for all genes, so that the mean
        of profiles is a profile. Where no replicate measures the gene, the first two are NaN and
        the part of rho is 0. [genes] each.

        Args:
            rho: of each gene, [genes], for the standard error.
            typical: one rho for the weights.
        """
        known = np.isfinite(self.value)
        share = np.where(known, 1.0 / (typical + self.per_cell[:, None]), 0.0)
        total = share.sum(axis=0)
        share /= np.maximum(total, SMALLEST)
        # Variance of a weighted mean: sampling noise and, per replicate, rho v between replicates.
        noise = np.where(known, share**2 * (self.noise + rho * self.variance), 0.0).sum(axis=0)
        # `share` is 0 where a replicate does not measure the gene, [replicates, genes].
        between = (share**2).sum(axis=0) * rho * self.variance
        mean = (share * np.nan_to_num(self.value)).sum(axis=0)
        return np.where(total > 0, mean, np.nan), np.where(total > 0, noise, np.nan), between


def intraclass(
    families: Sequence[Family], informative: NDArray[np.bool_], prior: float = 0.0
) -> Floats | None:
    """Return rho of each gene, [genes], at least 0.

    Args:
        families: quantities, each in one replicate or several.
        informative: genes for the common distribution, bool [genes]. Of a rare gene most
            replicates have no count, and would seem to agree.
        prior: rho that counts as `PRIOR_DF` degrees of freedom; 0 = none.

    Returns:
        rho, or None where there are neither replicates nor a prior.
    """
    several = [f for f in families if len(f.value) > 1]
    if not several:
        return np.full(len(informative), prior) if prior else None
    df = np.sum([f.df for f in several], axis=0)
    q = np.sum([f.cochran() for f in several], axis=0)
    slope = np.sum([f.slope() for f in several], axis=0)
    excess = np.maximum(squeeze(q / np.maximum(df, 1.0), df, informative) - 1.0, 0.0)
    # E[Q] = df + rho v C solved for rho; a Q below df gives 0.
    rho = np.where(slope > SMALLEST, excess * df / np.maximum(slope, SMALLEST), 0.0)
    return (df * rho + PRIOR_DF * prior) / (df + PRIOR_DF) if prior else rho


def squeeze(s2: Floats, df: Floats, informative: NDArray[np.bool_]) -> Floats:
    """Return variances s2 [genes] moderated towards a common prior, as limma's squeezeVar.

    The prior's s0^2 and d0 are fitted to the mean and variance of ln s2 over the informative genes
    (Smyth 2004, section 6.2). With fewer than `FEWEST_GENES` of them s2 is returned as it is.

    Args:
        s2: variances, [genes].
        df: their degrees of freedom, [genes].
        informative: genes that the prior is fitted to, bool [genes].
    """
    chosen = informative & (df > 0) & (s2 > SMALLEST)
    if chosen.sum() < FEWEST_GENES:
        return s2
    d = df[chosen]
    # ln s2 is ln s0^2 plus the logarithm of an F variable, whose mean and variance are known.
    e = np.log(s2[chosen]) - digamma(d / 2) + np.log(d / 2)
    spread = float(e.var(ddof=1) - polygamma(1, d / 2).mean())
    if spread <= 1e-3:
        # No more scatter than chance gives: all genes have the same variance (d0 infinite).
        return np.full(len(s2), float(np.exp(e.mean())))
    d0 = 2.0 * _trigamma_inverse(spread)
    s02 = float(np.exp(e.mean() + digamma(d0 / 2) - np.log(d0 / 2)))
    return (d0 * s02 + df * s2) / (d0 + df)


def _trigamma_inverse(y: float) -> float:
    """Return x with trigamma(x) = y, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    x = 0.5 + 1.0 / y
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1.0 - trigamma / y) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return max(x, 1e-3)
