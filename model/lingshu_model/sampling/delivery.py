"""Perturbed cells of a checkpoint that stores effects: control cells, with the effect delivered.

Cell i of a perturbation is control cell i of the same seed and context. How the effect reaches it
is the checkpoint's `delivery`:

    moved            the network's control cell, every gene moved by the posterior mean
    training_cells   the same with control cells of training, drawn from the checkpoint's pool
    pinned           genes whose change is certain get their moved counts first and stay; the
                     network draws all others given them, the context and the cell's library

A count depends on (seed, cell, gene) and the control cell alone, never on the tile or the rank.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import ArmRequest, Checkpoint, CheckpointError, digest_json
from lingshu_model.contracts.effects import CONTEXTS, GENES, ROWS, StoredEffect, StoredEffects
from lingshu_model.effects.moments import Floats, Rows
from lingshu_model.effects.moved import SEED, Mover, fit_mover
from lingshu_model.network import tokens
from lingshu_model.sampling.pool import numeric_libraries
from lingshu_model.sampling.sampler import Sampler, Tiles

MOVED, TRAINING_CELLS, PINNED = "moved", "training_cells", "pinned"
DELIVERIES = (MOVED, TRAINING_CELLS, PINNED)
CERTAIN = 0.05
"""Local false sign rate below which a gene's change is certain."""
FIT_CELLS = 256
"""Control cells on which the effect of a combination is solved."""
KEPT_BYTES = 128 << 20
"""Control tiles kept in memory: other perturbations of the same seed start from them."""
Counts = NDArray[np.int32]


class Base(Tiles, Protocol):
    """What draws control cells."""

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile."""
        ...


class Movers:
    """What moves control cells, by perturbation and context, as a checkpoint stores it."""

    def __init__(
        self, effects: StoredEffects, rows: Floats, contexts: dict[str, Floats], largest: Floats
    ) -> None:
        """Take the stored tables.

        Args:
            effects: the rows that `rows` belong to.
            rows: ln phi, [rows, genes].
            contexts: `log_rate` and `log_size`, [contexts, genes].
            largest: largest share of a cell's counts that a gene may have, [genes].
        """
        self._effects, self._rows, self._contexts = effects, rows, contexts
        self.largest = largest
        self._common = [float(c["common"]) for c in effects.config["contexts"]]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Movers":
        """Return the movers of a checkpoint of format 2.

        Raises:
            CheckpointError: it has no effects.
        """
        if checkpoint.effects is None:
            message = f"{checkpoint.path} stores no effects to move cells by"
            raise CheckpointError(message)
        largest = np.exp(checkpoint.tables(GENES)["log_largest"].astype(np.float64))
        return cls(
            checkpoint.effects,
            checkpoint.tables(ROWS)["log_fold"],
            checkpoint.tables(CONTEXTS),
            largest,
        )

    def stored(self, effect: StoredEffect, context: int) -> Mover | None:
        """Return the mover of a stored row; None where the effect is worked out from others."""
        if effect.row is None:
            return None
        return Mover(
            rate=np.exp(self._contexts["log_rate"][context].astype(np.float64)),
            size=np.exp(self._contexts["log_size"][context].astype(np.float64)),
            common=self._common[context],
            log_fold=self._rows[effect.row].astype(np.float64),
            library=effect.library,
            largest=self.largest,
        )


class DeliveringSampler:
    """Draws control cells from `base` and delivers effects to them; safe for several threads."""

    def __init__(self, checkpoint: Checkpoint, base: Base, movers: Movers | None = None) -> None:
        """Take the sampler of the checkpoint's control cells, for good."""
        self.checkpoint, self.base, self.tile = checkpoint, base, base.tile
        self.delivery = str(checkpoint.delivery)
        self._effects = checkpoint.effects
        self._movers = movers or Movers.of(checkpoint)
        self._solved: dict[str, Mover] = {}
        self._tiles: OrderedDict[tuple[str, int], Rows] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile: that of the control cells, and what moves them."""
        return {**self.base.profile(), **numeric_libraries(), "delivery": self.delivery}

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return which genes the arm's context measures, bool [genes]."""
        return self.base.measured(arm)

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool] | None = None
    ) -> Counts:
        """Return UMI int32 [tile, genes] of cells `tile_index * tile` and on.

        Raises:
            NoEffectError: nothing is known of what is asked for in that context.
            Stopped: `should_stop()` was true between two steps.
        """
        control = self._control(arm, tile_index, should_stop)
        if not arm.interventions:
            return control.toarray()
        effect = self.effect(arm)
        # The cell's number names its stream of random numbers, whatever the tile.
        moved = self._mover(arm, effect).move(control, arm.seed, tile_index * self.tile)
        cells = np.where(self.measured(arm), moved.toarray(), 0).astype(np.int32)
        for symbol, count in arm.clamp.items():
            cells[:, self.checkpoint.panel.index(symbol)] = count
        if self.delivery != PINNED:
            return cells
        return self._completed(arm, tile_index, effect, cells, control, should_stop)

    def effect(self, arm: ArmRequest) -> StoredEffect:
        """Return the effect that the arm's cells are to show.

        Raises:
            NoEffectError: nothing is known of it in that context.
        """
        assert self._effects is not None  # noqa: S101 - `Movers.of` has refused it
        return self._effects.effect(arm.context, arm.interventions)

    def _completed(
        self,
        arm: ArmRequest,
        tile_index: int,
        effect: StoredEffect,
        moved: Counts,
        control: Rows,
        should_stop: Callable[[], bool] | None,
    ) -> Counts:
        """Return cells with certain genes as moved, all others drawn by the network."""
        certain = (effect.posterior.lfsr < CERTAIN) & self.measured(arm)
        if not certain.any():
            return control.toarray()
        # Tokens [tile, genes]: certain genes are given, all others are masked and drawn.
        known = np.full(moved.shape, tokens.MASK, np.int64)
        known[:, certain] = tokens.encode(moved[:, certain])
        library = np.maximum(moved.sum(axis=1), 1)
        assert isinstance(self.base, Sampler)  # noqa: S101 - without a network nothing is pinned
        return self.base.complete_tile(
            arm.model_copy(update={"interventions": ()}),
            tile_index,
            known,
            np.log(library).astype(np.float32),
            should_stop,
        )

    def _mover(self, arm: ArmRequest, effect: StoredEffect) -> Mover:
        """Return what moves the arm's control cells, solved at first use where it is not stored."""
        assert self._effects is not None  # noqa: S101
        number = self._effects.context(arm.context)
        stored = None if number is None else self._movers.stored(effect, number)
        if stored is not None:
            return stored
        key = digest_json(arm.model_dump(include={"context", "interventions"}))
        with self._lock:
            known = self._solved.get(key)
        if known is None:
            cells = self.control_cells(arm, FIT_CELLS, SEED)
            known = fit_mover(cells, effect.posterior.mean, self._movers.largest, effect.library)
            with self._lock:
                self._solved[key] = known
        return known

    def control_cells(self, arm: ArmRequest, n: int, seed: int) -> Rows:
        """Return at least `n` control cells of the arm's context, in compressed rows."""
        plain = arm.model_copy(update={"seed": seed, "clamp": {}})
        tiles = [self._control(plain, i, None) for i in range(-(-n // self.tile))]
        return sparse.csr_matrix(sparse.vstack(tiles, "csr"))

    def _control(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool] | None
    ) -> Rows:
        """Return a tile of control cells, from memory where it was drawn before."""
        plain = arm.model_copy(update={"interventions": ()})
        shared = {"context", "clamp", "seed", "steps", "guidance"}
        key = digest_json(plain.model_dump(mode="json", include=shared)), tile_index
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        cells = sparse.csr_matrix(self.base.sample_tile(plain, tile_index, should_stop))
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = cells
                self._kept += _bytes(cells)
            while self._kept > KEPT_BYTES:
                _, old = self._tiles.popitem(last=False)
                self._kept -= _bytes(old)
        return cells


def _bytes(cells: Rows) -> int:
    return int(cells.data.nbytes + cells.indices.nbytes + cells.indptr.nbytes)
