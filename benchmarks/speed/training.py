"""One optimiser step of the real training loop, on made cells: forward, backward, AdamW, mean."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from benchmarks.speed.samplers import MadeCheckpoint, arm_of, network_of
from lingshu_model.network import diffusion, numerics
from lingshu_model.network.tokens import MASK
from lingshu_model.train import loop
from lingshu_model.train.ema import PowerEMA
from lingshu_model.train.spec import TrainingSpec


@dataclass
class MadeBatches:
    """What `loop` takes batches from: the same made cells again and again, with new noise."""

    tokens: Tensor
    conditions: object

    def batches(self, step: int, spec: TrainingSpec, rank: int, ranks: int) -> Iterator[loop.Batch]:
        generator = torch.Generator().manual_seed(step)
        n, genes = self.tokens.shape
        times = diffusion.stratified_times(n, generator)
        uniform = torch.rand(n, genes, generator=generator)
        device = self.tokens.device
        for part in torch.arange(rank, n, ranks).split(spec.micro_batch):
            tokens = self.tokens[part.to(device)]
            conditions = self.conditions.expand(len(part))
            noise = (times[part].to(device), uniform[part].to(device))
            yield loop.Batch(tokens, tokens != MASK, conditions, *noise)


class Step:
    """A network in training; call it to take one step of `batch` cells."""

    def __init__(
        self, checkpoint: MadeCheckpoint, *, batch: int, micro_batch: int, threads: int, device: str
    ) -> None:
        numerics.prepare(threads)
        self.device = torch.device(device)
        fast = numerics.has_fast_bf16(self.device)
        self.dtype = torch.bfloat16 if fast else torch.float32
        self.accelerator = Accelerator(
            mixed_precision="bf16" if fast else "no", cpu=self.device.type == "cpu"
        )
        self.network, vocabulary = network_of(checkpoint)
        self.network.train().to(self.device)
        self.spec = _spec(checkpoint, batch, micro_batch)
        arm = arm_of(checkpoint, None, None)
        conditions = vocabulary.conditions(arm.context, arm.interventions).to(self.device)
        counts = torch.poisson(torch.full((batch, self.network.genes), 0.4)).long()
        self.cells = MadeBatches(counts.to(self.device), conditions)
        self.adam = AdamW(self.network.parameters(), lr=1e-4, betas=(0.9, 0.95))
        self.ema = PowerEMA(self.network)
        self.model: nn.Module = self.accelerator.prepare(loop.NLLLoss(self.network))
        self.number = 0

    def __call__(self) -> None:
        loop._step(self.model, self.adam, self.cells, self.spec, self.number, self.accelerator)
        self.ema.update(self.network)
        self.number += 1


def _spec(checkpoint: MadeCheckpoint, batch: int, micro_batch: int) -> TrainingSpec:
    source = {"file": "made.h5ad", "context": {"cell_line": "made"}}
    return TrainingSpec.model_validate(
        {
            "name": "made",
            "sources": [source],
            "network": checkpoint.config["network"],
            "epochs": 1,
            "batch": batch,
            "micro_batch": micro_batch,
        }
    )
