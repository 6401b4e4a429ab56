"""The training run that a file gets: network, schedule, and the minutes they take here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lingshu_model.train.data.gene_names import SHIPPED_NAMES
from lingshu_model.train.inspect.minutes import (
    STEPS,
    Machine,
    effects_s,
    network_s,
    operations,
    spoken,
)
from lingshu_model.train.inspect.understanding import Understanding
from lingshu_model.train.recipes.choice import DEFAULT, PAPER, in_paper_recipe
from lingshu_model.train.spec import TrainingSpec

SMALL, LARGE = "lingshu-1m-s13", "lingshu-7m-s128"
PAPER_SMALL, PAPER_LARGE = "lingshu-paper-1m-s13", "lingshu-paper-7m-s32"
LARGEST_SMALL = 5_000
"""Genes up to which the small network is used."""
CELLS_SEEN = 100_000
"""Training cells, each as often as it is seen, after which the bound changes little."""
MOST_EPOCHS = 40
BATCH = 64
MINUTES = 8.0
"""Of training, by default."""
_NOMINAL = 30e9
"""Operations a second that training reaches on a core, by which epochs are chosen: measured ones
vary from call to call, and the same command must give the same run."""


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
        recipe: `default`, `effects` for no network, or `paper`.
        epochs: instead of as many as fit.
        minutes: of training that the epochs are to fit in.
        allow_unfit: whether conditions that do not deliver their effect are accepted.
    """
    machine = Machine.here()
    checks = effects_s(understanding, machine)
    shared: dict[str, Any] = {
        "name": name,
        "sources": [_source(understanding, file)],
        # Only human genes have the shipped names; other species keep theirs.
        "aliases": SHIPPED_NAMES if understanding.human else None,
        "recipe": recipe,
        "replicate": understanding.replicate,
        "dose": understanding.dose,
        "time": understanding.time,
        "allow_unfit": allow_unfit,
    }
    if recipe == "effects":
        took = checks / 60
        words = f"effects without a network: about {spoken(took)} on {machine.cores} cores"
        return Plan(TrainingSpec.of(shared, name), took, words)
    sizes = (PAPER_SMALL, PAPER_LARGE) if recipe == PAPER else (SMALL, LARGE)
    network = sizes[understanding.genes > LARGEST_SMALL]
    if epochs is None:
        epoch = understanding.used * operations(network, understanding.genes)
        wanted = min(MOST_EPOCHS, max(1, round(CELLS_SEEN / max(1, understanding.used))))
        # By the nominal rate: the same command gives the same epochs on a busy machine.
        able = int(minutes * 60 * machine.cores * _NOMINAL / max(epoch, 1.0))
        epochs = max(1, min(wanted, able))
    took = (network_s(understanding, network, epochs, machine) + checks) / 60
    schedule = {
        "network": network,
        "epochs": epochs,
        "batch": BATCH,
        # Cells of one backward pass: those of the large networks take more memory.
        "micro_batch": BATCH if network in (SMALL, PAPER_SMALL) else 16,
        "lr": 2e-3,
        "final_lr": 1e-4,
        "warmup_steps": min(100, max(2, epochs * understanding.used // BATCH // 10)),
        "sampler": {"schedule": "cosine", "steps": STEPS, "tile": 64},
    }
    words = (
        f"{network}, {epochs} epochs of {understanding.used:,} cells: about {spoken(took)} on "
        f"{machine.cores} cores, checks included"
    )
    fields = {**shared, "recipe": DEFAULT, **schedule}
    if recipe == PAPER:
        fields = {**in_paper_recipe(fields), "name": name}
    return Plan(TrainingSpec.of(fields, name), took, words)


def name_of(text: str) -> str:
    """Return a checkpoint's name made of a file's: small letters, digits and hyphens."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")
    return plain[:64].rstrip("-") or "model"


def _source(understanding: Understanding, file: str) -> dict[str, Any]:
    if not understanding.conditions or understanding.counts is None:
        message = f"{understanding.file} cannot be trained on as it is"
        raise ValueError(message)
    source = {
        "file": file,
        "counts": understanding.counts,
        "gene_names": understanding.gene_column,
        "context": dict(understanding.context),
        "without": _combinations(understanding.without),
    }
    if understanding.perturbation is None:
        return source
    perturbation: dict[str, Any] = {
        "column": understanding.perturbation,
        "control": _one_or_all(understanding.controls),
        # Without perturbed cells there is no kind, and no cell has the one that stands here.
        "kind": understanding.kind.name if understanding.kind else "knockout",
        "targets": dict(understanding.targets),
        "separator": understanding.separator,
    }
    return {**source, "perturbation": perturbation}


def _one_or_all(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else [*names]


def _combinations(without: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
    return [{column: label} for column, labels in without.items() for label in labels]
