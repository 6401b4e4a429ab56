"""Classes of pairs after Norman 2019: what two perturbations do together, by their effects alone.

The change of a pair is fitted as c1 a + c2 b over genes, with a and b the changes of its parts
(least squares; the targets' own genes left out). With M = sqrt((c1^2 + c2^2) / 2), 1 where effects
add up:

    neomorphic    less than half of the pair's change, its noise taken off, is in the plane of a, b,
                  and that change is at least a quarter of the mean of |a|^2 and |b|^2;
    suppressive   M < 0.6;
    synergistic   M > 1.3;
    epistatic     the smaller of c1, c2 is less than 0.35 of the larger: the pair looks like a part;
    additive      else.

Parts that do nearly the same (cosine of 0.8 or more), as genes of one pathway do, cannot be told
apart, so their common direction u = a + b is taken, and k = 2 (d.u) / (u.u), 2 where effects add up
and 1 where one part does it all: suppressive below 0.65, redundant below 1.35, additive up to 2.6.
Above, the pair is `parallel`: its parts are one pathway's, and that is no evidence of synergy.

The errors of genes are taken as independent, with the sd of a new experiment. The class is that of
most draws of the coefficients. It is `unclear` with less than half of them (a synergy with less
than 0.8), with an interval wider than +- 0.6, or where the sign of no gene of a part is supported.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lingshu_model.contracts.posterior import Floats, Posterior
from lingshu_tools.analysis.certainty import SUPPORTED

Name = Literal[
    "additive",
    "synergistic",
    "suppressive",
    "epistatic",
    "redundant",
    "neomorphic",
    "parallel",
    "unclear",
]
SIMILAR = 0.8
SUPPRESSED, RAISED, DOMINATED = 0.6, 1.3, 0.35
LITTLE, ALONE, MORE = 0.65, 1.35, 2.6
EXPLAINED, LEAST = 0.5, 0.25
WIDE = 0.6
"""Half width of a coefficient's 95 % interval above which it says nothing."""
SURE = 0.8
"""Share of draws from which a synergy is called."""
DRAWS = 2000
NORMAL = 1.959964


@dataclass(frozen=True)
class PairClass:
    """What a pair does.

    Attributes:
        name: the class.
        probability: share of draws of the coefficients that are of it; of `unclear`, of the most
            frequent class.
        coefficients: c1 and c2, or k alone where the parts do nearly the same; each with its 95 %
            interval.
        explained: share of the pair's squared change, noise taken off, that the parts explain;
            None where the pair does nothing beyond its noise.
    """

    name: Name
    probability: float
    coefficients: tuple[tuple[float, float, float], ...]
    explained: float | None


def pair_class(a: Posterior, b: Posterior, pair: Posterior, seed: int = 0) -> PairClass:
    """Return the class of a pair, from the changes of its parts and its own, over the same genes.

    Args:
        a: of one part, [genes]; the targets' own genes left out.
        b: of the other.
        pair: of both together.
        seed: of the draws.
    """
    design = np.stack([a.mean, b.mean], axis=1)  # [genes, 2]
    similar = _cosine(a.mean, b.mean) >= SIMILAR
    if similar:
        design = design.sum(axis=1, keepdims=True) / 2
    c = np.linalg.lstsq(design, pair.mean, rcond=None)[0]
    weights = np.repeat(c / 2, 2) if similar else c
    variance = pair.sd**2 + weights[0] ** 2 * a.sd**2 + weights[1] ** 2 * b.sd**2
    inverse = np.linalg.pinv(design.T @ design)
    covariance = inverse @ (design.T * variance) @ design @ inverse
    explained = _explained(pair, pair.mean - design @ c, variance)
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    ends = np.stack([c, c - NORMAL * sd, c + NORMAL * sd], axis=1).tolist()
    spans = tuple((value, low, high) for value, low, high in ends)
    # A pair that does nothing beyond its noise is suppressed where its parts do something.
    if explained is not None and explained < EXPLAINED and not similar:
        return PairClass("neomorphic", 1.0, tuple(spans), explained)
    generator = np.random.Generator(np.random.Philox(key=[19, seed]))
    draws = generator.multivariate_normal(c, covariance, DRAWS, method="eigh")
    names = Counter[Name](_of_similar(d[0]) if similar else _of_two(d) for d in draws)
    name, n = names.most_common(1)[0]
    wide = bool((NORMAL * sd > WIDE).any())
    least = SURE if name == "synergistic" else 0.5
    if n < least * DRAWS or wide or not (_is_clear(a) and _is_clear(b)):
        name = "unclear"
    return PairClass(name, n / DRAWS, spans, explained)


def _of_two(c: Floats) -> Name:
    size = float(np.sqrt((c**2).sum() / 2))
    if size < SUPPRESSED:
        return "suppressive"
    if size > RAISED:
        return "synergistic"
    return "epistatic" if float(c.min()) < DOMINATED * float(c.max()) else "additive"


def _of_similar(k: float) -> Name:
    if k < LITTLE:
        return "suppressive"
    if k < ALONE:
        return "redundant"
    return "additive" if k <= MORE else "parallel"


def _explained(pair: Posterior, rest: Floats, variance: Floats) -> float | None:
    """Return the share of a pair's squared change that is explained; None where it is noise."""
    total = _square(pair)
    if total <= _noise(pair):
        return None
    return 1.0 - max(float((rest**2 - variance).sum()), 0.0) / total


def _square(posterior: Posterior) -> float:
    """Return a squared change, its noise taken off."""
    return float((posterior.mean**2 - posterior.sd**2).sum())


def _noise(posterior: Posterior) -> float:
    """Return what `_square` of no change exceeds by chance alone in one of 30,000 cases."""
    return 4 * float(np.sqrt(2 * (posterior.sd**4).sum()))


def _is_clear(part: Posterior) -> bool:
    """Return whether the sign of a gene is supported."""
    return bool((part.lfsr <= SUPPORTED).any())


def _cosine(a: Floats, b: Floats) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0
