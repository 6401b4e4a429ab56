"""The training loop: any number of ranks, the same order and noise, resumable to the last bit.

arXiv 2603.25240, supp. 7.2: AdamW (0.9, 0.95), clipped gradients, linear warm-up, cosine decay,
bf16 autocast, power-function EMA. Order and noise are functions of (seed, step), and each rank
takes its share of every batch. A run that is resumed therefore computes the same steps as one that
was never stopped.
"""

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from lingshu_model.network import diffusion
from lingshu_model.network.cell_network import Network
from lingshu_model.network.conditions import Conditions
from lingshu_model.network.tokens import MASK
from lingshu_model.system.progress_bars import Progress
from lingshu_model.train import state
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.ema import PowerEMA
from lingshu_model.train.ranks import check_share
from lingshu_model.train.spec import TrainingSpec

SAVE_EVERY_S = 60.0
"""Seconds between two saves of the training state: what a killed run loses at most."""
ORDER, NOISE, VALIDATION = 3, 4, 5
"""Random streams of `_generator`. The split, null labels and the sample of cells are 1, 2 and 6."""


@dataclass(frozen=True)
class Batch:
    """Cells of one micro-batch with their noise.

    Attributes:
        tokens: int64 [cells, genes], MASK where not measured.
        measured: bool [cells, genes].
        conditions: of [cells].
        times: diffusion times, float32 [cells], in (0, 1).
        uniform: float32 [cells, genes], in [0, 1); decides which genes are masked.
    """

    tokens: Tensor
    measured: Tensor
    conditions: Conditions
    times: Tensor
    uniform: Tensor


@dataclass(frozen=True)
class CellBatches:
    """All cells, and the batches of each step as a function of (seed, step).

    Cells are sparse in host memory; one micro-batch at a time is made dense.

    Attributes:
        cells: the training cells.
        depth: ln UMI of each cell, float32 [cells].
        conditions: one row per condition; `cells.condition` is an index into them.
        device: of the batches.
    """

    cells: TrainingCells
    depth: Tensor
    conditions: Conditions
    device: torch.device

    @classmethod
    def of(
        cls, cells: TrainingCells, conditions: Conditions, device: torch.device
    ) -> "CellBatches":
        """Return the batches of `cells`; row i of `conditions` is their condition i."""
        depth = torch.from_numpy(np.log(cells.depth()).astype(np.float32))
        return cls(cells, depth, conditions, device)

    def __len__(self) -> int:
        return len(self.cells)

    def rows(self, step: int, batch: int, seed: int) -> Tensor:
        """Return the cells of `step`, int64 [batch]: consecutive slices of a permutation per epoch.

        The cells that do not fill a last batch are left out of the epoch; the next permutation
        leaves out others.
        """
        per_epoch = max(1, len(self) // batch)
        epoch, index = divmod(step, per_epoch)
        order = torch.randperm(len(self), generator=_generator(seed, ORDER, epoch))
        return order[index * batch : (index + 1) * batch]

    def batches(self, step: int, spec: TrainingSpec, rank: int, ranks: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches of `step`; over all ranks they are the whole batch.

        Raises:
            RanksError: the ranks cannot share the batch evenly.
        """
        rows = self.rows(step, spec.batch, spec.seed)
        check_share(len(rows), ranks)
        # Every rank draws the noise of the whole batch, so that a cell's noise does not depend on
        # the number of ranks.
        generator = _generator(spec.seed, NOISE, step)
        times = diffusion.stratified_times(len(rows), generator)
        uniform = torch.rand(len(rows), len(self.cells.panel), generator=generator)
        of_rank = torch.arange(rank, len(rows), ranks)
        for part in of_rank.split(spec.micro_batch):
            yield self.batch(rows[part], times[part], uniform[part])

    def batch(self, rows: Tensor, times: Tensor, uniform: Tensor) -> Batch:
        """Return the cells `rows` with the given noise, on the device.

        Args:
            rows: int64 [n], numbers of cells.
            times: [n].
            uniform: [n, genes].
        """
        index = rows.numpy()
        # `dense` has MASK at unmeasured genes, so the tokens also say what is measured.
        tokens = torch.from_numpy(self.cells.dense(index).astype(np.int64)).to(self.device)
        condition = torch.from_numpy(self.cells.condition[index])
        conditions = self.conditions.take(condition).at_depth(self.depth[rows]).to(self.device)
        times, uniform = times.to(self.device), uniform.to(self.device)
        return Batch(tokens, tokens != MASK, conditions, times, uniform)


class NLLLoss(nn.Module):
    """The network with its loss as one module.

    Data parallelism synchronises gradients in the module whose `forward` is called, so the loss
    must be inside it.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, b: Batch) -> Tensor:
        """Return the upper bound of the NLL of one micro-batch, nats per measured gene."""
        return diffusion.loss(self.network, b.tokens, b.measured, b.conditions, b.times, b.uniform)


def train(
    network: Network,
    cells: CellBatches,
    held_out: CellBatches | None,
    spec: TrainingSpec,
    folder: Path,
    digest: str,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Train for the epochs of `spec`, resuming from `folder/state.safetensors`; return the EMA.

    `folder/log.csv` gets a row per epoch: step, training and validation NLL (nats per measured
    gene), learning rate, cells per second.

    Args:
        network: changed in place; on the accelerator's device.
        cells: training cells.
        held_out: cells for the validation NLL; None = none is computed.
        spec: epochs, batch, learning rate and the other settings.
        folder: of the state and the log.
        digest: of the specification and the cells, which a saved state must have.
        accelerator: of this rank.

    Returns:
        The averaged weights by name, float32.

    Raises:
        ValueError: the saved state has another digest.
        RanksError: the ranks cannot share a batch evenly.
    """
    adam = optimiser(network, spec)
    ema = PowerEMA(network, spec.sigma_rel)
    start = state.restore(folder / "state.safetensors", digest, network, adam, ema)
    model = accelerator.prepare(NLLLoss(network))
    per_epoch = max(1, len(cells) // spec.batch)
    total = per_epoch * spec.epochs
    bar = Progress(
        desc="training",
        total=total,
        initial=start,
        unit="step",
        disable=not accelerator.is_main_process,
    )
    saved, began, seen, running = time.monotonic(), time.monotonic(), 0, 0.0
    for step in range(start, total):
        for group in adam.param_groups:
            group["lr"] = learning_rate(step, total, spec)
        running += _step(model, adam, cells, spec, step, accelerator)
        # Every rank has the same weights after a step, so each can keep the average by itself.
        ema.update(network)
        seen += spec.batch
        bar.update()
        last = step + 1 == total
        if (step + 1) % per_epoch == 0 or last:
            with accelerator.autocast():
                nll = None if held_out is None else validation_nll(network, ema, held_out, spec)
            rate = seen / (time.monotonic() - began)
            # A collective operation: all ranks must call it, although one writes the row.
            running = _over_ranks(running, accelerator)
            row = [
                step + 1,
                running / (seen / spec.batch),  # mean over the steps of the epoch
                nll,
                learning_rate(step, total, spec),
                rate,
            ]
            if accelerator.is_main_process:
                _log(folder / "log.csv", row)
            bar.set_postfix(train=row[1], validation=nll, cells_per_s=round(rate, 1))
            began, seen, running = time.monotonic(), 0, 0.0
        if accelerator.is_main_process and (last or time.monotonic() - saved > SAVE_EVERY_S):
            state.save(folder / "state.safetensors", step + 1, digest, network, adam, ema)
            saved = time.monotonic()
    bar.close()
    return ema.average


def optimiser(network: nn.Module, spec: TrainingSpec) -> AdamW:
    """Return AdamW (0.9, 0.95) with weight decay on matrices only."""
    # The gene biases are log frequencies relative to count 0 (`initialisation`). Weight decay would
    # pull those of rare genes, which are very negative, towards 0: as frequent as the count 0.
    parameters = dict(network.named_parameters())
    decayed = [p for n, p in parameters.items() if p.dim() >= 2 and not n.endswith(".bias")]
    plain = [p for n, p in parameters.items() if p.dim() < 2 or n.endswith(".bias")]
    return AdamW(
        [
            {"params": decayed, "weight_decay": spec.weight_decay},
            {"params": plain, "weight_decay": 0},
        ],
        lr=spec.lr,
        betas=(0.9, 0.95),
        fused=True,
    )


def _over_ranks(share: float, accelerator: Accelerator) -> float:
    """Return the sum of every rank's share of the loss."""
    whole = accelerator.reduce(torch.tensor(share, device=accelerator.device), "sum")
    return float(torch.as_tensor(whole))


def learning_rate(step: int, total: int, spec: TrainingSpec) -> float:
    """Return the learning rate of `step`: linear warm-up, then a cosine from `lr` to `final_lr`."""
    if step < spec.warmup_steps:
        # step + 1: at a rate of 0 the first step would change nothing.
        return spec.lr * (step + 1) / spec.warmup_steps
    progress = (step - spec.warmup_steps) / max(1, total - spec.warmup_steps)
    return spec.final_lr + (spec.lr - spec.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def _step(
    model: nn.Module,
    adam: AdamW,
    cells: CellBatches,
    spec: TrainingSpec,
    step: int,
    accelerator: Accelerator,
) -> float:
    """Take one optimiser step; return this rank's share of the batch's mean loss, nats per gene."""
    adam.zero_grad()
    total = 0.0
    ranks = accelerator.num_processes
    for batch in cells.batches(step, spec, accelerator.process_index, ranks):
        with accelerator.autocast():
            loss = model(batch)
        # DDP divides gradients by the number of ranks; the factor turns that into the mean over
        # the cells of the batch, whatever the micro-batches.
        share = loss * (len(batch.tokens) * ranks / spec.batch)
        accelerator.backward(share)
        total += float(loss.detach()) * len(batch.tokens) / spec.batch
    # bf16 has the exponents of float32, so gradients were not scaled and need no unscaling here.
    nn.utils.clip_grad_norm_(model.parameters(), spec.clip)
    adam.step()
    return total


@torch.no_grad()
def validation_nll(
    network: Network, ema: PowerEMA, cells: CellBatches, spec: TrainingSpec
) -> float:
    """Return the NLL of held-out cells under the averaged weights, nats per measured gene.

    The noise is the same at every call, so differences between epochs are differences of weights.
    """
    trained = {name: p.detach().clone() for name, p in network.named_parameters()}
    _assign(network, ema.average)
    n = len(cells)
    generator = _generator(spec.seed, VALIDATION, 0)
    times = diffusion.stratified_times(n, generator)
    total = 0.0
    for part in torch.arange(n).split(spec.micro_batch):
        uniform = torch.rand(len(part), len(cells.cells.panel), generator=generator)
        batch = cells.batch(part, times[part], uniform)
        total += float(NLLLoss(network)(batch)) * len(part)
    _assign(network, trained)
    return total / n


def _assign(network: Network, weights: dict[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        parameter.data.copy_(weights[name])


def _generator(seed: int, purpose: int, index: int) -> torch.Generator:
    """Return a CPU generator that is a function of (seed, purpose, index) alone.

    On the CPU whatever the device, since the generators of other devices draw other numbers.
    """
    words = np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=index).random_raw(1)
    # torch takes a signed 64-bit seed: the lowest bit is dropped.
    return torch.Generator().manual_seed(int(words[0]) >> 1)


def _log(path: Path, row: list[float | int | None]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        if new:
            writer.writerow(["step", "train_nats", "validation_nats", "lr", "cells_per_s"])
        writer.writerow(row)
