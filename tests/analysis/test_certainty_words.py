"""Posteriors of scores, words of certainty, errors by size, and magnitudes without noise."""

import math

import numpy as np
import pytest
from scipy import stats

from lingshu_model.contracts.posterior import Posterior, normal_tail
from lingshu_tools.analysis import Effect, NullLabels, Objective, Residuals
from lingshu_tools.analysis.certainty import false_sign_rates, in_top, score_posterior, word
from lingshu_tools.analysis.error_by_size import ErrorBySize
from lingshu_tools.analysis.sizes import NullSizes, Size, matched_check


def mixture(at_zero: list[float], mean: list[float], sd: list[float]) -> Posterior:
    """Posteriors with mass at 0 and a normal rest."""
    p0, m, s = (np.array(x, float) for x in (at_zero, mean, sd))
    first = (1 - p0) * m
    spread = np.sqrt(np.maximum((1 - p0) * (s**2 + m**2) - first**2, 0))
    tail = normal_tail(np.abs(m) / np.maximum(s, 1e-12))
    return Posterior(first, spread, np.where(m == 0, p0 + (1 - p0) / 2, p0 + (1 - p0) * tail))


@pytest.mark.parametrize(
    ("lfsr", "expected"),
    [(0.0, "supported"), (0.05, "supported"), (0.051, "suggestive"), (0.2, "suggestive"),
     (0.21, "not distinguishable from no effect"), (1.0, "not distinguishable from no effect"),
     (math.nan, None), (None, None)],
)  # fmt: skip
def test_words_are_on_a_fixed_scale(lfsr: float | None, expected: str | None):
    assert word(lfsr) == expected


@pytest.mark.parametrize("gene", range(4))
def test_the_score_of_one_gene_is_as_certain_as_the_gene(gene: int):
    genes = mixture([0.0, 0.03, 0.4, 0.9], [1.0, 0.5, 0.3, 0.2], [0.3, 0.01, 0.3, 0.1])
    weights = np.zeros(4)
    weights[gene] = -1.0
    score = score_posterior(genes, weights)
    assert score.mean == pytest.approx(-genes.mean[gene])
    assert score.lfsr == genes.lfsr[gene]
    # A normal with the same mean and sd would call the second gene with a rate below 1e-6.
    assert score.lfsr >= [0.0, 0.03, 0.4, 0.9][gene]


def test_an_interval_holds_the_mass_that_it_says():
    rng = np.random.default_rng(0)
    genes = mixture([0.3], [0.6], [0.25])
    low, high = score_posterior(genes, np.array([1.0])).interval
    draws = np.where(rng.random(200_000) < 0.3, 0.0, rng.normal(0.6, 0.25, 200_000))
    assert np.mean(draws < low) < 0.026
    assert np.mean(draws > high) == pytest.approx(0.025, abs=0.002)


def test_genes_whose_errors_go_together_do_not_make_a_score_too_certain():
    genes = mixture([0.0] * 20, [0.3] * 20, [0.2] * 20)
    score = score_posterior(genes, np.full(20, 1 / 20))
    assert score.lfsr == pytest.approx(stats.norm.sf(1.5), rel=0.05)
    assert score.interval[0] == pytest.approx(0.3 - 1.96 * 0.2, abs=0.01)


def test_the_first_of_clear_scores_is_in_the_top_and_equal_ones_share_it():
    clear, nothing = mixture([0.0], [5.0], [0.1]), mixture([1.0], [0.0], [0.0])
    scores = [score_posterior(p, np.ones(1)) for p in (clear, *[nothing] * 4)]
    chances = in_top(scores, 2)
    assert chances[0] == 1
    assert chances[1:] == pytest.approx([0.25] * 4, abs=0.05)
    assert chances.sum() == pytest.approx(2)


def test_a_false_sign_rate_is_the_mean_of_those_at_least_as_certain():
    rates = false_sign_rates(np.array([0.3, 0.01, np.nan, 0.03]))
    assert rates[[1, 3, 0]] == pytest.approx([0.01, 0.02, 0.34 / 3])
    assert np.isnan(rates[2])


def test_the_error_is_that_of_changes_of_the_size():
    rows = [{"from": f, "error": e, "n_contrasts": n, "n_folds": 2}
            for f, e, n in ((0.0, 0.05, 9), (0.1, 0.2, 9), (1.0, None, 2))]  # fmt: skip
    evidence = {"tiers": {"seen": {"certainty": {"error_by_size": rows}}}}
    errors = ErrorBySize.from_evidence(evidence, "seen").of(
        np.array([0.0, -0.09, -0.1, 0.5, 3, np.nan])
    )
    assert errors[:4] == pytest.approx([0.05, 0.05, 0.2, 0.2])
    assert np.isnan(errors[4:]).all()
    assert ErrorBySize.from_evidence(evidence, "unseen") is None


def residuals(n: int, folds: int = 2) -> Residuals:
    """Contrasts 0 to n - 1 whose score is predicted as their number, and off by more the larger."""
    size = np.repeat(np.arange(n, dtype=float), folds)
    signs = np.where(np.arange(len(size)) % 2, 1.0, -1.0)
    record = {
        "genes": ["A"],
        "perturbations": [f"X{int(i)}" for i in size],
        "names": [f"X{int(i)}" for i in size],
        "folds": [str(k) for k in np.tile(np.arange(folds), n)],
        "values": (0.3 * np.sqrt(size) * signs + 0.01)[:, None].tolist(),
        "predicted": size[:, None].tolist(),
    }
    return Residuals.from_evidence({"tiers": {"seen": {"residuals": record}}}, "seen")


def test_the_error_of_a_score_grows_with_the_score():
    objective = Objective(up=("A",))
    large, small = (residuals(9).of_objective(objective, (), f) for f in (8.0, 0.1))
    assert large.rms == pytest.approx(0.3 * math.sqrt(8), rel=0.1)
    assert small.rms < 0.5
    assert (large.n_perturbations, large.n_folds) == (9, 2)
    everything = residuals(9).of_objective(objective)
    assert small.rms < everything.rms < large.rms


def test_folds_of_two_contrasts_are_not_more_contrasts():
    assert residuals(2, folds=6).of_objective(Objective(up=("A",)), (), 1.0) is None
    assert residuals(3, folds=1).of_objective(Objective(up=("A",)), (), 1.0) is not None


def sampled(rng: np.random.Generator, truth: np.ndarray, cells: int, sd: float = 1.0) -> Effect:
    """The effect that `cells` pairs of cells show of `truth` [genes]."""
    pairs = truth + rng.normal(0, sd, (cells, len(truth)))
    mean, se = pairs.mean(0), pairs.std(0, ddof=1) / math.sqrt(cells)
    rest = np.array([np.linalg.norm(np.delete(pairs, i, 0).mean(0)) for i in range(cells)])
    jackknife = float(np.sqrt((cells - 1) / cells * ((rest - rest.mean()) ** 2).sum()))
    return Effect(cells, mean, mean, mean, se, mean, se, float(np.linalg.norm(mean)), jackknife)


@pytest.mark.parametrize("cells", [16, 32, 128])
def test_a_null_label_is_no_larger_than_null_labels_at_any_number_of_cells(cells: int):
    rng = np.random.default_rng(cells)
    larger = 0
    for _ in range(40):
        null = NullLabels(
            np.stack([sampled(rng, rng.normal(0, 0.02, 100), 300).change for _ in range(16)]),
            n_cells=300,
        )
        effect = sampled(rng, rng.normal(0, 0.02, 100), cells)
        larger += NullSizes.of_labels(null, effect).p(Size.of(effect)) <= 1 / 17 + 1e-9
    assert larger <= 4


def test_a_magnitude_does_not_grow_as_cells_get_fewer():
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 0.2, 100)
    means = [np.mean([Size.of(sampled(rng, truth, n)).value for _ in range(30)]) for n in (16, 400)]
    assert means == pytest.approx([np.linalg.norm(truth)] * 2, rel=0.1)
    assert Size.of(sampled(rng, np.zeros(100), 16)).value < 1.5  # its norm is 2.5


def test_the_check_is_that_of_the_context_and_the_nearest_number_of_cells():
    checks = [{"context": {"line": c}, "n_cells": n} for c in "ab" for n in (10, 100)]
    evidence = {"null_labels": checks}
    assert matched_check(evidence, {"line": "b"}, 80) == checks[3]
    assert matched_check(evidence, {"line": "a"}, 0) == checks[0]
    assert matched_check(evidence, {"line": "c"}, 80) is None


def test_candidates_that_are_equally_certain_have_the_same_rate():
    rates = false_sign_rates(np.array([0.5, 0.1, 0.5, np.nan, 0.2]))
    np.testing.assert_allclose(rates, [1.3 / 4, 0.1, 1.3 / 4, np.nan, 0.15])
