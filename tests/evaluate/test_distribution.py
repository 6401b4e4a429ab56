import numpy as np
import pytest
from made import SIZES, Truth
from scipy import stats

from lingshu_model.evaluate import sample
from lingshu_model.evaluate.distribution import (
    HALF,
    MODEL,
    TRAINING,
    DistributionError,
    compare_distributions,
    compare_sources,
    shared_sources,
    single_pools,
    summarise,
)
from lingshu_model.evaluate.frame import Frame
from lingshu_model.evaluate.observed import Observed
from lingshu_model.evaluate.sample import HIGHER_IS_BETTER, METRICS, Sample


@pytest.fixture(scope="module")
def frame() -> Frame:
    return Frame.fit(Truth().observed().train.values())


def _compare(arms: dict, observed: Observed, pools: dict | None = None, **peers: dict):
    return compare_distributions(
        observed,
        {MODEL: [arms], **{name: [cells] for name, cells in peers.items()}},
        pools or single_pools(observed),
        Frame.fit(observed.train.values()),
        np.random.default_rng(0),
        splits=8,
    )


def _errors(arms: dict, observed: Observed | None = None) -> list[DistributionError]:
    return list(_compare(arms, observed or Truth().observed()).values())


def test_equal_samples_differ_in_nothing(frame: Frame):
    cells = Sample.of(Truth().cells("strong", 60, 1), frame)
    found = {name: metric(cells, cells) for name, metric in METRICS.items()}
    ilisi = found.pop("ilisi")
    assert all(
        value == pytest.approx(float(name in HIGHER_IS_BETTER), abs=1e-9)
        for name, value in found.items()
    )
    assert 0.8 < ilisi <= 1


def test_wasserstein_of_shifted_counts_is_the_shift(frame: Frame):
    counts = Truth().cells("strong", 60, 1)
    moved, still = (Sample.of(cells, frame) for cells in (counts + 2, counts))
    assert sample.wasserstein_count(moved, still) == pytest.approx(2)


def test_means_are_correlated_as_scipy_says(frame: Frame):
    a, b = (Sample.of(Truth().cells(name, 30, 1), frame) for name in ("strong", "weak"))
    assert sample.mean_pearson(a, b) == pytest.approx(stats.pearsonr(a.means, b.means)[0])
    assert sample.mean_spearman(a, b) == pytest.approx(stats.spearmanr(a.means, b.means)[0])


def test_a_model_that_draws_from_the_truth_is_as_close_as_a_real_half():
    errors = _errors(Truth().arms(100, 5))
    for metric in METRICS.keys() - HIGHER_IS_BETTER:
        mine, real = (summarise(errors, source, metric).value for source in (MODEL, HALF))
        assert abs(mine) < abs(real) * 1.25 + 0.03
    assert compare_sources(errors, HALF, "correlation_error")[1] == "tie"


def test_doubled_depth_is_seen_in_library_and_zeros():
    errors = _errors(Truth().arms(100, 5, depth=2.0))
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
    frame = Frame.fit([whole])
    a, b, real = (Sample.of(c, frame) for c in (shuffled, whole[300:600], whole[600:]))
    assert sample.correlation(a, real) > 5 * sample.correlation(b, real)
    assert sample.energy_distance(a, real) > 3 * sample.energy_distance(b, real)
    assert sample.mmd2(a, real) > 3 * sample.mmd2(b, real)
    assert sample.zero_rate(a, real) < 0.02


def test_conditions_with_too_few_held_out_cells_are_left_out():
    observed = Truth().observed()
    few = {**observed.test, "weak": observed.test["weak"][:99]}
    found = _compare(few, Observed(observed.genes, observed.train, few))
    assert sorted(found) == sorted(set(SIZES) - {"weak"})


def test_every_source_is_compared_at_the_same_number_of_cells():
    found = _compare(Truth().arms(30, 5), Truth().observed(n_test=200))
    assert {error.n_cells for error in found.values()} == {30}


def test_a_pool_compares_its_conditions_together_each_with_its_own_number_of_cells():
    observed = Truth().observed(n_test=60)
    test = {**observed.test, "weak": observed.test["weak"][:7]}
    pool = {"both": ["strong", "weak"]}
    found = _compare(Truth().arms(60, 5), Observed(observed.genes, observed.train, test), pool)
    assert found["both"].n_cells == 30 + 3
    swapped = {**Truth().arms(60, 5), "strong": Truth().cells("nothing", 60, 9)}
    wrong = _compare(swapped, Observed(observed.genes, observed.train, test), pool)
    assert compare_sources(list(wrong.values()), HALF, "energy_distance")[1] == "loss"
    assert compare_sources(list(found.values()), HALF, "energy_distance")[1] == "tie"


def test_training_cells_are_no_source_where_a_condition_was_never_trained_on():
    observed = Truth().observed()
    train = {name: cells for name, cells in observed.train.items() if name != "strong"}
    found = _compare(Truth().arms(60, 5), Observed(observed.genes, train, observed.test))
    assert TRAINING not in found["strong"].point
    assert shared_sources(list(found.values())) == [MODEL, HALF]


def test_a_peer_without_counts_of_a_pool_is_left_out_of_it():
    observed = Truth().observed()
    arms = Truth().arms(60, 5)
    half = {name: cells for name, cells in arms.items() if name != "strong"}
    moved = {name: cells.astype(float) for name, cells in arms.items()}
    found = _compare(arms, observed, peer=half, moved=moved)
    assert "peer" in found["weak"].point
    assert "peer" not in found["strong"].point
    assert "moved" not in found["weak"].point


def test_of_correlated_means_more_is_better():
    observed = Truth().observed()
    wrong = {name: Truth().cells("strong", 200, 9) for name in SIZES}
    errors = [_compare(wrong, observed)["nothing"]]
    assert compare_sources(errors, HALF, "pearson_of_means")[1] == "loss"
    assert compare_sources(errors, HALF, "ilisi")[1] == "loss"
    assert summarise(errors, MODEL, "ilisi").value < summarise(errors, HALF, "ilisi").value
