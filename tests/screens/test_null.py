"""Significance against null labels: the p-values, the rates they hold, and the held-out errors."""

import math

import numpy as np
import pytest
from scipy import stats

from lingshu_tools.analysis import (
    Effect,
    NullLabels,
    Objective,
    Residuals,
    benjamini_hochberg,
    t_quantile,
    t_two_sided,
)
from lingshu_tools.analysis.sizes import NullSizes, Size


def make_effect(change: np.ndarray, n_cells: int = 256, se: float = 0.0) -> Effect:
    return Effect(
        n_cells=n_cells,
        control_mean=np.ones_like(change),
        perturbed_mean=1 + change,
        change=change,
        change_se=np.full_like(change, se),
        log2_fold_change=change,
        log2_fold_change_se=np.full_like(change, se),
        magnitude=float(np.sqrt(np.nansum(change**2))),
        magnitude_se=0.0,
    )


@pytest.mark.parametrize("df", [1, 2, 3, 15, 16, 255, 5000, 99_999])
def test_p_values_of_t_are_those_of_scipy(df: int):
    t = np.concatenate([-np.logspace(-6, 2, 60), [0.0], np.logspace(-6, 2, 60)])
    np.testing.assert_allclose(t_two_sided(t, df), 2 * stats.t.sf(np.abs(t), df), rtol=1e-9)


def test_p_values_of_t_hold_at_the_edges():
    np.testing.assert_array_equal(t_two_sided([np.inf, -np.inf, 0.0], 15), [0, 0, 1])
    assert math.isnan(t_two_sided([np.nan], 15)[0])


@pytest.mark.parametrize("df", [1, 4, 15, 255, 10_000])
def test_quantiles_of_t_are_those_of_scipy(df: int):
    assert t_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 25, 1000])
def test_false_discovery_rates_are_those_of_scipy(n: int):
    p = np.random.Generator(np.random.Philox(n)).random(n) ** 2
    p[: n // 3] = np.round(p[: n // 3], 1)
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))


def test_a_test_that_was_not_made_does_not_count_among_the_tests():
    q = benjamini_hochberg([0.01, np.nan, 0.04])
    np.testing.assert_allclose(q[[0, 2]], stats.false_discovery_control([0.01, 0.04]))
    assert math.isnan(q[1])
    assert np.isnan(benjamini_hochberg([np.nan])).all()


@pytest.mark.parametrize("labels", [16, 200])
def test_a_new_sham_is_called_no_more_often_than_p_says(labels: int):
    rng = np.random.Generator(np.random.Philox(3))
    sd = np.linspace(0.01, 0.3, 400)
    p = np.array(
        [
            NullLabels(rng.normal(0.02, sd, (labels, 400))).gene_p(
                make_effect(rng.normal(0.02, sd), 256)
            )
            for _ in range(60)
        ]
    )
    for level in (0.06, 0.2, 0.5):
        assert (p <= level).mean() < level + 0.01
    # Ranks are not needlessly weak either: without a standard error they are exact.
    assert (p <= 8 / 17 + 1e-9).mean() == pytest.approx(8 / 17, abs=0.02)


@pytest.mark.parametrize("cells", [16, 32, 64, 256])
def test_a_new_sham_with_fewer_cells_is_not_called_for_its_extra_noise(cells: int):
    rng = np.random.Generator(np.random.Philox(4))
    noise = np.full(400, 0.1)  # what 256 cells leave, and all there is
    null_labels = rng.normal(0, noise, (200, 400))
    se = 0.1 * math.sqrt(256 / cells)
    few = make_effect(rng.normal(0, se, 400), cells, se=se)
    assert (NullLabels(null_labels).gene_p(few) < 0.05).mean() < 0.05


@pytest.mark.parametrize("size", [0.9, 9.0, 900.0])
def test_nothing_is_extrapolated_beyond_the_labels_however_large_an_effect_is(size: float):
    rng = np.random.Generator(np.random.Philox(5))
    change = rng.normal(0, 0.05, 300)
    change[[0, 1, 2]] = [-size, size, np.nan]
    null = NullLabels(rng.normal(0, 0.05, (16, 300)))
    p = null.gene_p(make_effect(change))
    np.testing.assert_allclose(p[:2], 1 / 17)
    assert math.isnan(p[2])
    assert np.nanmin(null.gene_q(make_effect(change))) >= 1 / 17


def test_a_score_is_ranked_among_the_shams_scores():
    rng = np.random.Generator(np.random.Philox(6))
    null_labels = rng.normal(0, 0.1, (16, 5))
    weights = np.array([-0.5, -0.5, 0, 0, 0])
    sizes = np.sort(np.abs(null_labels @ weights))
    null = NullLabels(null_labels)
    assert null.largest_score(weights) == pytest.approx(sizes[-1])
    assert null.score_p(weights, 1e6, 0.01) == pytest.approx(1 / 17)
    between = (sizes[-3] + sizes[-2]) / 2
    assert null.score_p(weights, -between, None) == pytest.approx(3 / 17)
    # Of a score as noisy as it is large any label is as large.
    assert null.score_p(weights, between, between) == 1
    null_labels[:, 0] = np.nan
    assert NullLabels(null_labels).score_p(weights, 0.4, 0.01) is None
    assert NullLabels(null_labels).largest_score(weights) is None


def test_a_magnitude_is_ranked_among_the_shams():
    null = NullLabels(np.diag(np.arange(1.0, 17.0)))

    def rank(value: float) -> float | None:
        effect = make_effect(np.array([value] + [0.0] * 15))
        return NullSizes.of_labels(null, effect).p(Size.of(effect))

    assert rank(100.0) == pytest.approx(1 / 17)
    assert rank(0.0) == 1
    assert rank(8.5) == pytest.approx(9 / 17)


def test_a_null_in_evidence_is_read_in_the_order_of_the_panel():
    changes = np.array([[0.1 * i, -0.2, 0.3] for i in range(16)])
    evidence = {
        "sham": {
            "n": 16,
            "n_cells": 256,
            "steps": 8,
            "genes": ["C", "A", "B"],
            "changes": changes[:, [2, 0, 1]].tolist(),
        }
    }
    read = NullLabels.from_evidence(evidence, ["A", "B", "C"])
    assert read is not None
    np.testing.assert_array_equal(read.changes, changes)
    assert read.steps == 8
    assert np.isnan(NullLabels.from_evidence(evidence, ["A", "new"]).changes[:, 1]).all()
    assert NullLabels.from_evidence({}, ["A"]) is None


RESIDUALS = {
    "genes": ["A", "B", "C"],
    "perturbations": ["A", "X", "B+Y"],
    "values": [[9.0, 0.2, -0.1], [0.3, -0.1, 0.4], [0.5, 9.0, None]],
}


def test_the_error_of_an_objective_leaves_out_each_perturbations_own_genes():
    residuals = Residuals.from_evidence({"tiers": {"seen": {"residuals": RESIDUALS}}}, "seen")
    error = residuals.of_objective(Objective(up=("A",), down=("B",)))
    expected = [-0.2, (0.3 + 0.1) / 2, 0.5]
    assert error.rms == pytest.approx(np.sqrt(np.mean(np.square(expected))))
    assert error.n_perturbations == 3
    # Two contrasts are left, which give no error.
    assert residuals.of_objective(Objective(up=("A",), down=("B",)), ["A"]) is None
    assert residuals.of_objective(Objective(up=("A",)), ["A"]) is None
    assert residuals.of_objective(Objective(up=("nowhere",))) is None


def test_the_error_of_a_gene_is_over_the_perturbations_where_it_was_measured():
    residuals = Residuals.from_evidence({"tiers": {"seen": {"residuals": RESIDUALS}}}, "seen")
    by_gene = residuals.of_genes(["C", "nowhere"])
    assert by_gene[0] == pytest.approx(np.sqrt((0.01 + 0.16) / 2))
    assert math.isnan(by_gene[1])


@pytest.mark.parametrize("evidence", [{}, {"tiers": {"unseen": None}}, {"tiers": {"unseen": {}}}])
def test_a_tier_without_evidence_has_no_residuals(evidence: dict):
    assert Residuals.from_evidence(evidence, "unseen") is None
