"""Tiles of a user's cells: as they are, moved by an effect, completed, or scored.

Cell i of an arm is stored cell i. Rows beyond the last stored cell are empty and never asked for.
Scores are stored as whole numbers, `BITS` to a bit, so that they are kept, sent and compared as
counts are.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import ArmRequest, Cells, Checkpoint, CheckpointError
from lingshu_model.contracts.user_cells import BITS, DRAWS, UserCellsStore, score_columns

Counts = NDArray[np.int32]
Floats = NDArray[np.float64]
KEPT = 4
"""Stored cells in memory, and movers solved on them."""


class Inner(Protocol):
    """A sampler of the checkpoint's cells."""

    tile: int

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile."""
        ...

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return which genes get a count, bool [genes]."""
        ...

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool]
    ) -> Counts:
        """Return the counts of a tile, int32 [tile, genes]."""
        ...


@dataclass(frozen=True)
class _Tile:
    """Stored cells of one tile.

    Attributes:
        counts: UMI [cells, genes].
        first: number of the first cell.
        measured: bool [genes].
    """

    counts: Counts
    first: int
    measured: NDArray[np.bool_]


class UserCellsSampler:
    """Computes arms of a user's cells; passes all others on. Safe for several threads."""

    def __init__(self, checkpoint: Checkpoint, inner: Inner, store: UserCellsStore) -> None:
        """Set the sampler of the checkpoint's cells, and where users' cells are stored."""
        self.checkpoint, self.inner, self.store = checkpoint, inner, store
        self.tile = inner.tile
        self._cells: OrderedDict[str, Cells] = OrderedDict()
        # By digest of the cells and of the effect: the mover, and the share of measured counts.
        self._movers: OrderedDict[tuple[str, str], tuple[Any, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._solving = threading.Lock()

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile."""
        return self.inner.profile()

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return which columns of a tile hold numbers, bool [genes]; of scores all."""
        if not arm.cells:
            return self.inner.measured(arm)
        if arm.against:
            return np.ones(score_columns(arm), bool)
        measured = self._stored(arm).measured.copy()
        # Genes that the user's cells lack, and the context's training cells have.
        if arm.complete:
            measured |= self.checkpoint.measured(arm.context)
        for symbol in arm.clamp:
            measured[self.checkpoint.panel.index(symbol)] = True
        return measured

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool]
    ) -> Counts:
        """Return a tile, int32 [tile, columns].

        Raises:
            GoneError: the stored cells or their effect are not in the home.
            CheckpointError: the checkpoint has no network, or no effects, and one is needed.
            Stopped: `should_stop()` was true.
        """
        if not arm.cells:
            return self.inner.sample_tile(arm, tile_index, should_stop)
        stored = self._stored(arm)
        first = tile_index * self.tile
        part = stored[first : min(first + self.tile, len(stored))]
        tile = _Tile(part.counts, first, stored.measured)
        if arm.against:
            result = self._scores(arm, tile, should_stop)
        elif arm.complete:
            result = self._completed(arm, tile, tile_index, should_stop)
        elif arm.effect:
            result = self._moved(arm, stored, tile)
        else:
            result = tile.counts
        missing = self.tile - len(result)
        return np.pad(result, ((0, missing), (0, 0))) if missing else result

    def _stored(self, arm: ArmRequest) -> Cells:
        with self._lock:
            known = self._cells.get(arm.cells)
        if known is None:
            known = self.store.cells(arm.cells)
            with self._lock:
                _keep(self._cells, arm.cells, known)
        return known

    def _moved(self, arm: ArmRequest, stored: Cells, tile: _Tile) -> Counts:
        """Return the cells of a tile with the effect delivered."""
        from scipy import sparse

        from lingshu_model.user_cells.carrying import with_rest

        mover, share = self._mover(arm, stored)
        rows = with_rest(sparse.csr_matrix(tile.counts.astype(np.float64)), share)
        # The last column stands for the counts of all genes that were not measured.
        moved = mover.move(rows, arm.seed, tile.first).toarray()[:, :-1]
        return np.where(tile.measured, moved, 0).astype(np.int32)

    def _mover(self, arm: ArmRequest, stored: Cells) -> tuple[Any, float]:
        """Return the mover of an effect, solved once on all stored cells, and their share."""
        from lingshu_model.effects.moved import fit_mover
        from lingshu_model.sampling.delivery import Movers
        from lingshu_model.user_cells.carrying import matrix, with_rest

        key = arm.cells, arm.effect
        # One at a time: a second thread finds what the first has solved.
        with self._solving:
            if key not in self._movers:
                carried = self.store.effect(arm.effect)
                # The rest of the transcriptome has no change of its own, and may be a whole cell
                # (share 1).
                change = np.append(carried.effect.posterior.mean, 0.0)
                largest = np.append(Movers.of(self.checkpoint).largest, 1.0)
                rows = with_rest(matrix(stored), carried.share)
                mover = fit_mover(rows, change, largest, carried.effect.library)
                _keep(self._movers, key, (mover, carried.share))
            return self._movers[key]

    def _completed(
        self, arm: ArmRequest, tile: _Tile, tile_index: int, should_stop: Callable[[], bool]
    ) -> Counts:
        """Return the cells of a tile with the genes drawn that they lack."""
        from lingshu_model.network import tokens

        sampler = self._network()
        # [genes]. Larger counts have no logit: the network reads them as the largest it knows.
        largest_token = sampler.network.ceiling.cpu().numpy()
        # Rows beyond the stored cells stay MASK; they are drawn too, and dropped.
        known = np.full((self.tile, len(self.checkpoint.panel)), tokens.MASK, np.int64)
        given = np.minimum(tokens.encode(tile.counts), largest_token)
        known[: len(tile.counts), tile.measured] = given[:, tile.measured]
        depth = np.zeros(self.tile, np.float32)
        depth[: len(tile.counts)] = _depth(self.checkpoint, arm.context, tile)
        # An arm of the context itself, so that the sampler does not look for stored cells.
        plain = arm.model_copy(update={"cells": "", "complete": False})
        drawn = sampler.complete_tile(plain, tile_index, known, depth, should_stop)
        drawn = drawn[: len(tile.counts)]
        kept = tile.measured.copy()
        for symbol, count in arm.clamp.items():
            position = self.checkpoint.panel.index(symbol)
            # A clamp replaces a measured count too.
            drawn[:, position], kept[position] = count, False
        # Tokens of large counts are intervals: what was measured stays as it was measured.
        return np.where(kept, tile.counts, drawn).astype(np.int32)

    def _scores(self, arm: ArmRequest, tile: _Tile, should_stop: Callable[[], bool]) -> Counts:
        """Return bits per gene, [cells, (contexts + 1) x draws], in 1 / `BITS`.

        The last columns are those of simulated cells of the first context, each as deep as the
        user's cell of the same row and scored on the same hidden genes.
        """
        genes = tile.measured.copy()
        for context in arm.against:
            # Genes of all contexts alike, or their scores could not be compared.
            genes &= self.checkpoint.measured(context)
        parts: list[Floats] = []
        for context in arm.against:
            parts.append(self._bits(arm, tile, genes, context, should_stop))
        alike = self._alike(arm, tile, genes, should_stop)
        parts.append(self._bits(arm, alike, genes, arm.against[0], should_stop))
        # Bits per gene are far below 2,147, where int32 would overflow.
        return np.rint(np.concatenate(parts, axis=1) * BITS).astype(np.int32)

    def _bits(
        self,
        arm: ArmRequest,
        tile: _Tile,
        genes: NDArray[np.bool_],
        context: dict[str, str],
        should_stop: Callable[[], bool],
    ) -> Floats:
        """Return the bits per gene of cells under a context, [cells, draws]."""
        from lingshu_model.sampling.sampler import Stopped
        from lingshu_model.sampling.scoring import score_cells

        if should_stop():
            raise Stopped
        return score_cells(
            self._network(),
            tile.counts,
            genes,
            context,
            seed=arm.seed,
            draws=DRAWS,
            first_cell=tile.first,
            depth=_depth(self.checkpoint, context, _Tile(tile.counts, tile.first, genes)),
        ).draws

    def _alike(
        self,
        arm: ArmRequest,
        tile: _Tile,
        genes: NDArray[np.bool_],
        should_stop: Callable[[], bool],
    ) -> _Tile:
        """Return simulated cells of the first context, as deep as those of a tile."""
        from lingshu_model.network import tokens

        context = arm.against[0]
        known = np.full((self.tile, len(self.checkpoint.panel)), tokens.MASK, np.int64)
        depth = np.zeros(self.tile, np.float32)
        given = _Tile(tile.counts, tile.first, genes)
        depth[: len(tile.counts)] = _depth(self.checkpoint, context, given)
        plain = arm.model_copy(update={"cells": "", "against": (), "context": context})
        # Row i gets the stream of cell tile.first + i, as the user's cell has.
        index = tile.first // self.tile
        drawn = self._network().complete_tile(plain, index, known, depth, should_stop)
        return _Tile(drawn[: len(tile.counts)], tile.first, genes)

    def _network(self) -> Any:
        from lingshu_model.sampling.sampler import Sampler

        # A checkpoint that moves cells wraps the sampler of the network.
        sampler = getattr(self.inner, "base", self.inner)
        if not isinstance(sampler, Sampler):
            message = (
                f"{self.checkpoint.name} has no network of cells, which scoring and completing "
                "need: train it with the recipe `default` or `paper`"
            )
            raise CheckpointError(message)
        return sampler


def _depth(checkpoint: Checkpoint, context: dict[str, str], tile: _Tile) -> NDArray[np.float32]:
    """Return ln UMI of cells over all genes that a context measures, [cells].

    A network reads the depth of whole cells: that of the measured genes is divided by their share
    of the counts of the context's training cells.
    """
    total = tile.counts[:, tile.measured].sum(axis=1)
    for row, entry in enumerate(checkpoint.config["seen"]):
        if entry["context"] == context and not entry["interventions"]:
            mean = np.nan_to_num(checkpoint.reference["mean_count"][row])
            share = mean[tile.measured].sum() / max(mean.sum(), 1e-12)
            # With so few of the context's counts measured, the depth would be noise times a
            # thousand.
            total = total / max(float(share), 1e-3)
            break
    return np.log(np.maximum(total, 1)).astype(np.float32)


def _keep(known: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    known[key] = value
    while len(known) > KEPT:
        known.popitem(last=False)
