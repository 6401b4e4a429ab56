"""Run in the environment of `requirements.txt`: score h5ad files with cell-eval and cell-eval2.

    python scorer.py FOLDER

FOLDER holds `real.h5ad` and a file per predictor. Writes `FOLDER/scores.csv`: tool, predictor file,
metric, perturbation (empty: the tool's own aggregate) and value. The end points of the scaled
scores of 2026 are the predictors `baseline` (the mean response of the real cells) and `replicate`
(one half of the real cells for the other). A file whose scores are there is not scored again.
"""

import csv
import dataclasses
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import cell_eval
import cell_eval2
from cell_eval2.anchor import compute_replicate_anchor
from cell_eval2.competition import competition_members

COLUMN, CONTROL = "target", "non-targeting"
SLOW = ["pearson_edistance", "clustering_agreement"]
HEADER = ["tool", "version", "predictor", "metric", "perturbation", "value"]
Score = tuple[str, str, str, float | None]
"""Predictor, metric, perturbation and value."""


def main(folder: Path) -> None:
    """Score what is not scored yet."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    out = folder / "scores.csv"
    known: set[tuple[str, str]] = set()
    if out.is_file():
        with out.open(newline="") as file:
            known = {(row["tool"], row["predictor"]) for row in csv.DictReader(file)}
    else:
        out.write_text(",".join(HEADER) + "\n", "utf-8")
    real = anndata.read_h5ad(folder / "real.h5ad")
    for path in sorted(folder.glob("*.h5ad")):
        for tool, score in (("cell-eval", challenge_2025), ("cell-eval2", challenge_2026)):
            if path.stem != "real" and (tool, path.stem) not in known:
                predicted = anndata.read_h5ad(path)
                append(out, tool, score(path.stem, predicted, real.copy()))
    if ("cell-eval2", "baseline") not in known:
        append(out, "cell-eval2", end_points(real))


def append(out: Path, tool: str, scores: Iterator[Score]) -> None:
    """Add the scores of one file, whole."""
    rows = [[tool, version(tool), *score] for score in scores]
    with out.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def challenge_2025(name: str, predicted: anndata.AnnData, real: anndata.AnnData) -> Iterator[Score]:
    """Yield cell-eval's metrics by perturbation and their means."""
    with tempfile.TemporaryDirectory() as folder:
        evaluator = cell_eval.MetricsEvaluator(
            predicted, real, control_pert=CONTROL, pert_col=COLUMN, outdir=folder
        )
        table, means = evaluator.compute(skip_metrics=SLOW, write_csv=False, break_on_error=True)
    for row in table.iter_rows(named=True):
        for metric in row.keys() - {"perturbation"}:
            yield name, metric, row["perturbation"], row[metric]
    for metric, value in row_of(means).items():
        yield name, metric, "", value


def challenge_2026(name: str, predicted: anndata.AnnData, real: anndata.AnnData) -> Iterator[Score]:
    """Yield cell-eval2's metrics by perturbation and its aggregates."""
    table = cell_eval2.compute_metrics(predicted, real, config=preset(real))
    for perturbation, metric, value in table.iter_rows():
        yield name, metric, perturbation, value
    aggregated = cell_eval2.aggregate_metrics(table, metrics=[*competition_members()])
    for metric, value in aggregated.select("metric", "mean").iter_rows():
        yield name, metric, "", value


def end_points(real: anndata.AnnData) -> Iterator[Score]:
    """Yield what is 0 and what is 1 on the scale of 2026, by metric.

    The tool refuses to split cells that carry no measurable effect; then there is no 1.
    """
    config = preset(real)
    built = cell_eval2.build_generic_baseline(real, config=config, allow_degenerate=True)
    baseline, replicate = row_of(built.agg), dict[str, float]()
    try:
        _, anchor = compute_replicate_anchor(real, config=config)
        replicate = dict(anchor.select("metric", "replicate").iter_rows())
    except ValueError as error:
        sys.stderr.write(f"no replicate, so no scaled scores: {error}\n")
    for metric in competition_members():
        yield "baseline", metric, "", baseline.get(metric)
        yield "replicate", metric, "", replicate.get(metric)


def row_of(statistics: Any) -> dict[str, float]:
    """Return the row of means of a table of statistics."""
    return statistics.filter(statistics["statistic"] == "mean").drop("statistic").row(0, named=True)


def preset(real: anndata.AnnData) -> Any:
    """Return the configuration of the 2026 challenge, on a CPU.

    A target that is not a measured gene is named as such: its own gene cannot be left out.
    """
    config = cell_eval2.EvalConfig.from_preset("vcc2026")
    tests = dataclasses.replace(config.de, backend="pdex")
    genes = {*real.var_names}
    targets = {n: n if n in genes else None for n in real.obs[COLUMN].unique() if n != CONTROL}
    known = {"pert_col": COLUMN, "device": "cpu", "de": tests, "target_gene_map": targets}
    return dataclasses.replace(config, **known)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
