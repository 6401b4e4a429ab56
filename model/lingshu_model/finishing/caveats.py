"""Caveats that follow from the training cells and hold for every answer of the checkpoint."""

from collections.abc import Sequence

import numpy as np

from lingshu_model.contracts.catalogue import MOST_CAVEAT, MOST_CAVEATS
from lingshu_model.network import tokens
from lingshu_model.train.data.cells import TrainingCells, controls

_SHOWN = 3


def with_caveats(said: Sequence[str], cells: TrainingCells) -> list[str]:
    """Return the caveats of a specification and those of its cells, as many as are quoted.

    Args:
        said: of the specification; they come first.
        cells: training cells, null labels among them.
    """
    return [*dict.fromkeys([*said, *of_cells(cells)])][:MOST_CAVEATS]


def of_cells(cells: TrainingCells) -> list[str]:
    """Return what of the cells limits every effect, a sentence each, of at most 200 characters."""
    # A longer one would make the specification in the checkpoint invalid.
    return [each[:MOST_CAVEAT] for each in (*_single(cells), _capped(cells)) if each]


def _single(cells: TrainingCells) -> list[str]:
    """Say which conditions have one replicate, which does not show how replicates differ."""
    if cells.replicate is None:
        return []
    home = controls(cells)
    total, apart, within = 0, 0, 0
    for number, condition in enumerate(cells.conditions):
        if any(i.kind != "sham" for i in condition.interventions) and condition.context in home:
            rows = cells.rows(number), cells.rows(home[condition.context])
            arms = [{*cells.replicate[each].tolist()} - {""} for each in rows]
            if not all(arms):
                continue
            total += 1
            # Several replicates in each arm: their spread is estimated. One has none.
            if min(map(len, arms)) == 1:
                apart += not arms[0] & arms[1]
                within += bool(arms[0] & arms[1])
    said = (
        (apart, "an arm is one replicate that the other has not: what differs between replicates "
         "is part of these effects, and held-out cells share it."),
        (within, "one replicate alone has both arms: lfsr takes its cells as independent."),
    )  # fmt: skip
    return [
        f"In {'all' if number == total else f'{number:,} of {total:,}'} conditions {what}"
        for number, what in said
        if number
    ]


def _capped(cells: TrainingCells) -> str:
    """Say which genes have counts above the largest token."""
    above = cells.capped()
    # A single cell in a thousand moves no mean.
    genes = np.flatnonzero(above > 0.001 * len(cells))
    if not len(genes):
        return ""
    first = genes[np.argsort(-above[genes], kind="stable")][:_SHOWN]
    names = ", ".join(cells.panel[i][:20] for i in first)
    return (
        f"Counts above {tokens.CAP:,} entered as {tokens.CAP + 1:,}: changes of {len(genes):,} "
        f"genes ({names}{' …' * (len(genes) > _SHOWN)}) are underestimated, others off with them."
    )
