"""Canonical JSON and the hash contract, against the vectors that docs/file-format.md publishes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingshu_tools.ledger import canonical_json, digest_json
from lingshu_tools.ledger.chain import hash_link, hash_row

DOCUMENT = Path(__file__).parents[2] / "docs" / "file-format.md"

VECTORS: list[tuple[Any, str]] = [
    (None, "null"),
    ({"b": 1, "a": [True, False]}, '{"a":[true,false],"b":1}'),
    (1, "1"),
    (1.0, "1.0"),
    (-0.0, "0.0"),
    (0.1 + 0.2, "0.30000000000000004"),
    (1e300, "1e+300"),
    (9223372036854775807, "9223372036854775807"),
    ('µ"\\\n\u2028', '"µ\\"\\\\\\n\u2028"'),
    ({"é": "e\u0301", "z": {}}, '{"z":{},"é":"e\u0301"}'),
]
ROW = {"seq": 1, "id": "led_example", "format": "lingshu-ledger-1", "note": None, "created_at": "t"}
ROW_HASH = "sha256:c3a3f53a8b97e6854a75f9dcc2520e96c4f0d2e1d93a44cd2ba161d3a5a7d78a"
FIRST = "sha256:6a371b61650a179b90a6509d66671b1e512ccc41071661889f1014e216712a6b"
SECOND = "sha256:565fb0a5df3cf5f6cde9a3c4f9ed09308616786d2743a0571022a4d9f4b18168"

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10)
)
keys = st.text(max_size=5)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(keys, v, max_size=4), max_leaves=6
)


@pytest.mark.parametrize(("value", "text"), VECTORS)
def test_a_value_has_the_published_text(value: Any, text: str) -> None:
    assert canonical_json(value).decode() == text


def test_rows_and_links_have_the_published_hashes() -> None:
    first = hash_link("", 1, hash_row("ledger", ROW))
    second = hash_link(first, 2, hash_row("server", {"seq": 2, "pid": 4, "seconds": 0.5}))
    assert (hash_row("ledger", ROW), first, second) == (ROW_HASH, FIRST, SECOND)


def test_the_published_vectors_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text("utf-8")
    plain = [v for _, v in VECTORS if v.isascii() and "\\" not in v]
    assert [v for v in (*plain, ROW_HASH, FIRST, SECOND) if f"`{v}`" not in text] == []


def test_a_column_added_later_and_empty_changes_no_hash() -> None:
    assert hash_row("screen", {"seq": 3, "id": "s"}) == hash_row(
        "screen", {"id": "s", "seq": 3, "tag": None}
    )


@given(keys, st.dictionaries(keys, scalars, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_row_is_hashed_by_its_canonical_json(kind: str, row: dict[str, Any]) -> None:
    filled = {name: value for name, value in row.items() if value is not None}
    assert hash_row(kind, row) == digest_json({"kind": kind, "row": filled})


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800", b"x", {1, 2}])
def test_a_row_that_json_cannot_say_has_no_hash(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        hash_row("screen", {"seq": 1, "plan": value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "\ud800", {1: 2}, b"x", {1, 2}])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^\$\.a"):
        canonical_json({"a": [value] if not isinstance(value, dict) else value})


@given(values)
@settings(max_examples=60, deadline=None)
def test_the_text_reads_back_as_the_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(values)
@settings(max_examples=40, deadline=None)
def test_what_was_read_back_has_the_same_text(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(keys, values, min_size=2, max_size=5), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_keys_never_matters(value: dict[str, Any], shuffler: Any) -> None:
    items = list(value.items())
    shuffler.shuffle(items)
    assert digest_json(dict(items)) == digest_json(value)


@given(scalars, scalars)
@settings(max_examples=60, deadline=None)
def test_only_equal_values_of_one_type_share_a_text(item: Any, other: Any) -> None:
    same = type(item) is type(other) and item == other
    assert (canonical_json(item) == canonical_json(other)) == same
