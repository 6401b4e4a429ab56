"""Rows of distributions, on synthetic cells whose truth is known."""

from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats
from synthetic import CONTROL, GENES, SIZES, Truth, study

from lingshu_model.evaluate import DISTRIBUTION, Draws, Row, Source, Study
from lingshu_model.evaluate.compare import difference, mean_row, verdict
from lingshu_model.evaluate.distribution import REAL_HALF, distribution_rows
from lingshu_model.evaluate.metrics import samples
from lingshu_model.evaluate.metrics.changes import Change
from lingshu_model.evaluate.metrics.frame import Frame
from lingshu_model.evaluate.metrics.matrices import csr, expression_levels
from lingshu_model.evaluate.metrics.samples import Sample
from lingshu_model.evaluate.predictors import RESAMPLED
from lingshu_model.evaluate.rows import MODEL

HIGHER = {name for name, metric in DISTRIBUTION.items() if metric.better == "higher"}
SIGNED = {name for name, metric in DISTRIBUTION.items() if metric.better == "nearer 0"}
Arms = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def frame() -> Frame:
    return Frame.fit(Truth().study().populations[0].train.values())


def rows(arms: Arms, real: Study | None = None, *, most: int = 1000, predicted=None, **peers: Arms):
    (population,) = (real or Truth().study()).populations
    sources = {
        name: Source([0], [{n: csr(cells) for n, cells in each.items()}])
        for name, each in {MODEL: arms, **peers}.items()
    }
    frame = Frame.fit(population.train.values())
    draws = Draws(splits=5, most_cells=most)
    return [*distribution_rows(population, sources, predicted or {}, frame, "test", draws)]


def mean(observed: list[Row], source: str, metric: str, pool: str | None = None) -> Row:
    chosen = [
        row
        for row in observed
        if (row.predictor, row.metric) == (source, metric) and pool in (None, row.set)
    ]
    return mean_row(chosen, "all")


def against(observed: list[Row], source: str, metric: str, pool: str | None = None) -> str | None:
    model, other = (mean(observed, name, metric, pool) for name in (MODEL, source))
    return verdict(difference(model, other))


def sample(counts: np.ndarray, frame: Frame) -> Sample:
    values = expression_levels(counts)
    return Sample(frame, frame.scores(values), csr(counts), values)


def test_equal_samples_differ_in_nothing(frame: Frame):
    cells = sample(Truth().cells("strong", 60, 1), frame)
    result = {name: metric.compute(cells, cells) for name, metric in DISTRIBUTION.items()}
    ilisi = result.pop("ilisi")
    assert all(
        value == pytest.approx(float(name in HIGHER), abs=1e-9) for name, value in result.items()
    )
    assert 0.8 < ilisi <= 1


def test_wasserstein_of_shifted_counts_is_the_shift(frame: Frame):
    counts = Truth().cells("strong", 60, 1)
    moved, still = (sample(cells, frame) for cells in (counts + 2, counts))
    assert samples.wasserstein_count(moved, still) == pytest.approx(2)


def test_means_are_correlated_as_scipy_says(frame: Frame):
    a, b = (sample(Truth().cells(name, 30, 1), frame) for name in ("strong", "weak"))
    assert samples.mean_pearson(a, b) == pytest.approx(stats.pearsonr(a.means, b.means)[0])
    assert samples.mean_spearman(a, b) == pytest.approx(stats.spearmanr(a.means, b.means)[0])


def test_a_model_that_draws_from_the_truth_is_as_close_as_a_real_half():
    result = rows(Truth().arms(100, 5))
    for metric in DISTRIBUTION.keys() - HIGHER:
        model, real = (mean(result, source, metric).value for source in (MODEL, REAL_HALF))
        assert abs(model) < abs(real) * 1.25 + 0.03
    assert against(result, REAL_HALF, "correlation_error") == "tie"


def test_doubled_depth_is_seen_in_library_and_zeros():
    result = rows(Truth().arms(100, 5, depth=2.0))
    assert mean(result, MODEL, "library_mean_bias").value == pytest.approx(1, abs=0.1)
    assert mean(result, MODEL, "zero_rate_bias").value < -0.03
    for metric in ("zero_rate_error", "library_quantile_error", "wasserstein_count"):
        assert against(result, RESAMPLED, metric) == "loss"


def test_of_a_bias_the_size_counts_and_not_the_sign():
    result = rows(Truth().arms(100, 5, depth=0.5))
    assert mean(result, MODEL, "library_mean_bias").value < -0.4
    assert {against(result, REAL_HALF, metric) for metric in SIGNED} == {"loss"}


def test_shuffling_genes_between_cells_breaks_correlations_alone():
    loadings = np.tile([2.0, -2.0], 10)
    generator = np.random.default_rng(3)
    covariance = np.outer(loadings, loadings) + np.eye(20)
    counts = generator.multivariate_normal(np.full(20, 12.0), covariance, 900)
    whole = np.maximum(counts.round(), 0).astype(np.int32)
    shuffled = generator.permuted(whole[:300], axis=0)
    frame = Frame.fit([whole])
    a, b, real = (sample(c, frame) for c in (shuffled, whole[300:600], whole[600:]))
    for name, factor in (("correlation_error", 5), ("energy_distance", 3), ("mmd2", 3)):
        compute = DISTRIBUTION[name].compute
        assert compute(a, real) > factor * compute(b, real)
    assert samples.zero_rate(a, real) < 0.02


def test_conditions_with_too_few_held_out_cells_are_left_out():
    test = Truth().arms(200, 2)
    test["weak"] = test["weak"][:99]
    result = rows(Truth().arms(60, 5), study(Truth().arms(300, 1), test))
    assert {row.set for row in result} == {*SIZES} - {"weak"}


def test_every_source_is_compared_at_the_same_number_of_cells(monkeypatch: pytest.MonkeyPatch):
    sizes = set()

    def counted(a: Sample, b: Sample) -> float:
        sizes.add((len(a.scores), len(b.scores)))
        return 0.0

    monkeypatch.setitem(DISTRIBUTION, "counted", samples.Distribution(counted, needs="scores"))
    rows(Truth().arms(30, 5), Truth().study(n_test=200))
    assert sizes == {(30, 30)}
    sizes.clear()
    rows(Truth().arms(90, 5), Truth().study(n_test=200), most=50)
    assert sizes == {(50, 50)}


def test_training_cells_are_no_source_where_a_condition_was_never_trained_on():
    truth = Truth()
    train = {name: cells for name, cells in truth.arms(300, 1).items() if name != "strong"}
    result = rows(truth.arms(60, 5), study(train, truth.arms(200, 2)))
    sources = {row.set: set() for row in result}
    for row in result:
        sources[row.set].add(row.predictor)
    assert sources["strong"] == {MODEL, REAL_HALF}
    assert sources["weak"] == {MODEL, REAL_HALF, RESAMPLED}


def test_a_peer_is_left_out_of_a_pool_that_it_lacks_cells_of():
    arms = Truth().arms(60, 5)
    half = {name: cells for name, cells in arms.items() if name != "strong"}
    result = rows(arms, peer=half)
    assert {row.set for row in result if row.predictor == "peer"} == {*SIZES} - {"strong"}


def test_a_peer_without_counts_is_compared_in_what_it_has():
    arms = Truth().arms(60, 5)
    moved = {name: expression_levels(cells).toarray() for name, cells in arms.items()}
    result = rows(arms, moved=moved)
    of_counts = {name for name, metric in DISTRIBUTION.items() if metric.needs == "counts"}
    assert {row.metric for row in result if row.predictor == "moved"} == {*DISTRIBUTION} - of_counts
    for metric in ("energy_distance", "pearson_of_means", "variance_error"):
        known = [mean(result, name, metric).value for name in ("moved", MODEL)]
        assert known[0] == pytest.approx(known[1], rel=0.3)


def test_control_cells_moved_by_the_true_change_are_nearer_than_unmoved_ones():
    truth = Truth()
    value = truth.change("strong")
    changes = [("true", None, Change(value, 0 * value)), ("none", None, Change.zero(len(GENES)))]
    result = rows(truth.arms(90, 5), predicted={"strong": changes})
    moved = [row for row in result if row.predictor in ("true", "none")]
    assert {row.metric for row in moved} == {"energy_distance", "mmd2", "ilisi"}
    assert {row.set for row in moved} == {"strong"}
    true, none = (mean(result, name, "energy_distance").value for name in ("true", "none"))
    assert true < none / 3
    assert against(result, "none", "energy_distance", "strong") == "win"


def test_cells_of_another_condition_lose_where_more_is_better():
    wrong = {name: Truth().cells("strong", 200, 9) for name in SIZES}
    result = rows(wrong)
    for metric in HIGHER - {"spearman_of_means"}:
        assert against(result, REAL_HALF, metric, "nothing") == "loss"
    assert against(result, REAL_HALF, "energy_distance", CONTROL) == "loss"
