"""The variance of a new experiment about a prediction, fitted to held-out contrasts.

The squared residual of a gene, less the squared standard error of its held-out change, is regressed
on sd^2, v and f^2 (`lingshu_model.contracts.error_model`) by weighted least squares within the
limits of the three factors. A squared residual scatters in proportion to its expectation, so
weights are the inverse squares of that, in `ROUNDS` rounds.

Coverage is never judged with factors fitted to the contrast that is judged: contrasts are split
into `GROUPS`, and each group is judged by the factors of the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from lingshu_model.contracts.error_model import DEFAULT, ErrorModel
from lingshu_model.contracts.posterior import Floats, Posterior

FEWEST = 3
"""Contrasts below which nothing is fitted."""
GROUPS = 10
"""Groups of contrasts, each judged by the factors of the others."""
ROUNDS = 6
Contrast = tuple[str, str, str]


@dataclass(frozen=True)
class Judged:
    """The genes of one held-out contrast in one fold.

    Attributes:
        contrast: population, name and tier.
        fold: what was held out.
        cells: held-out cells of the arm with fewer.
        predicted: posterior of the changes, [genes].
        observed: held-out changes, [genes].
        noise: their squared standard errors, [genes].
        variance: of each gene between cells, [genes].
        rare: genes left out, with too few held-out counts.
    """

    contrast: Contrast
    fold: str
    cells: int
    predicted: Posterior
    observed: Floats
    noise: Floats
    variance: Floats
    rare: int = 0

    @property
    def terms(self) -> Floats:
        """sd^2, v and f^2, [3, genes]."""
        return np.stack([self.predicted.sd**2, self.variance, self.predicted.mean**2])


def fitted(judged: Sequence[Judged], fewest: int = FEWEST) -> ErrorModel | None:
    """Return the factors of these contrasts; None below `fewest` of them."""
    contrasts = {j.contrast for j in judged if len(j.observed)}
    if len(contrasts) < fewest:
        return None
    # [3, observations]: all genes of all contrasts and folds as one regression.
    terms = np.concatenate([j.terms for j in judged], axis=1)
    noise = np.concatenate([j.noise for j in judged])
    squared = np.concatenate([(j.predicted.mean - j.observed) ** 2 for j in judged])
    # E (p - o)^2 = variance of a new experiment + s^2, so s^2 is taken off.
    posterior, between, square = _regressed(terms, squared - noise, noise)
    folds = len({j.fold for j in judged})
    return ErrorModel(posterior, between, square, len(contrasts), folds)


def _regressed(terms: Floats, excess: Floats, noise: Floats) -> tuple[float, float, float]:
    """Return the three factors; `terms` is [3, observations], the others [observations]."""
    # To begin with, predictions are taken to be off by about a third of their size.
    expected = noise + terms[0] + 0.1 * terms[2]
    # a <= 1: the posterior sd may be too wide, and what it lacks is for b and c to add.
    lowest, highest = (np.zeros(3), np.array([1.0, np.inf, np.inf]))
    factors = np.zeros(3)
    for _ in range(ROUNDS):
        # A tenth of the median keeps entries of almost no noise from deciding alone.
        weight = 1.0 / (expected + 0.1 * np.median(expected) + 1e-12)
        weighted = terms * weight
        # Columns of different units are scaled, so that the 3 x 3 problem is well conditioned.
        size = np.sqrt((weighted**2).sum(axis=1))
        scale = np.where(size > 0, size, 1.0)
        # X'X of the scaled columns, [3, 3]; the ridge keeps a column of zeros from being singular.
        gram = (weighted @ weighted.T) / np.outer(scale, scale) + 1e-9 * np.eye(3)
        right = weighted @ (excess * weight) / scale
        # |X b - y|^2 differs from |R b - R^-T X'y|^2 by a constant, with R'R = X'X.
        root = np.linalg.cholesky(gram).T
        upper = highest * scale
        solved = lsq_linear(root, np.linalg.solve(root.T, right), (lowest, upper))
        # Back to the units of the terms, and within the limits that rounding may have passed.
        factors = np.clip(solved.x / scale, lowest, highest)
        expected = noise + factors @ terms
    posterior, between, square = factors.tolist()
    return posterior, between, square


def left_out(judged: Sequence[Judged]) -> Iterator[tuple[Judged, ErrorModel]]:
    """Yield each contrast and fold with the factors of other contrasts.

    With fewer than `FEWEST` contrasts in all these are `DEFAULT`, as in answers.
    """
    names = sorted({j.contrast for j in judged if len(j.observed)})
    group = {name: i % GROUPS for i, name in enumerate(names)}
    for k in range(min(GROUPS, len(names))):
        mine = [j for j in judged if group.get(j.contrast) == k]
        # All folds of a contrast are left out together: they share cells.
        rest = [j for j in judged if group.get(j.contrast) != k]
        # Of three contrasts the other two have to do.
        model = fitted(rest, FEWEST - 1) if len(names) >= FEWEST else None
        yield from ((j, model or DEFAULT) for j in mine)


def thinned(genes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` of these genes, evenly spaced."""
    return genes if len(genes) <= most else genes[:: -(-len(genes) // most)]
