"""Sampled cells of a checkpoint, kept on disk so that a second evaluation samples nothing.

This is the only module of the package that calls the sampler, which is imported when cells are
missing.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lingshu_model.contracts import (
    ArmRequest,
    Blob,
    Checkpoint,
    Intervention,
    decode_cells,
    digest_json,
)
from lingshu_model.evaluate.metrics.matrices import Sparse, csr
from lingshu_model.system.durable import durably, write_durably
from lingshu_model.train.data.cells import Condition

# So many cells [cells, panel] are dense at a time.
CELLS_AT_ONCE = 1024
BETWEEN_CONTEXTS = 1 << 20
"""Distance of the first cell numbers of two contexts: more cells than are ever sampled."""


@dataclass
class ArmStore:
    """Cells of one checkpoint, by condition, seed and number.

    Attributes:
        checkpoint: that is sampled.
        folder: of the cells: one file per request digest, and one with its cost.
        n_cells: cells per arm where no number is given.
        steps: sampling steps.
        guidance: classifier-free guidance.
        workers: tiles sampled at a time, one thread each.
    """

    checkpoint: Checkpoint
    folder: Path
    n_cells: int
    steps: int
    guidance: float
    workers: int = 1
    _sampler: Any = field(default=None, repr=False)

    def counts(
        self, condition: Condition, seed: int, *, n: int | None = None, steps: int | None = None
    ) -> Sparse:
        """Return CSR [n, panel]: the arm's cells, sampled unless they are on disk."""
        request = self.request(condition, seed, n=n, steps=steps)
        path = self._path(request, "safetensors")
        if not path.is_file():
            self._sample(request, path)
        return csr(decode_cells(path).counts[: self.n_cells if n is None else n])

    def request(
        self, condition: Condition, seed: int, *, n: int | None = None, steps: int | None = None
    ) -> ArmRequest:
        """Return the request of an arm, in whole tiles, since the sampler computes no less.

        Arms of one context are paired cell by cell. Cells with the same number have the same random
        stream in any condition, so contexts have different cell numbers: common noise would not
        average out in a pool of several contexts.
        """
        tile = int(self.checkpoint.config["sampler"].get("tile", 1))
        n = self.n_cells if n is None else n
        place = self.checkpoint.contexts.index(dict(condition.context))
        return ArmRequest(
            checkpoint=self.checkpoint.name,
            checkpoint_digest=self.checkpoint.digest,
            context=dict(condition.context),
            interventions=condition.interventions,
            seed=seed,
            # At a multiple of the tile, so that no tile belongs to two contexts.
            first_cell=place * BETWEEN_CONTEXTS // tile * tile,
            # Rounded up to whole tiles; `counts` cuts the cells that are too many.
            n_cells=-(-n // tile) * tile,
            steps=steps or self.steps,
            guidance=self.guidance,
        )

    def of_part(self, name: str, sampler: Any) -> "ArmStore":
        """Return the store of the cells of one of the checkpoint's parts (`ablation`)."""
        return replace(self, folder=self.folder / name.replace(" ", "-"), _sampler=sampler)

    def notes(self, requests: Sequence[ArmRequest]) -> list[dict[str, Any]]:
        """Return `seconds` and the numerics `profile` with which each of these was sampled."""
        paths = [self._path(request, "json") for request in requests]
        return [json.loads(path.read_text("utf-8")) for path in paths]

    def _path(self, request: ArmRequest, suffix: str) -> Path:
        return self.folder / f"{request.digest.removeprefix('sha256:')[:32]}.{suffix}"

    def _sample(self, request: ArmRequest, path: Path) -> None:
        from lingshu_model.sampling import load, sampler

        if self._sampler is None:
            # One thread per tile, as in the engine: the numerics profile names the number.
            self._sampler = load.load_sampler(self.checkpoint, threads=1)
        started = time.perf_counter()
        parts = [sampler.sample_arm(self._sampler, part, self.workers) for part in _parts(request)]
        note = {"seconds": time.perf_counter() - started, "profile": self._sampler.profile()}
        # Before the cells: an arm whose cells are on disk then has its note.
        write_durably(self._path(request, "json"), json.dumps(note).encode())
        with durably(path) as file:
            file.writelines(Blob(parts))


def _parts(request: ArmRequest) -> Iterator[ArmRequest]:
    """Yield requests for the same cells, few enough for each to be sampled dense."""
    first, end = request.first_cell, request.first_cell + request.n_cells
    for start in range(first, end, CELLS_AT_ONCE):
        n_cells = min(CELLS_AT_ONCE, end - start)
        yield request.model_copy(update={"first_cell": start, "n_cells": n_cells})


def seen_conditions(checkpoint: Checkpoint) -> list[Condition]:
    """Return the conditions that a checkpoint was trained on, null labels among them."""
    return [
        Condition(
            tuple(sorted(entry["context"].items())),
            tuple(Intervention(**each) for each in entry["interventions"]),
        )
        for entry in checkpoint.config["seen"]
    ]


def null_labels(checkpoint: Checkpoint) -> list[Condition]:
    """Return the conditions that are random control cells under a label, ordered by name."""
    every = seen_conditions(checkpoint)
    nulls = [c for c in every if any(each.kind == "sham" for each in c.interventions)]
    return sorted(nulls, key=lambda c: c.interventions[0].target)


def can_sample(checkpoint: Checkpoint, condition: Condition) -> bool:
    """Return whether a checkpoint has a token for everything in a condition.

    It needs the context, and of each intervention the kind and a target that was perturbed in
    training or is a gene of the panel.
    """
    seen = seen_conditions(checkpoint)
    known = {(each.kind, each.target) for c in seen for each in c.interventions}
    kinds, panel = {kind for kind, _ in known}, {*checkpoint.panel}
    return dict(condition.context) in checkpoint.contexts and all(
        (each.kind, each.target) in known or (each.kind in kinds and each.target in panel)
        for each in condition.interventions
    )


def profile_digest(notes: Sequence[dict[str, Any]]) -> str:
    """Return the digest of the numerics profile.

    Raises:
        ValueError: the arms were sampled with different profiles.
    """
    digests = {digest_json(note["profile"]) for note in notes}
    if len(digests) != 1:
        message = (
            f"the sampled cells come from {len(digests)} numerics profiles: "
            "evaluate into an empty --out folder"
        )
        raise ValueError(message)
    return digests.pop()
