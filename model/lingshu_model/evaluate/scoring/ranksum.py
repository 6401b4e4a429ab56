"""Mann-Whitney U of many groups of cells against one control, for every gene.

The control is sorted once. Each group's non-zero values are looked up in it: a value beats the
control cells below it and ties with those equal to it, and zeros, the lowest value, are only
counted. Ties are corrected for from the control's own runs of equal values and what a group adds
to them. U and the tie term are sums of integers (float64 holds them exactly up to about 200,000
cells), so they do not depend on the order of anything. Knows nothing of genes' names,
normalisation or multiple tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np
from numpy.typing import NDArray

from lingshu_model.evaluate.scoring.cells import Floats
from lingshu_model.evaluate.scoring.normal import Integers, Ordered

BATCH = 1 << 23
"""Non-zero values of groups sorted at a time, which bounds the memory."""
BLOCK = 1 << 17
"""Non-zero values looked at together: temporaries this small stay in the processor's cache."""
KEY_BITS = 63


@dataclass(frozen=True)
class RankSum:
    """U of the group and its two-sided p, [groups, genes] each.

    The p is that of the normal approximation with tie and continuity correction, 1 where all
    values of a gene are equal.
    """

    u: Floats
    p: Floats


def rank_sums(control: Ordered, groups: Ordered, bounds: Integers) -> RankSum:
    """Return the test of every group of rows against the control, gene by gene.

    Args:
        control: the control's cells.
        groups: the groups' cells, values ordered in common with the control's.
        bounds: where each group's rows begin, and the end of the last.

    Raises:
        OverflowError: gene, value and group of so many do not fit 63 bits.
    """
    highest = max(int(side.codes.max(initial=0)) for side in (control, groups))
    bits = max(highest.bit_length(), 1)
    reference = _Control(control.shape[0], bits, *_sorted(control, bits))
    parts = [
        _compare(reference, groups, bounds[first : last + 1])
        for first, last in _batches(groups.rows[bounds].astype(np.int64))
    ]
    u, ties = (np.concatenate([part[i] for part in parts], axis=1).T for i in (0, 1))
    return RankSum(u, two_sided_p(u, ties, np.diff(bounds)[:, None], control.shape[0]))


def two_sided_p(u: Floats, ties: Floats, n: Integers, n_control: int) -> Floats:
    """Return the two-sided p of U by the normal approximation.

    The correction for continuity is 1/2; `ties` is Σ t³ − t over runs of equal values.
    """
    total, product = n + n_control, n * n_control
    spread = product / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)))
    varies = spread > 0
    scale = np.sqrt(np.where(varies, spread, 1.0))
    z = (np.maximum(u, product - u) - product / 2.0 - 0.5) / scale
    # The C library's erfc, as numba's kernels call it: scipy's differs in the last bit.
    tails = np.fromiter(map(erfc, (z / sqrt(2.0)).ravel().tolist()), np.float64, z.size)
    return np.where(varies, np.clip(0.5 * tails.reshape(z.shape) * 2.0, 0.0, 1.0), 1.0)


@dataclass(frozen=True)
class _Control:
    """The control's non-zero values, sorted.

    Attributes:
        n_cells: cells, those that are zero included.
        bits: bits of a value's integer within a key.
        keys: gene and value of each.
        first: where each gene's begin, and the end of the last.
    """

    n_cells: int
    bits: int
    keys: Integers
    first: Integers

    def block(self, first: int, last: int) -> Integers:
        return self.keys[self.first[first] : self.first[last]]


def _sorted(
    cells: Ordered, bits: int, *, member: Integers | None = None, member_bits: int = 0
) -> tuple[Integers, Integers]:
    """Return the sorted keys (gene, value, member) of entries and where each gene's begin."""
    genes = cells.shape[1]
    if genes.bit_length() + bits + member_bits > KEY_BITS:
        message = f"{genes} genes, {bits} bits of value and {member_bits} of group exceed 63 bits"
        raise OverflowError(message)
    keys = cells.columns.astype(np.int64)
    keys <<= bits
    keys |= cells.codes
    if member is not None:
        keys <<= member_bits
        keys |= member
    keys.sort()
    edges = np.arange(genes + 1, dtype=np.int64) << (bits + member_bits)
    return keys, np.searchsorted(keys, edges)


def _batches(entries: Integers) -> Iterator[tuple[int, int]]:
    """Yield ranges of groups with a bounded number of entries, at least one group each."""
    first = 0
    while first < len(entries) - 1:
        last = int(np.searchsorted(entries, entries[first] + BATCH, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _compare(control: _Control, groups: Ordered, bounds: Integers) -> tuple[Floats, Floats]:
    """Return U and the tie term of a batch of groups, [genes, groups]."""
    genes, n_groups = groups.shape[1], len(bounds) - 1
    lo, hi = groups.rows[bounds[0]], groups.rows[bounds[-1]]
    part = Ordered(groups.rows, groups.columns[lo:hi], groups.codes[lo:hi], groups.shape)
    member = np.repeat(np.arange(n_groups), np.diff(groups.rows[bounds].astype(np.int64)))
    bits = n_groups.bit_length()
    keys, first = _sorted(part, control.bits, member=member, member_bits=bits)
    sizes = np.diff(bounds).astype(np.float64)
    u, ties = np.empty((genes, n_groups)), np.empty((genes, n_groups))
    step = max(1, BLOCK * genes // max(len(keys) + len(control.keys), 1))
    for start in range(0, genes, step):
        stop = min(start + step, genes)
        block = keys[first[start] : first[stop]]
        u[start:stop], ties[start:stop] = _block(control, block, bits, sizes, (start, stop))
    return u, ties


def _block(
    control: _Control, keys: Integers, group_bits: int, sizes: Floats, genes: tuple[int, int]
) -> tuple[Floats, Floats]:
    """Return U and the tie term of a range of genes, [genes, groups]."""
    start, stop = genes
    n_genes, n_groups = stop - start, len(sizes)
    values, before, own_ties = _control_runs(control, start, stop)
    starts = _starts(keys)
    times = np.diff(np.append(starts, len(keys))).astype(np.float64)
    runs = keys[starts]
    value, group = runs >> group_bits, runs & ((1 << group_bits) - 1)
    gene = (value >> control.bits) - start
    place = gene * n_groups + group
    at = np.searchsorted(values, value)
    offsets = control.first[start : stop + 1] - control.first[start]
    expressed = np.diff(offsets)
    control_zeros = (control.n_cells - expressed).astype(np.float64)
    # A sentinel ends `values`, so every lookup has a run to be compared with.
    equal = np.where(values[at] == value, before[at + 1] - before[at], 0.0)
    below = before[at] - offsets[gene] + control_zeros[gene]

    def summed(weights: NDArray[np.float64]) -> Floats:
        sums = np.bincount(place, weights=weights, minlength=n_genes * n_groups)
        return np.asarray(sums, np.float64).reshape(n_genes, n_groups)

    zeros = sizes - summed(times)
    twice = summed(times * (2 * below + equal)) + zeros * control_zeros[:, None]
    added = np.where(equal > 0, _cubes(equal + times) - _cubes(equal), _cubes(times))
    ties = own_ties[:, None] + summed(added) + _cubes(zeros + control_zeros[:, None])
    return twice / 2, ties


def _control_runs(control: _Control, start: int, stop: int) -> tuple[Integers, Floats, Floats]:
    """Return runs of equal control values in a range of genes.

    That is: their keys and a sentinel above them all; how many values lie before each, with two
    more entries at the end; Σ t³ − t by gene.
    """
    keys = control.block(start, stop)
    starts = _starts(keys)
    values = np.append(keys[starts], np.iinfo(np.int64).max)
    before = np.concatenate([starts, [len(keys), len(keys)]]).astype(np.float64)
    gene = (values[:-1] >> control.bits) - start
    ties = np.bincount(gene, weights=_cubes(np.diff(before[:-1])), minlength=stop - start)
    return values, before, np.asarray(ties, np.float64)


def _starts(keys: Integers) -> Integers:
    """Return where runs of equal keys begin."""
    fresh = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=fresh[1:])
    return np.flatnonzero(fresh)


def _cubes(lengths: Floats) -> Floats:
    return lengths * lengths * lengths - lengths
