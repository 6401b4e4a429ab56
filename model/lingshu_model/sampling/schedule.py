"""How many genes are revealed at each reverse step: fixed beforehand, the same for every cell.

arXiv 2603.25240, 7.2 fixes the counts but does not print the cosine. Here the masked share after
step i of N is cos(pi i / 2N), MaskGIT's form (arXiv 2202.04200). `information` is an addition: the
same cosine over the genes' information about the cell state (`CellState.information`) instead of
their number. Genes on which the others depend come first, a few at a time; the thousands with
little information come last, together. The order of genes depends on no count, so the distribution
is the model's with any schedule.
"""

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.streams import unit_interval

SCHEDULES = ("cosine", "linear", "information")


def reveal_counts(
    genes: int, steps: int, schedule: str, weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Return how many of `genes` genes each of `steps` steps reveals, int64 [steps].

    A step may reveal none where there are more steps than genes.

    Args:
        genes: number of masked genes.
        steps: number of reverse steps.
        schedule: one of `SCHEDULES`.
        weights: information of each gene, [genes], above 0; for `information` only.

    Raises:
        ValueError: the schedule is not known.
    """
    fraction = np.arange(steps + 1) / steps
    # `remaining`: genes still masked before each step and after the last one, [steps + 1].
    if schedule == "linear":
        remaining = genes * (1 - fraction)
    elif schedule == "cosine":
        remaining = genes * np.cos(np.pi / 2 * fraction)
    elif schedule == "information" and weights is not None:
        # Share of the information in the 1, 2, 3, ... most informative genes, ascending.
        information = np.cumsum(-np.sort(-weights)) / weights.sum()
        remaining = genes - np.searchsorted(
            information, 1 - np.cos(np.pi / 2 * fraction), side="right"
        )
    else:
        message = f"schedule {schedule!r} is not known; it is one of {', '.join(SCHEDULES)}"
        raise ValueError(message)
    masked = np.rint(remaining).astype(np.int64)
    # cos(pi / 2) is not exactly 0, and a share of information not exactly 1.
    masked[0], masked[-1] = genes, 0
    return -np.diff(masked)


def reveal_steps(
    keys: NDArray[np.uint64],
    counts: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.int16]:
    """Return the step at which each of n genes is revealed, int16 [n].

    Genes come in ascending order of their keys, and of equal keys the first gene comes first. With
    weights, the next gene is drawn with a probability in proportion to its weight (Efraimidis and
    Spirakis 2006: ascending order of exponential variables divided by weights).

    Args:
        keys: random bits, [n].
        counts: genes that each step reveals, [steps]; their sum is n.
        weights: above 0, [n]; None = uniformly random order.
    """
    order = keys if weights is None else _exponentials(keys) / weights
    ends = counts.cumsum()[:-1]
    ranked = np.sort(order)
    inner = ends[(ends > 0) & (ends < len(keys))]
    # Equal keys on both sides of the end of a step: only a stable ranking says which come first.
    if (ranked[inner - 1] == ranked[inner]).any():
        steps = np.empty(len(keys), np.int16)
        steps[np.argsort(order, kind="stable")] = np.repeat(np.arange(len(counts)), counts)
        return steps
    # Comparing each key with the last key of each step takes a fifth of the time of ranking all.
    last = ranked[ends[ends > 0] - 1]
    return (np.searchsorted(last, order) + (ends == 0).sum()).astype(np.int16)


def _exponentials(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return -ln u of the uniforms u in (0, 1) of 64 random bits, as in `contracts.streams`."""
    return -np.log(unit_interval(keys))
