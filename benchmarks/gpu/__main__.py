"""`benchmarks/gpu/run`: train, sample and replay on one device, and write one table.

1. Two short trainings from the same seed: their weights must be equal to the bit.
2. A training of `--minutes` on drawn cells: cells per second, share of the rate of a matrix
   product, peak memory, and the loss at its beginning and end.
3. Cells of the trained network: cells per second.
4. Replay: the same tiles in a second process, in another order. Cells must be equal to the bit if
   the numerics profile is.
5. With `--compiled MODE` the cells of a compiled trunk, which is another profile.

Exits with 1 where a check fails. `--device cpu --tiny` takes seconds.
"""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch

from benchmarks.gpu.replay import Tiles, sampled_here, sampled_in_a_child
from benchmarks.gpu.training import reproducible, trained
from lingshu_model.network.config import PRESETS

HEAD = ("step", "quantity", "value", "unit")


@dataclass(frozen=True)
class Size:
    """How large the run is.

    Attributes:
        network: a preset.
        genes: of the drawn cells.
        batch: cells of an optimiser step.
        micro_batch: cells that are computed at a time.
        tile: cells of a tile of the sampler.
        tiles: tiles that are sampled.
    """

    network: str
    genes: int
    batch: int
    micro_batch: int
    tile: int
    tiles: int


PAPER = Size("lingshu-85m-s32", 18_080, batch=256, micro_batch=64, tile=64, tiles=16)
TINY = Size("lingshu-paper-tiny", 60, batch=8, micro_batch=4, tile=4, tiles=2)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    step: str
    quantity: str
    value: object
    unit: str = ""


@click.command(context_settings={"show_default": True}, help=__doc__)
@click.option("--device", default="cuda")
@click.option("--minutes", type=click.FloatRange(0), default=10.0, help="Of training.")
@click.option("--network", type=click.Choice(list(PRESETS)), help="Instead of the paper's.")
@click.option("--batch", type=click.IntRange(1))
@click.option("--micro-batch", type=click.IntRange(1))
@click.option("--tiles", type=click.IntRange(1), help="Sampled tiles.")
@click.option("--compiled", help="A mode of torch.compile to sample with as well.")
@click.option("--tiny", is_flag=True, help="A network of 0.2 million weights, for a test.")
@click.option("--out", type=click.Path(path_type=Path), help="A CSV file for the table.")
def main(
    device: str, minutes: float, compiled: str | None, out: Path | None, *, tiny: bool, **size: Any
) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        message = "no GPU that torch can use is here: --device cpu --tiny runs the same code"
        raise click.ClickException(message)
    given = {name: value for name, value in size.items() if value is not None}
    chosen = Size(**{**asdict(TINY if tiny else PAPER), **given})
    failed: list[str] = []
    lines: list[Line] = []
    for line in _lines(chosen, device, minutes, compiled):
        lines.append(line)
        click.echo(f"{line.step:9} {line.quantity:42} {line.value} {line.unit}", err=True)
        if line.value is False:
            failed.append(line.quantity)
    click.echo(_table(lines))
    if out is not None:
        _write(out, lines)
    if failed:
        click.echo(f"failed: {'; '.join(failed)}", err=True)
        sys.exit(1)


def _lines(size: Size, device: str, minutes: float, compiled: str | None) -> Iterator[Line]:
    """Yield the lines of the table as they are measured."""
    yield from (Line("machine", *each) for each in _machine(device))
    yield from (Line("size", name, value) for name, value in asdict(size).items())
    same = reproducible(size.network, size.genes, size.batch, size.micro_batch, device)
    yield Line("training", "two trainings are equal to the bit", same)
    run = trained(size.network, size.genes, size.batch, size.micro_batch, device, 60 * minutes)
    yield from (Line("training", *each) for each in run.lines())
    yield Line("training", "loss falls", run.last < run.first)
    with TemporaryDirectory() as folder:
        weights = run.save(Path(folder))
        for mode in (None, compiled) if compiled else (None,):
            tiles = Tiles(
                size.network, size.genes, size.tile, size.tiles, device, mode, str(weights)
            )
            yield from _sampling(tiles)


def _sampling(tiles: Tiles) -> Iterator[Line]:
    name = f"compiled, {tiles.compiled}" if tiles.compiled else "sampling"
    here = sampled_here(tiles)
    yield Line(name, "cells per second", f"{here.cells_per_s:.4g}", "1/s")
    yield Line(name, "mean UMI of a cell", f"{here.mean_umi:.4g}", "UMI")
    yield Line(name, "numerics profile", here.profile_digest[:19])
    again = sampled_in_a_child(tiles)
    same = again.profile_digest == here.profile_digest
    yield Line("replay", f"{name}: the profile of a second process is the same", same)
    yield Line("replay", f"{name}: its cells are equal to the bit", again.cells == here.cells)


def _machine(device: str) -> Iterator[tuple[str, object]]:
    where = torch.device(device)
    yield "torch", torch.__version__
    yield "device", torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    yield "CUDA", torch.version.cuda or "none"


def _table(lines: list[Line]) -> str:
    rows = [HEAD, ("---",) * len(HEAD), *(tuple(map(str, asdict(x).values())) for x in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _write(out: Path, lines: list[Line]) -> None:
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        writer.writerows(asdict(line).values() for line in lines)


@click.command(hidden=True)
@click.argument("tiles")
def child(tiles: str) -> None:
    """Print the digests of tiles, sampled in this process in reverse order."""
    result = sampled_here(Tiles(**json.loads(tiles)), backwards=True)
    click.echo(json.dumps(asdict(result)))


if __name__ == "__main__":
    child(sys.argv[2:]) if sys.argv[1:2] == ["child"] else main()
