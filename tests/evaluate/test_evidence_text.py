"""The text of an evidence file is that of the standard library's encoder, made in less time."""

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingshu_model.contracts.evidence_text import dumps, rounded

FLOATS = st.floats(-1e300, 1e300) | st.sampled_from([math.nan, math.inf, -math.inf])
NUMBERS = st.one_of(FLOATS, st.integers(-(10**9), 10**9), st.none())
LEAVES = st.one_of(NUMBERS, st.booleans(), st.text('ab"\\é\n\u2028 _'))
LISTS = st.one_of(st.lists(NUMBERS), st.lists(FLOATS, min_size=1))
VALUES = st.recursive(
    st.one_of(LEAVES, LISTS),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text("abé"), inner)),
)


def by_the_library(value: object) -> str:
    """The same text by `json`, lists of numbers then put on one line."""
    text = json.dumps(rounded(value), indent=1, sort_keys=True, allow_nan=False)
    lists = re.compile(r"\[[\s\d.,e+\-nul]*\]")
    return lists.sub(lambda match: " ".join(match.group().split()), text) + "\n"


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text("abé"), VALUES))
def test_the_text_is_that_of_the_library(value: dict[str, object]):
    assert dumps(value) == by_the_library(value)


@pytest.mark.parametrize("number", [0.1 + 0.2, 1e-300, 123456.7, -0.0, 1e22, math.inf, math.nan])
def test_floats_have_five_digits_in_lists_as_elsewhere(number: float):
    first, second = json.loads(dumps({"a": number, "b": [number, 1.0]})).values()
    assert second[0] == first == rounded(number)


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError):
        dumps({"a": [1.0, object()]})
