"""The training run that a file gets: network, schedule, and the minutes they take here.

The estimate is arithmetic: operations of all training cells over what this machine multiplies, of
which training reaches a part. It is good to about a factor of two.
"""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from lingshu_model.network.config import PRESETS
from lingshu_model.network.tokens import VOCABULARY
from lingshu_model.train.data.gene_names import SHIPPED_NAMES
from lingshu_model.train.inspect.understanding import Understanding
from lingshu_model.train.spec import TrainingSpec

SMALL, LARGE = "lingshu-1m-s13", "lingshu-7m-s128"
LARGEST_SMALL = 5_000
"""Genes up to which the small network is used."""
CELLS_SEEN = 100_000
"""Training cells, each as often as it is seen, after which the bound changes little."""
MOST_EPOCHS = 40
BATCH = 64
MINUTES = 8.0
"""Of training, by default."""
_REACHED = 0.1
"""Part of the multiplication rate that training reaches."""
_NOMINAL = 60e9
"""Operations a second of a core, by which epochs are chosen: measured ones vary from call to call,
and the same command must give the same run."""
_CHECK_S = 30.0
_CHECK_PER_VALUE_S = 2e-7


@dataclass(frozen=True)
class Plan:
    """A training run.

    Attributes:
        spec: it.
        minutes: how long it takes here, about.
        words: the same for people.
    """

    spec: TrainingSpec
    minutes: float
    words: str


def planned(
    understanding: Understanding,
    name: str,
    file: str,
    *,
    recipe: str = "default",
    epochs: int | None = None,
    minutes: float = MINUTES,
    allow_unfit: bool = False,
) -> Plan:
    """Return the run for a file that can be trained on.

    Args:
        understanding: what it holds.
        name: of the checkpoint.
        file: its name in the folder of the data.
        recipe: `default`, or `effects` for no network.
        epochs: instead of as many as fit.
        minutes: of training that the epochs are to fit in.
        allow_unfit: whether conditions that do not deliver their effect are accepted.
    """
    cores = available_cores()
    checks = _CHECK_S + _CHECK_PER_VALUE_S * understanding.used * understanding.genes
    shared: dict[str, Any] = {
        "name": name,
        "sources": [_source(understanding, file)],
        "aliases": SHIPPED_NAMES if understanding.human else None,
        "recipe": recipe,
        "replicate": understanding.replicate,
        "dose": understanding.dose,
        "time": understanding.time,
        "allow_unfit": allow_unfit,
    }
    if recipe == "effects":
        took = checks / 60
        words = f"effects without a network: about {spoken(took)} on {cores} cores"
        return Plan(TrainingSpec.of(shared, name), took, words)
    network = SMALL if understanding.genes <= LARGEST_SMALL else LARGE
    needed = understanding.used * operations(network, understanding.genes) / _REACHED
    if epochs is None:
        wanted = min(MOST_EPOCHS, max(1, round(CELLS_SEEN / max(1, understanding.used))))
        epochs = max(1, min(wanted, int(minutes * 60 * cores * _NOMINAL / needed)))
    epoch = needed / multiplications()
    took = (epochs * epoch + checks) / 60
    schedule = {
        "network": network,
        "epochs": epochs,
        "batch": BATCH,
        "micro_batch": BATCH if network == SMALL else 16,
        "lr": 2e-3,
        "final_lr": 1e-4,
        "warmup_steps": min(100, max(2, epochs * understanding.used // BATCH // 10)),
        "sampler": {"schedule": "cosine", "steps": 4, "tile": 64},
    }
    words = (
        f"{network}, {epochs} epochs of {understanding.used:,} cells: about {spoken(took)} on "
        f"{cores} cores, checks included"
    )
    return Plan(TrainingSpec.of({**shared, **schedule}, name), took, words)


def name_of(text: str) -> str:
    """Return a checkpoint's name made of a file's: small letters, digits and hyphens."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")
    return plain[:64].rstrip("-") or "model"


def spoken(minutes: float) -> str:
    """Return a time as people say it."""
    if minutes < 1:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def operations(network: str, genes: int) -> float:
    """Return the operations that one cell takes in training: three times a forward pass."""
    n = PRESETS[network]
    length = ceil(genes / n.group) + 4  # groups of genes, and the prefix
    trunk = n.n_layers * (24 * length * n.d_model**2 + 4 * length**2 * n.d_model)
    gates = 4 * length * n.group * n.d_gene * n.d_model
    head = 2 * genes * n.d_gene * VOCABULARY
    return 3.0 * (trunk + gates + head)


def multiplications(size: int = 768, times: int = 3) -> float:
    """Return the operations a second of this machine's matrix products, the best of a few."""
    matrix = np.ones((size, size), np.float32)
    best = np.inf
    for _ in range(times):
        began = time.perf_counter()
        matrix @ matrix  # pyright: ignore[reportUnusedExpression]
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / max(float(best), 1e-6)


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _source(understanding: Understanding, file: str) -> dict[str, Any]:
    if understanding.kind is None or understanding.counts is None:
        message = f"{understanding.file} cannot be trained on as it is"
        raise ValueError(message)
    perturbation: dict[str, Any] = {
        "column": understanding.perturbation,
        "control": _one_or_all(understanding.controls),
        "kind": understanding.kind.name,
        "targets": dict(understanding.targets),
        "separator": understanding.separator,
    }
    return {
        "file": file,
        "counts": understanding.counts,
        "gene_names": understanding.gene_column,
        "context": dict(understanding.context),
        "without": _combinations(understanding.without),
        "perturbation": perturbation,
    }


def _one_or_all(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else [*names]


def _combinations(without: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
    return [{column: label} for column, labels in without.items() for label in labels]
