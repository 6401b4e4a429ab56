"""Whole transcriptomes from a checkpoint: reverse diffusion in a few steps, replayable to the bit.

arXiv 2603.25240, 7.2, with three changes of arithmetic and none of law: values are drawn by
inverse CDF in float64, only where a gene is revealed; the first step, the same for every cell of a
condition, is computed once; all randomness is one Philox stream per (seed, cell), so control and
perturbed cells of one seed share reveal order and uniforms. Cells are computed in aligned tiles of
a fixed shape: cell i is always row i mod tile of tile i // tile, whoever asks for what beside it.
Knows nothing of jobs, files or processes.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingshu_model import numerics, tokens
from lingshu_model.conditions import Conditions
from lingshu_model.network import Network
from lingshu_model.readout import Bucket
from lingshu_model.schedule import reveal_counts, reveal_order
from lingshu_model.streams import Purpose, raw, uniforms
from lingshu_model.vocabulary import Vocabulary
from lingshu_model.weights import load_network
from lingshu_model.wire import ArmRequest, Cells, Checkpoint, digest_json

FIRST_STEPS_KEPT = 64
Sums = list[Tensor]
"""Running sums [genes of the bucket, width], one tensor per bucket of the readout."""


class Stopped(Exception):  # noqa: N818 - an answer to a request, not a fault
    """Sampling was asked to stop between two steps; nothing of the tile is kept."""


@dataclass(frozen=True)
class _Noise:
    """The randomness of one tile: when each gene is revealed, its uniform, each cell's depth.

    int16 and float64 [tile, genes], float32 [tile]; step -1 = never.
    """

    step: Tensor
    uniform: Tensor
    depth: Tensor


class Sampler:
    """Draws tiles of cells of one checkpoint on one device; several threads may ask at a time.

    A CPU computes their tiles side by side, an accelerator one after the other.
    """

    def __init__(
        self, checkpoint: Checkpoint, network: Network, vocabulary: Vocabulary, dtype: torch.dtype
    ) -> None:
        """Take a loaded network; `Sampler.load` is the usual way in."""
        self.checkpoint, self.network, self.vocabulary = checkpoint, network, vocabulary
        self.dtype = dtype
        self.tile: int = checkpoint.config["sampler"]["tile"]
        self.schedule: str = checkpoint.config["sampler"]["schedule"]
        self._first: OrderedDict[str, Sums] = OrderedDict()
        self._first_lock = threading.Lock()
        self._turn = nullcontext() if self.device.type == "cpu" else threading.Lock()

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: str = "auto",
        threads: int | None = None,
        device: str | None = None,
    ) -> "Sampler":
        """Return a sampler; `dtype` is auto, float32 or bfloat16, `device` a torch device."""
        numerics.prepare(threads)
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        network, vocabulary = load_network(checkpoint)
        return cls(checkpoint, network.to(where), vocabulary, numerics.choose_dtype(dtype, where))

    @cached_property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.norm.device

    @cached_property
    def _weights(self) -> NDArray[np.float64] | None:
        """What each gene tells of the cell, where the schedule goes by it."""
        if self.schedule != "information":
            return None
        if self.network.state is None:
            message = f"{self.checkpoint.name} has no cell state: its schedule cannot go by it"
            raise ValueError(message)
        return self.network.state.information().double().cpu().numpy()

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile: everything known to change a bit of a result."""
        return numerics.profile(self.device, self.dtype, self.tile)

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return bool [genes]: which genes the arm's context measures; the others stay masked."""
        return self.checkpoint.measured(arm.context)

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool] | None = None
    ) -> NDArray[np.int32]:
        """Return UMI counts int32 [tile, genes] of cells `tile_index * tile` and on.

        Unmeasured genes have count 0; `measured` tells them from zeros.

        Raises:
            ConditionError: the checkpoint has no token for the condition.
            Stopped: `should_stop()` was true between two steps.
        """
        with self._turn, torch.inference_mode():
            start = self._start(arm).expand(self.tile, -1)
            noise = self._noise(arm, tile_index, self._free(arm, start))
            return self._draw(arm, start, noise, should_stop or (lambda: False))

    def complete_tile(
        self,
        arm: ArmRequest,
        tile_index: int,
        known: NDArray[np.int64],
        depth: NDArray[np.float32],
        should_stop: Callable[[], bool] | None = None,
    ) -> NDArray[np.int32]:
        """Return a tile of cells, UMI [tile, genes], whose hidden genes are drawn given the others.

        Args:
            arm: the condition, seed, steps and guidance; its clamps are laid over `known`.
            tile_index: decides the streams, as in `sample_tile`.
            known: tokens [tile, genes], MASK where a gene is to be drawn or not measured.
            depth: ln UMI [tile] over the genes that the context measures.
            should_stop: as in `sample_tile`.
        """
        with self._turn, torch.inference_mode():
            start = torch.from_numpy(known).to(self.device)
            clamped = self._start(arm)
            start = torch.where(clamped == tokens.MASK, start, clamped)
            noise = self._noise(arm, tile_index, self._free(arm, start))
            noise = replace(noise, depth=torch.from_numpy(depth).to(self.device))
            return self._draw(arm, start, noise, should_stop or (lambda: False))

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the network computes in the sampler's dtype."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _free(self, arm: ArmRequest, start: Tensor) -> NDArray[np.bool_]:
        """Return which genes are to be drawn: hidden, and measured in the arm's context."""
        return (start == tokens.MASK).cpu().numpy() & self.measured(arm)

    def _draw(
        self, arm: ArmRequest, start: Tensor, noise: _Noise, should_stop: Callable[[], bool]
    ) -> NDArray[np.int32]:
        current = start.clone()
        for step in range(arm.steps):
            if should_stop():
                raise Stopped
            self._reveal(arm, current, noise, step)
        return _counts(current.cpu().numpy())

    def _reveal(self, arm: ArmRequest, current: Tensor, noise: _Noise, step: int) -> None:
        """Draw the genes of one step into `current`, a bucket of genes at a time."""
        now = noise.step == step
        if not bool(now.any()):
            return
        # Cells of one condition have the same first step, unless each has a depth of its own.
        shared = step == 0 and self.network.state is None
        first = self._first_step(arm, current[:1]) if shared else []
        branches = [] if shared else self._branches(arm, current, noise.depth)
        for number, bucket in enumerate(self.network.readout):
            cell, member = now[:, bucket.genes].nonzero(as_tuple=True)
            gene = bucket.genes[member]
            if bucket.width == 1:
                current[cell, gene] = 0
            elif len(cell):
                uniform = noise.uniform[cell, gene]
                sums = (
                    first[number][member]
                    if shared
                    else cumulative(self._logits(arm, bucket, branches, cell, member))
                )
                current[cell, gene] = inverse_cdf(sums, uniform)

    def _start(self, arm: ArmRequest) -> Tensor:
        """Return the tokens [genes] before the first step: all MASK but for clamped genes."""
        start = torch.full((len(self.checkpoint.panel),), tokens.MASK)
        for symbol, count in arm.clamp.items():
            start[self.checkpoint.panel.index(symbol)] = int(tokens.encode(count))
        return start.to(self.device)

    def _noise(self, arm: ArmRequest, tile_index: int, free: NDArray[np.bool_]) -> _Noise:
        """Return a tile's randomness, for the genes `free` [tile, genes] of each cell."""
        genes = free.shape[1]
        step = np.full((self.tile, genes), -1, np.int16)
        uniform = np.empty((self.tile, genes))
        known = self.checkpoint.depth_quantiles(arm.context, arm.interventions)
        depth = np.empty(self.tile, np.float32)
        for row in range(self.tile):
            cell = tile_index * self.tile + row
            places = np.flatnonzero(free[row])
            weights = None if self._weights is None else self._weights[places]
            keys = raw(arm.seed, cell, Purpose.ORDER, genes)[places]
            order = places[reveal_order(keys, weights)]
            counts = reveal_counts(len(places), arm.steps, self.schedule, weights)
            step[row, order] = np.repeat(np.arange(arm.steps), counts)
            uniform[row] = uniforms(arm.seed, cell, Purpose.VALUE, genes)
            (rank,) = uniforms(arm.seed, cell, Purpose.DEPTH, 1)
            depth[row] = np.interp(rank, np.linspace(0, 1, len(known)), known)
        parts = (torch.from_numpy(part).to(self.device) for part in (step, uniform, depth))
        return _Noise(*parts)

    def _branches(self, arm: ArmRequest, current: Tensor, depth: Tensor) -> list[Tensor]:
        """Return the readout's rows under the condition and, where guided, under control."""
        conditions = self.vocabulary.conditions(arm.context, arm.interventions)
        branches = [self._branch(current, conditions, depth)]
        if arm.guidance and arm.interventions:
            base = self.vocabulary.conditions(arm.context, ())
            branches.append(self._branch(current, base, depth))
        return branches

    def _branch(self, current: Tensor, conditions: Conditions, depth: Tensor) -> Tensor:
        conditions = conditions.to(self.device).expand(len(current)).at_depth(depth)
        with self.autocast():
            return self.network(current, conditions)

    def _logits(
        self, arm: ArmRequest, bucket: Bucket, branches: list[Tensor], cell: Tensor, member: Tensor
    ) -> Tensor:
        """Return float32 logits [n, width] of a bucket's genes, guided against control."""
        gene = bucket.genes[member]
        readout = self.network.readout
        logits = [readout.of_rows(bucket, rows[cell, gene], member) for rows in branches]
        if len(logits) == 1:
            return logits[0]
        guided = logits[1] + (arm.guidance + 1) * (logits[0] - logits[1])
        # Above the ceiling both are minus infinity, and their difference is no number.
        return guided.nan_to_num_(nan=-torch.inf, neginf=-torch.inf)

    def _first_step(self, arm: ArmRequest, start: Tensor) -> Sums:
        """Return the running sums of the first step from `start` [1, genes], once per condition."""
        key = digest_json(arm.model_dump(include={"context", "interventions", "guidance", "clamp"}))
        with self._first_lock:
            if key not in self._first:
                branches = self._branches(arm, start, torch.zeros(1, device=self.device))
                self._first[key] = [
                    self._all_sums(arm, bucket, branches) for bucket in self.network.readout
                ]
                if len(self._first) > FIRST_STEPS_KEPT:
                    self._first.popitem(last=False)
            self._first.move_to_end(key)
            return self._first[key]

    def _all_sums(self, arm: ArmRequest, bucket: Bucket, branches: list[Tensor]) -> Tensor:
        every = torch.arange(len(bucket.genes), device=self.device)
        return cumulative(self._logits(arm, bucket, branches, torch.zeros_like(every), every))


def cumulative(logits: Tensor) -> Tensor:
    """Return the running sums of softmax(logits), float64, same shape."""
    return torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)


def inverse_cdf(cdf: Tensor, uniform: Tensor) -> Tensor:
    """Return int64 [n]: the first value whose running sum in `cdf` [n, values] exceeds `uniform`.

    The uniform is scaled by the last running sum, which rounding leaves near one.
    """
    target = uniform[:, None] * cdf[:, -1:]
    index = torch.searchsorted(cdf.contiguous(), target, right=True)[:, 0]
    return index.clamp_(max=cdf.shape[1] - 1)


def sample_arm(sampler: Sampler, arm: ArmRequest, workers: int = 1) -> Cells:
    """Return the cells an arm asks for, computed here, `workers` tiles at a time."""
    first, last = arm.first_cell, arm.first_cell + arm.n_cells
    tiles = range(first // sampler.tile, (last - 1) // sampler.tile + 1)
    with ThreadPoolExecutor(workers) as pool:
        counts = np.concatenate(list(pool.map(partial(sampler.sample_tile, arm), tiles)))
    offset = tiles.start * sampler.tile
    return Cells(counts[first - offset : last - offset], sampler.measured(arm))


def _counts(values: NDArray[np.int64]) -> NDArray[np.int32]:
    hidden = values == tokens.MASK
    return np.where(hidden, 0, tokens.decode(np.where(hidden, 0, values))).astype(np.int32)
