"""`python -m benchmarks.vcc`: score a checkpoint with cell-eval 0.8.2 and cell-eval2 0.20.0."""

import csv
from pathlib import Path

import click
import numpy as np

from benchmarks.environments import python_of, run
from benchmarks.vcc.cells import write_files
from lingshu_model.contracts import Catalogue
from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.evaluate.data import DEFAULT, load_split
from lingshu_model.evaluate.report import sample
from lingshu_model.evaluate.rows import MODEL
from lingshu_model.evaluate.sources import read_peers
from lingshu_model.evaluate.study import build_study
from lingshu_model.evaluate.tables import number, table

HERE = Path(__file__).parent
FOLDER = click.Path(path_type=Path, file_okay=False)
OF_2025 = ("overlap_at_N", "discrimination_score_l1", "mae", "pearson_delta")


@click.group()
def main() -> None:
    """The Virtual Cell Challenges' own metrics, over the genes of a checkpoint's panel."""


@main.command()
@click.argument("checkpoint")
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT, show_default=True)
@click.option("--held-out", help="As for `lingshu evaluate`.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--n-cells", default=300, show_default=True)
@click.option("--evaluation", type=FOLDER, default=Path("evaluation"), help="Its sampled cells.")
@click.option("--peer", multiple=True, help="NAME=FOLDER of another model's cells; repeatable.")
@click.option("--out", type=FOLDER, required=True)
def write(
    checkpoint: str,
    data: Path,
    held_out: str | None,
    seeds: str,
    n_cells: int,
    evaluation: Path,
    peer: tuple[str, ...],
    out: Path,
) -> None:
    """Write real and predicted cells of CHECKPOINT into OUT; sampled ones are taken as they are."""
    loaded = Catalogue().load(checkpoint)
    chosen = loaded.config["sampler"]
    store = ArmStore(loaded, evaluation / "cells", n_cells, chosen["steps"], chosen["guidance"])
    study = build_study(load_split(loaded, data, held_out))
    folders = {name: Path(folder) for name, _, folder in (each.partition("=") for each in peer)}
    sizes = study.sizes(n_cells)
    peers = read_peers(folders, study.conditions, sizes, len(loaded.panel))
    model = sample(store, study, [int(seed) for seed in seeds.split(",")], lambda: None)
    try:
        for population in study.populations:
            for path in write_files(population, {MODEL: model, **peers}, out):
                click.echo(path)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--envs", type=FOLDER, default=Path("runs/envs"), show_default=True)
def score(folder: Path, envs: Path) -> None:
    """Score the files of FOLDER, in an environment made on first use, and print the means."""
    python = python_of("vcc", HERE / "requirements.txt", envs)
    run(python, HERE / "scorer.py", folder.absolute())
    with (folder / "scores.csv").open(newline="") as file:
        click.echo(summary([*csv.DictReader(file)]))


def summary(scores: list[dict[str, str]]) -> str:
    """Return the tools' aggregates, mean over seeds, as Markdown; of 2026 scaled ones too.

    A scaled score is (u - b) / (r - b): 0 = the real cells' mean response for every perturbation,
    1 = one half of the real cells for the other. Where b or r is undefined there is none.
    """
    means: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in scores:
        if not row["perturbation"]:
            key = (row["tool"], row["metric"])
            predictor = row["predictor"].partition("-seed")[0]
            value = float(row["value"] or "nan")
            means.setdefault(key, {}).setdefault(predictor, []).append(value)
    predictors = [*dict.fromkeys(name for each in means.values() for name in each)]
    ends = ("baseline", "replicate")
    predictors = [*(n for n in predictors if n not in ends), *ends]
    lines: list[list[str]] = []
    for (tool, metric), values in means.items():
        if tool == "cell-eval" and metric not in OF_2025:
            continue
        mean = {name: float(np.mean(each)) for name, each in values.items()}
        lines.append([tool, metric, *(_shown(mean, n) for n in predictors)])
        if all(np.isfinite(mean.get(end, np.nan)) for end in ends):
            span = mean["replicate"] - mean["baseline"]
            scaled = {n: (v - mean["baseline"]) / span for n, v in mean.items() if span}
            lines.append([tool, f"{metric}, scaled", *(_shown(scaled, n) for n in predictors)])
    return table(["tool", "metric", *predictors], lines)


def _shown(values: dict[str, float], name: str) -> str:
    return number(values[name]) if name in values else ""


if __name__ == "__main__":
    main()
