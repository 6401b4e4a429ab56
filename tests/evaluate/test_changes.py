import numpy as np
import pytest
from made import Truth

from lingshu_model.evaluate.changes import (
    Change,
    change_between,
    log1p_cp10k,
    magnitude_ratio,
    paired_change,
    pearson,
    pooled_magnitude_ratio,
)
from lingshu_model.evaluate.estimates import Estimate, estimate, halves, verdict
from lingshu_model.evaluate.observed import CONTROL


def test_expression_is_the_log_of_counts_per_ten_thousand_and_one():
    found = log1p_cp10k(np.array([[1, 3], [0, 0]]))
    np.testing.assert_allclose(found, [[np.log(2501), np.log(7501)], [0, 0]])


def test_the_squared_length_of_no_effect_is_zero_on_average():
    truth = Truth()
    lengths = []
    for seed in range(60):
        a, b = (log1p_cp10k(truth.cells(CONTROL, 50, 2 * seed + i)) for i in (0, 1))
        lengths.append(change_between(a, b).squared_length)
    assert abs(np.mean(lengths)) < 3 * np.std(lengths) / np.sqrt(len(lengths))
    assert min(lengths) < 0 < max(lengths)


def test_pairing_takes_the_shared_noise_out_of_the_change():
    generator = np.random.default_rng(0)
    control = generator.normal(size=(200, 5))
    perturbed = control + 1 + 0.1 * generator.normal(size=(200, 5))
    paired, apart = paired_change(perturbed, control), change_between(perturbed, control)
    np.testing.assert_allclose(paired.value, apart.value)
    assert (paired.noise < apart.noise / 50).all()


def test_pearson_with_a_constant_is_scored_zero():
    assert pearson(np.zeros(3), np.array([1.0, 2.0, 3.0])) == 0
    assert pearson(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0])) == pytest.approx(1)


def test_a_magnitude_lost_in_its_noise_is_undefined_but_may_be_pooled():
    lost, clear = Change(np.ones(4), np.full(4, 2.0)), Change(np.full(4, 3.0), np.zeros(4))
    assert np.isnan(magnitude_ratio(lost, clear))
    assert magnitude_ratio(clear, clear) == 1
    assert pooled_magnitude_ratio([lost, clear], [clear, clear]) == pytest.approx((32 / 72) ** 0.5)


def test_an_interval_is_the_spread_of_the_draws_around_the_figure():
    draws = np.random.default_rng(0).normal(0.3, 0.1, 4000)
    found = estimate(0.5, draws)
    assert found.interval[0] == pytest.approx(0.5 - 0.196, abs=0.02)
    assert found.interval[1] == pytest.approx(0.5 + 0.196, abs=0.02)


def test_an_undefined_figure_has_an_undefined_interval():
    assert np.isnan(estimate(float("nan"), np.ones(3)).interval).all()
    assert np.isnan(estimate(1.0, np.full(3, np.nan)).interval).all()


@pytest.mark.parametrize(
    ("interval", "said"),
    [((0.1, 0.2), "win"), ((-0.1, 0.2), "tie"), ((-0.2, -0.1), "loss"), ((0.0, 0.0), "tie")],
)
def test_a_tie_is_an_interval_that_spans_zero(interval: tuple[float, float], said: str):
    opposite = {"win": "loss", "loss": "win", "tie": "tie"}[said]
    assert verdict(Estimate(0.0, interval)) == said
    assert verdict(Estimate(0.0, interval), higher_is_better=False) == opposite


def test_halves_are_disjoint_and_equally_large():
    a, b = halves(11, np.random.default_rng(0))
    assert len(a) == len(b) == 5
    assert not set(a.tolist()) & set(b.tolist())


def test_cells_without_a_partner_are_in_no_pair():
    perturbed, control = np.array([[3.0], [5.0]]), np.array([[1.0], [2.0], [9.0]])
    assert paired_change(perturbed, control).value.tolist() == [2.5]
    assert paired_change(control, perturbed).value.tolist() == [-2.5]
