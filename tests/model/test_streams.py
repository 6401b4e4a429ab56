"""The random streams are Philox4x64-10, one per (seed, cell), one draw per (purpose, gene)."""

import numpy as np
import pytest

from lingshu_model.contracts.streams import Purpose, raw, uniforms

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
