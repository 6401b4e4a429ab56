"""Quality of sampled control cells against the operations that a cell takes.

    python -m benchmarks.operations train --data DATA --runs RUNS            # the networks
    python -m benchmarks.operations compare --data DATA --runs RUNS --out operations-thp1.csv

Networks of several shapes (`SHAPES`) are trained on the cells of a checkpoint's specification, all
by the same schedule, and the shipped network is taken beside them. Each is sampled in 1 to 16
steps, and its control cells are compared with the validation slice's control cells of the same
context. The row `training cells` is of as many real cells, drawn without replacement. Test cells
are not read. Metrics are those of `lingshu_model.evaluate.metrics.samples`, and

    shared_correlation    sum r r_real / sum r_train r_real over pairs of variable genes, r being
                          gene correlations of sampled, validation and all training cells: 1 = as
                          much of the real correlations as the training cells have. Noise of the
                          validation cells, which are few, does not bias it.

Operations are those of the matrix products that run for a cell, counted by torch. An interval is
the mean over seeds plus and minus 1.96 standard errors; the real cells are the same for every row.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from benchmarks.speed.clock import counted
from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint
from lingshu_model.evaluate.data import DEFAULT, VALIDATION, load_split
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.evaluate.metrics.matrices import csr, expression_levels
from lingshu_model.evaluate.metrics.samples import DISTRIBUTION, Sample
from lingshu_model.network import numerics
from lingshu_model.network.config import PRESETS, NetworkConfig
from lingshu_model.network.vocabulary import Vocabulary
from lingshu_model.sampling.sampler import Sampler, sample_arm
from lingshu_model.train.data.sources import read_cells, split
from lingshu_model.train.initialisation import InitialState
from lingshu_model.train.run import Learned, learn
from lingshu_model.train.spec import TrainingSpec

BASE = PRESETS["lingshu-1m-s13"]
SHAPES: Mapping[str, NetworkConfig] = {
    "S = 13, width 128": BASE,
    "S = 26, width 128": replace(BASE, group=26),
    "S = 13, width 64": replace(BASE, d_model=64, n_heads=2, d_ff=256),
}
SHIPPED, REAL = "shipped", "training cells"
METRICS = ("shared_correlation", "energy_distance", "correlation_error", "variance_error")
"""The first is that of this module."""
HEAD = (
    *("network", "groups", "steps", "gflop_a_cell", "cells", "seeds", "metric"),
    *("value", "low", "high"),
)
Counts = NDArray[np.int32]
DATA = click.option("--data", type=click.Path(path_type=Path), default=DEFAULT)
RUNS = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/operations"))
CHECKPOINT = click.option("--checkpoint", default="thp1-crispr")


@click.group(context_settings={"show_default": True}, help=__doc__)
def main() -> None:
    """Train or compare."""


@main.command()
@DATA
@RUNS
@CHECKPOINT
@click.option("--epochs", default=2)
@click.option("--only", multiple=True, type=click.Choice([*SHAPES]))
def train(data: Path, runs: Path, checkpoint: str, epochs: int, only: tuple[str, ...]) -> None:
    """Train the networks; goes on where it was stopped."""
    for name in only or SHAPES:
        network_of(name, Catalogue().load(checkpoint), data, runs, epochs)
        click.echo(f"{name} is trained")


@main.command()
@DATA
@RUNS
@CHECKPOINT
@click.option("--epochs", default=2)
@click.option("--networks", default=";".join([SHIPPED, *SHAPES]), help="Separated by semicolons.")
@click.option("--steps", default="1,2,4,8,16")
@click.option("--seeds", default=3)
@click.option("--n-cells", default=768, help="Sampled cells.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("operations.csv"))
def compare(
    data: Path,
    runs: Path,
    checkpoint: str,
    epochs: int,
    networks: str,
    steps: str,
    seeds: int,
    n_cells: int,
    out: Path,
) -> None:
    """Write the table, a row for each network, number of steps and metric."""
    numerics.prepare(1)
    loaded = Catalogue().load(checkpoint)
    held = HeldOut.of(loaded, data, n_cells)
    numbers = [int(word) for word in steps.split(",")]
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        for line in _lines(loaded, held, networks.split(";"), numbers, seeds, (data, runs, epochs)):
            writer.writerow(line)
            file.flush()
            click.echo("  ".join(map(str, line)))


class HeldOut:
    """Validation control cells of the context that has most of them, and training ones.

    Attributes:
        context: fields and values.
        frame: of the training cells.
        real: the validation cells.
        training: control cells of training, CSR [cells, genes].
        n: cells of a sample.
    """

    def __init__(self, context: dict[str, str], frame: Frame, real: Any, training: Any) -> None:
        self.context, self.frame, self.training = context, frame, training
        self.real = _sample(frame, real)
        self.whole = self._shared(_sample(frame, training))
        self.n = 0

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: Path, n: int) -> "HeldOut":
        """Read the cells of a checkpoint's specification; samples are of `n` cells, or fewer."""
        parts = load_split(checkpoint, data, VALIDATION)
        controls = [key for key in parts.test if not key[1].interventions and key in parts.train]
        best = max(controls, key=lambda key: parts.test[key].shape[0])
        frame = Frame.fit(parts.train.values())
        held = cls(dict(best[1].context), frame, parts.test[best], parts.train[best])
        held.n = min(n, held.training.shape[0])
        return held

    def figures(self, counts: Any) -> list[float]:
        """Return the metrics of cells [n, genes] against the real ones."""
        sample = _sample(self.frame, counts)
        rest = [DISTRIBUTION[name].compute(sample, self.real) for name in METRICS[1:]]
        return [self._shared(sample) / self.whole, *rest]

    def _shared(self, sample: Sample) -> float:
        return float((sample.correlations * self.real.correlations).sum(dtype=np.float64))


def _sample(frame: Frame, counts: Any) -> Sample:
    counts = csr(counts)
    expression = expression_levels(counts)
    return Sample(frame, frame.scores(expression), counts, expression)


def _lines(
    checkpoint: Checkpoint,
    held: HeldOut,
    networks: list[str],
    steps: list[int],
    seeds: int,
    places: tuple[Path, Path, int],
) -> Iterator[tuple[object, ...]]:
    """Yield the rows of the table."""
    generator = np.random.Generator(np.random.Philox(5))
    rows = [generator.choice(held.training.shape[0], held.n, replace=False) for _ in range(seeds)]
    yield from _summary((REAL, "", "", ""), held, [held.figures(held.training[r]) for r in rows])
    for name in networks:
        sampler = _sampler(name, checkpoint, places)
        for number in steps:
            arm = _arm(checkpoint, held.context, number)
            flops = counted(lambda s=sampler, a=arm: s.sample_tile(a, 0)) / sampler.tile
            figures = [held.figures(_cells(sampler, arm, seed, held.n)) for seed in range(seeds)]
            about = (name, sampler.network.groups, number, f"{flops / 1e9:.4f}")
            yield from _summary(about, held, figures)


def _summary(
    about: tuple[object, ...], held: HeldOut, figures: list[list[float]]
) -> Iterator[tuple[object, ...]]:
    values = np.array(figures)
    error = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    for name, mean, half in zip(METRICS, values.mean(axis=0), error, strict=True):
        numbers = (f"{x:.5f}" for x in (mean, mean - half, mean + half))
        yield (*about, held.n, len(values), name, *numbers)


def _cells(sampler: Sampler, arm: ArmRequest, seed: int, n: int) -> Counts:
    return sample_arm(sampler, arm.model_copy(update={"seed": seed, "n_cells": n})).counts


def _arm(checkpoint: Checkpoint, context: dict[str, str], steps: int) -> ArmRequest:
    return ArmRequest(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        context=context,
        interventions=(),
        seed=0,
        n_cells=1,
        steps=steps,
        guidance=0.0,
    )


def _sampler(name: str, checkpoint: Checkpoint, places: tuple[Path, Path, int]) -> Sampler:
    """Return the sampler of the shipped network, or of a trained shape with its configuration."""
    if name == SHIPPED:
        return Sampler.load(checkpoint, threads=1, device="cpu")
    data, runs, epochs = places
    learned = network_of(name, checkpoint, data, runs, epochs)
    network = learned.network
    network.load_state_dict({**network.state_dict(), **learned.weights})
    vocabulary = Vocabulary.from_config(checkpoint.config, checkpoint.panel)
    dtype = numerics.choose_dtype("auto", torch.device("cpu"))
    return Sampler(checkpoint, network.eval(), vocabulary, dtype)


def network_of(name: str, checkpoint: Checkpoint, data: Path, runs: Path, epochs: int) -> Learned:
    """Return a trained network, from its state in `runs` where it was trained before."""
    spec = TrainingSpec.model_validate(checkpoint.config["training"] | {"epochs": epochs})
    folder = runs / f"{name.replace(' ', '').replace(',', '-')}-{epochs}"
    folder.mkdir(parents=True, exist_ok=True)
    cells = read_cells(spec, data)
    parts = split(cells, spec)
    # A specification names a preset: its name stands for another shape meanwhile.
    with patch.dict(PRESETS, {str(spec.network): SHAPES[name]}):
        state = InitialState(spec, cells.take(parts.train))
        accelerator = Accelerator(
            mixed_precision="bf16" if numerics.has_fast_bf16(torch.device("cpu")) else "no",
            cpu=True,
        )
        learned = learn(state, cells.take(parts.validation), folder, accelerator)
    assert learned is not None
    return learned


if __name__ == "__main__":
    main()
