"""How many genes are revealed at each reverse step: fixed beforehand, the same for every cell.

arXiv 2603.25240, 7.2 fixes the counts but does not print the cosine; the masked share after step i
of N is taken as cos(pi i / 2N), MaskGIT's form. `information` is ours: the same cosine over what
genes tell of the cell instead of over their number, so that the genes on which the others depend
come first, a few at a time, and the thousands that tell next to nothing come last, together. Which
gene comes when depends on no count, so the distribution is the model's whatever the order.
"""

import numpy as np
from numpy.typing import NDArray

SCHEDULES = ("cosine", "linear", "information")


def reveal_counts(
    genes: int, steps: int, schedule: str, weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Return how many of `genes` genes each of `steps` steps reveals, int64 [steps].

    A step may reveal none where there are more steps than genes. `information` needs the genes'
    `weights` [genes], above 0.

    Raises:
        ValueError: the schedule is not known.
    """
    fraction = np.arange(steps + 1) / steps
    if schedule == "linear":
        remaining = genes * (1 - fraction)
    elif schedule == "cosine":
        remaining = genes * np.cos(np.pi / 2 * fraction)
    elif schedule == "information" and weights is not None:
        information = np.cumsum(-np.sort(-weights)) / weights.sum()
        remaining = genes - np.searchsorted(
            information, 1 - np.cos(np.pi / 2 * fraction), side="right"
        )
    else:
        message = f"schedule {schedule!r} is not known; it is one of {', '.join(SCHEDULES)}"
        raise ValueError(message)
    left = np.rint(remaining).astype(np.int64)
    left[0], left[-1] = genes, 0
    return -np.diff(left)


def reveal_steps(
    keys: NDArray[np.uint64],
    counts: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.int16]:
    """Return at which step each of n genes with random `keys` is revealed, int16 [n].

    In the order of their keys, as many at each step as `counts` says; of equal keys the first gene
    comes first. With `weights`, each next gene is drawn with a probability in proportion to its
    weight (Efraimidis and Spirakis 2006: the smallest of exponentials over weights).
    """
    order = keys if weights is None else _exponentials(keys) / weights
    ends = counts.cumsum()[:-1]
    ranked = np.sort(order)
    inner = ends[(ends > 0) & (ends < len(keys))]
    if (ranked[inner - 1] == ranked[inner]).any():
        steps = np.empty(len(keys), np.int16)
        steps[np.argsort(order, kind="stable")] = np.repeat(np.arange(len(counts)), counts)
        return steps
    # A fifth of the time of ranking every gene: only the last one of each step is looked up.
    last = ranked[ends[ends > 0] - 1]
    return (np.searchsorted(last, order) + (ends == 0).sum()).astype(np.int16)


def _exponentials(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    return -np.log(((keys >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
