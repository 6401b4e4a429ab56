"""Movers of all stored effects, solved on control cells of the checkpoint's own sampler.

Where the network's control cells differ from those of training, the delivered mean change is then
still the posterior mean.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.responders import Responders
from lingshu_model.effects.moments import Floats, Rows
from lingshu_model.effects.moved import FitCells, Mover, largest_share
from lingshu_model.finishing.estimate import Fitted
from lingshu_model.strengths.states import solve_states
from lingshu_model.train.data.cells import TrainingCells

FIT_CELLS = (256, 512)
"""Control cells of a context that effects are solved on: at least and at most. The sampling error
of these cells is delivered with the effect: of 136 cells the mean of a gene of sd 1.2 is off by
0.1, and the farthest of some thousand genes by 0.4."""
ALL_FIT_CELLS = 16384
"""Control cells over all contexts, about."""
NO_SHARE = -1e4
"""Stored for ln 0, the largest share of a gene without counts; finite in float16."""


@dataclass(frozen=True)
class Solved:
    """Movers of all rows.

    Attributes:
        log_fold: ln phi, float16 [rows, genes].
        library: of the moved cells over that of control cells, [rows].
        dispersion: additional dispersion of the moved counts, [rows].
        log_rate: ln of a gene's share of a control cell's counts, float16 [contexts, genes].
        log_size: ln of the size of its count distribution, the same shape.
        common: size of the typical gene, [contexts].
        log_largest: ln of the largest share of a cell that a gene may have, float16 [genes].
        responders: strengths of the cells of each row, with their libraries; None = a single one.
        states: ln phi of every strength of every row that has several, float16 [states, genes].
    """

    log_fold: NDArray[np.float16]
    library: Floats
    dispersion: Floats
    log_rate: NDArray[np.float16]
    log_size: NDArray[np.float16]
    common: Floats
    log_largest: NDArray[np.float16]
    responders: tuple[Responders | None, ...]
    states: NDArray[np.float16]


def fit_cells(contexts: int) -> int:
    """Return how many control cells of each context effects are solved on."""
    return int(np.clip(ALL_FIT_CELLS // max(contexts, 1), *FIT_CELLS))


def largest_shares(cells: TrainingCells) -> Floats:
    """Return the largest share that each gene has of a training cell, [genes]."""
    shares = [largest_share(block.umi(np.float64)) for block in cells.blocks()]
    return np.max(shares, axis=0)


def solve(
    fitted: Fitted,
    control: Callable[[int], Rows],
    largest: Floats,
    each: Callable[[], object] = lambda: None,
) -> Solved:
    """Return the movers of all rows.

    Args:
        fitted: the effects.
        control: control cells of a context by its number, whole counts [cells, genes].
        largest: largest share of a cell that a gene may have, [genes].
        each: called after every row.
    """
    rows, genes = len(fitted.rows), fitted.measured.shape[1]
    log_fold = np.zeros((rows, genes), np.float16)
    library, dispersion = np.ones(rows), np.zeros(rows)
    contexts = len(fitted.contexts)
    log_rate, log_size = (np.zeros((contexts, genes), np.float16) for _ in range(2))
    common = np.ones(contexts)
    states: dict[int, tuple[Mover, ...]] = {}
    by_number: dict[int, list[int]] = {}
    for i, row in enumerate(fitted.rows):
        by_number.setdefault(fitted.number(row.condition), []).append(i)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, numbers in by_number.items():
            # One context at a time: what its effects share takes 20 bytes per cell and gene.
            cells = FitCells(control(number), largest)
            for i, movers in zip(numbers, pool.map(_Solve(fitted, cells), numbers), strict=True):
                mover, states[i] = movers[0], movers[1:]
                log_fold[i] = mover.log_fold
                library[i], dispersion[i] = mover.library, mover.dispersion
                # ln 0 of a gene without counts: 1e-12 is far below the share of one count in a
                # cell.
                log_rate[number] = np.log(np.maximum(mover.rate, 1e-12))
                log_size[number], common[number] = np.log(mover.size), cells.distribution[2]
                each()
    # ln 0 is -inf here, and `NO_SHARE` after the maximum.
    with np.errstate(divide="ignore"):
        log_largest = np.maximum(np.log(largest), NO_SHARE).astype(np.float16)
    shared = log_fold, library, dispersion, log_rate, log_size, common, log_largest
    return Solved(*shared, *_stored(fitted, states))


def _stored(
    fitted: Fitted, states: Mapping[int, tuple[Mover, ...]]
) -> tuple[tuple[Responders | None, ...], NDArray[np.float16]]:
    """Return the strengths of every row with their libraries, and ln phi [states, genes]."""
    responders: list[Responders | None] = []
    movers: list[Mover] = []
    for i, row in enumerate(fitted.rows):
        known = row.responders
        if known is not None:
            known = replace(
                known,
                libraries=np.array([mover.library for mover in states[i]]),
                dispersions=np.array([mover.dispersion for mover in states[i]]),
                first=len(movers),
            )
            movers += states[i]
        responders.append(known)
    table = np.zeros((len(movers), fitted.measured.shape[1]), np.float16)
    for i, mover in enumerate(movers):
        table[i] = mover.log_fold
    return tuple(responders), table


@dataclass(frozen=True)
class _Solve:
    """Solves the movers of a row by its index, in a thread."""

    fitted: Fitted
    cells: FitCells

    def __call__(self, row: int) -> tuple[Mover, ...]:
        """Return the mover of all cells alike, then those of its strengths, if it has several."""
        target = self.fitted.rows[row]
        change, library = target.posterior.mean, target.library
        alike = self.cells.mover(change, library)
        if target.responders is None:
            return (alike,)
        return (alike, *solve_states(self.cells, change, library, target.responders))


def by_context(contexts: Sequence[Rows]) -> Callable[[int], Rows]:
    """Return a function that gives the cells of a context by its number."""
    known: Mapping[int, Rows] = dict(enumerate(contexts))
    return known.__getitem__
