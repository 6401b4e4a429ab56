"""Counter-based random streams: Philox4x64-10 keyed by (seed, cell), counted by (purpose, gene).

Salmon et al. 2011 (Random123), through NumPy's raw Philox output, which NEP 19 keeps stable. Every
gene has one draw per purpose, so any cell, and any gene of it, can be drawn alone, in any batch, on
any process. Floats are made here, not by NumPy's distributions, which may change.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

STRATA = 64
"""Intervals of one level of `stratified`: as many flips as a word has bits."""
# The largest float64 below 1.
_BELOW_1 = 1.0 - 2.0**-53


class Purpose(IntEnum):
    """What a draw is for: the second word of the counter. Never renumber."""

    ORDER = 1
    VALUE = 2
    DEPTH = 3
    MOVE = 4
    POOL = 5
    SUBSET = 6
    RESPONSE = 7
    CONTEXT = 8
    SCORE = 16
    """And up: one for each draw of a score."""


def raw(seed: int, cell: int, purpose: int, genes: int) -> NDArray[np.uint64]:
    """Return 64 random bits per gene; gene g's are lane g mod 4 of counter (g // 4, purpose)."""
    # NumPy steps the counter before its first block: starting one below makes block 0 the first.
    counter = ((int(purpose) << 64) - 1) % (1 << 256)
    # Least significant word first: word 0 counts blocks of four genes, word 1 is the purpose.
    words = [(counter >> (64 * i)) & 0xFFFFFFFFFFFFFFFF for i in range(4)]
    stream = np.random.Philox(
        key=np.array([seed, cell], np.uint64), counter=np.array(words, np.uint64)
    )
    return stream.random_raw(genes)


def uniforms(seed: int, cell: int, purpose: Purpose, genes: int) -> NDArray[np.float64]:
    """Return one uniform per gene in (0, 1): the upper 53 bits plus a half, over 2^53."""
    return unit_interval(raw(seed, cell, purpose, genes))


def unit_interval(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return words of 64 random bits as numbers in (0, 1)."""
    # As many bits as a float64 has. The half keeps 0 out, at which a quantile may be infinite.
    upper = (bits >> np.uint64(11)).astype(np.float64)
    # The largest word and its half are no float64, and would be rounded up to 1.
    return np.minimum((upper + 0.5) * 2.0**-53, _BELOW_1)


def stratified(
    seed: int, cells: NDArray[np.int64], purpose: Purpose, genes: int
) -> NDArray[np.float64]:
    """Return uniforms in (0, 1), [cells, genes], that are stratified over the cells of a gene.

    Latin hypercube sampling (McKay et al. 1979) within every tile of 64 cells: each interval of
    length 1/64 holds one number of a gene, in random order, all at one place of their intervals.
    The places of 64 tiles are a van der Corput sequence under a nested uniform scramble (Owen
    1995), so that the numbers of 2^k tiles are stratified further. A share of cells that a
    threshold picks out thus varies by about one cell, and not by the root of their number. Orders
    of two genes are independent. Any cell can be drawn alone, at the cost of its tile.

    Args:
        seed: of the experiment.
        cells: numbers of the cells, from 0 on.
        purpose: what the draw is for.
        genes: how many.
    """
    out = np.empty((len(cells), genes))
    tiles = cells // STRATA
    for tile in np.unique(tiles).tolist():
        rows = np.flatnonzero(tiles == tile)
        intervals = _intervals(seed, tile, purpose, genes)[:, cells[rows] % STRATA].T
        out[rows] = (intervals + _places(seed, tile, purpose, genes)) / STRATA
    return out


def mixed(
    seed: int, cells: NDArray[np.int64], weights: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return which part of a mixture each cell is of, int64 [cells].

    Every cell is of part k with probability weights[k] / sum(weights). Numbers are stratified over
    cells, so the parts of many cells have these shares but for about one cell.

    Args:
        seed: of the experiment.
        cells: numbers of the cells, from 0 on.
        weights: of the parts, at least 1 each.
    """
    # Divided once, by a number that float64 holds exactly: the same ends on every machine.
    ends = np.cumsum(np.asarray(weights, np.int64)) / float(np.sum(weights))
    uniform = stratified(seed, cells, Purpose.CONTEXT, 1)[:, 0]
    return np.searchsorted(ends, uniform, side="right").astype(np.int64)


def _intervals(seed: int, tile: int, purpose: Purpose, genes: int) -> NDArray[np.int64]:
    """Return the interval of each cell of a tile: a permutation per gene, [genes, 64]."""
    keys = np.empty((STRATA, genes), np.uint32)
    for i in range(STRATA):
        bits = raw(seed, tile * STRATA + i, purpose, genes) >> np.uint64(32)
        # The cell's number in the lowest bits: no two keys are equal, so any sort gives one order.
        keys[i] = (bits & np.uint64(0xFFFFFFFF - (STRATA - 1))) | np.uint64(i)
    order = np.argsort(np.ascontiguousarray(keys.T), axis=1)
    # The inverse of a sorting permutation: the rank of each cell, which is its interval.
    return np.argsort(order.astype(np.uint32), axis=1)


def _places(seed: int, tile: int, purpose: Purpose, genes: int) -> NDArray[np.float64]:
    """Return where in its interval each number of a tile lies, in (0, 1), [genes].

    The lowest bit of the tile's number in its group of 64 decides first. Bit 2^d + p of a word
    flips the digit at depth d of the tiles whose lower d digits are p.
    """
    group, number = divmod(tile, STRATA)
    # Streams that no cell has: the number of a cell is below 2^62.
    word = raw(seed, (2 << 62) | group, purpose, genes)
    place = np.zeros(genes, np.uint64)
    # Six digits of the tile's number, the lowest first: the van der Corput order.
    for depth in range(STRATA.bit_length() - 1):
        node = np.uint64((1 << depth) + number % (1 << depth))
        digit = np.uint64(number >> depth & 1)
        place = (place << np.uint64(1)) | ((word >> node) & np.uint64(1)) ^ digit
    # The last 32 bits are random for each tile, so that 64 tiles are no regular grid.
    within = raw(seed, (3 << 62) | tile, purpose, genes) >> np.uint64(32)
    return (place.astype(np.float64) + (within.astype(np.float64) + 0.5) * 2.0**-32) / STRATA
