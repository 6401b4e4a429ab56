"""Whether mixed populations have the composition, the subtypes and the markers of held-out cells.

    python -m benchmarks.mixed_populations --data DATA --out runs/mixed

Trains a checkpoint on four fifths of each atlas by `lingshu train`, samples as many cells of every
population as are held out, and writes `populations.csv`, `types.csv` and `donors.csv` below OUT.
Trained checkpoints, sampled cells and rows of sets that are not named are kept there:
the same command goes on where it was stopped.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np

from benchmarks.mixed_populations.donors import donors
from benchmarks.mixed_populations.judging import (
    FEWEST,
    MARKERS,
    Judge,
    beside_halves,
    markers,
    type_means,
)
from benchmarks.mixed_populations.populations import Cells, Population, all_populations
from benchmarks.mixed_populations.sets import ATLASES

SETS = ("pbmc", *ATLASES)
SEED = 42
Row = dict[str, Any]


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default="../shared/data")
@click.option("--out", type=click.Path(path_type=Path), default="runs/mixed")
@click.option("--set", "names", type=click.Choice(SETS), multiple=True, default=SETS)
@click.option("--seeds", default=2, help="Samples of each population.")
@click.option("--minutes", default=8.0, help="Of each training, about.")
def main(data: Path, out: Path, names: Sequence[str], seeds: int, minutes: float) -> None:
    """Train, sample and judge, and write the tables."""
    _write(out / "donors.csv", donors(data))
    populations, types = (_before(out / f"{name}.csv") for name in ("populations", "types"))
    for name, population in all_populations(names, data, out, minutes):
        row, of_types = judged(population, range(seeds), out / name / "cells")
        for rows, new in ((populations, [row]), (types, of_types)):
            rows[:] = [old for old in rows if old["population"] != population.name] + new
        click.echo("  ".join(str(value) for value in row.values()))
        _write(out / "populations.csv", populations)
        _write(out / "types.csv", types)


def judged(population: Population, seeds: Sequence[int], folder: Path) -> tuple[Row, list[Row]]:
    """Return the figures of a population, means over seeds, and those of each of its types."""
    train, held_out = population.train, population.held_out
    judge = Judge.fit(train.counts, train.types)
    real = judge.types_of(held_out.counts)
    known = np.unique(train.types).tolist()
    # Types with enough held-out cells; another set of types would have other markers.
    shown = [t for t in known if (held_out.types == t).sum() >= FEWEST]
    expected = markers(type_means(train.counts, train.types, known))
    samples = [population.sampled(seed, folder) for seed in seeds]
    distances: list[dict[str, float]] = []
    of_types: list[dict[str, dict[str, float]]] = []
    for seed, cells in zip(seeds, samples, strict=True):
        taken = judge.types_of(cells.counts)
        rng = np.random.Generator(np.random.Philox(key=[seed, SEED]))
        others = {"sampled": cells.types, "resampled": train.types}
        labels = beside_halves(held_out.types, others, rng)
        judged_labels = beside_halves(real, {"sampled": taken}, rng)
        distances.append({
            **labels,
            **{f"judged {name}": value for name, value in judged_labels.items()},
            "recognised": float((taken == cells.types).mean()),
        })  # fmt: skip
        of_types.append({
            kind: {
                "recognised": float((taken[cells.types == kind] == kind).mean()),
                "markers": _recovered(cells, kind, known, expected),
            }
            for kind in shown
            if (cells.types == kind).sum() >= FEWEST
        })  # fmt: skip
    mean = {key: round(fmean(d[key] for d in distances), 3) for key in distances[0]}
    rows = [
        {
            "population": population.name,
            "type": kind,
            "held-out cells": int((held_out.types == kind).sum()),
            "recognised: held out": _digits((real[held_out.types == kind] == kind).mean()),
            "recognised: sampled": _mean(of_types, kind, "recognised"),
            "markers: held out": _digits(_recovered(held_out, kind, known, expected)),
            "markers: sampled": _mean(of_types, kind, "markers"),
        }
        for kind in shown
    ]
    both = [row for row in rows if row["markers: sampled"] is not None]
    row: Row = {
        "population": population.name,
        "types": len(known),
        "training cells": len(train.types),
        "held-out cells": len(held_out.types),
        "labels: half of held out": mean["half"],
        "labels: resampled training": mean["resampled"],
        "labels: sampled": mean["sampled"],
        "judged types: half of held out": mean["judged half"],
        "judged types: sampled": mean["judged sampled"],
        "accuracy on held out": _digits((real == held_out.types).mean()),
        "recognised of sampled": mean["recognised"],
        f"of {MARKERS} markers, held out": _average(both, "markers: held out"),
        f"of {MARKERS} markers, sampled": _average(both, "markers: sampled"),
        "types with markers": len(both),
        **_subtypes(population, samples),
    }
    return row, rows


def _subtypes(population: Population, samples: Sequence[Cells]) -> Row:
    """Return what cells are taken for among finer labels, which the checkpoint never had."""
    names = ("subtypes", "judged subtypes: half of held out", "judged subtypes: sampled",
             "accuracy on subtypes of held out")  # fmt: skip
    if population.subtypes is None:
        return dict.fromkeys(names)
    known, held_out = population.subtypes
    judge = Judge.fit(population.train.counts, known)
    real = judge.types_of(population.held_out.counts)
    rng = np.random.Generator(np.random.Philox(key=[0, SEED + 1]))
    each = [beside_halves(real, {"sampled": judge.types_of(c.counts)}, rng) for c in samples]
    half, sampled = (_digits(fmean(d[key] for d in each)) for key in ("half", "sampled"))
    values = (len(judge.types), half, sampled, _digits((real == held_out).mean()))
    return dict(zip(names, values, strict=True))


def _recovered(cells: Cells, kind: str, known: Sequence[str], expected: list[set[int]]) -> float:
    """Return the share of a type's training markers that cells of it show too."""
    present = [k for k in known if (cells.types == k).any()]
    if len(present) < 2:
        return float("nan")
    shown = markers(type_means(cells.counts, cells.types, present))[present.index(kind)]
    return len(shown & expected[list(known).index(kind)]) / MARKERS


def _mean(seeds: list[dict[str, dict[str, float]]], kind: str, figure: str) -> float | None:
    values = [seed[kind][figure] for seed in seeds if kind in seed]
    return _digits(fmean(values)) if values else None


def _average(rows: list[Row], column: str) -> float | None:
    return _digits(fmean(row[column] for row in rows)) if rows else None


def _digits(value: float) -> float:
    return round(float(value), 3)


def _before(path: Path) -> list[Row]:
    """Return the rows of an earlier run."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[Row] | Iterator[Row]) -> None:
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
