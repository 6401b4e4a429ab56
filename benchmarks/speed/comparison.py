"""Training steps before and after, one after the other in the same process: a table.

Each row is a separate process. The new step comes first, so that its peak memory is known; then
both alternate with matrix products in bf16. Times are processor times: other processes of the
machine change them little. The shortest of the rounds counts.
"""

import time
from collections.abc import Callable

import click
import torch

from benchmarks.speed.clock import counted, peak_mib
from benchmarks.speed.samplers import timed_sampler
from benchmarks.speed.training import Step
from lingshu_tools.system.interpreter import output_of

CASES = (
    # preset, genes, cells of a step, whether every gene has all 281 tokens
    ("lingshu-1m-s13", 299, 64, False),
    ("lingshu-1m-s13", 2_000, 64, False),
    ("lingshu-7m-s128", 18_080, 64, False),
    ("lingshu-1m-s13", 299, 64, True),
    ("lingshu-1m-s13", 2_000, 32, True),
    # Fewer cells: before, 64 of them took more than 9 GB.
    ("lingshu-7m-s128", 18_080, 16, True),
)
HEAD = (
    "network",
    "genes",
    "tokens of a gene",
    "GFLOP a cell",
    "cells/s before",
    "cells/s after",
    "ratio",
    "share of the matmul rate before",
    "share after",
    "peak MiB before",
    "peak MiB after",
)
SIZE, PRODUCTS = 2_048, 8


def run(threads: int, rounds: int, case: int | None) -> None:
    """Print the table, or with `case` only that row."""
    if case is not None:
        *shape, whole = CASES[case]
        click.echo(_row(threads, rounds, *shape, whole=whole))
        return
    click.echo(f"| {' | '.join(HEAD)} |\n{'| --- ' * len(HEAD)}|")
    arguments = ["compare", "--threads", str(threads), "--rounds", str(rounds)]
    for number in range(len(CASES)):
        command = ["-m", "benchmarks.speed", *arguments, "--case", str(number)]
        click.echo(output_of(command).splitlines()[-1])


def _row(threads: int, rounds: int, preset: str, genes: int, batch: int, *, whole: bool) -> str:
    checkpoint = timed_sampler(preset, genes=genes, steps=3, guidance=0.0, tile=4)
    step = Step(
        checkpoint, batch=batch, micro_batch=batch, threads=threads, device="cpu", whole=whole
    )
    # FLOP of the trunk and its projections, the same before and after.
    flops = counted(step)
    peaks = [peak_mib(step.device)]
    a = torch.randn(SIZE, SIZE).to(step.dtype)

    def products() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, a)

    def before() -> None:
        step.plain = True
        step()
        step.plain = False

    before()
    peaks.append(peak_mib(step.device))
    took = [
        min(each)
        for each in zip(
            *((cpu(before), cpu(step), cpu(products)) for _ in range(rounds)), strict=True
        )
    ]
    rate = PRODUCTS * 2 * SIZE**3 / took[2]
    shares = [flops / t / rate for t in took[:2]]
    cells = [batch * threads / t for t in took[:2]]
    return (
        f"| {preset} | {genes:,} | {'281' if whole else 'up to its largest'} "
        f"| {flops / batch / 1e9:.2f} | {cells[0]:.0f} | {cells[1]:.0f} "
        f"| {cells[1] / cells[0]:.2f} | {shares[0]:.2f} | {shares[1]:.2f} "
        f"| {peaks[1]:,.0f} | {peaks[0]:,.0f} |"
    )


def cpu(work: Callable[[], object]) -> float:
    """Return the processor seconds, of all threads, that `work` takes."""
    began = time.process_time()
    work()
    return time.process_time() - began
