"""Training and sampling beside scVI in one run: a table of cells per processor second.

Each network size takes its turn with scVI's process of the same number of genes, on one thread
each; both are timed beside bf16 products of 2048 x 2048 of their process, whose rates say how busy
the machine was. Counts are made (`benchmarks.speed.training`): genes end at their largest token.
"""

import json
import statistics
import tempfile
from pathlib import Path

import click
import torch

from benchmarks import environments
from benchmarks.peers.driver import REQUIREMENTS, SCRIPTS
from benchmarks.speed.comparison import PRODUCTS, SIZE, cpu
from benchmarks.speed.samplers import arm_of, sampler_of, timed_sampler
from benchmarks.speed.training import Step, largest_of, made_counts

CASES = (
    # preset, genes, cells of a step, cells of a tile, cells of scVI's training
    ("lingshu-1m-s13", 299, 64, 64, 4096),
    ("lingshu-1m-s13", 2_000, 64, 64, 2048),
    ("lingshu-7m-s128", 18_080, 32, 32, 512),
)
STEPS = 4
HEAD = (
    *("genes", "network", "training, cells/s", "sampling, cells/s", "GFLOP/s of a product"),
    *("scVI training", "scVI sampling", "GFLOP/s beside scVI"),
    *("training, scVI / ours", "sampling, scVI / ours"),
)


def run(envs: Path, rounds: int) -> None:
    """Print the table; the environment in `envs` is installed at first use."""
    python = environments.python_of("peers-scvi", REQUIREMENTS / "scvi.txt", envs)
    click.echo(f"| {' | '.join(HEAD)} |\n{'| --- ' * len(HEAD)}|")
    for preset, genes, batch, tile, cells in CASES:
        ours = _ours(preset, genes, batch, tile, rounds)
        scvi = _scvi(python, genes, cells, rounds)
        figures = [*(f"{x:.3g}" for x in ours[:2]), f"{ours[2] / 1e9:.0f}"]
        figures += [*(f"{x:,.0f}" for x in scvi[:2]), f"{scvi[2] / 1e9:.0f}"]
        # Each over the product of its process: what either would be on the same quiet core.
        ratios = (scvi[i] / scvi[2] * ours[2] / ours[i] for i in range(2))
        figures += (f"{x:.0f}" for x in ratios)
        click.echo(f"| {genes:,} | {preset} | {' | '.join(figures)} |")


def _ours(preset: str, genes: int, batch: int, tile: int, rounds: int) -> list[float]:
    """Return cells per processor second of training and sampling, and FLOP/s of a product."""
    checkpoint = timed_sampler(preset, genes=genes, steps=STEPS, guidance=0.0, tile=tile)
    step = Step(checkpoint, batch=batch, micro_batch=batch, threads=1, device="cpu", whole=False)
    largest = largest_of(made_counts(256, genes))
    sampler = sampler_of(checkpoint, dtype="auto", device="cpu", largest=largest)
    arm, a = arm_of(checkpoint, STEPS, 0.0), torch.randn(SIZE, SIZE).to(sampler.dtype)
    numbers = iter(range(10_000))

    def products() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, a)

    works = (step, lambda: sampler.sample_tile(arm, next(numbers)), products)
    for work in works:
        work()
    took = zip(*([cpu(work) for work in works] for _ in range(rounds)), strict=True)
    training, sampling, product = map(statistics.median, took)
    return [batch / training, tile / sampling, PRODUCTS * 2 * SIZE**3 / product]


def _scvi(python: Path, genes: int, cells: int, rounds: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scvi.json"
        numbers = ("--genes", str(genes), "--cells", str(cells), "--rounds", str(rounds))
        words = [SCRIPTS / "scvi_speed.py", *map(Path, numbers), Path("--out"), out]
        environments.run(python, *words)
        rates = json.loads(out.read_text("utf-8"))
    return [rates[name] for name in ("training", "sampling", "product_flops")]
