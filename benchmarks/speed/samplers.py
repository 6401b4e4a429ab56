"""Samplers to time: a shipped checkpoint, or a preset with random weights over a made panel.

Random weights draw any token as often as another, which is the worst case for caches. Every
gene has the whole vocabulary, so nothing is saved on logits either.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint, Intervention
from lingshu_model.network import numerics
from lingshu_model.network.cell_network import Network
from lingshu_model.network.config import PRESETS
from lingshu_model.network.vocabulary import Vocabulary
from lingshu_model.sampling.sampler import Sampler

GENES = 18_080
CONTEXT = {"cell_line": "made"}
KNOCKOUT = {"kind": "knockout", "target": "G1"}


@dataclass(frozen=True)
class MadeCheckpoint(Checkpoint):
    """A checkpoint that is no folder."""

    @cached_property
    def panel(self) -> list[str]:
        return [f"G{i}" for i in range(self.config["genes"])]


def timed_sampler(
    preset: str, *, genes: int, steps: int, guidance: float, tile: int, schedule: str = "cosine"
) -> MadeCheckpoint:
    depths = [round(float(d), 4) for d in np.linspace(7.0, 9.0, 33)]
    seen = [
        {"context": CONTEXT, "interventions": finished, "n_cells": 100, "depth_quantiles": depths}
        for finished in ([], [KNOCKOUT])
    ]
    config: dict[str, Any] = {
        "network": preset,
        "genes": genes,
        "context_fields": {"cell_line": ["made"]},
        "contexts": [{"context": CONTEXT, "n_cells": 100, "measured": "all"}],
        "seen": seen,
        "kinds": ["knockout"],
        "targets": ["G1"],
        "gene_features": 16,
        "depth": 8.0,
        "sampler": {"steps": steps, "guidance": guidance, "tile": tile, "schedule": schedule},
    }
    return MadeCheckpoint(f"made-{preset}", Path("made"), "sha256:made", config, {})


def network_of(checkpoint: Checkpoint, largest: Tensor | None = None) -> tuple[Network, Vocabulary]:
    """Return a network with random weights.

    Args:
        checkpoint: with the preset and the panel.
        largest: largest token of each gene, int64 [genes]; with it the network is as trainings of
            now leave it, without effect offsets. None = all 281 tokens, and offsets.
    """
    vocabulary = Vocabulary.from_config(checkpoint.config, checkpoint.panel)
    preset = PRESETS[checkpoint.config["network"]]
    shape = preset if largest is None else preset.without_offsets()
    network = Network(shape, len(checkpoint.panel), vocabulary.sizes, ceiling=largest)
    return network.eval(), vocabulary


def sampler_of(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: str,
    largest: Tensor | None = None,
    **options: Any,
) -> Sampler:
    """Return a sampler; a made checkpoint's network has random weights (`network_of`)."""
    if not isinstance(checkpoint, MadeCheckpoint):
        return Sampler.load(checkpoint, dtype=dtype, threads=1, device=device, **options)
    numerics.prepare(1)
    where = torch.device(device)
    network, vocabulary = network_of(checkpoint, largest)
    chosen = numerics.choose_dtype(dtype, where)
    return Sampler(checkpoint, network.to(where), vocabulary, chosen, **options)


def checkpoint_of(model: str, **shape: Any) -> Checkpoint:
    """Return the shipped checkpoint of this name, or the made one of a preset of this name."""
    return timed_sampler(model, **shape) if model in PRESETS else Catalogue().load(model)


def arm_of(checkpoint: Checkpoint, steps: int | None, guidance: float | None) -> ArmRequest:
    """Return a perturbed arm, at the checkpoint's own steps and guidance unless told otherwise."""
    defaults = checkpoint.config["sampler"]
    finished = next(
        entry
        for entry in checkpoint.config["seen"]
        if entry["interventions"] and entry["interventions"][0]["kind"] != "sham"
    )
    return ArmRequest(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        context=finished["context"],
        interventions=tuple(Intervention(**item) for item in finished["interventions"]),
        seed=1,
        n_cells=1,
        steps=defaults["steps"] if steps is None else steps,
        guidance=defaults["guidance"] if guidance is None else guidance,
    )
