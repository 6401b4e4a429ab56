"""Sampling before and after, one after the other in the same process: a table.

Each row is a separate process of one thread. Tiles before and after alternate with matrix products
in bf16 of 2048 x 2048; times are processor times, and medians of the rounds count, so that work of
other processes, which slows all three alike, changes shares and ratios little.
"""

import statistics

import click
import numpy as np
import torch

from benchmarks.speed.before_sampling import alternately
from benchmarks.speed.clock import counted
from benchmarks.speed.comparison import PRODUCTS, SIZE, cpu
from benchmarks.speed.samplers import arm_of, checkpoint_of, sampler_of
from benchmarks.speed.training import largest_of, made_counts
from lingshu_tools.system.interpreter import output_of

CASES = (
    # preset or checkpoint, genes, cells of a tile, steps, guidance, whether all genes of a preset
    # have all 281 tokens
    ("thp1-crispr", 299, 64, 4, 0.0, False),
    ("lingshu-1m-s13", 2_000, 64, 4, 0.0, False),
    ("pbmc", 18_080, 32, 4, 0.0, False),
    ("lingshu-paper-1m-s13", 299, 64, 3, 2.0, True),
    ("lingshu-paper-7m-s32", 18_080, 32, 3, 2.0, True),
)
HEAD = (
    "network",
    "genes",
    "steps",
    "w",
    "GFLOP a cell",
    "cells/s before",
    "cells/s after",
    "ratio",
    "share of the matmul rate before",
    "share after",
    "GFLOP/s of a product",
    "equal counts",
)


def run(rounds: int, case: int | None) -> None:
    """Print the table, or with `case` only that row."""
    if case is not None:
        *shape, whole = CASES[case]
        click.echo(_row(rounds, *shape, whole=whole))
        return
    click.echo(f"| {' | '.join(HEAD)} |\n{'| --- ' * len(HEAD)}|")
    arguments = ["-m", "benchmarks.speed", "compare", "--sampling", "--rounds", str(rounds)]
    for number in range(len(CASES)):
        click.echo(output_of([*arguments, "--case", str(number)]).splitlines()[-1])


def _row(
    rounds: int, model: str, genes: int, tile: int, steps: int, guidance: float, *, whole: bool
) -> str:
    checkpoint = checkpoint_of(model, genes=genes, steps=steps, tile=tile, guidance=guidance)
    largest = None if whole else largest_of(made_counts(256, genes))
    sampler = sampler_of(checkpoint, dtype="auto", device="cpu", largest=largest)
    arm = arm_of(checkpoint, steps, guidance)
    tiles = iter(range(10_000))
    works = alternately(lambda: sampler.sample_tile(arm, next(tiles)))
    flops = [counted(work) / sampler.tile for work in works]
    before, after = alternately(lambda: sampler.sample_tile(arm, 0))
    equal = np.array_equal(before(), after())
    a = torch.randn(SIZE, SIZE).to(sampler.dtype)

    def products() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, a)

    products()
    took = zip(*([cpu(each) for each in (*works, products)] for _ in range(rounds)), strict=True)
    *times, product = map(statistics.median, took)
    rate = PRODUCTS * 2 * SIZE**3 / product
    cells = [sampler.tile / seconds for seconds in times]
    shares = [n * each / rate for n, each in zip(cells, flops, strict=True)]
    return (
        f"| {model} | {len(checkpoint.panel):,} | {steps} | {guidance:g} | {flops[1] / 1e9:.2f} "
        f"| {cells[0]:.3g} | {cells[1]:.3g} | {times[0] / times[1]:.2f} | {shares[0]:.2f} "
        f"| {shares[1]:.2f} | {rate / 1e9:.0f} | {'yes' if equal else 'no'} |"
    )
