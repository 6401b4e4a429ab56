"""Perturbed cells of a checkpoint that stores effects: control cells, with the effect delivered.

Perturbed cell i starts from control cell i of the same seed and context. The checkpoint's
`delivery` says how the effect is applied to it:

    moved            every gene of the network's control cell is moved by the posterior mean
    training_cells   the same for control cells of training, drawn from the checkpoint's pool
    pinned           genes with a certain change get their moved counts and stay; the network draws
                     all others given these, the context and the cell's library size

Where cells respond with different strengths (`lingshu_model.strengths.fit`), the strength of a
cell is drawn first, from its own stream, and the cell is moved by the mover of that strength.

Moving is a quantile mapping of counts (`lingshu_model.effects.moved`). A count depends on
(seed, cell, gene) and the control cell alone, never on the tile or the rank.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import ArmRequest, Checkpoint, CheckpointError, digest_json
from lingshu_model.contracts.catalogue import EFFECTS_FORMATS
from lingshu_model.contracts.effects import CONTEXTS, GENES, ROWS, StoredEffect, StoredEffects
from lingshu_model.contracts.responders import RESPONDERS
from lingshu_model.effects.moments import Floats, Rows
from lingshu_model.effects.moved import SEED, SOLVER, FitCells, Mover, added_size
from lingshu_model.network import tokens
from lingshu_model.sampling.pool import numeric_libraries
from lingshu_model.sampling.sampler import Sampler, Tiles
from lingshu_model.strengths.states import move_states, solve_states, states_of, stored_states

MOVED, TRAINING_CELLS, PINNED = "moved", "training_cells", "pinned"
DELIVERIES = (MOVED, TRAINING_CELLS, PINNED)
CERTAIN = 0.05
"""Local false sign rate below which a gene's change is certain."""
FIT_CELLS = 256
"""Control cells on which the effect of a combination is solved."""
KEPT_BYTES = 128 << 20
"""Memory for control tiles that are kept: other perturbations of the same seed start from them."""
Counts = NDArray[np.int32]


class Base(Tiles, Protocol):
    """A sampler of control cells."""

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile."""
        ...


class Movers:
    """The movers of a checkpoint, by perturbation and context."""

    def __init__(
        self,
        effects: StoredEffects,
        rows: Floats,
        contexts: dict[str, Floats],
        largest: Floats,
        states: Floats | None = None,
        *,
        before_4: bool = False,
    ) -> None:
        """Take the stored tables.

        Args:
            effects: the stored effects, each with its row.
            rows: ln phi, [rows, genes]: the log factor of each gene's mean count.
            contexts: `log_rate` and `log_size`, [contexts, genes], of the count distributions of
                control cells.
            largest: largest share of a cell's counts that a gene may have, [genes].
            states: ln phi of the strengths of all rows that have several, [states, genes].
            before_4: the rows were solved for the count distributions of formats 2 and 3.
        """
        self._effects, self._rows, self._contexts = effects, rows, contexts
        self._states = rows[:0] if states is None else states
        self.largest = largest
        self._common = [float(c["common"]) for c in effects.config["contexts"]]
        self._before_4 = before_4

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Movers":
        """Return the movers of a checkpoint of format 2.

        Raises:
            CheckpointError: it has no effects.
        """
        if checkpoint.effects is None:
            message = f"{checkpoint.path} stores no effects to move cells by"
            raise CheckpointError(message)
        # float16 logarithms are stored: a share of 1e-5 itself has hardly a digit in float16.
        largest = np.exp(checkpoint.tables(GENES)["log_largest"].astype(np.float64))
        return cls(
            checkpoint.effects,
            checkpoint.tables(ROWS)["log_fold"],
            checkpoint.tables(CONTEXTS),
            largest,
            checkpoint.tables(RESPONDERS).get("log_fold"),
            before_4=checkpoint.config["format"] in EFFECTS_FORMATS,
        )

    def stored(self, effect: StoredEffect, context: int) -> tuple[Mover, ...] | None:
        """Return the movers of a stored row, one for each strength of its cells.

        None where the effect is computed from other rows.
        """
        if effect.row is None:
            return None
        size = np.exp(self._contexts["log_size"][context].astype(np.float64))
        common = self._common[context]
        alike = Mover(
            rate=np.exp(self._contexts["log_rate"][context].astype(np.float64)),
            size=size,
            added=np.full(len(size), common) if self._before_4 else added_size(size, common),
            log_fold=self._rows[effect.row].astype(np.float64),
            library=effect.library,
            largest=self.largest,
            dispersion=effect.dispersion,
        )
        strengths = effect.responders
        if strengths is None:
            return (alike,)
        last = strengths.first + len(strengths.shares)
        log_fold = self._states[strengths.first : last].astype(np.float64)
        return stored_states(alike, strengths, log_fold)


class DeliveringSampler:
    """Draws control cells from `base` and delivers effects to them; safe for several threads."""

    def __init__(self, checkpoint: Checkpoint, base: Base, movers: Movers | None = None) -> None:
        """Set the sampler of the checkpoint's control cells.

        Args:
            checkpoint: with stored effects.
            base: draws its control cells.
            movers: those of the checkpoint by default.

        Raises:
            CheckpointError: the checkpoint has no effects.
        """
        self.checkpoint, self.base, self.tile = checkpoint, base, base.tile
        self.delivery = str(checkpoint.delivery)
        self._effects = checkpoint.effects
        self._movers = movers or Movers.of(checkpoint)
        self._solved: dict[str, tuple[Mover, ...]] = {}
        self._tiles: OrderedDict[tuple[str, int], Rows] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile: that of the control cells, libraries and delivery."""
        delivered = {"delivery": self.delivery, "solver": SOLVER}
        return {**self.base.profile(), **numeric_libraries(), **delivered}

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return which genes the arm's context measures, bool [genes]."""
        return self.base.measured(arm)

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool] | None = None
    ) -> Counts:
        """Return UMI int32 [tile, genes] of cells `tile_index * tile` and on.

        Raises:
            NoEffectError: the checkpoint has no effect for the perturbation in that context.
            Stopped: `should_stop()` was true between two steps.
        """
        control = self._control(arm, tile_index, should_stop)
        if not arm.interventions:
            return control.toarray()
        out = np.empty(control.shape, np.int32)
        context = arm.context_numbers(tile_index * self.tile, self.tile)
        for k in np.unique(context).tolist():
            # The whole tile, since a cell's row in it decides its stream; then its rows.
            alone = arm.within(arm.contexts[k])
            delivered = self._delivered(alone, tile_index, control, should_stop)
            out[context == k] = delivered[context == k]
        return out

    def _delivered(
        self,
        arm: ArmRequest,
        tile_index: int,
        control: Rows,
        should_stop: Callable[[], bool] | None,
    ) -> Counts:
        """Return a tile of control cells moved by the effect in the arm's one context.

        Args:
            arm: the perturbation.
            tile_index: of the tile.
            control: the cells, UMI [tile, genes].
            should_stop: as in `sample_tile`.
        """
        effect = self.effect(arm)
        # A cell's number decides its random stream, whatever the tile.
        first = tile_index * self.tile
        movers, strengths = self._moving(arm, effect), effect.responders
        if strengths is None:
            moved = movers[0].move(control, arm.seed, first)
        else:
            moved = move_states(control, movers, strengths, arm.seed, first)
        cells = np.where(self.measured(arm), moved.toarray(), 0).astype(np.int32)
        # Last: a clamped gene has the given count, whatever the effect on it.
        for symbol, count in arm.clamp.items():
            cells[:, self.checkpoint.panel.index(symbol)] = count
        if self.delivery != PINNED:
            return cells
        completed = self._completed(arm, tile_index, effect, cells, control, should_stop)
        if strengths is not None:
            # Nothing happened to escaped cells: they are their control cells.
            escaped = (
                strengths.strengths[
                    states_of(strengths, arm.seed, np.arange(first, first + self.tile))
                ]
                == 0
            )
            completed[escaped] = cells[escaped]
        return completed

    def effect(self, arm: ArmRequest) -> StoredEffect:
        """Return the effect of the arm's perturbation in its context.

        Raises:
            NoEffectError: the checkpoint has none.
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
        """Return cells with certain genes as moved, all others drawn by the network.

        Args:
            arm: the perturbation.
            tile_index: of the tile.
            effect: of the perturbation.
            moved: moved cells, UMI [tile, genes].
            control: the control cells that they come from.
            should_stop: as in `sample_tile`.
        """
        certain = (effect.posterior.lfsr < CERTAIN) & self.measured(arm)
        if not certain.any():
            return control.toarray()
        # Tokens [tile, genes]: certain genes are given, all others are masked and drawn.
        known = np.full(moved.shape, tokens.MASK, np.int64)
        known[:, certain] = tokens.encode(moved[:, certain])
        library = np.maximum(moved.sum(axis=1), 1)
        assert isinstance(self.base, Sampler)  # noqa: S101 - without a network nothing is pinned
        return self.base.complete_tile(
            # The network is one of control cells; the perturbation is in the pinned genes.
            arm.model_copy(update={"interventions": ()}),
            tile_index,
            known,
            np.log(library).astype(np.float32),
            should_stop,
        )

    def _moving(self, arm: ArmRequest, effect: StoredEffect) -> tuple[Mover, ...]:
        """Return the movers of the arm's control cells, solved at first use if not stored."""
        assert self._effects is not None  # noqa: S101
        number = self._effects.context(arm.context)
        stored = None if number is None else self._movers.stored(effect, number)
        if stored is not None:
            return stored
        key = digest_json(arm.model_dump(include={"context", "interventions"}))
        with self._lock:
            movers = self._solved.get(key)
        if movers is None:
            # Without the lock, which drawing control cells takes too. Two threads may solve the
            # same movers; both get the same, since SEED and the cells are fixed.
            fit = FitCells(self.control_cells(arm, FIT_CELLS, SEED), self._movers.largest)
            change, library = effect.posterior.mean, effect.library
            movers = solve_states(fit, change, library, effect.responders)
            with self._lock:
                self._solved[key] = movers
        return movers

    def control_cells(self, arm: ArmRequest, n: int, seed: int) -> Rows:
        """Return whole tiles with at least `n` control cells of the arm's context, UMI, CSR.

        Without the arm's clamps: effects are relative to plain control cells.
        """
        plain = arm.model_copy(update={"seed": seed, "clamp": {}})
        tiles = [self._control(plain, i, None) for i in range(-(-n // self.tile))]
        return sparse.csr_matrix(sparse.vstack(tiles, "csr"))

    def _control(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool] | None
    ) -> Rows:
        """Return a tile of control cells, from memory where it was drawn before."""
        plain = arm.model_copy(update={"interventions": ()})
        # Only fields that decide the cells, so that all perturbations of a screen share its tiles.
        shared = {"context", "mixture", "clamp", "seed", "steps", "guidance"}
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
