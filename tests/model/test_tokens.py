"""The quantiser is the published one."""

import numpy as np
import pytest

from lingshu_model.network.tokens import LOWER_EDGES, MASK, VOCABULARY, decode, encode


@pytest.mark.parametrize(
    ("count", "token", "decoded"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (99, 99, 99),
        (100, 100, 100),
        (109, 100, 100),
        (110, 101, 110),
        (999, 189, 990),
        (1000, 190, 1000),
        (9999, 279, 9900),
        (10000, 280, 10000),
        (10**6, 280, 10000),
    ],
)
def test_counts_become_the_published_tokens_and_the_bins_lower_edges(
    count: int, token: int, decoded: int
) -> None:
    assert encode([count])[0] == token
    assert decode([token])[0] == decoded


def test_every_token_survives_decoding_and_encoding() -> None:
    assert len(LOWER_EDGES) == VOCABULARY == MASK == 281
    assert np.array_equal(encode(LOWER_EDGES), np.arange(VOCABULARY))


@pytest.mark.parametrize(("bad", "words"), [(-1, "negative"), (0.5, "whole"), (np.nan, "whole")])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_what_is_no_count_is_refused(bad: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode([bad])
