from dataclasses import replace

import numpy as np
import pytest
from made import SIZES, Truth, nowhere

from lingshu_model.evaluate import scores
from lingshu_model.evaluate.observed import CONTROL
from lingshu_model.evaluate.scores import ScoreTable, score_predictors
from lingshu_model.evaluate.scoring import vcc2026


def _table(sampled: list) -> ScoreTable:
    return score_predictors(Truth().observed(), sampled, np.random.default_rng(0))


@pytest.fixture(scope="module")
def honest() -> ScoreTable:
    """A model that draws from the truth."""
    truth = Truth()
    return _table([truth.arms(300, 5), truth.arms(300, 6)])


def test_every_metric_of_every_predictor_has_a_value(honest: ScoreTable):
    for predictor in scores.PREDICTORS:
        for metric in scores.METRICS:
            assert np.isfinite(honest.value(predictor, metric).value), (predictor, metric)


def test_a_model_that_draws_from_the_truth_beats_the_control_mean(honest: ScoreTable):
    for metric in ("pearson_delta", "mae", vcc2026.ERROR, vcc2026.FOLD_ERROR):
        difference = honest.difference("control_mean", metric).value
        assert (difference < 0) is (metric != "pearson_delta"), metric
    assert (
        honest.value("model", vcc2026.PDS).value > honest.value("control_mean", vcc2026.PDS).value
    )
    assert honest.scaled("model")["score"] > honest.scaled("control_mean")["score"]


def test_a_model_that_ignores_the_perturbation_wins_nothing():
    table = _table([nowhere(Truth().arms(300, 5))])
    verdicts = {table.verdict("resampled_training_cells", m) for m in scores.METRICS}
    assert "win" not in verdicts
    assert table.value("model", "pearson_delta").value < 0.3


def test_a_model_that_is_the_training_cells_is_as_good_as_they_are():
    train, n = Truth().observed().train, np.random.default_rng(1)
    table = _table(
        [{k: c[n.integers(len(c), size=len(c))] for k, c in train.items()} for _ in range(3)]
    )
    found = table.difference("resampled_training_cells", "pearson_delta")
    assert found.value == pytest.approx(0, abs=0.1)
    assert table.verdict("resampled_training_cells", "pearson_delta") == "tie"


def test_predictions_have_as_many_cells_as_are_held_out():
    observed, arms = Truth().observed(), Truth().arms(120, 5)
    generator = np.random.default_rng(0)
    for make in scores._MAKERS.values():
        made = make(observed, arms, generator)
        assert {len(cells) for name, cells in made.items() if name != CONTROL} == {120}
    many = scores._model(observed, Truth().arms(500, 5), generator)
    assert {len(cells) for cells in many.values()} == {200}


def test_the_mean_shift_moves_control_cells_by_the_mean_training_change():
    observed, arms = Truth().observed(), Truth().arms(2000, 5)
    shares = {n: c.sum(axis=0) / c.sum() for n, c in observed.train.items()}
    wanted = np.mean([shares[n] for n in observed.perturbations], axis=0) / shares[CONTROL]
    made = scores._mean_shift(observed, arms, np.random.default_rng(0))
    cells = np.concatenate([made[name] for name in observed.perturbations])
    assert cells.dtype == np.int32
    got = cells.mean(axis=0) / observed.test[CONTROL].mean(axis=0)
    np.testing.assert_allclose(got, wanted, rtol=0.2)


def test_intervals_come_from_perturbations_drawn_again(honest: ScoreTable):
    assert honest.weights.shape == (scores.DRAWS, len(SIZES) - 1)
    assert (honest.weights.sum(axis=1) == len(SIZES) - 1).all()
    found = honest.value("model", "mae")
    assert found.interval[0] < found.value < found.interval[1]


def test_a_ratio_to_changes_lost_in_noise_has_no_interval_and_decides_nothing(honest: ScoreTable):
    judged = honest.judged["model"][0]
    sizes = judged.vcc2026.by_metric[vcc2026.DENOMINATOR]
    lost = dict(zip(sizes, (-0.01, 0.012, -0.01, 0.01), strict=True))
    values = {**judged.vcc2026.by_metric, vcc2026.DENOMINATOR: lost}
    noisy = replace(judged, vcc2026=replace(judged.vcc2026, by_metric=values))
    table = replace(honest, judged={**honest.judged, "model": [noisy]})
    assert np.isfinite(table.value("model", vcc2026.ERROR).value)
    assert np.isnan(table.value("model", vcc2026.ERROR).interval).all()
    assert table.verdict("control_mean", vcc2026.ERROR) is None
