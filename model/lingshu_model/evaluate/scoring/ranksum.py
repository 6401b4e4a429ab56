"""Mann-Whitney U of many groups of cells against one control, for every gene.

The non-zero values of the control and of all groups are sorted together, some genes at a time. A
value then beats as many control cells as stand before it, and zeros, the lowest value, are only
counted. Values that several cells share are few: they are taken out, and their ties corrected for,
by runs of equal ones. U and the tie term are sums of integers (float64 holds them exactly up to
about 200,000 cells), so they do not depend on the order of anything. Knows nothing of genes' names,
normalisation or multiple tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import erfc, sqrt

import numpy as np

from lingshu_model.evaluate.scoring.cells import Floats
from lingshu_model.evaluate.scoring.normal import Integers, Ordered
from lingshu_model.evaluate.scoring.threads import each

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
    layout = _Layout.of(control, groups, len(bounds) - 1)
    sizes = np.diff(bounds)
    member = np.repeat(np.arange(1, len(bounds)), sizes)
    block = partial(_block, control, groups, layout, member, sizes.astype(np.float64))
    parts = each(block, _ranges(control.starts.astype(np.int64) + groups.starts))
    u, ties = (np.concatenate([part[i] for part in parts]).T for i in (0, 1))
    return RankSum(u, two_sided_p(u, ties, sizes[:, None], control.shape[0]))


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
class _Layout:
    """What a key is made of, from the highest bits: gene, value, member.

    Attributes:
        groups: how many there are; a group's member is its number from 1, the control's is 0.
        value_bits: bits of a value's integer.
        member_bits: bits of a member.
    """

    groups: int
    value_bits: int
    member_bits: int

    @classmethod
    def of(cls, control: Ordered, groups: Ordered, n_groups: int) -> "_Layout":
        highest = max(int(side.codes.max(initial=0)) for side in (control, groups))
        layout = cls(n_groups, max(highest.bit_length(), 1), n_groups.bit_length())
        genes = control.shape[1]
        if genes.bit_length() + layout.value_bits + layout.member_bits > KEY_BITS:
            message = f"{genes} genes, {highest} values and {n_groups} groups exceed 63 bits"
            raise OverflowError(message)
        return layout

    def keys(self, cells: Ordered, member: Integers | None, genes: tuple[int, int]) -> Integers:
        """Return the keys of a range of genes, counted from its first."""
        starts = cells.starts[genes[0] : genes[1] + 1]
        held = slice(starts[0], starts[-1])
        keys = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        keys <<= self.value_bits
        keys |= cells.codes[held]
        keys <<= self.member_bits
        if member is not None:
            keys |= member[cells.cells[held]]
        return keys

    def values(self, keys: Integers) -> Integers:
        return keys >> self.member_bits

    def members(self, keys: Integers) -> Integers:
        return keys & ((1 << self.member_bits) - 1)

    def genes(self, keys: Integers) -> Integers:
        return keys >> (self.value_bits + self.member_bits)

    def sums(self, keys: Integers, weights: Sequence[Floats], genes: int) -> list[Floats]:
        """Return sums of weights of groups' keys, [genes, groups] each."""
        place = self.genes(keys) * self.groups + self.members(keys) - 1
        shape = genes, self.groups
        found = (np.bincount(place, w, genes * self.groups) for w in weights)
        return [np.asarray(sums, np.float64).reshape(shape) for sums in found]


def _ranges(entries: Integers) -> list[tuple[int, int]]:
    """Return ranges of genes with a bounded number of entries, at least one gene each."""
    ranges: list[tuple[int, int]] = []
    first = 0
    while first < len(entries) - 1:
        last = int(np.searchsorted(entries, entries[first] + BLOCK, side="right")) - 1
        ranges.append((first, max(last, first + 1)))
        first = ranges[-1][1]
    return ranges


def _block(
    control: Ordered,
    groups: Ordered,
    layout: _Layout,
    member: Integers,
    sizes: Floats,
    genes: tuple[int, int],
) -> tuple[Floats, Floats]:
    """Return U and the tie term of a range of genes, [genes, groups]."""
    n = genes[1] - genes[0]
    keys = [layout.keys(control, None, genes), layout.keys(groups, member, genes)]
    keys = np.concatenate(keys)
    keys.sort()
    at = np.flatnonzero(layout.members(keys) > 0)
    starts = control.starts[genes[0] : genes[1] + 1].astype(np.int64)
    zeros = control.shape[0] - np.diff(starts)[:, None].astype(np.float64)
    # Control cells that are no higher: those that stand before in the block, less other genes'.
    before = (at - np.arange(len(at))).astype(np.float64)
    expressed, not_above = layout.sums(keys[at], [np.ones_like(before), before], n)
    not_above += expressed * (zeros - (starts[:-1] - starts[0])[:, None])
    equal, ties = _ties(layout, _shared(layout, keys), n)
    absent = sizes - expressed
    u = not_above - equal / 2 + absent * zeros / 2
    return u, ties + _cubes(absent + zeros)


def _shared(layout: _Layout, keys: Integers) -> Integers:
    """Return the sorted keys whose gene and value another one has too."""
    values = layout.values(keys)
    same = values[1:] == values[:-1]
    shared = np.zeros(len(keys), bool)
    shared[1:] = same
    shared[:-1] |= same
    return keys[shared]


def _ties(layout: _Layout, keys: Integers, genes: int) -> tuple[Floats, Floats]:
    """Return how many pairs with a control cell are equal, and the tie term, without zeros."""
    starts = _starts(keys)
    times = np.diff(np.append(starts, len(keys))).astype(np.float64)
    runs = keys[starts]
    own = layout.members(runs) == 0
    # The control's run of a value stands before the groups' runs of it.
    values = layout.values(runs)
    first = np.searchsorted(values, values)
    equal = np.where(own[first], times[first], 0.0)[~own]
    ties = np.bincount(layout.genes(runs[own]), _cubes(times[own]), genes)[:, None]
    runs, times = runs[~own], times[~own]
    added = _cubes(equal + times) - _cubes(equal)
    pairs, more = layout.sums(runs, [times * equal, added], genes)
    return pairs, ties + more


def _starts(keys: Integers) -> Integers:
    """Return where runs of equal keys begin."""
    fresh = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=fresh[1:])
    return np.flatnonzero(fresh)


def _cubes(lengths: Floats) -> Floats:
    return lengths * lengths * lengths - lengths
