"""`python -m benchmarks.draw`: the figures of `RESULTS.md`, from the CSV files in `results/`."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

HERE = Path(__file__).parent / "results"
MODEL, SIMPLE, PEER, REFERENCE = "#1b6ca8", "#8c8c8c", "#c46a1f", "#3a7d44"
PEERS = {"scvi", "scvi-prior", "scgen", "state", "state-last", "perturb-mean", "context-mean"}
NAMES = {
    "replicate_reference": "mean of training cells",
    "resampled_training_cells": "resampled training cells",
    "real_split_half": "half of the held-out cells",
    "split_half_reference": "half of the held-out cells",
}
Row = dict[str, str]


def main() -> None:
    """Draw all figures."""
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    for name, draw in FIGURES.items():
        figure = draw()
        figure.savefig(HERE / f"{name}.png", dpi=110, metadata={"Software": None})
        plt.close(figure)


def rows(name: str, **chosen: str) -> list[Row]:
    """Return the rows of a CSV file whose columns have these values."""
    with (HERE / f"{name}.csv").open(newline="") as file:
        every = [*csv.DictReader(file)]
    return [row for row in every if all(row[k] == v for k, v in chosen.items())]


def colour(name: str) -> str:
    """Return the colour of a predictor: the model, a peer, a simple one or real cells."""
    if name == "model":
        return MODEL
    if name in PEERS:
        return PEER
    return REFERENCE if name in ("real_split_half", "split_half_reference") else SIMPLE


def value(row: Row, column: str) -> tuple[float, float, float]:
    """Return a value with the distances to both ends of its interval, 0 where it has none."""
    middle = float(row[column])
    low, high = (float(row[f"{column} {end}"] or middle) for end in ("low", "high"))
    return middle, max(middle - low, 0.0), max(high - middle, 0.0)


def dots(axes: Any, given: Sequence[Row], label: str, column: str) -> None:
    """Draw one line per row, sorted by value, with its interval."""
    ordered = sorted(given, key=lambda row: float(row[column]))
    for i, row in enumerate(ordered):
        x, left, right = value(row, column)
        axes.errorbar(x, i, xerr=[[left], [right]], fmt="o", ms=4, color=colour(row[label]))
    names = [NAMES.get(row[label], row[label].replace("_", " ")) for row in ordered]
    axes.set_yticks(range(len(ordered)), names)
    axes.grid(axis="x", alpha=0.3)


def thp1() -> Any:
    """Return Pearson of the change of THP-1 knock-outs, by set and predictor."""
    sets = ("four strongest (4)", "twelve strongest (12)", "all (25)")
    figure, panels = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    for axes, name in zip(panels, sets, strict=True):
        given = rows("thp1-crispr-changes", set=name)
        dots(axes, given, "predictor", "Pearson")
        axes.axvline(float(given[0]["noise ceiling"]), color="black", ls=":", lw=1)
        axes.set_title(name)
        axes.set_xlabel("Pearson of the change")
        axes.set_xlim(-0.1, 1)
    figure.suptitle("THP-1 knock-outs on replicate 3 (dotted: noise ceiling)", fontsize=9)
    return figure


def knockouts() -> Any:
    """Return Pearson of each THP-1 knock-out, beside the training mean and the noise ceiling."""
    given = rows("thp1-crispr-perturbations")[::-1]
    figure, axes = plt.subplots(figsize=(6, 4.6), layout="constrained")
    for i, row in enumerate(given):
        x, left, right = value(row, "Pearson")
        axes.errorbar(x, i, xerr=[[left], [right]], fmt="o", ms=4, color=MODEL)
        axes.plot(float(row["replicate reference"]), i, "x", ms=5, color=SIMPLE)
        axes.plot(float(row["noise ceiling"]), i, "|", ms=8, color="black")
    axes.axvline(0, color="black", lw=0.6)
    names = [f"{row['perturbation']} ({row['held-out cells']})" for row in given]
    axes.set_yticks(range(len(given)), names)
    axes.set_xlabel("Pearson of the change, replicate 3 (held-out cells in brackets)")
    axes.set_title("Model (dot, 95 %), mean of training cells (x), noise ceiling (bar)", fontsize=9)
    return figure


def cd4t() -> Any:
    """Return the response of CD4 T cells to IFN-beta: changes and cells, by predictor."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    given = rows("pbmc-changes", tier="seen_elsewhere")
    dots(left, given, "predictor", "Pearson")
    left.axvline(float(given[0]["noise ceiling"]), color="black", ls=":", lw=1)
    left.set_xlabel("Pearson of the change (dotted: noise ceiling)")
    dots(right, rows("pbmc-cd4t-cells"), "source", "energy_distance")
    right.set_xlabel("E-distance to held-out cells")
    right.set_xscale("log")
    right.set_xticks([0.2, 0.5, 1, 2, 5, 10, 20], ["0.2", "0.5", "1", "2", "5", "10", "20"])
    right.minorticks_off()
    figure.suptitle("IFN-beta in CD4 T cells, never trained on (adapted to: nine evaluations)")
    return figure


def distributions() -> Any:
    """Return E-distances of generated cells to held-out ones, over those of a real half."""
    figure, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
    given = [
        *rows("thp1-crispr-distributions", metric="energy_distance"),
        *rows("pbmc-distributions", metric="energy_distance"),
    ]
    sources = ("model", "resampled_training_cells", "scvi", "scvi-prior")
    for i, row in enumerate(given):
        half = float(row["real_split_half"])
        for j, source in enumerate(sources):
            if row[source]:
                style = {"marker": "osD^"[j], "color": colour(source), "ls": "none", "ms": 5}
                axes.plot(float(row[source]) / half, i, label=NAMES.get(source, source), **style)
    axes.axvline(1, color=REFERENCE, lw=1)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    pools = {"perturbations": "THP-1, perturbations", "control": "THP-1, control"}
    axes.set_yticks(range(len(given)), [pools.get(row["pool"], row["pool"]) for row in given])
    axes.set_xlabel("E-distance to held-out cells, relative to that of their other half")
    labels = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    axes.legend(labels.values(), labels.keys(), frameon=False, loc="upper right")
    return figure


def operations() -> Any:
    """Return the quality of THP-1 control cells against the operations of a cell."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    titles = ("share of the training cells' correlations", "E-distance to validation cells")
    names = ("shared_correlation", "energy_distance")
    for axes, metric, title in zip(panels, names, titles, strict=True):
        given = rows("operations-thp1", metric=metric)
        for i, network in enumerate(dict.fromkeys(row["network"] for row in given)):
            each = [row for row in given if row["network"] == network]
            real = not each[0]["steps"]
            if real:
                axes.axhline(float(each[0]["value"]), color=REFERENCE, ls=":", lw=1, label=network)
                continue
            middle, low, high = zip(*(interval(row) for row in each), strict=True)
            at = [float(row["gflop_a_cell"]) for row in each]
            style = {"marker": "osD^v"[i - 1], "ms": 4, "lw": 1, "label": network}
            axes.errorbar(at, middle, yerr=[low, high], **style)
        axes.set_xscale("log")
        axes.set_xlabel("GFLOP a cell (1, 2, 4, 8, 16 steps)")
        axes.set_title(title)
    panels[0].legend(frameon=False)
    return figure


def interval(row: Row) -> tuple[float, float, float]:
    """Return a value with the distances to both ends of its interval."""
    middle, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return middle, middle - low, high - middle


FIGURES = {
    "operations-thp1": operations,
    "thp1-changes": thp1,
    "thp1-knockouts": knockouts,
    "cd4t-response": cd4t,
    "distributions": distributions,
}

if __name__ == "__main__":
    main()
