"""What further data sets are worth to a checkpoint: the bound on the same validation cells.

    python -m benchmarks.sources model/presets/pbmc.json benchmarks/sources.json --out DIR

The preset is trained as it is and with the sources of the second file beside its own, both for
`--epochs` epochs, so that every cell of its own is seen as often. Held out of both are the very
cells that the preset holds out; all cells of the further sources are trained on. Judged are the
preset's validation cells, in bits per measured gene, with the same genes hidden: the difference
cell by cell, its mean by data set, and a 95 % interval over cells. It says nothing of another
training run: with `--seed` the order and noise of training are others, the held-out cells the same.
Run again, it goes on. Knows nothing of networks.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from lingshu_model import numerics
from lingshu_model.sampler import Sampler
from lingshu_model.scoring import score_cells
from lingshu_model.train import data
from lingshu_model.train.birth import Birth
from lingshu_model.train.cells import TrainingCells, add_shams
from lingshu_model.train.run import run
from lingshu_model.train.spec import Source, TrainingSpec
from lingshu_model.wire import Catalogue


class Told(NamedTuple):
    """What one run is trained on and stopped by."""

    spec: TrainingSpec
    training: TrainingCells
    validation: TrainingCells


@click.command(context_settings={"show_default": True})
@click.argument("preset", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("further", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", "folder", type=click.Path(path_type=Path), default=Path("../shared/data"))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Both runs.")
@click.option("--epochs", type=int, default=3)
@click.option("--seed", type=int, default=None, help="Of training alone; default: the preset's.")
@click.option("--threads", type=int, default=None)
def main(
    preset: Path,
    further: Path,
    folder: Path,
    out: Path,
    epochs: int,
    seed: int | None,
    threads: int | None,
) -> None:
    """Print what FURTHER's sources change in the bound of PRESET's validation cells."""
    numerics.prepare(threads)
    spec = TrainingSpec.read(preset).model_copy(update={"epochs": epochs, "calibration": []})
    more = [Source.model_validate(source) for source in json.loads(further.read_text("utf-8"))]
    own, both = _told(spec, more, folder, spec.seed if seed is None else seed)
    hgnc = folder / spec.aliases if spec.aliases else None
    before = _bits(_trained(own, out / "own", hgnc), own.validation)
    after = _bits(_trained(both, out / "both", hgnc), own.validation)
    click.echo(
        "| validation cells of | cells | bits per gene | with further sources | difference |"
    )
    click.echo("|---|---|---|---|---|")
    for name, rows in _by_source(spec, own.validation):
        mean, error = _mean(after[rows] - before[rows])
        left, right = before[rows].mean(), after[rows].mean()
        interval = f"{mean:+.5f} [{mean - 1.96 * error:+.5f}, {mean + 1.96 * error:+.5f}]"
        click.echo(f"| {name} | {len(rows)} | {left:.5f} | {right:.5f} | {interval} |")


def _told(spec: TrainingSpec, more: list[Source], folder: Path, seed: int) -> tuple[Told, Told]:
    """Return the preset's run and that with further sources; the cells held out are the same."""
    cells = data.read_cells(spec, folder)
    parts = data.split(cells, spec)
    wide = spec.model_copy(update={"sources": [*spec.sources, *more]})
    every = data.read_cells(wide, folder)
    # Sources are read in order, so the preset's own cells have the same row numbers among all.
    held = np.concatenate([parts.validation, parts.test, parts.unseen])
    rows = np.setdiff1d(np.arange(len(every)), held)
    return (
        _one(spec, cells, parts.train, parts.validation, seed),
        _one(wide, every, rows, parts.validation, seed),
    )


def _one(
    spec: TrainingSpec,
    cells: TrainingCells,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    seed: int,
) -> Told:
    training = add_shams(cells.take(train), spec.shams, spec.seed)
    held_out = replace(cells.take(validation), conditions=training.conditions)
    return Told(spec.model_copy(update={"seed": seed}), training, held_out)


def _trained(told: Told, folder: Path, hgnc: Path | None) -> Sampler:
    folder.mkdir(parents=True, exist_ok=True)
    fast = numerics.has_fast_bf16(torch.device("cpu"))
    accelerator = Accelerator(mixed_precision="bf16" if fast else "no", cpu=True)
    run(Birth(told.spec, told.training), told.validation, folder, accelerator, hgnc)
    return Sampler.load(Catalogue([folder / "checkpoint"]).load(told.spec.name))


def _bits(sampler: Sampler, cells: TrainingCells) -> NDArray[np.float64]:
    """Return bits per measured gene, [cells]."""
    out = np.empty(len(cells))
    for index, condition in enumerate(cells.conditions):
        if len(rows := cells.rows(index)):
            measured, done = cells.measured_by(index), condition.interventions
            counts = cells.counts(rows)
            out[rows] = score_cells(sampler, counts, measured, dict(condition.context), done).bits
    return out


def _by_source(spec: TrainingSpec, cells: TrainingCells) -> Iterator[tuple[str, NDArray[np.int64]]]:
    for number, source in enumerate(spec.sources):
        yield Path(source.file).stem, np.flatnonzero(cells.source == number)
    yield "all", np.arange(len(cells))


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
