"""The conditions of a batch of cells, as indices and numbers for the network."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class VocabularySizes:
    """Sizes of the network's embedding tables.

    Attributes:
        context_values: values of all context fields together.
        targets: targets, control included (index 0).
        kinds: intervention kinds, control included (index 0).
        gene_features: features of a gene.
        tilts: rows of effect offsets of format 1, the row of zeros included (index 0).
    """

    context_values: int
    targets: int
    kinds: int
    gene_features: int
    tilts: int = 1


@dataclass(frozen=True)
class Conditions:
    """Prefix tokens of a batch, K intervention slots each.

    Attributes:
        context: int64 [batch, fields], index over the values of all fields.
        target: int64 [batch, K], 0 = control or never perturbed in training.
        kind: int64 [batch, K], 0 = control.
        gene: int64 [batch, K], panel index of the target plus 1, 0 = not in the panel.
        tilt: int64 [batch, K], row of the effect offsets of format 1, 0 = none.
        dose: float32 [batch, K], natural log of the dose, 0 where there is none.
        depth: float32 [batch], natural log of the cell's UMI over its measured genes.
        present: bool [batch, K], or None when every slot is used.
    """

    context: Tensor
    target: Tensor
    kind: Tensor
    gene: Tensor
    tilt: Tensor
    dose: Tensor
    depth: Tensor
    present: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def to(self, device: torch.device) -> "Conditions":
        """Return the same conditions on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    def expand(self, batch: int) -> "Conditions":
        """Return the one condition repeated `batch` times, without copying."""
        return self._each(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))

    def take(self, rows: Tensor) -> "Conditions":
        """Return the rows `rows` of the batch."""
        return self._each(lambda tensor: tensor[rows])

    def at_depth(self, depth: Tensor) -> "Conditions":
        """Return the same conditions for cells of the depths `depth`, float32 [batch]."""
        return replace(self, depth=depth)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditions":
        """Return the conditions with `change` applied to every tensor."""
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: change(part) for name, part in parts.items() if part is not None}
        return replace(self, **changed)
