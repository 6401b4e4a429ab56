"""Whether strengths of single cells give sampled cells the spread of real ones.

    python -m benchmarks.responders thp1 --data DATA --out responders-thp1.csv

Each fold is left out in turn: a replicate (thp1), or a fifth of the cells of every condition.
Effects and strengths come from the other cells, and their control cells are moved, all cells alike
(`alike`) and with strengths (`mixed`). Both, and resampled training cells of the condition, are
compared with left-out cells at equal numbers:

- a score per cell, the mean level of five genes: its standard deviation, and the
  Kolmogorov-Smirnov distance to left-out cells. For thp1 JAK2, STAT1, UBE2L6, PSMB9 and TNFRSF14,
  else the genes of the condition with the largest changes over standard deviation;
- the energy distance along principal axes, and the mean absolute difference of gene correlations,
  beside those of another half of the left-out cells.

A row is written for every condition with strengths; the last line says how many have none.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from benchmarks.any_data.sets import CONTROL, FIFTHS, Cells, generator, read
from lingshu_model.contracts.posterior import Posterior
from lingshu_model.contracts.responders import Responders
from lingshu_model.effects import Effects
from lingshu_model.effects.moments import Rows, expression_levels
from lingshu_model.effects.moved import FitCells, largest_share
from lingshu_model.evaluate.metrics.distances import energy_distance
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.strengths.fit import fit_responders
from lingshu_model.strengths.states import move_states, solve_states

Floats = NDArray[np.float64]
INTERFERON = ("JAK2", "STAT1", "UBE2L6", "PSMB9", "TNFRSF14")
SCORE_GENES = 5
FEWEST, MOST = 20, 300
"""Left-out cells of a condition that is compared, and of a compared sample."""
DRAWS, SPLITS = 200, 40
CORRELATED = 200
"""Most variable genes whose correlations are compared."""
FRAME_CELLS = 4000
SEED = 11


@click.command(context_settings={"show_default": True})
@click.argument("name", type=click.Choice(["thp1", "pbmc", "gbm", "jurkat", "pig"]))
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--folds", default=FIFTHS, help="Left out, at most.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("responders.csv"))
def main(name: str, data: Path, folds: int, out: Path) -> None:
    """Print and write the comparison of every condition with strengths."""
    cells = read(name, data)
    lines: list[dict[str, object]] = []
    without = 0
    with out.open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for fold, train, held in _folds(cells, folds):
            for line in _judged(name, fold, train, held):
                if line is None:
                    without += 1
                    continue
                lines.append(line)
                writer = writer or csv.DictWriter(file, [*line])
                if len(lines) == 1:
                    writer.writeheader()
                writer.writerow(line)
                file.flush()
                click.echo("  ".join(str(value) for value in line.values()))
    click.echo(f"{len(lines)} with strengths, {without} without")
    for pair in _differences(lines):
        click.echo(pair)


def _folds(cells: Cells, folds: int) -> Iterator[tuple[str, Cells, Cells]]:
    """Yield the name of each fold, its training cells and its left-out cells."""
    names = sorted(set(cells.replicate))
    if len(names) == 3:
        part = np.searchsorted(names, cells.replicate)
    else:
        part, rng = np.zeros(len(cells), np.int64), generator(19)
        names = [f"fifth-{k}" for k in range(FIFTHS)]
        for key in sorted(set(zip(cells.condition, cells.context, strict=True))):
            rows = rng.permutation(cells.where(*key))
            part[rows] = np.arange(len(rows)) % FIFTHS
    for k, name in enumerate(names[:folds]):
        yield name, cells.take(part != k), cells.take(part == k)


def _judged(name: str, fold: str, train: Cells, held: Cells) -> Iterator[dict[str, object] | None]:
    """Yield the comparison of each condition; None where all cells respond alike."""
    effects = Effects(train.measured, CONTROL)
    m = effects.measured
    largest = largest_share(train.counts)
    step = max(1, len(train) // FRAME_CELLS)
    frame = Frame.fit([train.counts[::step]])
    fits: dict[str, FitCells] = {}
    for row, (condition, context) in enumerate(zip(m.conditions, m.contexts, strict=True)):
        home, mine = train.where(CONTROL, context), train.where(condition, context)
        real = held.counts[held.where(condition, context)]
        if real.shape[0] < FEWEST:
            continue
        posterior = effects.seen(condition, context).posterior
        control, trained = train.counts[home], train.counts[mine]
        library = float(m.library[row])
        groups = train.replicate[home], train.replicate[mine]
        strengths = fit_responders(control, trained, posterior, largest, library, groups)
        if strengths is None:
            yield None
            continue
        fit = fits.setdefault(context, FitCells(control, largest))
        sources = _moved(fit, control, posterior, library, strengths) | {
            "training": trained,
            "held_out": real,
        }
        levels = {k: np.asarray(expression_levels(v).toarray()) for k, v in sources.items()}
        genes = _score_genes(name, train, posterior, levels["training"])
        label = {"fold": fold, "condition": condition, "context": context}
        yield label | _figures(levels, genes, frame) | _states(strengths, len(mine))


def _moved(
    fit: FitCells, control: Rows, effect: Posterior, library: float, strengths: Responders
) -> dict[str, Rows]:
    """Return control cells moved alike, and with strengths."""
    # As many cells as a sample needs, by other uniforms where control cells are few.
    copies = -(-MOST // control.shape[0])
    cells = sparse.csr_matrix(sparse.vstack([control] * copies))
    (mover,) = solve_states(fit, effect.mean, library, None)
    movers = solve_states(fit, effect.mean, library, strengths)
    mixed = move_states(cells, movers, strengths, SEED, 0)
    return {"alike": mover.move(cells, SEED), "mixed": mixed}


def _score_genes(name: str, train: Cells, effect: Posterior, levels: Floats) -> Sequence[int]:
    if name == "thp1":
        return [train.genes.index(gene) for gene in INTERFERON]
    size = np.where(effect.lfsr < 0.05, np.abs(effect.mean), 0.0) / (levels.std(axis=0) + 0.1)
    # Of one direction, or changes would cancel in their mean.
    size = np.where(np.sign(effect.mean) == np.sign(effect.mean[size.argmax()]), size, 0.0)
    return np.argsort(-size)[:SCORE_GENES].tolist()


def _states(strengths: Responders, cells: int) -> dict[str, object]:
    states = zip(strengths.strengths, strengths.shares, strict=True)
    return {
        "responder_share": round(strengths.share, 3),
        "states": " ".join(f"{t:g}:{w:.2f}" for t, w in states),
        "gain": round(strengths.gain, 3),
        "gain_error": round(strengths.error, 3),
        "training_cells": cells,
    }


def _figures(levels: Mapping[str, Floats], genes: Sequence[int], frame: Frame) -> dict[str, object]:
    """Return spread, distances and correlations of each source against left-out cells."""
    rng = generator(20)
    scores = {name: each[:, genes].mean(axis=1) for name, each in levels.items()}
    out: dict[str, object] = {
        f"sd_{name}": round(float(score.std(ddof=1)), 3) for name, score in scores.items()
    }
    n = min(len(scores["training"]), len(scores["held_out"]))
    distances: list[list[float]] = []
    for _ in range(DRAWS):
        real = rng.choice(scores["held_out"], n)
        samples = [rng.choice(scores[s], n) for s in ("alike", "mixed", "training")]
        distances.append([float(stats.ks_2samp(s, real).statistic) for s in samples])
    alike, mixed, training = np.array(distances).T
    out |= {
        "ks_alike": round(float(alike.mean()), 3),
        "ks_mixed": round(float(mixed.mean()), 3),
        "ks_training": round(float(training.mean()), 3),
        "ks_error": round(float((mixed - training).std(ddof=1)), 3),
    }
    return out | _distances(levels, frame, rng)


def _distances(
    levels: Mapping[str, Floats], frame: Frame, rng: np.random.Generator
) -> dict[str, object]:
    """Return energy distances and errors of correlations, means over random halves."""
    real = levels["held_out"]
    half = min(len(real) // 2, MOST)
    variable = np.argsort(-real.var(axis=0))[:CORRELATED]
    energy: dict[str, list[float]] = {}
    error: dict[str, list[float]] = {}
    for _ in range(SPLITS):
        order = rng.permutation(len(real))
        target = real[order[:half]]
        scores, correlations = _along(frame, target), _correlations(target[:, variable])
        # The same control cells moved alike and with strengths.
        places = _drawn(rng, len(levels["alike"]), half)
        parts = {k: levels[k][places] for k in ("alike", "mixed")}
        parts["training"] = levels["training"][_drawn(rng, len(levels["training"]), half)]
        for name, cells in (parts | {"half": real[order[half : 2 * half]]}).items():
            energy.setdefault(name, []).append(energy_distance(_along(frame, cells), scores))
            difference = np.abs(_correlations(cells[:, variable]) - correlations)
            error.setdefault(name, []).append(float(difference.mean()))
    named = {f"energy_{k}": round(float(np.mean(v)), 4) for k, v in energy.items()}
    return named | {f"correlation_{k}": round(float(np.mean(v)), 4) for k, v in error.items()}


def _drawn(rng: np.random.Generator, cells: int, n: int) -> NDArray[np.int64]:
    """Return `n` of the numbers below `cells`, with replacement where there are fewer."""
    return rng.choice(cells, n, replace=cells < n)


def _along(frame: Frame, levels: Floats) -> Floats:
    return frame.scores(sparse.csr_matrix(levels))


def _correlations(levels: Floats) -> Floats:
    """Return gene correlations, 0 for a gene that does not vary."""
    centred = levels - levels.mean(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0))
    unit = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)
    return unit.T @ unit


def _differences(lines: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Yield the mean difference of `mixed` and `alike` over conditions, with its standard error."""
    for metric in ("ks", "energy", "correlation"):
        pairs = [(line[f"{metric}_mixed"], line[f"{metric}_alike"]) for line in lines]
        if len(pairs) > 1:
            gap = np.array(pairs, np.float64) @ [1.0, -1.0]
            error = gap.std(ddof=1) / np.sqrt(len(gap))
            yield f"{metric}: mixed less alike {gap.mean():+.4f} (standard error {error:.4f})"


if __name__ == "__main__":
    main()
