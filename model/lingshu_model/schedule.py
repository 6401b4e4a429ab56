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
