import numpy as np
import pytest
from scipy import stats

from lingshu_model.evaluate.compare import (
    Estimate,
    compare_units,
    difference,
    estimate,
    holm,
    mean_row,
    of_row,
    pooled_magnitude,
    verdict,
)
from lingshu_model.evaluate.figures import Table
from lingshu_model.evaluate.metrics.agreement import MSE, PEARSON
from lingshu_model.evaluate.predictors import SIMPLE
from lingshu_model.evaluate.rows import NamedSet, Row


def row(value: float, **about) -> Row:
    known = {
        "metric": PEARSON,
        "tier": "seen",
        "population": "cells",
        "set": "a",
        "predictor": "model",
        "seed": None,
        "fold": "test",
        "draws": np.array([value - 0.1, value + 0.1]),
    }
    return Row(**{**known, **about}, value=value)


def test_an_interval_is_the_spread_of_the_draws_around_the_figure():
    draws = np.random.default_rng(0).normal(0.3, 0.1, 4000)
    result = estimate(0.5, draws)
    assert result.interval[0] == pytest.approx(0.5 - 0.196, abs=0.02)
    assert result.interval[1] == pytest.approx(0.5 + 0.196, abs=0.02)


def test_an_undefined_figure_has_an_undefined_interval():
    assert np.isnan(estimate(float("nan"), np.ones(3)).interval).all()
    assert np.isnan(estimate(1.0, np.full(3, np.nan)).interval).all()


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        (PEARSON, (0.5, 0.2), "win"),
        (PEARSON, (0.2, 0.5), "loss"),
        (MSE, (0.5, 0.2), "loss"),
        (MSE, (0.2, 0.5), "win"),
        ("library_mean_bias", (-0.5, 0.2), "loss"),
        ("library_mean_bias", (0.1, -0.4), "win"),
        (PEARSON, (0.2, 0.2), "tie"),
        ("squared_length_of_change", (0.5, 0.2), None),
    ],
)
def test_a_verdict_goes_by_what_is_better_of_the_metric(metric: str, values, expected: str | None):
    noise = np.random.default_rng(0).normal(0, 0.01, 500)
    pair = [row(v, metric=metric, draws=v + noise) for v in values]
    assert verdict(difference(*pair)) == expected


def test_a_difference_that_spans_zero_is_a_tie():
    generator = np.random.default_rng(0)
    pair = [row(v, draws=v + generator.normal(0, 0.1, 500)) for v in (0.5, 0.45)]
    assert verdict(difference(*pair)) == "tie"


def test_differences_are_paired_by_draw():
    shared = np.random.default_rng(0).normal(0, 0.3, 500)
    pair = [row(v, draws=v + shared) for v in (0.5, 0.45)]
    assert verdict(difference(*pair)) == "win"
    low, high = of_row(difference(*pair)).interval
    assert (low, high) == pytest.approx((0.05, 0.05))


def test_a_figure_without_draws_has_no_verdict():
    assert verdict(difference(row(0.5), row(0.2, draws=np.zeros(0)))) is None


def test_units_count_equally_whatever_their_seeds():
    rows = [row(0.2, seed=0), row(0.4, seed=1), row(0.9, set="b")]
    result = mean_row(rows, "all")
    assert result.value == pytest.approx((0.3 + 0.9) / 2)
    assert result.draws == pytest.approx([0.5, 0.7])
    assert (result.set, result.seed, result.fold) == ("all", None, "test")


def test_folds_are_averaged_and_counted():
    result = mean_row([row(0.2, fold="1"), row(0.4, fold="2")], "all")
    assert result.value == pytest.approx(0.3)
    assert result.fold == "2 folds"


def test_the_pooled_magnitude_is_the_root_of_summed_squared_lengths():
    real = [row(4.0, draws=np.array([4.0])), row(-1.0, set="b", draws=np.array([-1.0]))]
    predicted = [row(12.0), row(0.0, set="b")]
    result = pooled_magnitude(real, predicted, "all")
    assert result.value == pytest.approx(2.0)
    assert result.draws == pytest.approx([2.0])
    negative = pooled_magnitude(real, [row(-12.0), row(1.0, set="b")], "all")
    assert negative.value == 0
    lost = pooled_magnitude([row(-1.0)], [row(12.0)], "all")
    assert np.isnan(lost.value)


def units(values, **about) -> list[Row]:
    return [row(v, set=f"u{i}", **about) for i, v in enumerate(values)]


def test_a_comparison_over_units_is_a_paired_t_test_with_a_margin():
    mine, theirs = [0.5, 0.6, 0.4, 0.7], [0.52, 0.6, 0.43, 0.69]
    result = compare_units(units(mine), units(theirs, predictor="mean_shift"))
    d = np.subtract(mine, theirs)
    assert result.difference.value == pytest.approx(d.mean())
    assert result.p == pytest.approx(stats.ttest_1samp(d + 0.03, 0, alternative="greater").pvalue)
    assert result.worst == ("cells: u2", pytest.approx(-0.03))
    interval = stats.t.interval(0.95, 3, d.mean(), stats.sem(d))
    assert result.difference.interval == pytest.approx(interval)


def test_the_margin_of_a_squared_error_is_a_share_and_less_is_better():
    mine, theirs = [1.02, 2.06, 3.0, 3.9], [1.0, 2.0, 3.0, 4.0]
    rows = units(mine, metric=MSE), units(theirs, metric=MSE)
    d = np.subtract(theirs, mine) + 0.05 * np.array(theirs)
    expected = stats.ttest_1samp(d, 0, alternative="greater").pvalue
    result = compare_units(*rows)
    assert result.p == pytest.approx(expected)
    assert result.worst == ("cells: u1", pytest.approx(-0.06))


def test_units_are_compared_where_both_have_them():
    result = compare_units(units([0.5, 0.6, 0.4]), units([0.5, 0.6]))
    assert result.n_units == 2
    with pytest.raises(ValueError, match="share no unit"):
        compare_units(units([0.5]), [row(0.5, set="elsewhere")])


def test_one_unit_has_a_difference_and_no_p():
    result = compare_units(units([0.5]), units([0.4]))
    assert result.difference.value == pytest.approx(0.1)
    assert np.isnan(result.p)
    assert np.isnan(result.difference.interval).all()


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_stays_ordered():
    result = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": float("nan")})
    assert result["b"] == pytest.approx(0.03)
    assert result["c"] == pytest.approx(0.06)
    assert result["a"] == pytest.approx(0.06)
    assert np.isnan(result["d"])


def test_an_estimate_is_json():
    assert Estimate(0.5, (0.4, 0.6)).as_json() == {"value": 0.5, "interval": [0.4, 0.6]}


@pytest.mark.parametrize("lacking", ["model", SIMPLE[0]])
def test_predictors_are_compared_over_the_folds_that_both_have(lacking: str):
    figures = {"model": {"1": 0.9, "2": 0.3, "3": 0.2}, SIMPLE[0]: {"1": 0.0, "2": 0.1, "3": 0.1}}
    rows = [
        row(value, predictor=predictor, fold=fold, set=name)
        for predictor, folds in figures.items()
        for fold, value in folds.items()
        for name in ("a", "b")
        if (predictor, fold) != (lacking, "1")
    ]
    chosen = NamedSet("all", "contrasts", "seen", frozenset({("cells", "a"), ("cells", "b")}))
    (figure,) = [f for f in Table(rows).figures(chosen) if f.row.predictor == SIMPLE[0]]
    assert figure.difference is not None
    assert figure.over_units is not None
    assert figure.difference.value == pytest.approx(0.15)
    assert figure.difference.fold == "2 folds"
    assert figure.over_units.difference.value == pytest.approx(0.15)
    # Its mean alone is over all that it has.
    assert figure.row.fold == ("3 folds" if lacking == "model" else "2 folds")
