"""Sampled cells of a checkpoint, kept on disk so that making the tables again samples nothing.

The only module here that calls the sampler, and it loads it at the first arm that is not on disk.
Knows nothing of what the cells are for.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingshu_model.evaluate.sparse import Sparse, csr
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
APART = 1 << 20
"""Cells from one context's first to the next one's: more than are ever asked for."""
Interventions = tuple[Intervention, ...]


@dataclass(frozen=True)
class Condition:
    """What cells are asked for: a context and what is done to it (nothing = control)."""

    context: Mapping[str, str]
    interventions: Interventions = ()

    @property
    def control(self) -> "Condition":
        """The same context with nothing done to it."""
        return Condition(self.context)


@dataclass
class ArmStore:
    """Cells of one checkpoint, by condition, seed and number.

    Attributes:
        checkpoint: whose cells.
        folder: where they are kept, one file per request digest with its cost beside it.
        n_cells: cells per arm where no number is asked for.
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
        self, asked: Condition, seed: int, *, n: int | None = None, steps: int | None = None
    ) -> Sparse:
        """Return CSR [n, panel]: the arm's cells, sampled unless they are on disk."""
        request = self.request(asked, seed, n=n, steps=steps)
        path = self._path(request, "safetensors")
        if not path.is_file():
            self._sample(request, path)
        return csr(decode_cells(path).counts[: self._asked(n)])

    def request(
        self, asked: Condition, seed: int, *, n: int | None = None, steps: int | None = None
    ) -> ArmRequest:
        """Return what is asked of the sampler: whole tiles, since it computes no less.

        Arms of one context are pairs, cell by cell. Contexts have cells of their own: those of one
        number share their randomness whatever the condition, and noise that cells of a pool have
        in common would not average out.
        """
        tile = int(self.checkpoint.config["sampler"].get("tile", 1))
        place = self.checkpoint.contexts.index(dict(asked.context))
        return ArmRequest(
            checkpoint=self.checkpoint.name,
            checkpoint_digest=self.checkpoint.digest,
            context=dict(asked.context),
            interventions=asked.interventions,
            seed=seed,
            first_cell=place * APART // tile * tile,
            n_cells=-(-self._asked(n) // tile) * tile,
            steps=steps or self.steps,
            guidance=self.guidance,
        )

    def notes(self, requests: Sequence[ArmRequest]) -> list[dict[str, Any]]:
        """Return `seconds` and the numerics `profile` each of these arms was sampled with."""
        paths = [self._path(request, "json") for request in requests]
        return [json.loads(path.read_text("utf-8")) for path in paths]

    def _asked(self, n: int | None) -> int:
        return self.n_cells if n is None else n

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


def shams(checkpoint: Checkpoint) -> list[Condition]:
    """Return the trained sham conditions, ordered by name."""
    found = [c for c in trained(checkpoint) if any(i.kind == "sham" for i in c.interventions)]
    return sorted(found, key=lambda c: c.interventions[0].target)


def trained(checkpoint: Checkpoint) -> list[Condition]:
    """Return the conditions the checkpoint was trained on, shams among them."""
    return [
        Condition(entry["context"], tuple(Intervention(**i) for i in entry["interventions"]))
        for entry in checkpoint.config["seen"]
    ]


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
