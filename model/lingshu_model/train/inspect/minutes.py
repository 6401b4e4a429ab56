"""How long a training run takes here: arithmetic, by what this machine multiplies at the moment.

The constants were measured on cores that multiply `REFERENCE` operations a second and are scaled by
what is measured now, so that a slower or a busy machine gets a longer estimate. It is meant to be
right within a factor of two.
"""

import os
import time
from dataclasses import dataclass
from math import ceil

import numpy as np

from lingshu_model.network.config import PRESETS
from lingshu_model.network.tokens import VOCABULARY
from lingshu_model.train.inspect.understanding import Understanding

REFERENCE = 95e9
"""Single-precision operations a second of one core in products of large matrices."""
REACHED = 0.45
"""Part of them that training a network reaches."""
STEPS = 4
"""Sampling steps of a planned checkpoint."""
_START_S = 12.0
"""Imports, reading, writing."""
_ROW_GENE_S, _NONZERO_S = 4e-5, 8e-4
"""Solving and checking one gene of one effect: always, and times the share of non-zero counts."""
_CONTRAST_GENE_S = 2.5e-5
_LABEL_GENE_S = 4.4e-6
_COUNT_S = 1e-7
"""One non-zero count in one fold."""
_NULL_LABELS, _JUDGED, _FOLDS = 16, 60, 5
"""Null labels, contrasts of a fold that are judged, and folds of cells or of targets."""
_MOST_FOLDS = 12
"""Contexts that are left out in turn, at most (`finishing.evidence`)."""
_SAMPLED = 1300
"""Network cells of a context that effects are solved, chosen and checked on."""
_MEASURED_S = 0.4


@dataclass(frozen=True)
class Machine:
    """What this machine does.

    Attributes:
        cores: that this process may use.
        rate: operations a second of all of them.
    """

    cores: int
    rate: float

    @classmethod
    def here(cls) -> "Machine":
        """Return this machine as it is now, other processes included."""
        return cls(available_cores(), multiplications())

    @property
    def slower(self) -> float:
        """Seconds that what takes one core of the reference a second takes one core here."""
        return REFERENCE * self.cores / self.rate


def effects_s(u: Understanding, machine: Machine) -> float:
    """Return the seconds of estimating, solving, checking and rotating effects."""
    if u.unperturbed:
        return machine.slower * _START_S
    contexts = max(1, sum(control > 0 for control, _ in u.contexts.values()))
    # Every condition but control, in every context: carried effects are solved too.
    effects = max(0, len(u.conditions) - 1) * contexts
    nonzero = _nonzero(u)
    each = _ROW_GENE_S + _NONZERO_S * nonzero
    parallel = (effects + _NULL_LABELS) * u.genes * each
    left_out = min(contexts, _MOST_FOLDS) if contexts > 1 else 0
    folds = 2 * _FOLDS + left_out
    # Folds of cells, of targets and of contexts judge at most so many contrasts each.
    contrasts = _FOLDS * min(_JUDGED, effects) + min(_FOLDS * _JUDGED, effects)
    contrasts += min(left_out * _JUDGED, effects)
    labels = min(300 * contexts, 2000)
    # Rotating folds and null labels run on one core; solving runs on all.
    alone = (
        _START_S
        + contrasts * u.genes * _CONTRAST_GENE_S
        + labels * u.genes * _LABEL_GENE_S
        + folds * u.used * u.genes * nonzero * _COUNT_S
    )
    return machine.slower * (alone + parallel / machine.cores)


def network_s(u: Understanding, network: str, epochs: int, machine: Machine) -> float:
    """Return the seconds of training a network and of what it samples for the checks."""
    each = operations(network, u.genes)
    trained = epochs * u.used * each
    # A forward pass is a third of a training step; values are drawn in double precision.
    # Nothing is solved or checked where no cell is perturbed.
    contexts = 0 if u.unperturbed else max(1, len(u.contexts))
    sampled = contexts * _SAMPLED * STEPS * each / 3 * 1.5
    return (trained + sampled) / (REACHED * machine.rate)


def operations(network: str, genes: int) -> float:
    """Return the operations that one cell takes in training: three times a forward pass."""
    n = PRESETS[network]
    length = ceil(genes / n.group) + 4  # groups of genes, and the prefix
    # Per layer: 24 n d^2 for projections and SwiGLU, 4 n^2 d for attention.
    trunk = n.n_layers * (24 * length * n.d_model**2 + 4 * length**2 * n.d_model)
    # W_down and W_up, [group x d_gene, d_model] each, for every group of genes.
    gates = 4 * length * n.group * n.d_gene * n.d_model
    head = 2 * genes * n.d_gene * VOCABULARY
    return 3.0 * (trunk + gates + head)


def multiplications(size: int = 768, seconds: float = _MEASURED_S) -> float:
    """Return the operations a second of this machine's matrix products, over a short while."""
    # So large that the product, not the call, takes the time.
    matrix = np.ones((size, size), np.float32)
    # Starting the threads of the library is no part of the rate.
    matrix @ matrix  # pyright: ignore[reportUnusedExpression] - the first begins the threads
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        matrix @ matrix  # pyright: ignore[reportUnusedExpression]
        count += 1
    return 2.0 * size**3 * max(count, 1) / max(took, 1e-6)


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spoken(minutes: float) -> str:
    """Return a time as people say it."""
    if minutes < 1:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def _nonzero(u: Understanding) -> float:
    """Return about which share of counts is not 0."""
    mean = u.depth / max(u.genes, 1) if u.depth == u.depth else 0.0
    # An approximation: at a mean of 2.5 UMI a gene half of the counts are not 0.
    return mean / (mean + 2.5)
