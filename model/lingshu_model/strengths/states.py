"""Movers of a condition whose cells have several strengths, and cells moved by them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from lingshu_model.contracts.levels import CP10K
from lingshu_model.contracts.responders import Responders
from lingshu_model.contracts.streams import Purpose, stratified
from lingshu_model.effects.moments import Floats, Ints, Rows
from lingshu_model.effects.moved import FitCells, Mover, uniforms_of
from lingshu_model.strengths.fit import library_at


def solve_states(
    fit: FitCells, change: Floats, library: float, responders: Responders | None
) -> tuple[Mover, ...]:
    """Return a mover for each strength; the mean over cells changes by `change`.

    Args:
        fit: control cells that the movers are solved on.
        change: mean change of log1p_cp10k, [genes].
        library: mean library size over that of control cells.
        responders: strengths; None = a single mover for all cells.
    """
    if responders is None:
        return (fit.mover(change, library),)
    most = np.log1p(CP10K * fit.largest)
    changes = responders.changes(np.nan_to_num(change), fit.before, most)
    pairs = zip(changes, responders.strengths.tolist(), strict=True)
    return tuple(fit.mover(each, library_at(library, strength)) for each, strength in pairs)


def states_of(responders: Responders, seed: int, cells: Ints) -> Ints:
    """Return the number of the state of each cell, [cells], by the cells' streams.

    All perturbations of a seed share a cell's uniform: the cell that escapes one escapes, where
    as many do, another. Uniforms are stratified, so that 64 cells have the shares but for one cell.
    """
    return responders.states(stratified(seed, cells, Purpose.RESPONSE, 1)[:, 0])


def move_states(
    counts: Rows, movers: Sequence[Mover], responders: Responders, seed: int, first_cell: int
) -> Rows:
    """Return control cells moved, each by the mover of its strength, [cells, genes].

    Args:
        counts: control cells, whole counts, [cells, genes].
        movers: of each state.
        responders: the strengths.
        seed: of the random streams.
        first_cell: number of the first cell.
    """
    cells = np.arange(first_cell, first_cell + counts.shape[0])
    state = states_of(responders, seed, cells)
    # The uniforms of a cell are those that it has without responders.
    draws = uniforms_of(seed, cells, counts.shape[1])
    places = [np.flatnonzero(state == k) for k in range(len(movers))]
    parts = [
        mover.move_by(counts[place], draws[place])
        for mover, place in zip(movers, places, strict=True)
        if len(place)
    ]
    order = np.argsort(np.concatenate(places), kind="stable")
    return sparse.csr_matrix(sparse.vstack(parts, "csr"))[order]


def stored_states(base: Mover, responders: Responders, log_fold: Floats) -> tuple[Mover, ...]:
    """Return the movers of stored states.

    Args:
        base: of the same condition without strengths.
        responders: strengths, with the library of each.
        log_fold: ln phi, [states, genes].
    """
    libraries, dispersions = responders.libraries, responders.dispersions
    assert libraries is not None and dispersions is not None  # noqa: S101, PT018 - a stored row
    stored = zip(log_fold, libraries.tolist(), dispersions.tolist(), strict=True)
    return tuple(
        replace(base, log_fold=each, library=library, dispersion=dispersion)
        for each, library, dispersion in stored
    )
