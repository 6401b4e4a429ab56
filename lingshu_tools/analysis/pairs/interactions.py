"""What a combination does beyond its parts: Möbius inversion over subsets of interventions.

The change of a set is the sum of the interactions of all its subsets, so an interaction is what a
set does beyond everything its smaller subsets explain: of one intervention its own change, of two
the double less both singles, of three what no pair explains. A null of order 1 is the additive one,
of order 2 the pairwise one. Changes are on whatever scale they come, and what is additive on one
scale is not on another.
"""

from collections.abc import Collection, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Changes = Mapping[frozenset[str], Floats]
"""Change against control by set of interventions; control itself, the empty set, is not in it."""


class NotMeasuredError(KeyError):
    """A subset that an interaction needs has no change."""

    def __str__(self) -> str:
        return str(self.args[0])


def interaction(changes: Changes, of: Collection[str]) -> Floats:
    """Return what `of` does beyond its smaller subsets, same shape as a change.

    Raises:
        NotMeasuredError: the change of a subset is missing; which one is said.
    """
    whole = frozenset(of)
    # Möbius inversion: I(S) = sum over nonempty T in S of (-1)^(|S| - |T|) change(T). The empty
    # set, control, has no change and no term.
    terms = [
        (-1) ** (len(whole) - len(subset)) * _change(changes, subset)
        for subset in _subsets(whole, len(whole))
    ]
    return np.sum(terms, axis=0)


def expected(
    changes: Changes, of: Collection[str], order: int, *, unmeasured_is_zero: bool = False
) -> Floats:
    """Return the change of `of` if no interaction were of more than `order` interventions.

    With `unmeasured_is_zero` an interaction of two or more that cannot be had is taken to be
    none; singles are always needed.

    Raises:
        NotMeasuredError: the change of a subset is missing; which one is said.
    """
    # Summed upwards again: change(S) = sum of I(T), here only over T of at most `order` members.
    total = 0.0
    for subset in _subsets(frozenset(of), order):
        if unmeasured_is_zero and len(subset) > 1 and not _measured(changes, subset):
            continue
        total = total + interaction(changes, subset)
    return np.asarray(total)


def _subsets(whole: frozenset[str], most: int) -> list[frozenset[str]]:
    # In a fixed order: float sums depend on it, and equal questions have equal answers.
    members = sorted(whole)
    sizes = range(1, min(most, len(members)) + 1)
    return [frozenset(s) for size in sizes for s in combinations(members, size)]


def _measured(changes: Changes, whole: frozenset[str]) -> bool:
    return all(subset in changes for subset in _subsets(whole, len(whole)))


def _change(changes: Changes, subset: frozenset[str]) -> Floats:
    if subset not in changes:
        message = (
            f"the change of {' + '.join(sorted(subset))} is not among the {len(changes)} given: "
            "measure it, or ask for a null of lower order"
        )
        raise NotMeasuredError(message)
    return changes[subset]
