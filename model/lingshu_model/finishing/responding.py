"""Strengths of single cells of every condition with cells (`lingshu_model.strengths.fit`)."""

from dataclasses import replace

import numpy as np

from lingshu_model.contracts.effects import MEASURED
from lingshu_model.effects.moments import Ints
from lingshu_model.effects.moved import largest_share
from lingshu_model.finishing.estimate import Fitted, Row
from lingshu_model.strengths.fit import Groups, enough_genes, fit_responders
from lingshu_model.train.data.cells import TrainingCells, controls

MOST_CELLS = 4096
"""Largest number of cells of an arm that strengths are fitted to."""


def with_responders(fitted: Fitted, cells: TrainingCells) -> Fitted:
    """Return effects with the strengths of single cells where left-out cells show them.

    Effects without cells of their condition have none: nothing is known of their single cells.

    Args:
        fitted: the effects of `cells`.
        cells: training cells, null labels among them.
    """
    return replace(fitted, rows=tuple(_with(row, cells) for row in fitted.rows))


def _with(row: Row, cells: TrainingCells) -> Row:
    if row.source not in MEASURED or not enough_genes(row.posterior):
        return row
    numbers = controls(cells)[row.condition.context], cells.conditions.index(row.condition)
    home, mine = (_some(cells.rows(number)) for number in numbers)
    control, perturbed = (cells.take(rows).umi(np.float64) for rows in (home, mine))
    groups: Groups | None = None
    if cells.replicate is not None:
        groups = cells.replicate[home], cells.replicate[mine]
    largest = np.maximum(*(largest_share(each) for each in (control, perturbed)))
    responders = fit_responders(control, perturbed, row.posterior, largest, row.library, groups)
    return replace(row, responders=responders)


def _some(rows: Ints) -> Ints:
    """Return evenly spaced rows, at most `MOST_CELLS`."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_CELLS)).astype(np.int64)]
