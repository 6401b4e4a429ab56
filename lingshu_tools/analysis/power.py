"""How many real cells would show a change: power of a two-sample test on log1p_cp10k.

With f the predicted change, v_0 and v_1 the variances between cells of control and perturbed cells,
n cells in either arm, and se^2 = (v_0 + v_1) / n, a test at level a shows the change if
|d| > z_a se, z_a the two-sided quantile. Two numbers of cells give 80 % power:

- if the change is as predicted: |f| = (z_a + z_b) se, with Guenther's z_a^2 / 4 cells for Student's
  t in place of the normal distribution;
- with its doubt: the new experiment's change is N(f, t^2), t^2 the variance of a new experiment
  (`lingshu_model.contracts.error_model`: posterior, differences between held-out replicates, error
  by size), so that P(d > z_a se) = Phi((|f| - z_a se) / sqrt(t^2 + se^2)). Where |f| <= z_b t no
  number of cells of one experiment is enough; replicates are.

Variances come from the counts of the data: a gene's share of a cell's UMI and its negative binomial
size, at the depths of control cells; perturbed cells have the share that gives the predicted level.

*Source*: Guenther, The American Statistician 1981; O'Hagan, Stevens and Campbell 2005 (assurance).
"""

from math import ceil, isfinite

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.levels import CP10K

Floats = NDArray[np.float64]
LEVEL = 0.001
"""Of the test, two-sided: of 1,000 genes without an effect about one passes."""
Z_LEVEL, Z_POWER = 3.290527, 0.841621
"""Normal quantiles of 1 - LEVEL / 2 and of 80 % power."""
NORMAL = 1.959964
"""Half width of a 95 % interval, in standard deviations."""
MOST = 1_000_000
"""Cells of an arm beyond which no number is given."""
FEWEST = 2
# Each quantile stands for the cells up to half-way to its neighbours.
WEIGHTS = np.array([0.15, 0.225, 0.25, 0.225, 0.15])
"""Shares of cells at the 5, 25, 50, 75 and 95 % quantiles of depth."""
# Counts beyond it are cut off, to bound the table [depths, counts].
_MOST_COUNT = 20_000
_SHIFT, _STEPS = 14.0, 40
"""Largest |ln| of a change of a gene's share, and halvings of the search for it."""


def real_cells(change: float, sd: float, variances: tuple[float, float]) -> tuple[int, int] | None:
    """Return the cells of an arm for 80 % power: as predicted, and with the doubt.

    The second is 0 where no number would do. None without a change, or beyond `MOST` cells.

    Args:
        change: predicted, log1p_cp10k.
        sd: of a new experiment's change about it.
        variances: between cells, of control and of perturbed cells.
    """
    size, both = abs(change), sum(variances)
    if not (size > 0 and both > 0 and isfinite(size) and isfinite(both)):
        return None
    # (z_a + z_b) se = |f|, solved for se.
    expected = _cells(size / (Z_LEVEL + Z_POWER), both)
    if expected > MOST:
        return None
    se = _largest_se(size, sd)
    assured = _cells(se, both) if se > 0 else MOST + 1
    # Without doubt both numbers are equal; bisection may leave the second a cell short.
    return expected, max(assured, expected) if assured <= MOST else 0


def arm_variances(rate: float, size: float, depths: Floats, change: float) -> tuple[float, float]:
    """Return the variance of log1p_cp10k between control cells and between perturbed cells.

    Args:
        rate: the gene's share of a control cell's UMI.
        size: of its negative binomial distribution.
        depths: UMI per control cell at the 5, 25, 50, 75 and 95 % quantiles.
        change: of the mean level, log1p_cp10k; one beyond what counts allow is the nearest.
    """
    level, variance = _moments(rate, size, depths)
    # Shift of ln share; a share cannot exceed 1. The mean level rises with it, so bisection works.
    low, high = -_SHIFT, min(_SHIFT, -np.log(max(rate, 1e-12)))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        reached = _moments(rate * np.exp(middle), size, depths)[0] - level
        low, high = (middle, high) if reached < change else (low, middle)
    return variance, _moments(rate * np.exp((low + high) / 2), size, depths)[1]


def _moments(rate: float, size: float, depths: Floats) -> tuple[float, float]:
    """Return mean and variance of ln(1 + counts per 10,000) of a gene."""
    # Expected counts, [depths, 1].
    means = np.maximum(depths * rate, 1e-12)[:, None]
    widest = float(means.max())
    # Ten standard deviations above the mean of the deepest cells, and 20 counts more.
    most = widest + 10 * np.sqrt(widest + widest**2 / size) + 20
    k = np.arange(min(ceil(most), _MOST_COUNT), dtype=np.float64)
    # The ratio of neighbouring probabilities: no factorial, and nothing underflows on the way.
    steps = np.log((k[:-1] + size) / (k[:-1] + 1)) + np.log(means / (means + size))
    log_p = np.concatenate([np.zeros_like(means), np.cumsum(steps, axis=1)], axis=1)
    # Normalised over the counts that are kept, which also makes up for the tail cut off.
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    levels = np.log1p(CP10K * k / depths[:, None])
    # First and second moment over counts and depths; the variance includes that between depths.
    first, second = ((p * levels**power).sum(axis=1) @ WEIGHTS for power in (1, 2))
    return float(first), float(second - first**2)


def _cells(se: float, variance: float) -> int:
    """Return the cells of an arm that give a difference this standard error."""
    return max(FEWEST, ceil(variance / se**2 + Z_LEVEL**2 / 4))


def _largest_se(size: float, sd: float) -> float:
    """Return the standard error at which the power with doubt is 80 %; 0 where it never is."""
    if size <= Z_POWER * sd:
        return 0.0
    # At the upper end |f| - z_a se is 0; power falls as se grows.
    low, high = 0.0, size / Z_LEVEL
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = size - Z_LEVEL * middle >= Z_POWER * (sd**2 + middle**2) ** 0.5
        low, high = (middle, high) if enough else (low, middle)
    return low
