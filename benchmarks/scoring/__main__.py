"""`make parity`: a made screen through the tools and through ours; differences and times.

python -m benchmarks.scoring                         # 20 perturbations × 100 cells × 18,080 genes
python -m benchmarks.scoring --golden FILE           # the fixture of the tests instead
"""

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.scoring import tools
from benchmarks.scoring.made import CONTROL, Screen, made_screen
from lingshu_model.evaluate.scoring import predicted_side, real_side, vcc2025, vcc2026

GOLDEN = {"genes": 300, "perturbations": 6, "cells": 40, "controls": 120, "depth": 1500.0}
GOLDEN_SEED = 11
GENES_KEPT = 25


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--genes", default=18_080, show_default=True)
@click.option("--perturbations", default=20, show_default=True)
@click.option("--cells", default=100, show_default=True, help="Mean cells per perturbation.")
@click.option("--controls", default=2_000, show_default=True)
@click.option("--depth", default=16_000.0, show_default=True, help="Mean counts per cell.")
@click.option("--repetitions", default=3, show_default=True, help="Of each timing, in turn.")
@click.option("--golden", type=click.Path(path_type=Path), help="Write the tests' fixture.")
def main(golden: Path | None, repetitions: int, **options: Any) -> None:
    """Compare our scorer with cell-eval, pdex and cell-eval2."""
    warnings.simplefilter("ignore")
    tools.quietly()
    if golden:
        screen = made_screen(GOLDEN_SEED, **GOLDEN)
        golden.write_text(json.dumps(fixture(screen), indent=1) + "\n", "utf-8")
        return
    screen = made_screen(options.pop("seed"), **options)
    stored = np.mean([screen.real[CONTROL].nnz, screen.predicted[CONTROL].nnz])
    click.echo(f"{options}, {stored / options['controls']:.0f} genes per cell, {versions()}")
    rank_tests(screen)
    challenge("cell-eval", screen, tools.run_cell_eval, ours_2025, repetitions)
    challenge("cell-eval2", screen, tools.run_cell_eval2, ours_2026, repetitions)


def versions() -> str:
    found = ", ".join(f"{name} {number}" for name, number in tools.versions().items())
    return f"{found}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def ours_2025(screen: Screen) -> Any:
    real = real_side(screen.real, screen.genes, CONTROL)
    return vcc2025.score(real, predicted_side(screen.predicted, real))


def ours_2026(screen: Screen) -> Any:
    real = real_side(screen.real, screen.genes, CONTROL)
    return vcc2026.score(real, predicted_side(screen.predicted, real))


def rank_tests(screen: Screen) -> None:
    """Print the largest differences in U, p and adjusted p."""
    pairs = {
        "pdex, as cell-eval": (tools.ranked_cell_eval(screen), ours_ranked_2025(screen)),
        "pdex, as cell-eval2": (tools.ranked_cell_eval2(screen), ours_ranked_2026(screen)),
    }
    for name, (theirs, mine) in pairs.items():
        worst = [
            max(
                float(np.abs(getattr(t, what) - getattr(m, what)).max())
                for t, m in zip(theirs, mine, strict=True)
            )
            for what in ("u", "p")
        ]
        click.echo(f"{name}: max |ΔU| {worst[0]:g}, max |Δp| {worst[1]:g}")


def ours_ranked_2025(screen: Screen) -> list[vcc2025.Profile]:
    real = real_side(screen.real, screen.genes, CONTROL)
    return [vcc2025.profile(side) for side in (real, predicted_side(screen.predicted, real))]


def ours_ranked_2026(screen: Screen) -> list[Any]:
    real = real_side(screen.real, screen.genes, CONTROL)
    predicted = predicted_side(screen.predicted, real)
    return [vcc2026.profile(side, real.control).tests for side in (real, predicted)]


def challenge(
    name: str, screen: Screen, theirs: Callable[[Screen], Any], mine: Any, repetitions: int
) -> None:
    """Print the largest difference of each metric and the ratio of the least times.

    Both take turns, after one run of each that is not counted: the tools compile in theirs.
    """
    (values, _), scores = theirs(screen), mine(screen)
    for metric, found in scores.by_metric.items():
        if metric in values:
            click.echo(f"{name} {metric}: max difference {largest(values[metric], found):.2g}")
    turns = [(timed(theirs, screen), timed(mine, screen)) for _ in range(repetitions)]
    tool, own = (np.min(times, axis=0) for times in zip(*turns, strict=True))
    wall, processor = tool / own
    click.echo(
        f"{name}: {tool[0]:.2f} s against {own[0]:.2f} s ({wall:.1f} ×); processor time "
        f"{tool[1]:.2f} s against {own[1]:.2f} s ({processor:.1f} ×); least of {repetitions}, "
        f"load {os.getloadavg()[0]:.1f}",
    )


def timed(what: Callable[[Screen], Any], screen: Screen) -> tuple[float, float]:
    """Return seconds by the clock and of processor."""
    started, used = time.perf_counter(), time.process_time()
    what(screen)
    return time.perf_counter() - started, time.process_time() - used


def largest(theirs: dict[str, float], mine: dict[str, float]) -> float:
    """Return the largest difference; infinite where only one side is undefined or absent."""
    missing = {n for n, v in theirs.items() if v is not None and not np.isnan(v)} - set(mine)
    differences = [
        0.0 if np.isnan(mine[n]) and np.isnan(theirs[n]) else abs(theirs[n] - mine[n]) for n in mine
    ]
    worst = max(differences, default=0.0)
    return float("inf") if missing or np.isnan(worst) else worst


def fixture(screen: Screen) -> dict[str, Any]:
    """Return what the tools say of a small screen, as JSON values."""
    first, first_mean = tools.run_cell_eval(screen)
    second, second_mean = tools.run_cell_eval2(screen)
    baseline, replicate = tools.ends(screen)
    return {
        "made_by": "python -m benchmarks.scoring --golden FILE",
        "versions": tools.versions(),
        "screen": {"seed": GOLDEN_SEED, **GOLDEN},
        "n_counts": {name: int(cells.sum()) for name, cells in screen.real.items()},
        "cell_eval": {"values": _plain(first), "means": _plain(first_mean)},
        "cell_eval2": {"values": _plain(second), "means": _plain(second_mean)},
        "ends": {"baseline": baseline, "replicate": replicate},
        "ranked": {
            "cell_eval": [_ranked(side) for side in tools.ranked_cell_eval(screen)],
            "cell_eval2": [_ranked(side) for side in tools.ranked_cell_eval2(screen)],
        },
    }


def _ranked(side: tools.Ranked) -> dict[str, Any]:
    return {what: getattr(side, what)[:, :GENES_KEPT].tolist() for what in ("u", "p")}


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    return None if values is None or not np.isfinite(values) else float(values)


if __name__ == "__main__":
    main()
