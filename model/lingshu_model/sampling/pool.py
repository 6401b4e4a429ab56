"""Control cells of training drawn with replacement: what `--recipe effects` samples from.

A cell of a context is one of the stored control cells of that context, chosen by the cell's own
stream, so cell i of a seed is the same whatever is sampled beside it.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import ArmRequest, Checkpoint, CheckpointError
from lingshu_model.contracts.streams import Purpose, uniforms
from lingshu_model.effects.moments import Rows
from lingshu_model.system.machine import library_settings

POOL = "pool"
"""Files of stored control cells."""


@dataclass(frozen=True)
class Pool:
    """Control cells by context.

    Attributes:
        counts: UMI, int32 [cells, genes] in compressed rows; 0 where not measured.
        first: index of each context's first cell, then the number of cells, [contexts + 1].
    """

    counts: Rows
    first: NDArray[np.int64]

    def of(self, context: int) -> Rows:
        """Return the cells of a context, [cells, genes]."""
        return self.counts[self.first[context] : self.first[context + 1]]

    def tables(self) -> dict[str, NDArray[Any]]:
        """Return the pool as the tensors of a checkpoint."""
        return {
            "indptr": self.counts.indptr.astype(np.int64),
            "indices": self.counts.indices.astype(np.uint16 if self._narrow else np.int32),
            # Decoded counts are at most 10,000 (`network.tokens`).
            "counts": self.counts.data.astype(np.uint16),
            "first": self.first,
        }

    @property
    def _narrow(self) -> bool:
        return self.counts.shape[1] <= np.iinfo(np.uint16).max

    @classmethod
    def of_tables(cls, tables: Mapping[str, NDArray[Any]], genes: int) -> "Pool":
        """Return the pool of the tensors that `tables` returned, over `genes` genes."""
        counts, indices = tables["counts"].astype(np.int32), tables["indices"].astype(np.int32)
        indptr = tables["indptr"]
        shape = (len(indptr) - 1, genes)
        return cls(sparse.csr_matrix((counts, indices, indptr), shape), tables["first"])


class PoolSampler:
    """Draws control cells of training from the pool of a checkpoint, with replacement."""

    def __init__(self, checkpoint: Checkpoint, pool: Pool) -> None:
        """Set the pool of `checkpoint`; usually `PoolSampler.load`."""
        self.checkpoint, self.pool = checkpoint, pool
        self.tile: int = checkpoint.config["sampler"]["tile"]
        contexts = [c["context"] for c in checkpoint.config["effects"]["contexts"]]
        self._number = {tuple(sorted(c.items())): i for i, c in enumerate(contexts)}

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> "PoolSampler":
        """Return the sampler of a checkpoint that has a pool.

        Raises:
            CheckpointError: it has none.
        """
        tables = checkpoint.tables(POOL)
        if not tables:
            message = f"{checkpoint.path} has no pool of control cells to draw from"
            raise CheckpointError(message)
        return cls(checkpoint, Pool.of_tables(tables, len(checkpoint.panel)))

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile: everything known to change a bit of a result."""
        return {
            "device": "cpu",
            "dtype": "float64",
            "machine": platform.machine(),
            "tile": self.tile,
            "compiled": False,
            **numeric_libraries(),
        }

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return which genes the arm's context measures, bool [genes]."""
        return self.checkpoint.measured(arm.contexts[0])

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool] | None = None
    ) -> NDArray[np.int32]:
        """Return UMI int32 [tile, genes] of control cells `tile_index * tile` and on.

        Raises:
            CheckpointError: the pool has no cells of the context.
        """
        del should_stop  # A tile takes milliseconds.
        first = tile_index * self.tile
        cells = range(first, first + self.tile)
        ranks = np.array([uniforms(arm.seed, cell, Purpose.POOL, 1)[0] for cell in cells])
        out = np.empty((self.tile, len(self.checkpoint.panel)), np.int32)
        context = arm.context_numbers(first, self.tile)
        for k in np.unique(context).tolist():
            stored, rows = self._stored(arm.contexts[k]), np.flatnonzero(context == k)
            # Uniforms are below 1, so the index is below the number of cells.
            chosen = (ranks[rows] * stored.shape[0]).astype(np.int64)
            out[rows] = stored[chosen].toarray()
        for symbol, count in arm.clamp.items():
            out[:, self.checkpoint.panel.index(symbol)] = count
        return out

    def _stored(self, context: Mapping[str, str]) -> Rows:
        number = self._number.get(tuple(sorted(context.items())))
        if number is None:
            message = f"{self.checkpoint.name} has no control cells of {dict(context)}"
            raise CheckpointError(message)
        return self.pool.of(number)


def numeric_libraries() -> dict[str, Any]:
    """Return what changes a bit of moved cells: library versions and CPU instruction set."""
    return library_settings() | {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
