import numpy as np
import pytest
from made import SIZES, Truth

from lingshu_model.evaluate import distribution
from lingshu_model.evaluate.distribution import (
    HALF,
    METRICS,
    MODEL,
    TRAINING,
    Sample,
    compare_distributions,
    compare_sources,
    summarise,
)
from lingshu_model.evaluate.observed import Observed


def _errors(arms: dict, observed: Observed | None = None) -> list:
    found = compare_distributions(observed or Truth().observed(), [arms], np.random.default_rng(0))
    return list(found.values())


def test_equal_samples_differ_in_nothing():
    sample = Sample.of(Truth().cells("strong", 60, 1))
    assert all(metric(sample, sample) == 0 for metric in METRICS.values())


def test_wasserstein_of_shifted_counts_is_the_shift():
    counts = Truth().cells("strong", 60, 1)
    moved = distribution.wasserstein_count(Sample.of(counts + 2), Sample.of(counts))
    assert moved == pytest.approx(2)


def test_a_model_that_draws_from_the_truth_is_as_close_as_a_real_half():
    errors = _errors(Truth().arms(600, 5))
    for metric in METRICS:
        mine, real = (summarise(errors, source, metric).value for source in (MODEL, HALF))
        assert abs(mine) < abs(real) * 1.25 + 0.02
    assert compare_sources(errors, HALF, "correlation_error")[1] == "tie"


def test_doubled_depth_is_seen_in_library_and_zeros():
    errors = _errors(Truth().arms(600, 5, depth=2.0))
    assert summarise(errors, MODEL, "library_mean_bias").value == pytest.approx(1, abs=0.1)
    assert summarise(errors, MODEL, "zero_rate_bias").value < -0.03
    for metric in ("zero_rate_error", "library_quantile_error", "wasserstein_count"):
        assert compare_sources(errors, TRAINING, metric)[1] == "loss"


def test_shuffling_genes_between_cells_breaks_correlations_alone():
    loadings = np.tile([2.0, -2.0], 10)
    generator = np.random.default_rng(3)
    covariance = np.outer(loadings, loadings) + np.eye(20)
    counts = generator.multivariate_normal(np.full(20, 12.0), covariance, 900)
    whole = np.maximum(counts.round(), 0).astype(np.int32)
    shuffled = generator.permuted(whole[:300], axis=0)
    a, b, real = Sample.of(shuffled), Sample.of(whole[300:600]), Sample.of(whole[600:])
    assert distribution.correlation(a, real) > 5 * distribution.correlation(b, real)
    assert distribution.zero_rate(a, real) < 0.02


def test_conditions_with_too_few_held_out_cells_are_left_out():
    observed = Truth().observed()
    few = {**observed.test, "weak": observed.test["weak"][:99]}
    found = compare_distributions(
        Observed(observed.genes, observed.train, few), [few], np.random.default_rng(0)
    )
    assert sorted(found) == sorted(set(SIZES) - {"weak"})


def test_every_source_is_compared_at_the_same_number_of_cells():
    found = compare_distributions(
        Truth().observed(n_test=200), [Truth().arms(30, 5)], np.random.default_rng(0)
    )
    assert {error.n_cells for error in found.values()} == {30}
