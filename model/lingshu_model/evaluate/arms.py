"""Sampled cells of a checkpoint, kept on disk so that making the tables again samples nothing.

The only module here that calls the sampler, and it loads it at the first arm that is not on disk.
Knows nothing of what the cells are for.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingshu_model.evaluate.changes import Counts
from lingshu_model.wire import (
    ArmRequest,
    Blob,
    Checkpoint,
    Intervention,
    decode_cells,
    digest_json,
)
from lingshu_model.wire.durable import durably, write_durably

CELLS_AT_ONCE = 1024
Interventions = tuple[Intervention, ...]


@dataclass
class ArmStore:
    """Cells of one checkpoint in its first context, by interventions and seed.

    Attributes:
        checkpoint: whose cells.
        folder: where they are kept, one file per request digest with its cost beside it.
        n_cells: cells per arm.
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
        self, interventions: Interventions, seed: int, *, steps: int | None = None
    ) -> Counts:
        """Return int32 [n_cells, genes]: the arm's cells, sampled unless they are on disk."""
        request = self.request(interventions, seed, steps=steps)
        path = self._path(request, "safetensors")
        if not path.is_file():
            self._sample(request, path)
        return decode_cells(path).counts

    def request(
        self, interventions: Interventions, seed: int, *, steps: int | None = None
    ) -> ArmRequest:
        """Return what is asked of the sampler."""
        return ArmRequest(
            checkpoint=self.checkpoint.name,
            checkpoint_digest=self.checkpoint.digest,
            context=self.checkpoint.contexts[0],
            interventions=interventions,
            seed=seed,
            n_cells=self.n_cells,
            steps=steps or self.steps,
            guidance=self.guidance,
        )

    def notes(self, requests: Sequence[ArmRequest]) -> list[dict[str, Any]]:
        """Return `seconds` and the numerics `profile` each of these arms was sampled with."""
        paths = [self._path(request, "json") for request in requests]
        return [json.loads(path.read_text("utf-8")) for path in paths]

    def _path(self, request: ArmRequest, suffix: str) -> Path:
        return self.folder / f"{request.digest.removeprefix('sha256:')[:32]}.{suffix}"

    def _sample(self, request: ArmRequest, path: Path) -> None:
        from lingshu_model import sampler

        if self._sampler is None:
            self._sampler = sampler.Sampler.load(self.checkpoint, threads=1)
        started = time.perf_counter()
        parts = [sampler.sample_arm(self._sampler, part, self.workers) for part in _parts(request)]
        note = {"seconds": time.perf_counter() - started, "profile": self._sampler.profile()}
        write_durably(self._path(request, "json"), json.dumps(note).encode())
        with durably(path) as file:
            file.writelines(Blob(parts))


def _parts(request: ArmRequest) -> Iterator[ArmRequest]:
    """Yield requests for the same cells, few enough for each to be sampled dense."""
    first, end = request.first_cell, request.first_cell + request.n_cells
    for start in range(first, end, CELLS_AT_ONCE):
        n_cells = min(CELLS_AT_ONCE, end - start)
        yield request.model_copy(update={"first_cell": start, "n_cells": n_cells})


def single_interventions(checkpoint: Checkpoint) -> dict[str, Interventions]:
    """Return the single trained interventions by target, shams left out."""
    return {i[0].target: i for i in _trained(checkpoint) if len(i) == 1 and i[0].kind != "sham"}


def shams(checkpoint: Checkpoint) -> list[Interventions]:
    """Return the trained sham interventions, ordered by name."""
    found = [i for i in _trained(checkpoint) if len(i) == 1 and i[0].kind == "sham"]
    return sorted(found, key=lambda i: i[0].target)


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


def _trained(checkpoint: Checkpoint) -> list[Interventions]:
    context = checkpoint.contexts[0]
    entries = [e for e in checkpoint.config["seen"] if e["context"] == context]
    return [tuple(Intervention(**i) for i in entry["interventions"]) for entry in entries]
