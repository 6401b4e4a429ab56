"""Whole transcriptomes from a checkpoint: reverse diffusion in a few steps, replayable to the bit.

arXiv 2603.25240, 7.2. At each step the network gives a distribution over tokens for every masked
gene, and the genes that the schedule reveals are drawn from theirs. Three things differ from the
paper in arithmetic, none in distribution:

- Values are drawn by inverse CDF in float64, only where a gene is revealed. Gumbel noise in float32
  truncates the tail and acts like a lower temperature (arXiv 2409.02908).
- The first step, equal for all cells of a condition, is computed once.
- All randomness is one Philox stream per (seed, cell), so control and perturbed cells of one seed
  share reveal order and uniforms.

Cells are computed in aligned tiles of a fixed shape: cell i is always row i mod tile of tile
i // tile, whatever else is requested. The shape of a matrix product decides the order of its sums,
and so the last bits of a cell.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingshu_model.contracts import ArmRequest, Cells, Checkpoint, Intervention, digest_json
from lingshu_model.contracts.streams import Purpose, raw, uniforms
from lingshu_model.network import numerics, tokens
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions
from lingshu_model.network.readout import Bucket
from lingshu_model.network.vocabulary import Vocabulary, stack
from lingshu_model.network.weights import load_network
from lingshu_model.sampling.inference import make_ready
from lingshu_model.sampling.logits import Reading, Rows
from lingshu_model.sampling.schedule import reveal_counts, reveal_steps

FIRST_STEPS_KEPT = 64
"""Conditions whose first step is kept."""
FIRST_STEPS_BYTES = 256 << 20
"""Memory that they may take; 18,080 genes with all 281 tokens would be 40 MB a condition."""
Sums = list[Tensor]
"""Running sums [genes of the bucket, width], one tensor per bucket of the readout."""


class Stopped(Exception):  # noqa: N818 - an answer to a request, not a fault
    """Sampling was asked to stop between two steps; nothing of the tile is kept."""


@dataclass(frozen=True)
class _Noise:
    """The randomness of one tile.

    Attributes:
        step: when each gene is revealed, int16 [tile, genes], genes in the order of the readout's
            buckets; -1 = never.
        uniform: what each gene's value is drawn with, float64 [tile, genes], in (0, 1).
        depth: ln UMI of each cell, float32 [tile].
        context: which of the arm's contexts each cell has, int64 [tile].
    """

    step: Tensor
    uniform: Tensor
    depth: Tensor
    context: Tensor

    def to(self, device: torch.device) -> "_Noise":
        """Return the same on `device`."""
        return _Noise(*(each.to(device) for each in self._tensors))

    def split(self, cells: int) -> "list[_Noise]":
        """Return the same, `cells` at a time."""
        parts = (each.split(cells) for each in self._tensors)
        return [_Noise(*part) for part in zip(*parts, strict=True)]

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.step, self.uniform, self.depth, self.context


class Sampler:
    """Draws tiles of cells of one checkpoint on one device; safe for several threads.

    A CPU computes the tiles of several threads at the same time, an accelerator one by one.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        network: Network,
        vocabulary: Vocabulary,
        dtype: torch.dtype,
        compiled: str | None = None,
    ) -> None:
        """Prepare a loaded network, which cannot be trained afterwards; usually `Sampler.load`."""
        # Before weights are cast: the folded product is computed from float32.
        self.reading = Reading.of(network)
        make_ready(network, dtype, compiled)
        self.checkpoint, self.network, self.vocabulary = checkpoint, network, vocabulary
        self.dtype, self.compiled = dtype, compiled
        self.tile: int = checkpoint.config["sampler"]["tile"]
        self.schedule: str = checkpoint.config["sampler"]["schedule"]
        self.at_once = numerics.cells_at_once(self.device, self.tile, network.groups)
        # Genes in the order of the readout's buckets, and how many each bucket has.
        self._order = torch.cat([bucket.genes for bucket in network.readout]).cpu().numpy()
        self._sizes = [len(bucket.genes) for bucket in network.readout]
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
        compiled: str | None = None,
    ) -> "Sampler":
        """Return a sampler.

        Args:
            checkpoint: with a network.
            dtype: of the network's products: `auto` (bfloat16 where it is fast), `float32` or
                `bfloat16`.
            threads: of torch; None = as they are.
            device: a torch device; None = a GPU where there is one.
            compiled: a mode of `torch.compile`, such as `default` or `max-autotune-no-cudagraphs`,
                which is another numerics profile; None = not compiled.

        Raises:
            CheckpointError: a file is missing or changed, or there is no network.
        """
        numerics.prepare(threads)
        torch_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        network, vocabulary = load_network(checkpoint)
        chosen = numerics.choose_dtype(dtype, torch_device)
        return cls(checkpoint, network.to(torch_device), vocabulary, chosen, compiled)

    @cached_property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.norm.device

    @cached_property
    def _weights(self) -> NDArray[np.float64] | None:
        """Information of each gene for the `information` schedule, [genes]; None for others."""
        if self.schedule != "information":
            return None
        if self.network.state is None:
            message = f"{self.checkpoint.name} has no cell state: its schedule cannot go by it"
            raise ValueError(message)
        return self.network.state.information().double().cpu().numpy()

    def profile(self) -> dict[str, Any]:
        """Return the numerics profile: everything known to change a bit of a result."""
        return numerics.profile(
            self.device,
            self.dtype,
            self.tile,
            length=self.network.groups,
            at_once=self.at_once,
            compiled=self.compiled,
        )

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return bool [genes]: which genes the arm's context measures; the others stay masked."""
        # All contexts of a mixture measure the same genes.
        return self.checkpoint.measured(arm.contexts[0])

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool] | None = None
    ) -> NDArray[np.int32]:
        """Return UMI counts int32 [tile, genes] of cells `tile_index * tile` and on.

        Unmeasured genes have count 0; `measured` tells them from zeros.

        Raises:
            ConditionError: the checkpoint has no token for the condition.
            Stopped: `should_stop()` was true between two steps.
        """
        with torch.inference_mode():
            start = self._start(arm).expand(self.tile, -1)
            noise = self._noise(arm, tile_index, self._free(arm, start))
            # Nothing is revealed before the first step, so all cells have the same tokens.
            return self._draw(arm, start, noise, should_stop or (lambda: False), alike=True)

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

        Raises:
            ConditionError: the checkpoint has no token for the condition.
            Stopped: `should_stop()` was true between two steps.
        """
        with torch.inference_mode():
            start = torch.from_numpy(known)
            clamped = self._start(arm)
            start = torch.where(clamped == tokens.MASK, start, clamped)
            noise = self._noise(arm, tile_index, self._free(arm, start))
            noise = replace(noise, depth=torch.from_numpy(depth))
            return self._draw(arm, start, noise, should_stop or (lambda: False), alike=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the network computes in the sampler's dtype."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _free(self, arm: ArmRequest, start: Tensor) -> NDArray[np.bool_]:
        """Return which genes are drawn: masked, and measured in the context, bool [tile, genes]."""
        return (start == tokens.MASK).numpy() & self.measured(arm)

    def _draw(
        self,
        arm: ArmRequest,
        start: Tensor,
        noise: _Noise,
        should_stop: Callable[[], bool],
        *,
        alike: bool,
    ) -> NDArray[np.int32]:
        """Return a tile's counts, computed `at_once` cells at a time to limit memory.

        Args:
            arm: condition, steps and guidance.
            start: tokens before the first step, [tile, genes].
            noise: of the tile.
            should_stop: asked before every step.
            alike: whether all cells have the same tokens before the first step.
        """
        finished: list[Tensor] = []
        # On an accelerator one tile at a time; the noise, made on the host, is ready by then.
        with self._turn:
            parts = noise.to(self.device).split(self.at_once)
            for tokens_of, part in zip(start.split(self.at_once), parts, strict=True):
                current = tokens_of.to(self.device, copy=True)
                for step in range(arm.steps):
                    if should_stop():
                        raise Stopped
                    self._reveal(arm, current, part, step, alike=alike and step == 0)
                finished.append(current.cpu())
        return _counts(torch.cat(finished).numpy())

    def _reveal(
        self, arm: ArmRequest, current: Tensor, noise: _Noise, step: int, *, alike: bool
    ) -> None:
        """Draw the genes of one step into `current` [cells, genes], a bucket of genes at a time."""
        # Of each bucket [cells, genes of the bucket], a view: whether the gene is revealed now.
        revealed = [part == step for part in noise.step.split(self._sizes, dim=1)]
        if not any(bool(part.any()) for part in revealed):
            return
        # The input of cells with the same tokens is the same, unless the network reads their depth,
        # or their contexts differ.
        shared = alike and self.network.state is None and not arm.mixture
        first = self._first_step(arm, current[:1]) if shared else []
        # Once for all buckets, before any gene is written: genes of one step are drawn given the
        # earlier steps, independently of each other.
        given = current[:1].expand_as(current) if alike else current
        rows = None if shared else self._rows(arm, given, noise)
        for number, bucket in enumerate(self.network.readout):
            # One entry for each revealed (cell, gene); `member` is the gene's place in the bucket.
            cell, member = revealed[number].nonzero(as_tuple=True)
            if not len(cell):
                continue
            at = cell * current.shape[1] + bucket.genes[member]
            if bucket.width == 1:
                current.view(-1)[at] = 0  # training saw no count of these genes
                continue
            uniform = noise.uniform.view(-1).index_select(0, at)
            if rows is None:
                drawn = inverse_cdf(first[number][member], uniform)
            else:
                drawn = torch.empty_like(at)
                for logits, part in self.reading.logits(rows, bucket, cell, member):
                    drawn[part] = inverse_cdf(cumulative(logits), uniform[part])
            current.view(-1).index_copy_(0, at, drawn)

    def _start(self, arm: ArmRequest) -> Tensor:
        """Return the tokens [genes] before the first step: all MASK but for clamped genes."""
        start = torch.full((len(self.checkpoint.panel),), tokens.MASK)
        for symbol, count in arm.clamp.items():
            start[self.checkpoint.panel.index(symbol)] = int(tokens.encode(count))
        return start

    def _noise(self, arm: ArmRequest, tile_index: int, free: NDArray[np.bool_]) -> _Noise:
        """Return a tile's randomness, for the genes `free` [tile, genes] of each cell."""
        genes = free.shape[1]
        step = np.full((self.tile, genes), -1, np.int16)
        uniform = np.empty((self.tile, genes))
        context = arm.context_numbers(tile_index * self.tile, self.tile)
        # ln UMI at equally spaced ranks of the condition's training cells, by context.
        of_context = {
            k: self.checkpoint.depth_quantiles(arm.contexts[k], arm.interventions)
            for k in np.unique(context).tolist()
        }
        depth = np.empty(self.tile, np.float32)
        # By number of masked genes, which most cells of a tile have alike.
        counted: dict[int, NDArray[np.int64]] = {}
        for row in range(self.tile):
            cell = tile_index * self.tile + row
            places = np.flatnonzero(free[row])
            weights = None if self._weights is None else self._weights[places]
            # Drawn for all genes, then selected: a gene's number does not depend on which others
            # are free.
            keys = raw(arm.seed, cell, Purpose.ORDER, genes)[places]
            if weights is not None or len(places) not in counted:
                counts = reveal_counts(len(places), arm.steps, self.schedule, weights)
                counted[len(places)] = counts
            step[row, places] = reveal_steps(keys, counted[len(places)], weights)
            uniform[row] = uniforms(arm.seed, cell, Purpose.VALUE, genes)
            # Paired cells have the same rank, so their depths are the same quantile.
            (rank,) = uniforms(arm.seed, cell, Purpose.DEPTH, 1)
            quantiles = of_context[int(context[row])]
            depth[row] = np.interp(rank, np.linspace(0, 1, len(quantiles)), quantiles)
        parts = (step[:, self._order], uniform, depth, context)
        return _Noise(*(torch.from_numpy(part) for part in parts))

    def _rows(self, arm: ArmRequest, current: Tensor, noise: _Noise) -> Rows:
        """Return the network's rows of the cells, with guidance against control.

        Classifier-free guidance (paper eq 10): control + (w + 1) (condition - control), w being
        `arm.guidance`. Logits are linear in the rows, so guided rows give the guided logits with
        one product of the head instead of two.
        """
        rows = self._branch(current, self._conditions(arm, arm.interventions, noise))
        if not (arm.guidance and arm.interventions):
            return rows
        base = self._branch(current, self._conditions(arm, (), noise))

        def guided(cell: Tensor, place: Tensor) -> Tensor:
            # float32: the difference of two nearly equal bf16 vectors would lose its digits.
            unguided = base(cell, place).float()
            return rows(cell, place).float().sub_(unguided).mul_(arm.guidance + 1).add_(unguided)

        return guided

    def _conditions(
        self, arm: ArmRequest, interventions: tuple[Intervention, ...], noise: _Noise
    ) -> Conditions:
        """Return the conditions of the cells of `noise`, on the sampler's device."""
        of = self.vocabulary.conditions
        if not arm.mixture:
            whole = of(arm.context, interventions).to(self.device).expand(len(noise.depth))
        else:
            # Of thousands of contexts a tile has a few. They have equally many slots of
            # interventions, so nothing is padded.
            used, place = torch.unique(noise.context.cpu(), return_inverse=True)
            each = stack([of(arm.contexts[k], interventions) for k in used.tolist()])
            whole = each.take(place).to(self.device)
        return whole.at_depth(noise.depth)

    def _branch(self, current: Tensor, conditions: Conditions) -> Rows:
        with self.autocast():
            return self.reading.result(current, conditions)

    def _first_step(self, arm: ArmRequest, start: Tensor) -> Sums:
        """Return the running sums of the first step from `start` [1, genes], once per condition."""
        key = digest_json(arm.model_dump(include={"context", "interventions", "guidance", "clamp"}))
        with self._first_lock:
            if key not in self._first:
                # Depth 0: a network that reads depths has no common first step (`sample_tile`).
                rows = self._rows(arm, start, _first_noise(self.device))
                self._first[key] = [self._sums(b, rows) for b in self.network.readout]
                size = sum(sums.nbytes for sums in self._first[key])
                while len(self._first) > max(1, min(FIRST_STEPS_KEPT, FIRST_STEPS_BYTES // size)):
                    self._first.popitem(last=False)
            self._first.move_to_end(key)
            return self._first[key]

    def _sums(self, bucket: Bucket, rows: Rows) -> Tensor:
        """Return the running sums of all genes of a bucket, in the one cell of `rows`."""
        sums = torch.empty(len(bucket.genes), bucket.width, dtype=torch.float64, device=self.device)
        members = torch.arange(len(bucket.genes), device=self.device)
        for logits, part in self.reading.logits(rows, bucket, torch.zeros_like(members), members):
            sums[part] = cumulative(logits)
        return sums


def _first_noise(device: torch.device) -> _Noise:
    """Return the noise of a cell of which nothing is drawn yet, at depth 0."""
    nothing = torch.zeros(1, device=device)
    return _Noise(nothing, nothing, nothing, nothing.long())


def cumulative(logits: Tensor) -> Tensor:
    """Return the running sums of softmax(logits), float64, same shape."""
    probabilities = torch.softmax(logits.double(), dim=-1)
    # CUDA's cumsum adds in no fixed order; torch refuses it under deterministic algorithms.
    return (
        probabilities.cumsum(dim=-1)
        if probabilities.device.type == "cpu"
        else running_sums(probabilities)
    )


def running_sums(values: Tensor) -> Tensor:
    """Return the running sums of `values` [n, k] over their last axis, as one product."""
    # Column j of the upper triangular matrix of ones selects values 0 to j.
    width = values.shape[-1]
    return values @ torch.ones(width, width, dtype=values.dtype, device=values.device).triu()


def inverse_cdf(cdf: Tensor, uniform: Tensor) -> Tensor:
    """Return int64 [n]: the first value whose running sum in `cdf` [n, values] exceeds `uniform`.

    The value never falls when the uniform grows: cells that share uniforms differ less than
    independent ones. The uniform is scaled by the last running sum, which rounding leaves near 1.
    """
    target = uniform[:, None] * cdf[:, -1:]
    index = torch.searchsorted(cdf.contiguous(), target, right=True)[:, 0]
    # Rounding may take the target up to the last running sum itself.
    return index.clamp_(max=cdf.shape[1] - 1)


class Tiles(Protocol):
    """A sampler of tiles of cells: `Sampler`, or one that delivers effects."""

    tile: int

    def measured(self, arm: ArmRequest) -> NDArray[np.bool_]:
        """Return which genes get a count, bool [genes]."""
        ...

    def sample_tile(
        self, arm: ArmRequest, tile_index: int, should_stop: Callable[[], bool] | None = None
    ) -> NDArray[np.int32]:
        """Return the counts of a tile, int32 [tile, genes]."""
        ...


def sample_arm(sampler: Tiles, arm: ArmRequest, workers: int = 1) -> Cells:
    """Return the cells of an arm, computed in this process, `workers` tiles at a time."""
    first, last = arm.first_cell, arm.first_cell + arm.n_cells
    # Whole tiles, of which the cells at either end are cut off: see the module's docstring.
    tiles = range(first // sampler.tile, (last - 1) // sampler.tile + 1)
    with ThreadPoolExecutor(workers) as pool:
        counts = np.concatenate(list(pool.map(partial(sampler.sample_tile, arm), tiles)))
    offset = tiles.start * sampler.tile
    return Cells(counts[first - offset : last - offset], sampler.measured(arm))


def _counts(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return UMI of tokens, same shape; 0 where MASK, which is a gene that is not measured."""
    hidden = values == tokens.MASK
    return np.where(hidden, 0, tokens.decode(np.where(hidden, 0, values))).astype(np.int32)
