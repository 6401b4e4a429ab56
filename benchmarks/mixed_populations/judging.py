"""What cells of a population are taken for, and whether they carry their types' markers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.evaluate.metrics.matrices import expression_levels

Floats = NDArray[np.float64]
Labels = NDArray[np.str_]
MARKERS = 50
FEWEST = 3
"""Cells of a type, of either kind, from which its markers are compared."""
RIDGE = 1e-3
"""Share of the mean variance that is added to each axis' variance."""
DRAWS = 200


@dataclass(frozen=True)
class Judge:
    """Linear discriminants along principal axes, fitted on training cells of a population.

    Attributes:
        frame: the axes.
        types: the type of each class, ascending.
        weights: [components, classes].
        offsets: [classes].
    """

    frame: Frame
    types: Labels
    weights: Floats
    offsets: Floats

    @classmethod
    def fit(cls, counts: sparse.csr_matrix, labels: Labels) -> "Judge":
        """Return the judge of counts [cells, genes] with a type each."""
        frame = Frame.fit([counts])
        scores = frame.scores(expression_levels(counts))
        types, code = np.unique(labels, return_inverse=True)
        centres = np.stack([scores[code == k].mean(axis=0) for k in range(len(types))])
        within = scores - centres[code]
        covariance = within.T @ within / max(len(scores) - len(types), 1)
        covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        weights = np.linalg.solve(covariance, centres.T)
        # Equal priors: how often a type occurs in training must not decide what a cell is.
        return cls(frame, types, weights, -0.5 * (centres * weights.T).sum(axis=1))

    def types_of(self, counts: sparse.csr_matrix) -> Labels:
        """Return the type that each cell is taken for."""
        scores = self.frame.scores(expression_levels(counts))
        return self.types[(scores @ self.weights + self.offsets).argmax(axis=1)]


def distance(first: Labels, second: Labels) -> float:
    """Return the total variation distance of the compositions of two sets of labels, 0 to 1."""
    types, code = np.unique(np.concatenate([first, second]), return_inverse=True)
    shares = [np.bincount(c, minlength=len(types)) / len(c) for c in np.split(code, [len(first)])]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def beside_halves(
    held_out: Labels, others: dict[str, Labels], rng: np.random.Generator
) -> dict[str, float]:
    """Return mean distances to a random half of held-out labels, all at the size of that half.

    Args:
        held_out: labels of the held-out cells.
        others: labels that are compared; as many as a half has are drawn, without replacement if
            there are enough.
        rng: of the draws.
    """
    size = len(held_out) // 2
    sums = dict.fromkeys(("half", *others), 0.0)
    for _ in range(DRAWS):
        order = rng.permutation(held_out)
        half, rest = order[:size], order[size : 2 * size]
        sums["half"] += distance(rest, half) / DRAWS
        for name, labels in others.items():
            drawn = rng.choice(labels, size, replace=len(labels) < size)
            sums[name] += distance(drawn, half) / DRAWS
    return sums


def type_means(counts: sparse.csr_matrix, labels: Labels, types: Sequence[str]) -> Floats:
    """Return mean log1p_cp10k of the cells of each type, [types, genes]."""
    levels = expression_levels(counts)
    return np.stack([np.asarray(levels[labels == t].mean(axis=0)).ravel() for t in types])


def markers(means: Floats) -> list[set[int]]:
    """Return the genes of each type whose mean exceeds that of the other types most."""
    others = (means.sum(axis=0) - means) / (len(means) - 1)
    return [set(np.argsort(o - m, kind="stable")[:MARKERS].tolist())
            for m, o in zip(means, others, strict=True)]  # fmt: skip
