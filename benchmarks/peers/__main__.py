"""`python -m benchmarks.peers`: write a split, run the peers on it, put them into the tables."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.peers import driver, split

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
ENVS = Path("runs/envs")
PRESET = Path("model/presets/thp1-crispr.json")


def where_it_runs(command: Any) -> Any:
    """Add the options that say where a run takes place."""
    for option in (
        click.option("--split", "split_folder", type=FOLDER, required=True, help="A split folder."),
        click.option("--out", type=FOLDER, required=True, help="Gets PEER/seed-N/CONDITION files."),
        click.option("--envs", type=FOLDER, default=ENVS, show_default=True, help="Environments."),
        click.option("--seeds", default="0,1,2", show_default=True),
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Other models, trained and sampled on our splits."""


@main.command("split-thp1")
@click.option("--data", type=FOLDER, default=Path("../shared/data"), show_default=True)
@click.option("--spec", type=FILE, default=PRESET, show_default=True)
@click.option("--out", type=FOLDER, required=True)
@click.option("--n-cells", type=click.IntRange(split.LEAST), default=600, show_default=True)
def split_thp1(data: Path, spec: Path, out: Path, n_cells: int) -> None:
    """Write the THP-1 split: replicates 1 and 2 to train on, replicate 3 held out."""
    split.split_thp1(spec, data, out, n_cells)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("peer", type=click.Choice(list(driver.PEERS)))
@where_it_runs
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def run(peer: str, options: tuple[str, ...], **where: Any) -> None:
    """Train PEER on a split and leave its cells; OPTIONS go to its script (`--epochs 50`)."""
    places, seeds = _places(where)
    _run(peer, places, seeds, options)


@main.command("all")
@click.argument("recipe", type=click.Choice(list(driver.RECIPES)))
@where_it_runs
def run_all(recipe: str, **where: Any) -> None:
    """Run every peer of the published tables on a split, with the settings of those tables."""
    places, seeds = _places(where)
    for peer, options in driver.RECIPES[recipe].items():
        _run(peer, places, seeds, options)


@main.command()
@click.argument("out", type=FOLDER)
def costs(out: Path) -> None:
    """Print what each run in OUT took, as Markdown."""
    click.echo(driver.cost_table(out))


def _places(where: dict[str, Any]) -> tuple[driver.Places, list[int]]:
    folders = (where[name].absolute() for name in ("split_folder", "out", "envs"))
    return driver.Places(*folders), [int(word) for word in where["seeds"].split(",")]


def _run(peer: str, places: driver.Places, seeds: list[int], options: Sequence[str]) -> None:
    try:
        folders = driver.run_peer(peer, places, seeds, options)
    except subprocess.CalledProcessError as error:
        message = f"{peer} ended with status {error.returncode}: see {places.out / peer}/log-*.txt"
        raise click.ClickException(message) from error
    except (ValueError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    for folder in folders:
        click.echo(folder)


if __name__ == "__main__":
    main()
