"""A checkpoint of the paper's recipe at several guidances, beside simple predictors: one table.

    python -m benchmarks.paper_recipe RUNS/thp1-paper/checkpoint/thp1-paper --out runs/paper

The first of `--guidance` is the row `model`, which the others and simple predictors are compared
with. `--quick` repeats random steps a tenth as often.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from lingshu_model.contracts import Catalogue
from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.evaluate.data import DEFAULT, load_split
from lingshu_model.evaluate.evidence import evidence
from lingshu_model.evaluate.metrics.resampling import Draws
from lingshu_model.evaluate.report import evaluate, sample
from lingshu_model.evaluate.rows import MODEL, write_rows
from lingshu_model.evaluate.sources import Source
from lingshu_model.evaluate.study import build_study
from lingshu_model.evaluate.tables import as_csv, markdown

QUICK = Draws(bootstrap=100, monte_carlo=20, halves=10, splits=3, most_cells=300)


@click.command(context_settings={"show_default": True}, help=__doc__)
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT)
@click.option("--held-out", help="As for `lingshu evaluate`.")
@click.option("--guidance", default="2,0,1,3", help="W,W,…; the first is the model.")
@click.option("--seeds", default="0")
@click.option("--n-cells", type=click.IntRange(2), default=300)
@click.option("--quick", is_flag=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("evaluation"))
def main(
    checkpoint: Path,
    data: Path,
    held_out: str | None,
    guidance: str,
    seeds: str,
    n_cells: int,
    out: Path,
    *,
    quick: bool,
) -> None:
    loaded = Catalogue([checkpoint.resolve().parent]).load(checkpoint.resolve().name)
    study = build_study(load_split(loaded, data, held_out))
    sources: dict[str, Source] = {}
    for w in map(float, guidance.split(",")):
        store = ArmStore(loaded, out / "cells", n_cells, loaded.config["sampler"]["steps"], w)
        drawn = sample(store, study, [int(seed) for seed in seeds.split(",")], lambda: None)
        sources[f"w = {w:g}" if sources else MODEL] = drawn
        click.echo(f"w = {w:g} is sampled", err=True)
    report = evaluate(study, sources, QUICK if quick else None)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "rows.npz", report.rows, report.held_out, report.sets)
    head: Mapping[str, object] = {"settings": {"guidance": guidance, "n_cells": n_cells}}
    written = evidence(report, None, head)
    (out / "figures.csv").write_text(as_csv(written), "utf-8")
    (out / "tables.md").write_text(markdown(written), "utf-8")
    click.echo(markdown(written))


if __name__ == "__main__":
    main()
