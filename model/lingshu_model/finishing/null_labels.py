"""Null labels in closed form: how often random control cells are called as having an effect.

In every context with perturbed cells, random subsets of control cells are treated as perturbed and
compared with the remaining control cells. Their sizes are the fewest, the median and the most cells
of the context's conditions. Their effects are estimated like any other. They check lfsr and give no
p-values. Differences between replicates are not part of them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.effects import Group, Moments, measure
from lingshu_model.effects.measure import Measured
from lingshu_model.effects.moments import CP10K, Rows, cell_totals, expression_levels
from lingshu_model.effects.shrink import Shrinkage, fit_prior, posterior
from lingshu_model.finishing.certainty import CALLED
from lingshu_model.train.data.cells import TrainingCells, controls

LABELS = 100
"""Number of labels for each context and size."""
MOST_LABELS = 2000
"""Largest number of labels over all contexts and sizes, but at least one of each."""
MOST_CELLS = 4096
"""Largest number of control cells of a context that labels are drawn from."""
FEWEST = 5
"""Smallest number of cells of a label."""
LEVELS = (0.5, 0.95, 1.0)
SEED = 9


def null_check(cells: TrainingCells, shrinkage: Shrinkage | None = None) -> list[dict[str, Any]]:
    """Return the calls of null labels for each context and size, as JSON.

    Args:
        cells: training cells without null labels.
        shrinkage: that of the conditions' effects; None = with a prior of each label alone.
    """
    wanted = [*_wanted(cells)]
    # Many contexts share the number, so that the check takes no longer than with few.
    labels = max(1, min(LABELS, MOST_LABELS // max(len(wanted), 1)))
    checks: list[dict[str, Any]] = []
    for number, (context, rows, size) in enumerate(wanted):
        generator = np.random.Generator(np.random.Philox(key=[SEED, number]))
        chosen = generator.permutation(rows)[:MOST_CELLS]
        subsets = [generator.choice(len(chosen), size, replace=False) for _ in range(labels)]
        counts = cells.take(np.sort(chosen)).umi(np.float64)
        # A gene that any source of these cells measures; others have counts of 0 only.
        measured = np.any(cells.measured[np.unique(cells.source[chosen])], axis=0, keepdims=True)[0]
        checked = _checked(counts, measured, subsets, shrinkage)
        checks.append({"context": context, "n_cells": size, **checked})
    return checks


def _wanted(cells: TrainingCells) -> Iterator[tuple[dict[str, str], NDArray[np.int64], int]]:
    """Yield each perturbed context, the rows of its control cells, and the size of a label."""
    home = controls(cells)
    sizes: dict[Any, list[int]] = {}
    for i, condition in enumerate(cells.conditions):
        if condition.interventions and len(cells.rows(i)):
            sizes.setdefault(condition.context, []).append(len(cells.rows(i)))
    for context in sorted(sizes, key=repr):
        rows = cells.rows(home[context]) if context in home else np.zeros(0, np.int64)
        # At most half of what labels are drawn from: as in most real contrasts, there are at least
        # as many control cells.
        most = min(len(rows), MOST_CELLS) // 2
        spread = np.quantile(sizes[context], (0.0, 0.5, 1.0), method="nearest")
        for size in sorted({min(int(n), most) for n in spread}):
            if size >= FEWEST:
                yield dict(context), rows, size


def _checked(
    counts: Rows,
    measured: NDArray[np.bool_],
    subsets: list[NDArray[np.int64]],
    shrinkage: Shrinkage | None,
) -> dict[str, Any]:
    """Return the calls among the labels of one size."""
    calls: list[int] = []
    magnitudes: list[float] = []
    tested = 0
    for m in _measured(counts, measured, subsets):
        change, noise = m.change[0], m.noise[0]
        believed = (
            posterior(change, noise, fit_prior(change, noise))
            if shrinkage is None
            else shrinkage.posterior(change, noise)
        )
        calls.append(int((believed.lfsr < CALLED).sum()))
        magnitudes.append(float(np.linalg.norm(believed.mean)))
        tested = int(np.isfinite(change).sum())
    return {
        "n_labels": len(calls),
        "n_genes": tested,
        "called_lfsr": CALLED,
        "labels_with_a_call": sum(n > 0 for n in calls),
        "share_called": float(np.mean(calls)) / max(tested, 1),
        "magnitude_quantiles": {str(q): float(np.quantile(magnitudes, q)) for q in LEVELS},
    }


def _measured(
    counts: Rows, measured: NDArray[np.bool_], subsets: list[NDArray[np.int64]]
) -> Iterator[Measured]:
    """Yield the change of each label against the remaining cells."""
    # Levels are computed once; each label needs only sums of its rows.
    n = counts.shape[0]
    umi = cell_totals(counts)
    levels = expression_levels(counts, umi)
    squares = levels.copy()
    squares.data **= 2
    step = np.log1p(CP10K / np.maximum(umi, 1.0))
    depth = np.log(np.maximum(umi, 1.0))
    groups = [Group("null", "here"), Group("control", "here")]
    whole = [np.asarray(x.sum(axis=0), np.float64).ravel() for x in (levels, squares)]
    for subset in subsets:
        label = np.zeros(n)
        label[subset] = 1.0
        # [2, cells]: the label, and the remaining control cells.
        member = np.stack([label, 1.0 - label])
        size = member.sum(axis=1)
        row = sparse.csr_matrix(label)
        parts = [np.asarray((row @ x).todense(), np.float64).ravel() for x in (levels, squares)]
        # The remaining cells have the sums of all less those of the label.
        total, square = (
            np.stack([part, every - part]) for part, every in zip(parts, whole, strict=True)
        )
        moments = Moments(
            size.astype(np.int64),
            total,
            np.maximum(square, 0.0),
            member @ step / size,
            member @ depth / size,
        )
        yield measure(moments, groups, "control", np.stack([measured, measured]))
