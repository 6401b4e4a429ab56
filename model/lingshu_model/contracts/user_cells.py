"""Cells of a user: how they are stored for experiments, and the effects carried to them.

`HOME/user_cells/HEX.cells` is a cells blob over the panel of a checkpoint, `HEX.effect` an effect
carried to such cells: safetensors with `mean`, `sd` and `lfsr` [genes] of the change of mean
log1p_cp10k. HEX is the SHA-256 of the file, so that a digest in the ledger names its bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load, save

from lingshu_model.contracts.canonical import HASH_PREFIX, digest_bytes
from lingshu_model.contracts.cells import Cells, decode_cells
from lingshu_model.contracts.effects import StoredEffect
from lingshu_model.contracts.messages import ArmRequest
from lingshu_model.contracts.posterior import Posterior

FOLDER = "user_cells"
CELLS_FILE, EFFECT_FILE = "cells", "effect"
CONTEXT = "cells"
"""The context field of experiments on a user's cells."""
DRAWS = 8
"""Passes of the network per cell and context in a score, each a stratum of the share hidden."""
BITS = 1_000_000
"""What a bit is stored as in a table of scores."""
_PARTS = ("mean", "sd", "lfsr")
_HEADER = "lingshu"


class GoneError(LookupError):
    """Stored cells of a user, or their effect, are not in the home or not what they were."""


@dataclass(frozen=True)
class CarriedEffect:
    """An effect carried to a user's cells.

    Attributes:
        effect: of the perturbation.
        share: share of a cell's counts that the measured genes hold; the change is that of levels
            over a whole transcriptome.
    """

    effect: StoredEffect
    share: float


@dataclass(frozen=True)
class UserCellsStore:
    """The stored cells and effects of one home."""

    folder: Path

    @classmethod
    def of(cls, home: Path) -> "UserCellsStore":
        """Return the store of a home; nothing is written."""
        return cls(home.absolute() / FOLDER)

    def path(self, digest: str, suffix: str) -> Path:
        """Return the path of a file by its digest, whether or not it is there."""
        return self.folder / f"{digest.removeprefix(HASH_PREFIX)}.{suffix}"

    def cells(self, digest: str) -> Cells:
        """Return stored cells.

        Raises:
            GoneError: they are not there, or their bytes have changed.
        """
        return decode_cells(self.read(digest, CELLS_FILE))

    def effect(self, digest: str) -> CarriedEffect:
        """Return a stored effect.

        Raises:
            GoneError: it is not there, or its bytes have changed.
        """
        return unpack_carried(self.read(digest, EFFECT_FILE))

    def read(self, digest: str, suffix: str) -> bytes:
        """Return the bytes of a file, checked against its digest.

        Raises:
            GoneError: it is not there, or its bytes have changed.
        """
        path = self.path(digest, suffix)
        try:
            data = path.read_bytes()
        except OSError as error:
            message = f"the {suffix} {digest} are not in {self.folder} ({error.strerror})"
            raise GoneError(message) from error
        # At every reading: a file may have been cut short or replaced since it was written.
        if digest_bytes(data) != digest:
            message = f"{path} was changed: it does not have its digest {digest}"
            raise GoneError(message)
        return data


def score_columns(arm: ArmRequest) -> int:
    """Return the columns of an arm's scores: draws of each context, and of simulated cells."""
    return (len(arm.against) + 1) * DRAWS


def pack_carried(carried: CarriedEffect) -> bytes:
    """Return the bytes of an effect carried to a user's cells; equal effects, equal bytes."""
    effect = carried.effect
    tensors = {name: getattr(effect.posterior, name) for name in _PARTS}
    if effect.additive is not None:
        tensors |= {f"additive_{name}": getattr(effect.additive, name) for name in _PARTS}
    header = {
        "source": effect.source,
        "note": effect.note,
        "library": effect.library,
        "share": carried.share,
    }
    # One key: safetensors does not order several.
    return save(tensors, {_HEADER: json.dumps(header, sort_keys=True)})


def unpack_carried(data: bytes) -> CarriedEffect:
    """Return the effect that `pack_carried` wrote.

    Raises:
        ValueError: these bytes are none.
    """
    length = int.from_bytes(data[:8], "little")
    # safetensors.numpy has no reader of metadata in memory; the layout is that of the format.
    header: Mapping[str, Any] = json.loads(data[8 : 8 + length])
    said = json.loads(header["__metadata__"][_HEADER])
    tensors = load(data)
    posterior = Posterior(*(tensors[name] for name in _PARTS))
    additive = None
    if f"additive_{_PARTS[0]}" in tensors:
        additive = Posterior(*(tensors[f"additive_{name}"] for name in _PARTS))
    effect = StoredEffect(
        posterior, said["source"], said["note"], library=said["library"], additive=additive
    )
    return CarriedEffect(effect, said["share"])
