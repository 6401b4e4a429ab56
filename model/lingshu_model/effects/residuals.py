"""The error variance of predictions, from units (contexts or targets) that were left out in turn.

It gives the posterior sd of effects that were never measured. With r the residuals of K units, s^2
their noise, v a gene's variance between cells and f the prediction, the error variance beyond noise
is

    t_g^2 = gamma_g (a v_g + c f_g^2),   a, c >= 0 by least squares of r^2 - s^2.

gamma_g is the gene's mean squared residual over its expectation, moderated (Smyth 2004). For a
further unit the variance is multiplied by (K + 1) / (K - 1), the variance of a prediction from K
observations with K - 1 degrees of freedom.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from lingshu_model.effects.moments import Floats
from lingshu_model.effects.replicates import squeeze

DETECTED = 0.1
"""Mean control level (log1p_cp10k) from which a gene is used to fit the prior of gamma."""


@dataclass(frozen=True)
class Residuals:
    """The error variance of a prediction.

    Attributes:
        per_variance: a.
        per_square: c.
        gene: gamma, [genes].
        variance: v, [genes].
        units: K.
    """

    per_variance: float
    per_square: float
    gene: Floats
    variance: Floats
    units: int

    @classmethod
    def of(
        cls, change: Floats, noise: Floats, predicted: Floats, variance: Floats, level: Floats
    ) -> "Residuals":
        """Return the error variance, fitted to units that were left out.

        Args:
            change: effects, [units, genes], NaN where not measured.
            noise: their squared standard errors.
            predicted: predictions from the other units, the same shape.
            variance: variance between cells, [genes].
            level: mean control level, [genes].
        """
        # All [units, genes].
        known = np.isfinite(change)
        squared = np.where(known, (change - predicted) ** 2, 0.0)
        s2 = np.where(known, noise, 0.0)
        spread = np.broadcast_to(variance, squared.shape)
        # Squared residuals scatter in proportion to their expectation, so weights are about its
        # inverse; the median keeps entries of almost no noise from deciding alone.
        weight = known / (s2 + np.median(s2) + predicted**2 + 1e-12)
        design = np.stack([(spread * weight).ravel(), (predicted**2 * weight).ravel()], axis=1)
        slopes, _ = nnls(design, ((squared - s2) * weight).ravel())
        expected = slopes[0] * spread + slopes[1] * predicted**2 + s2
        count = known.sum(axis=0)
        ratio = np.where(known, squared / np.maximum(expected, 1e-12), 0.0).sum(axis=0)
        gene = squeeze(ratio / np.maximum(count, 1), count.astype(float), level > DETECTED)
        return cls(float(slopes[0]), float(slopes[1]), gene, variance, len(change))

    def sd(self, predicted: Floats, noise: Floats) -> Floats:
        """Return the sd of a prediction, [genes].

        Args:
            predicted: the prediction, [genes].
            noise: squared standard error of its sources, [genes]; the variance is not below it.
        """
        k = self.units
        spread = self.gene * (self.per_variance * self.variance + self.per_square * predicted**2)
        return np.sqrt(np.maximum(spread, noise) * (k + 1) / max(k - 1, 1))

    def variance_parts(self, noise: Floats) -> tuple[Floats, Floats, Floats]:
        """Return b, q and n, [genes] each: the variance of a prediction f is max(b + q f^2, n)."""
        k = self.units
        wider = (k + 1) / max(k - 1, 1)
        base = wider * self.gene * self.per_variance * self.variance
        return base, wider * self.gene * self.per_square, wider * noise
