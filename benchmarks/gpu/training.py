"""Training for a given time on drawn cells: speed, memory, loss, equal weights from one seed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.speed.clock import Clock, counted, peak_mib
from benchmarks.speed.samplers import timed_sampler
from benchmarks.speed.training import Step

WARM_UP = 2
"""Steps before the clock starts."""
SHORT = 3
"""Steps of the trainings whose weights are compared."""
ENDS = 5
"""Steps at either end over which the loss is averaged."""
LEAST = 25
"""Steps that are taken however little time is given: the loss is to fall."""


@dataclass(frozen=True)
class Run:
    """A training that took a while.

    Attributes:
        step: with the trained network.
        steps: optimiser steps after the warm-up.
        seconds: that they took.
        flops: of a step.
        rate: FLOP/s of a matrix product in the dtype of the training.
        first: mean loss of the first steps, nats per gene.
        last: mean loss of the last steps.
    """

    step: Step
    steps: int
    seconds: float
    flops: float
    rate: float
    first: float
    last: float

    def lines(self) -> Iterator[tuple[str, object, str]]:
        """Yield quantity, value and unit."""
        batch, per_step = self.step.spec.batch, self.seconds / self.steps
        yield "steps", self.steps, ""
        yield "dtype", str(self.step.dtype).removeprefix("torch."), ""
        yield "cells per second", f"{batch / per_step:.4g}", "1/s"
        yield "operations", f"{self.flops / batch / 1e9:.4g}", "GFLOP a cell"
        yield "share of the matmul rate", f"{self.flops / per_step / self.rate:.3f}", ""
        yield "matmul rate", f"{self.rate / 1e12:.4g}", "TFLOP/s"
        yield "peak memory", f"{peak_mib(self.step.device):,.0f}", "MiB"
        yield "loss at the beginning", f"{self.first:.4f}", "nats per gene"
        yield "loss at the end", f"{self.last:.4f}", "nats per gene"

    def save(self, folder: Path) -> Path:
        """Write the weights to a file in `folder`; return it."""
        path = folder / "weights.safetensors"
        tensors = self.step.network.state_dict()
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)
        return path


def new_step(network: str, genes: int, batch: int, micro_batch: int, device: str) -> Step:
    """Return a training that has not begun; the same weights and cells at every call."""
    checkpoint = timed_sampler(network, genes=genes, steps=3, guidance=2.0, tile=1)
    return Step(checkpoint, batch=batch, micro_batch=micro_batch, threads=1, device=device)


def reproducible(network: str, genes: int, batch: int, micro_batch: int, device: str) -> bool:
    """Return whether two trainings from the same seed end with the same bits."""

    def weights() -> list[torch.Tensor]:
        step = new_step(network, genes, batch, micro_batch, device)
        for _ in range(SHORT):
            step()
        return [parameter.detach().cpu() for parameter in step.network.parameters()]

    return all(map(torch.equal, weights(), weights()))


def trained(
    network: str, genes: int, batch: int, micro_batch: int, device: str, seconds: float
) -> Run:
    """Return a training of `seconds`, of `LEAST` steps at least."""
    step = new_step(network, genes, batch, micro_batch, device)
    flops = counted(step)
    clock = Clock(step.device, step.dtype)
    losses = [step() for _ in range(WARM_UP)]
    clock.wait()
    began, steps = time.perf_counter(), 0
    while steps < LEAST or time.perf_counter() - began < seconds:
        losses.append(step())
        steps += 1
    clock.wait()
    took = time.perf_counter() - began
    clock.product()
    rate = clock.products[-1][0]
    first, last = (sum(part) / len(part) for part in (losses[:ENDS], losses[-ENDS:]))
    return Run(step, steps, took, flops, rate, first, last)
