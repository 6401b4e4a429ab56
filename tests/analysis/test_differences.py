"""Differences of two effects: posteriors against draws, cells against dense arithmetic."""

import numpy as np
import pytest
from scipy import stats

from lingshu_model.contracts import Cells
from lingshu_model.contracts.posterior import Posterior
from lingshu_tools.analysis import expression_levels
from lingshu_tools.analysis.differences import (
    agreement,
    gene_levels,
    no_difference,
    paired_differences,
    posterior_difference,
)

N_DRAWS = 400_000


def spike_and_slab(at_zero: float, mean: float, sd: float) -> tuple[Posterior, np.ndarray]:
    """A posterior of mass at 0 and a normal rest, and draws from it."""
    generator = np.random.default_rng(int(1e6 * (at_zero + 7 * abs(mean) + 11 * sd)))
    draws = np.where(generator.random(N_DRAWS) < at_zero, 0.0, generator.normal(mean, sd, N_DRAWS))
    total = (1 - at_zero) * mean
    variance = (1 - at_zero) * (sd**2 + mean**2) - total**2
    wrong = at_zero + (1 - at_zero) * stats.norm.sf(abs(mean) / sd)
    return Posterior(np.array([total]), np.array([np.sqrt(variance)]), np.array([wrong])), draws


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.0, 0.5, 0.2), (0.0, 0.1, 0.3)),
        ((0.9, 1.0, 0.1), (0.0, 0.0, 0.05)),
        ((0.6, -0.8, 0.2), (0.5, 0.7, 0.3)),
        ((0.95, 0.2, 0.1), (0.9, -0.4, 0.2)),
    ],
)
def test_a_difference_of_posteriors_is_that_of_independent_draws(first, second):
    (a, draws_a), (b, draws_b) = spike_and_slab(*first), spike_and_slab(*second)
    draws = draws_b - draws_a
    result = posterior_difference(a, b)
    assert result.mean[0] == pytest.approx(draws.mean(), abs=0.005)
    wrong = 1 - max((draws > 0).mean(), (draws < 0).mean())
    assert result.lfsr[0] == pytest.approx(wrong, abs=0.005)
    assert result.intervals([0])[0] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)


def test_two_genes_without_a_change_have_no_certain_difference():
    nothing = Posterior(np.zeros(2), np.array([0.0, 0.1]), np.array([1.0, 0.99]))
    result = posterior_difference(nothing, nothing)
    assert (result.lfsr > 0.9).all()
    assert result.intervals([0])[0] == [0.0, 0.0]


def test_a_certain_effect_against_none_keeps_its_sign_in_both_directions():
    certain = Posterior(np.array([0.5]), np.array([0.0]), np.array([0.0]))
    nothing = Posterior(np.array([0.0]), np.array([0.0]), np.array([1.0]))
    for a, b, mean in ((certain, nothing, -0.5), (nothing, certain, 0.5)):
        result = posterior_difference(a, b)
        assert result.mean[0] == mean
        assert result.lfsr[0] < 1e-6
        assert result.intervals([0])[0] == pytest.approx([mean, mean])


def test_an_effect_does_not_differ_from_itself():
    result = no_difference(2)
    assert result.intervals([1])[0] == [0.0, 0.0]
    assert result.lfsr.tolist() == [1.0, 1.0]


def test_intervals_of_many_genes_are_those_of_each_alone():
    generator = np.random.default_rng(5)
    mean, sd = generator.normal(0, 1, (2, 40)), generator.uniform(0.01, 1, (2, 40))
    lfsr = generator.uniform(0.001, 0.9, (2, 40))
    first, second = (Posterior(m, s, p) for m, s, p in zip(mean, sd, lfsr, strict=True))
    result = posterior_difference(first, second)
    alone = [result.intervals([gene])[0] for gene in range(40)]
    assert result.intervals(range(40)) == alone
    assert result.intervals([7, 3]) == [alone[7], alone[3]]


def test_levels_of_some_genes_are_those_of_all_genes(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(3)
    counts = generator.poisson(0.7, (50, 12))
    counts[4] = 0
    measured = np.ones(12, bool)
    measured[[2, 7]] = False
    counts[:, ~measured] = 0
    cells = Cells(counts, measured)
    counted = measured.copy()
    counted[5] = False
    dense = expression_levels(cells, counted)
    genes = [11, 0, 6]
    columns = [int(np.cumsum(counted)[gene]) - 1 for gene in genes]
    assert gene_levels(cells, genes, counted) == pytest.approx(dense[:, columns])
    monkeypatch.setattr("lingshu_model.contracts.cells.BLOCK_COUNTS", 36)
    assert gene_levels(cells, genes, counted) == pytest.approx(dense[:, columns])


def test_a_paired_interval_is_that_of_the_differences_of_pairs():
    generator = np.random.default_rng(4)
    first = generator.normal(size=(30, 3))
    second = first + 0.1 + 0.01 * generator.normal(size=(30, 3))
    mean, half = paired_differences(first, second)
    expected = stats.ttest_rel(second, first).confidence_interval()
    assert mean - half == pytest.approx(expected.low)
    assert mean + half == pytest.approx(expected.high)
    assert paired_differences(first[:1], second[:1])[1] is None


def test_agreement_is_over_certain_genes_alone():
    generator = np.random.default_rng(5)
    a, b = np.round(generator.normal(size=(2, 40)), 1)  # with ties
    a[0] = np.nan
    certain_a, certain_b = generator.random((2, 40)) < 0.6
    result = agreement(a, b, certain_a, certain_b)
    chosen = (certain_a | certain_b) & np.isfinite(a)
    assert result.n_genes == chosen.sum()
    assert result.pearson == pytest.approx(stats.pearsonr(a[chosen], b[chosen]).statistic)
    assert result.spearman == pytest.approx(stats.spearmanr(a[chosen], b[chosen]).statistic)
    both = certain_a & certain_b & np.isfinite(a)
    assert (result.n_both, result.n_same_sign) == (both.sum(), (a[both] * b[both] > 0).sum())


def test_a_correlation_over_two_genes_or_of_constants_is_undefined():
    certain = np.array([True, True, False, False])
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert agreement(values, values, certain, certain).pearson is None
    assert agreement(values, np.ones(4), ~certain, certain).spearman is None
