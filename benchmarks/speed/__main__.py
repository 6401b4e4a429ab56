"""How fast sampling and training are: `python -m benchmarks.speed sample|plain|train|compare`.

The first three are one process and one case each, and print one JSON object; benchmarks/README.md
says what its fields are. `compare` prints a table of training, or of sampling, before and after.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.speed import beside, comparison, comparison_sampling
from benchmarks.speed import plain as textbook
from benchmarks.speed.clock import Clock, Measured, counted, measure
from benchmarks.speed.samplers import (
    GENES,
    MadeCheckpoint,
    arm_of,
    checkpoint_of,
    network_of,
    sampler_of,
    timed_sampler,
)
from benchmarks.speed.training import Step
from lingshu_model.network import numerics
from lingshu_model.network.config import PRESETS
from lingshu_model.network.weights import load_network

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MODEL = click.option("--model", default="lingshu-85m-s32", help="A preset, or a checkpoint's name.")
STEPS = click.option("--steps", type=int, help="Default: the checkpoint's; 3 for a preset.")
GUIDANCE = click.option("--guidance", type=float, help="Default: the checkpoint's; 2 for a preset.")
DEVICE = click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
WORKERS = click.option("--workers", type=int, default=CORES, help="Tiles side by side (CPU).")
ROUNDS = click.option("--rounds", type=int, default=5)
GENES_OF = click.option("--genes", type=int, default=GENES, help="Panel of a preset.")


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Time one case beside a matrix product."""


@main.command()
@MODEL
@STEPS
@GUIDANCE
@GENES_OF
@click.option("--tile", type=int, help="Cells per tile of a preset. [default: 4, CUDA: 64]")
@click.option("--dtype", default="auto", help="auto, bfloat16 or float32.")
@DEVICE
@WORKERS
@ROUNDS
@click.option("--compiled", help="torch.compile's mode: another numerics profile.")
def sample(**options: Any) -> None:
    """Cells per second of the sampler, the condition's shared first step computed before."""
    device = options["device"]
    checkpoint = _checkpoint(options, options["tile"] or (64 if device == "cuda" else 4))
    more = {"compiled": options["compiled"]} if options["compiled"] else {}
    sampler = sampler_of(checkpoint, dtype=options["dtype"], device=device, **more)
    arm = arm_of(checkpoint, options["steps"], options["guidance"])
    workers = options["workers"] if device == "cpu" else 1
    sampler.sample_tile(arm, 0)  # the first step of the condition, and whatever is compiled
    flops = counted(lambda: sampler.sample_tile(arm, 1)) / sampler.tile
    clock = Clock(sampler.device, sampler.dtype, workers)

    def work(number: int, worker: int) -> None:
        sampler.sample_tile(arm, 2 + number * workers + worker)

    result = measure(clock, work, units=sampler.tile, flops=flops, rounds=options["rounds"])
    _tell(
        result,
        flops,
        case="sample",
        model=checkpoint.name,
        steps=arm.steps,
        guidance=arm.guidance,
        workers=workers,
        profile=sampler.profile(),
    )


@main.command()
@MODEL
@STEPS
@GUIDANCE
@GENES_OF
@click.option("--cells", type=int, default=4, help="Cells at a time.")
@DEVICE
@WORKERS
@ROUNDS
def plain(**options: Any) -> None:
    """Cells per second of the plain reference sampler."""
    checkpoint = _checkpoint(options, options["cells"])
    numerics.prepare(1)
    device = torch.device(options["device"])
    known = isinstance(checkpoint, MadeCheckpoint)
    network, vocabulary = network_of(checkpoint) if known else load_network(checkpoint)
    network.to(device)
    arm = arm_of(checkpoint, options["steps"], options["guidance"])
    workers = options["workers"] if device.type == "cpu" else 1
    schedule = checkpoint.config["sampler"]["schedule"]

    def work(number: int, worker: int) -> None:
        generator = torch.Generator(device).manual_seed(number * workers + worker)
        textbook.sample(network, vocabulary, arm, schedule, options["cells"], generator)

    flops = counted(lambda: work(0, 0)) / options["cells"]
    clock = Clock(device, torch.float32, workers)
    result = measure(clock, work, units=options["cells"], flops=flops, rounds=options["rounds"])
    _tell(
        result,
        flops,
        case="plain",
        model=checkpoint.name,
        steps=arm.steps,
        guidance=arm.guidance,
        workers=workers,
    )


@main.command()
@click.option("--model", type=click.Choice(list(PRESETS)), default="lingshu-85m-s32")
@GENES_OF
@click.option("--batch", type=int, help="Cells per step. [default: 8, CUDA: 256]")
@click.option("--micro-batch", type=int, help="Cells at a time. [default: 4, CUDA: 64]")
@click.option("--threads", type=int, default=CORES)
@DEVICE
@ROUNDS
def train(**options: Any) -> None:
    """Cells per second of the training loop's own step."""
    cuda = options["device"] == "cuda"
    checkpoint = timed_sampler(
        options["model"], genes=options["genes"], steps=3, guidance=0.0, tile=4
    )
    batch = options["batch"] or (256 if cuda else 8)
    micro = options["micro_batch"] or (64 if cuda else 4)
    step = Step(
        checkpoint,
        batch=batch,
        micro_batch=micro,
        threads=options["threads"],
        device=options["device"],
    )
    step()
    flops = counted(step) / batch
    clock = Clock(step.device, step.dtype, 1)
    result = measure(
        clock, lambda _n, _w: step(), units=batch, flops=flops, rounds=options["rounds"]
    )
    _tell(
        result,
        flops,
        case="train",
        model=checkpoint.name,
        batch=batch,
        micro_batch=micro,
        threads=torch.get_num_threads(),
        dtype=str(step.dtype),
    )


@main.command()
@click.option("--threads", type=int, default=1)
@click.option("--rounds", type=int, default=5)
@click.option("--case", type=int, help="One row of the table, in this process.")
@click.option("--sampling", is_flag=True, help="Tiles of the sampler instead, on one thread.")
def compare(threads: int, rounds: int, case: int | None, *, sampling: bool) -> None:
    """Print a table of training steps before and after, in alternation, in processor time."""
    if sampling:
        comparison_sampling.run(rounds, case)
    else:
        comparison.run(threads, rounds, case)


@main.command("beside-scvi")
@click.option("--envs", type=click.Path(path_type=Path), default=Path("runs/envs"))
@ROUNDS
def beside_scvi(envs: Path, rounds: int) -> None:
    """Print a table of training and sampling beside scVI, in processor time of one thread."""
    beside.run(envs, rounds)


def _checkpoint(options: dict[str, Any], tile: int) -> Any:
    shape = {"genes": options["genes"], "steps": options["steps"] or 3, "tile": tile}
    guidance = 2.0 if options["guidance"] is None else options["guidance"]
    return checkpoint_of(options["model"], guidance=guidance, **shape)


def _tell(result: Measured, flops: float, **about: Any) -> None:
    rounds = result.rounds
    numbers = {n: float(f"{value:.4g}") for n, value in asdict(result).items()} | {"rounds": rounds}
    click.echo(json.dumps({**about, "gflop_per_cell": round(flops / 1e9, 2), **numbers}, indent=1))


if __name__ == "__main__":
    main()
