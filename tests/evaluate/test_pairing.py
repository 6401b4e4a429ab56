import numpy as np
import pytest

from lingshu_model.evaluate.changes import log1p_cp10k
from lingshu_model.evaluate.pairing import pairing_gain, screen_score


def _gain(shared: float):
    generator = np.random.default_rng(0)
    common, control, other, own = generator.normal(size=(4, 1000, 6))
    paired = shared * common + np.sqrt(1 - shared**2) * control
    perturbed = shared * common + np.sqrt(1 - shared**2) * own + 1
    arms = (perturbed, paired, other)
    scores = tuple(arm.mean(axis=1) for arm in arms)
    return pairing_gain(*arms, scores=scores, generator=generator)


def test_independent_cells_gain_nothing():
    gain = _gain(0.0)
    for ratio in (gain.genes_total, gain.genes_median, gain.score):
        assert ratio.value == pytest.approx(1, abs=0.2)
        assert ratio.interval[0] < 1.15
        assert ratio.interval[1] > 0.85


def test_shared_noise_gains_what_it_takes_out():
    # Paired differences vary by 2 (1 - shared²), independent ones by 2.
    gain = _gain(0.9**0.5)
    assert gain.genes_total.value == pytest.approx(10, rel=0.15)
    assert gain.score.value == pytest.approx(10, rel=0.2)
    assert (gain.score_se[1] / gain.score_se[0]) ** 2 == pytest.approx(gain.score.value)


def test_the_own_gene_is_left_out_of_the_score():
    genes, counts = ["STAT1", "PSMB9", "UBE2L6", "X"], np.array([[5, 1, 0, 4]])
    expression = log1p_cp10k(counts)[0]
    assert screen_score(counts, genes, "JAK2")[0] == pytest.approx(-expression[:3].mean())
    assert screen_score(counts, genes, "STAT1")[0] == pytest.approx(-expression[1:3].mean())
