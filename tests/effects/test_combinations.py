"""Several perturbations together: saturating by default, the sum beside it."""

import numpy as np
import pytest

from lingshu_model.effects import Posterior, Range, Saturation, fit_saturation, together
from lingshu_model.effects.combinations import BORROWED

WIDE = Range(np.full(4, -np.inf), np.full(4, np.inf))


def effect(*mean: float, sd: float = 0.01) -> Posterior:
    return Posterior.normal(np.array(mean), np.full(len(mean), sd))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_default_is_less_than_the_sum_and_the_sum_stands_beside_it(k: int):
    parts = [effect(1.0, -0.5, 0.2, 0.0)] * k
    result = together(parts, Saturation(), WIDE)
    np.testing.assert_allclose(result.additive.mean, k * parts[0].mean)
    np.testing.assert_allclose(
        result.effect.mean, result.additive.mean / (1 + BORROWED * (k - 1)), rtol=1e-12
    )
    assert "assumption" in result.note


def test_effects_end_where_those_of_trained_conditions_end():
    rng = np.random.default_rng(0)
    means = rng.normal(0, 0.05, (25, 4))
    means[0, 1], means[1, 0] = -2.5, 1.5
    value_range = Range.of(means, np.full(4, 6.0))
    parts = [effect(1.4, -2.5, 0, 0), effect(1.2, -1.8, 0, 0)]
    result = together(parts, Saturation(), value_range)
    np.testing.assert_allclose(result.effect.mean[:2], [1.5, -2.5])
    np.testing.assert_allclose(result.additive.mean[:2], [2.6, -4.3])


def test_few_conditions_bound_a_combination_by_no_expression_alone():
    value_range = Range.of(np.full((5, 4), -0.1), np.array([1.0, 0.3, np.nan, 0.0]))
    result = together([effect(-2.0, -2.0, -2.0, -2.0)] * 2, Saturation(), value_range)
    np.testing.assert_allclose(result.effect.mean, [-1.0, -0.3, -3.2, 0.0])
    up = together([effect(2.0, 2.0, 2.0, 2.0)] * 2, Saturation(), value_range)
    np.testing.assert_allclose(up.effect.mean, 3.2)


def test_what_is_done_to_a_gene_itself_neither_saturates_nor_stops_at_the_range():
    value_range = Range(np.full(4, -0.5), np.full(4, 0.5))
    parts = [effect(3.0, 0.1, 0, 0), effect(0.2, 0.1, 2.0, 0)]
    result = together(parts, Saturation(), value_range, target_rows=[0, 2, -1])
    np.testing.assert_allclose(result.effect.mean, [3.2, 0.16, 2.0, 0.0])


def test_a_gene_that_is_perturbed_itself_falls_no_lower_than_trained_conditions_take_it():
    means = np.zeros((25, 4))
    means[0, 0], means[1, 0], means[2, 1] = -1.0, -0.8, 0.5
    value_range = Range.of(means, np.full(4, 6.0))
    parts = [effect(-1.0, 0.5, 0, 0), effect(-0.8, 0.4, 0, 0)]
    result = together(parts, Saturation(), value_range, target_rows=[0, 1])
    np.testing.assert_allclose(result.effect.mean, [-1.0, 0.9, 0, 0])


def test_interactions_make_a_combination_less_sure_than_its_parts():
    result = together([effect(1.0, 1.0, 1.0, 0.0)] * 2, Saturation(), WIDE)
    assert (result.effect.sd[:3] > 0.2).all()
    assert result.effect.sd[3] < 0.02
    assert (result.additive.sd < 0.02).all()


@pytest.mark.parametrize(("separate", "n"), [(0.0, 200), (1.0, 200), (1.0, 4)])
def test_doubles_of_the_data_correct_the_borrowed_figure_as_far_as_they_go(separate: float, n: int):
    rng = np.random.default_rng(1)
    true = rng.normal(0, 0.5, (n, 300))
    noise = np.full(true.shape, 0.3**2)
    sums = true + 0.3 * rng.normal(size=true.shape)
    result = fit_saturation(
        sums, true / (1 + separate) + 0.1 * rng.normal(size=true.shape), noise, [2] * n
    )
    share = n / (n + 10)
    assert result.strength == pytest.approx(share * separate + (1 - share) * BORROWED, abs=0.06)
    assert f"{n} combinations" in result.note


def test_without_doubles_the_figure_is_borrowed_and_one_part_is_refused():
    none = np.zeros((0, 4))
    assert fit_saturation(none, none, none, []) == Saturation()
    with pytest.raises(ValueError, match="two or more"):
        together([effect(1.0, 0, 0, 0)], Saturation(), WIDE)
