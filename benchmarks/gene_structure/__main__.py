"""`python -m benchmarks.gene_structure`: gene-gene structure of cells, by cell-eval2 0.20.0.

    python -m benchmarks.gene_structure --data DATA --out runs/gene_structure --envs runs/envs
    python -m benchmarks.gene_structure RUNS/NAME/checkpoint/NAME --data DATA/suite

Compares the parts of checkpoints with held-out cells. Sampled cells and scores are kept in OUT, by
the checkpoint's digest: the same command goes on, and rows of other checkpoints stay.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from benchmarks.environments import python_of, run
from benchmarks.gene_structure import tables
from benchmarks.gene_structure.cells import FEWEST, MOST, compared, stores_of, write_group
from benchmarks.vcc.cells import REAL
from lingshu_model.contracts import Catalogue, Checkpoint, CheckpointError
from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.evaluate.data import DEFAULT, load_split
from lingshu_model.evaluate.study import Study, build_study
from lingshu_model.sampling.parts import NAMES
from lingshu_model.train.spec import TrainingSpec

HERE = Path(__file__).parent
REQUIREMENTS = HERE.parent / "vcc" / "requirements.txt"
SHIPPED = ("thp1-crispr", "pbmc")
FOLDER = click.Path(path_type=Path, file_okay=False)
CONDITIONS, SCORES, TABLE = "conditions.csv", "scores.csv", "gene-structure.csv"


@click.command(context_settings={"show_default": True})
@click.argument("checkpoints", nargs=-1)
@click.option(
    "--data",
    "folders",
    type=FOLDER,
    multiple=True,
    default=[DEFAULT],
    help="A folder below which the files of a checkpoint's specification are; repeatable.",
)
@click.option("--out", type=FOLDER, default=Path("runs/gene_structure"))
@click.option("--envs", type=FOLDER, default=Path("runs/envs"))
@click.option("--workers", default=os.cpu_count() or 1, help="Tiles sampled at a time.")
def main(
    checkpoints: Sequence[str], folders: Sequence[Path], out: Path, envs: Path, workers: int
) -> None:
    """Score CHECKPOINTS, names or folders; default: the shipped ones with measured cells."""
    python = python_of("vcc", REQUIREMENTS, envs)
    for name in checkpoints or SHIPPED:
        try:
            checkpoint = loaded(name)
            folder = out / f"{checkpoint.name}-{checkpoint.digest[7:19]}"
            write(checkpoint, data_of(checkpoint, folders), folder, workers)
        except (ValueError, FileNotFoundError, CheckpointError) as error:
            raise click.ClickException(str(error)) from error
        # One process for all: to import the package takes longer than to score a small group.
        if groups := unscored(folder):
            run(python, HERE / "scorer.py", *groups)
        conditions = read(folder)
        merge(out / TABLE, checkpoint.name, tables.rows(conditions))
        text = f"{tables.means(conditions)}\n\n{tables.differences(conditions)}\n"
        (folder / "tables.md").write_text(text, "utf-8")
        click.echo(text)


def loaded(name: str) -> Checkpoint:
    """Return a checkpoint of the catalogue, or of a folder."""
    folder = Path(name).resolve()
    known = Catalogue([folder.parent]) if folder.is_dir() else Catalogue()
    return known.load(folder.name if folder.is_dir() else name)


def data_of(checkpoint: Checkpoint, folders: Sequence[Path]) -> Path:
    """Return the first folder that holds all files of a checkpoint's training specification.

    Raises:
        FileNotFoundError: none does.
    """
    files = [s.file for s in TrainingSpec.model_validate(checkpoint.config["training"]).sources]
    for folder in folders:
        if all((folder / file).is_file() for file in files):
            return folder
    message = (
        f"{checkpoint.name}: none of {', '.join(map(str, folders))} holds {', '.join(files)}; "
        "name the folder with --data"
    )
    raise FileNotFoundError(message)


def write(checkpoint: Checkpoint, data: Path, folder: Path, workers: int) -> None:
    """Write the cells of every condition below `folder`, a folder per control condition."""
    if (folder / CONDITIONS).is_file():
        return
    chosen = checkpoint.config["sampler"]
    store = ArmStore(
        checkpoint, folder / "cells", MOST, chosen["steps"], chosen["guidance"], workers
    )
    study = build_study(load_split(checkpoint, data, None))
    rows = [*_written(store, study, folder)]
    if not rows:
        message = f"{checkpoint.name}: no condition has {FEWEST} held-out cells"
        raise ValueError(message)
    # Last: where it is, all cells are.
    _write_csv(folder / CONDITIONS, rows)


def _written(store: ArmStore, study: Study, folder: Path) -> Iterator[dict[str, str]]:
    stores = stores_of(store, study)
    for p, population in enumerate(study.populations):
        for c, control in enumerate(sorted(population.test)):
            if study.conditions[control].interventions or not population.n_train(control):
                continue
            conditions = [*compared(stores, study, population, control)]
            if conditions:
                click.echo(f"{store.checkpoint.name}: {', '.join(e.name for e in conditions)}")
                held = population.test[control]
                write_group(conditions, held, population.genes, folder / f"{p}-{c}")
            for each in conditions:
                yield {
                    "set": store.checkpoint.name,
                    "name": each.name,
                    "tier": each.tier,
                    "held_out": str(each.held_out.shape[0]),
                    "cells": str(each.n_cells),
                    "delivered": NAMES[str(store.checkpoint.delivery)],
                }


def unscored(folder: Path) -> list[Path]:
    """Return the folders of a checkpoint's groups of which an arm has no scores."""
    groups: list[Path] = []
    for real in sorted(folder.absolute().glob(f"*/{REAL}.h5ad")):
        file = real.parent / SCORES
        scored = {row["arm"] for row in _read_csv(file)} if file.is_file() else set[str]()
        arms = {path.stem for path in real.parent.glob("*.h5ad")} - {REAL}
        if not file.is_file() or arms - scored:
            groups.append(real.parent)
    return groups


def read(folder: Path) -> list[tables.Condition]:
    """Return the scored conditions of a checkpoint's folder."""
    scores = [row for file in sorted(folder.glob(f"*/{SCORES}")) for row in _read_csv(file)]
    return tables.read(_read_csv(folder / CONDITIONS), scores)


def merge(file: Path, name: str, rows: list[dict[str, str]]) -> None:
    """Write the rows of a checkpoint into a table, in the place of its earlier ones."""
    before = _read_csv(file) if file.is_file() else []
    _write_csv(file, [*(row for row in before if row["set"] != name), *rows])


def _read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return [*csv.DictReader(lines)]


def _write_csv(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, [*rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
