"""Hits of screens that replicate, and null labels that are called, at any number of cells.

Hits: the effects of two replicates of `thp1` score every knock-out on every single gene of the
panel (each a screen of 25 candidates) and on the interferon programme; factors of the intervals
come from the folds that hold out the other replicates. A hit (lfsr at most .05) replicates where
the held-out replicate's change has the same sign, beyond 1.96 standard errors.

Null labels are sampled by the shipped checkpoint through the tools.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta, norm

from benchmarks.certainty.calibration import read
from lingshu_model.finishing.error_model import Judged, fitted
from lingshu_model.finishing.evidence import judged_folds
from lingshu_tools.analysis.certainty import SUPPORTED
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call

N_CELLS = (16, 32, 64, 128, 256, 512)
HITS = ("fold", "screens", "candidates", "hits", "same_sign", "replicate", "power_to_replicate")
NULLS = ("n_cells", "labels", "screens", "hits", "share", "low", "high", "beyond", "genes_called")
OBJECTIVE = {"lower": ["PSMB9", "STAT1", "UBE2L6"]}


def hit_rows(data: Path) -> list[tuple[Any, ...]]:
    """Return a line of `HITS` for each held-out replicate."""
    judged = [j for j in judged_folds(read("thp1", data), {}) if j.contrast[2] == "seen"]
    folds = sorted({j.fold for j in judged})
    return [_hits(fold, judged) for fold in folds]


def _hits(fold: str, judged: Sequence[Judged]) -> tuple[Any, ...]:
    model = fitted([j for j in judged if j.fold != fold])
    assert model is not None
    mine = [j for j in judged if j.fold == fold]
    hits = same = replicate = 0
    power = 0.0
    for j in mine:
        wider = model.widened(j.predicted, j.variance)
        called = wider.lfsr <= SUPPORTED
        p, o, se = wider.mean[called], j.observed[called], np.sqrt(j.noise[called])
        right = p * o > 0
        hits += int(called.sum())
        same += int(right.sum())
        replicate += int((right & (np.abs(o) > 1.96 * se)).sum())
        # How often a true change as large as predicted would be seen beyond the noise.
        power += float(norm.sf(1.96 - np.abs(p) / np.maximum(se, 1e-12)).sum())
    candidates = sum(len(j.observed) for j in mine)
    genes = max(len(j.observed) for j in mine)
    return fold, genes, candidates, hits, same, replicate, power


def null_rows(home: Path) -> Iterator[tuple[Any, ...]]:
    """Yield a line of `NULLS` for each number of cells."""
    app = App(home)
    labels = app.catalogue.load("thp1-crispr").targets["sham"]
    candidates = [f"{label} sham" for label in labels]
    for n in N_CELLS:
        screens = [
            _waited(app, "run_screen", candidates=candidates, objective=each, n_cells=n, top=100)
            for each in (OBJECTIVE, {"raise": ["FN1"]}, {"lower": ["JAK2"]})
        ]
        hits = [row.certainty == "supported" for screen in screens for row in screen.ranking]
        shown = [
            _waited(app, "perturb_cells", n_cells=n, top=200,
                    interventions=[{"kind": "sham", "target": label}])
            for label in labels
        ]  # fmt: skip
        beyond = sum("is beyond" in result.summary for result in shown)
        genes = [gene.certainty == "supported" for result in shown for gene in result.genes]
        k, total = sum(hits), len(hits)
        low, high = exact_interval(k, total)
        yield (
            *(n, len(labels), len(screens), k, k / total, low, high, beyond),
            float(np.mean(genes)),
        )
    app.close()


def _waited(app: App, tool: str, **arguments: Any) -> Any:
    result = call(app, tool, {"checkpoint": "thp1-crispr", "wait_s": 45, **arguments})
    while result.status in ("running", "queued"):
        name = getattr(result, "screen_id", None) or result.experiment_id
        call(app, "get_experiment", {"id": name, "wait_s": 45})
        result = call(app, tool, {"checkpoint": "thp1-crispr", "wait_s": 45, **arguments})
    return result


def exact_interval(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % Clopper-Pearson interval of a share."""
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return low, high
