"""Interactions by Möbius inversion: what a combination does beyond its parts."""

from itertools import combinations

import numpy as np
import pytest

from lingshu_tools.analysis.pairs.interactions import NotMeasuredError, expected, interaction

MEMBERS = ("A", "B", "C", "D")
SUBSETS = [frozenset(s) for k in (1, 2, 3, 4) for s in combinations(MEMBERS, k)]


def made_of(terms: dict[frozenset[str], float]) -> dict[frozenset[str], np.ndarray]:
    """Changes that are the sums of given interactions."""
    return {
        whole: np.array([sum(value for part, value in terms.items() if part <= whole)])
        for whole in SUBSETS
    }


def test_interactions_of_every_order_are_found_again():
    terms = {subset: float(i * i - 7 * i + 3) for i, subset in enumerate(SUBSETS)}
    changes = made_of(terms)
    for subset in SUBSETS:
        assert interaction(changes, subset) == pytest.approx(terms[subset])


def test_a_null_of_full_order_is_the_change_itself():
    changes = made_of({subset: float(len(subset) + i) for i, subset in enumerate(SUBSETS)})
    for subset in SUBSETS:
        assert expected(changes, subset, len(subset)) == pytest.approx(changes[subset])


def test_the_trigenic_interaction_is_what_no_pair_explains():
    changes = {s: np.array([float(i**2)]) for i, s in enumerate(SUBSETS)}
    whole = frozenset("ABC")
    pairs = sum(changes[frozenset(p)] for p in combinations("ABC", 2))
    singles = sum(changes[frozenset(p)] for p in "ABC")
    assert interaction(changes, whole) == pytest.approx(changes[whole] - pairs + singles)
    assert expected(changes, whole, 2) == pytest.approx(pairs - singles)


def test_a_missing_pair_is_named_or_taken_to_add_nothing():
    changes = made_of(dict.fromkeys(SUBSETS, 1.0))
    del changes[frozenset("AB")]
    with pytest.raises(NotMeasuredError, match=r"A \+ B"):
        expected(changes, "ABC", 2)
    # Three singles, and the two pairs that are left.
    assert expected(changes, "ABC", 2, unmeasured_is_zero=True) == pytest.approx([5.0])


def test_a_missing_single_is_never_taken_for_nothing():
    changes = made_of(dict.fromkeys(SUBSETS, 1.0))
    del changes[frozenset("A")]
    with pytest.raises(NotMeasuredError, match="change of A is"):
        expected(changes, "AB", 2, unmeasured_is_zero=True)
