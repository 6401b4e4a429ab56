import numpy as np
import pytest
from synthetic import Truth

from lingshu_model.evaluate.metrics.agreement import overlap_with
from lingshu_model.evaluate.metrics.changes import (
    change_between,
    mean_change,
    paired_change,
    pearson,
)
from lingshu_model.evaluate.metrics.matrices import csr, expression_levels
from lingshu_model.evaluate.metrics.resampling import bootstrap_means, half_means, halves, stream
from lingshu_model.evaluate.study import CONTROL


def test_expression_is_the_log_of_counts_per_ten_thousand_and_one():
    result = expression_levels(np.array([[1, 3], [0, 0]]))
    np.testing.assert_allclose(result.toarray(), [[np.log(2501), np.log(7501)], [0, 0]])


def test_floats_are_expression_already():
    values = np.array([[0.5, 0.0], [2.0, 1.0]])
    np.testing.assert_array_equal(expression_levels(values).toarray(), values)


def test_the_squared_length_of_no_effect_is_zero_on_average():
    truth = Truth()
    lengths = []
    for seed in range(60):
        a, b = (expression_levels(truth.cells(CONTROL, 50, 2 * seed + i)) for i in (0, 1))
        lengths.append(change_between(a, b).squared_length)
    assert abs(np.mean(lengths)) < 3 * np.std(lengths) / np.sqrt(len(lengths))
    assert min(lengths) < 0 < max(lengths)


def test_the_noise_of_a_change_is_the_sampling_variance_of_its_entries():
    truth = Truth()
    drawn = [
        change_between(
            expression_levels(truth.cells("strong", 30, 2 * seed)),
            expression_levels(truth.cells(CONTROL, 40, 2 * seed + 1)),
        )
        for seed in range(300)
    ]
    spread = np.var([c.value for c in drawn], axis=0, ddof=1)
    claimed = np.mean([c.noise for c in drawn], axis=0)
    assert claimed.sum() == pytest.approx(spread.sum(), rel=0.1)


def test_pairing_takes_the_shared_noise_out_of_the_change():
    generator = np.random.default_rng(0)
    control = generator.normal(size=(200, 5))
    perturbed = control + 1 + 0.1 * generator.normal(size=(200, 5))
    arms = csr(perturbed), csr(control)
    paired, apart = paired_change(*arms), change_between(*arms)
    np.testing.assert_allclose(paired.value, apart.value)
    assert (paired.noise < apart.noise / 50).all()


def test_cells_without_a_partner_are_in_no_pair():
    perturbed, control = csr([[3.0], [5.0]]), csr([[1.0], [2.0], [9.0]])
    assert paired_change(perturbed, control).value.tolist() == [2.5]
    assert paired_change(control, perturbed).value.tolist() == [-2.5]


def test_a_weighted_mean_of_changes_weighs_values_and_noise():
    truth = Truth()
    cells = [
        expression_levels(truth.cells(n, 20, i)) for i, n in enumerate(("strong", "weak", CONTROL))
    ]
    first, second = (change_between(c, cells[2]) for c in cells[:2])
    mean = mean_change([first, second], [3, 1])
    np.testing.assert_allclose(mean.value, 0.75 * first.value + 0.25 * second.value)
    np.testing.assert_allclose(mean.noise, 0.75**2 * first.noise + 0.25**2 * second.noise)


def test_pearson_with_a_constant_is_scored_zero():
    assert pearson(np.zeros(3), np.array([1.0, 2.0, 3.0])) == 0
    assert pearson(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0])) == pytest.approx(1)


def test_the_overlap_of_top_genes_disregards_sign_and_is_zero_for_no_change():
    real = np.zeros(100)
    real[:20] = np.arange(1, 21)
    predicted = np.where(np.arange(100) < 15, -real - 30, 0.0)
    predicted[50:55] = 9
    assert overlap_with(real)(predicted) == pytest.approx(15 / 20)
    assert overlap_with(real)(np.zeros(100)) == 0
    assert overlap_with(np.stack([real, predicted]))(predicted).tolist() == [0.75, 1.0]


def test_halves_are_disjoint_and_equally_large():
    a, b = halves(11, np.random.default_rng(0))
    assert len(a) == len(b) == 5
    assert not set(a.tolist()) & set(b.tolist())


def test_means_of_halves_average_to_the_mean_of_an_even_number_of_cells():
    values = csr(np.random.default_rng(0).normal(size=(10, 3)))
    means = half_means(values, 4, np.random.default_rng(1))
    assert means.shape == (2, 4, 3)
    expected = np.broadcast_to(values.toarray().mean(axis=0), (4, 3))
    np.testing.assert_allclose(means.mean(axis=0), expected)


def test_bootstrap_means_have_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).normal(size=(50, 3))
    drawn = bootstrap_means(csr(values), 4000, np.random.default_rng(1))
    np.testing.assert_allclose(drawn.std(axis=0), values.std(axis=0) / np.sqrt(50), rtol=0.06)


def test_a_stream_depends_on_its_key_alone():
    first = stream("bootstrap", "STAT1").normal(size=3)
    assert np.array_equal(first, stream("bootstrap", "STAT1").normal(size=3))
    for key in (("bootstrap", "STAT2"), ("halves", "STAT1"), ("bootstrapSTAT1",)):
        assert not np.array_equal(first, stream(*key).normal(size=3))
