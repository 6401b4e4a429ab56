"""One optimiser step of the real training loop, on made cells: forward, backward, AdamW, mean."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.speed.before import plain_training
from benchmarks.speed.samplers import MadeCheckpoint, arm_of
from lingshu_model.network import diffusion, numerics
from lingshu_model.network.cell_network import Network
from lingshu_model.network.config import PRESETS
from lingshu_model.network.tokens import MASK
from lingshu_model.network.vocabulary import Vocabulary
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
    """A network in training; call it to take one step of `batch` cells.

    Attributes:
        plain: whether steps are those before `lingshu_model.network.fused`.
    """

    plain = False

    def __init__(
        self,
        checkpoint: MadeCheckpoint,
        *,
        batch: int,
        micro_batch: int,
        threads: int,
        device: str,
        whole: bool = True,
    ) -> None:
        """Draw cells and weights; with `whole` every gene has all 281 tokens."""
        numerics.prepare(threads)
        self.device = torch.device(device)
        fast = numerics.has_fast_bf16(self.device)
        self.dtype = torch.bfloat16 if fast else torch.float32
        self.accelerator = Accelerator(
            mixed_precision="bf16" if fast else "no", cpu=self.device.type == "cpu"
        )
        genes = checkpoint.config["genes"]
        counts = made_counts(batch, genes)
        largest = None if whole else largest_of(counts)
        vocabulary = Vocabulary.from_config(checkpoint.config, checkpoint.panel)
        shape = PRESETS[checkpoint.config["network"]].without_offsets()
        self.network = Network(shape, genes, vocabulary.sizes, ceiling=largest)
        self.network.train().to(self.device)
        self.spec = _spec(checkpoint, batch, micro_batch)
        arm = arm_of(checkpoint, None, None)
        conditions = vocabulary.conditions(arm.context, arm.interventions).to(self.device)
        self.cells = MadeBatches(counts.to(self.device), conditions)
        self.adam = loop.optimiser(self.network, self.spec)
        self.ema = PowerEMA(self.network)
        self.model: nn.Module = self.accelerator.prepare(loop.NLLLoss(self.network))
        self.number = 0

    def __call__(self) -> float:
        """Take one step; return its loss, nats per gene."""
        with plain_training() if self.plain else nullcontext():
            loss = loop._step(
                self.model, self.adam, self.cells, self.spec, self.number, self.accelerator
            )
        self.ema.update(self.network)
        self.number += 1
        return loss


def made_counts(cells: int, genes: int) -> Tensor:
    """Return UMI [cells, genes]: means of genes as uneven as those of PBMC, about 5,000 a cell."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(genes, generator=generator).mul_(2.2).exp_()
    means *= min(5_000, 8 * genes) / means.sum()
    return torch.poisson(means.expand(cells, -1), generator=generator).clamp_max(280).long()


def largest_of(counts: Tensor) -> Tensor:
    """Return the largest token of each gene, int64 [genes], of a training set with such cells."""
    # It has more cells than the drawn ones, so its largest counts are larger.
    return (2 * counts.amax(dim=0)).clamp_max(280)


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
