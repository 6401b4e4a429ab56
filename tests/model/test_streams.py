"""The random streams are Philox4x64-10, one per (seed, cell), one draw per (purpose, gene)."""

import numpy as np
import pytest

from lingshu_model.contracts import streams
from lingshu_model.contracts.streams import Purpose, raw, stratified, uniforms, unit_interval

# Random123's known-answer vectors for philox4x64, 10 rounds: counter, key, output.
UNITS = 2**64 - 1
VECTORS = [
    (
        [0, 0, 0, 0],
        [0, 0],
        [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
    ),
    (
        [UNITS] * 4,
        [UNITS] * 2,
        [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
    ),
]


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Salmon et al. 2011, written from the paper, slow and plain."""
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [
            (right >> 64) ^ c[1] ^ k[0],
            right & UNITS,
            (left >> 64) ^ c[3] ^ k[1],
            left & UNITS,
        ]
        k = [(k[0] + 0x9E3779B97F4A7C15) & UNITS, (k[1] + 0xBB67AE8584CAA73B) & UNITS]
    return c


@pytest.mark.parametrize(("counter", "key", "output"), VECTORS)
def test_the_plain_philox_gives_the_known_answers(
    counter: list[int], key: list[int], output: list[int]
) -> None:
    assert philox(counter, key) == output


@pytest.mark.parametrize("purpose", list(Purpose))
def test_gene_g_is_lane_g_mod_4_of_block_g_over_4(purpose: Purpose) -> None:
    seed, cell = 2**40 + 5, 123
    drawn = raw(seed, cell, purpose, 10)
    plain = [philox([g // 4, int(purpose), 0, 0], [seed, cell])[g % 4] for g in range(10)]
    assert drawn.tolist() == plain


def test_a_genes_draw_does_not_depend_on_how_many_genes_there_are() -> None:
    assert np.array_equal(raw(1, 2, Purpose.VALUE, 7), raw(1, 2, Purpose.VALUE, 300)[:7])


def test_uniforms_lie_strictly_between_zero_and_one_and_fill_it_evenly() -> None:
    drawn = np.concatenate([uniforms(3, cell, Purpose.VALUE, 1000) for cell in range(20)])
    assert drawn.min() > 0
    assert drawn.max() < 1
    share = np.histogram(drawn, bins=10, range=(0, 1))[0] / len(drawn)
    assert np.abs(share - 0.1).max() < 0.012


def test_stratified_numbers_fill_every_interval_of_aligned_cells():
    numbers = stratified(5, np.arange(256), Purpose.MOVE, 40)
    for first, n in ((0, 64), (64, 64), (128, 128), (0, 256)):
        part = np.sort(numbers[first : first + n], axis=0)
        assert np.array_equal(np.floor(part * n).astype(int), np.tile(np.arange(n)[:, None], 40))
    assert 0 < numbers.min() < numbers.max() < 1


def test_stratified_numbers_do_not_depend_on_what_is_drawn_beside_them():
    numbers = stratified(5, np.arange(5000, 5200), Purpose.MOVE, 40)
    some = np.array([5199, 5003, 5064])
    assert np.array_equal(stratified(5, some, Purpose.MOVE, 40), numbers[some - 5000])
    assert not np.array_equal(stratified(6, some, Purpose.MOVE, 40), numbers[some - 5000])


def test_stratified_numbers_of_two_genes_are_independent():
    numbers = stratified(1, np.arange(512), Purpose.MOVE, 300)
    pairs = np.triu_indices(300, 1)
    for each in (numbers, numbers < 0.02, numbers < 0.3):
        correlations = np.corrcoef(each.T.astype(float))[pairs]
        assert abs(correlations.mean()) < 0.002
        assert correlations.std() == pytest.approx(1 / np.sqrt(512), rel=0.05)


def test_shares_of_stratified_numbers_vary_by_one_cell_and_not_by_their_root():
    numbers = stratified(2, np.arange(512), Purpose.MOVE, 1000)
    for share in (0.004, 0.1, 0.5):
        picked = (numbers < share).sum(axis=0)
        assert picked.mean() == pytest.approx(512 * share, rel=0.05)
        assert picked.std() < 0.6  # independent numbers: 1.4, 6.8 and 11.3


@pytest.mark.parametrize("word", [UNITS, UNITS - 2047, UNITS - 2048, 2**63, 2048, 2047, 0])
def test_no_word_gives_0_or_1(monkeypatch: pytest.MonkeyPatch, word: int):
    words = np.full(3, word, np.uint64)
    monkeypatch.setattr(streams, "raw", lambda *_: words)
    drawn = uniforms(1, 2, Purpose.VALUE, 3)
    assert ((drawn > 0) & (drawn < 1)).all()
    if word < UNITS - 2047:
        # All but the largest are as they were.
        assert drawn[0] == (float(word >> 11) + 0.5) * 2.0**-53


def test_numbers_of_every_stream_are_the_same():
    words = raw(3, 4, Purpose.ORDER, 1000)
    assert np.array_equal(unit_interval(words), uniforms(3, 4, Purpose.ORDER, 1000))
