"""Adaptive shrinkage: posterior means, standard deviations and signs that can be relied on."""

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from lingshu_model.effects import Mixture, combine, fit_prior, pooled_prior, posterior
from lingshu_model.effects.shrink import NULL, Posterior, _log_density


def built(seed: int, share: float, spread: float, n: int = 6000, heavy: bool = False):
    rng = np.random.default_rng(seed)
    s = rng.uniform(0.02, 0.2, n)
    shape = rng.standard_t(3, n) if heavy else rng.normal(size=n)
    b = np.where(rng.random(n) < share, spread * s * shape, 0.0)
    return b, rng.normal(b, s), s**2


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(("share", "spread"), [(0.1, 5.0), (0.5, 1.5), (1.0, 1.0)])
def test_effects_are_closer_to_the_truth_and_signs_as_wrong_as_said(
    share: float, spread: float, heavy: bool
):
    b, d, s2 = built(0, share, spread, heavy=heavy)
    result = posterior(d, s2, fit_prior(d, s2))
    assert ((result.mean - b) ** 2).mean() < 0.9 * ((d - b) ** 2).mean()
    for low, high in [(0.0, 0.05), (0.05, 0.3)]:
        called = (result.lfsr >= low) & (result.lfsr < high)
        wrong = np.sign(result.mean[called]) != np.sign(b[called])
        expected, n = result.lfsr[called].mean(), called.sum()
        # Null-biased: no more wrong than said, within three standard errors.
        assert wrong.mean() < expected + 3 * np.sqrt(expected / max(n, 1)) + 0.01
    z = (b - result.mean)[result.sd > 0] / result.sd[result.sd > 0]
    assert 0.8 < np.sqrt((z**2).mean()) < 1.15


def test_where_there_is_no_effect_none_is_claimed():
    _, d, s2 = built(1, 0.0, 1.0)
    result = posterior(d, s2, fit_prior(d, s2))
    assert (result.lfsr < 0.05).sum() <= 2
    assert (result.mean**2).mean() < 0.02 * (d**2).mean()


def test_a_large_effect_among_nothing_is_hardly_shrunk():
    _, d, s2 = built(2, 0.0, 1.0)
    d[:3] = 40 * np.sqrt(s2[:3])
    result = posterior(d, s2, fit_prior(d, s2))
    np.testing.assert_allclose(result.mean[:3], d[:3], rtol=0.02)
    assert result.lfsr[:3].max() < 1e-6


def test_a_posterior_is_what_bayes_says_by_integration():
    prior = Mixture(np.array([0.0, 0.7, 3.0]), np.array([0.5, 0.3, 0.2]))
    d, s = 0.23, 0.1

    def density(b: float, power: int) -> float:
        mixed = sum(
            w * stats.norm.pdf(b, 0, g * s)
            for g, w in zip(prior.sigma[1:], prior.weight[1:], strict=True)
        )
        return b**power * mixed * stats.norm.pdf(d, b, s)

    edges = [-2.0, 0.0, 0.1, 0.3, 2.0]
    at_zero = prior.weight[0] * stats.norm.pdf(d, 0, s)
    moments = [integrate.quad(density, -2, 2, (k,), points=edges[1:-1])[0] for k in range(3)]
    whole = moments[0] + at_zero
    below = integrate.quad(density, -2, 0, (0,))[0]
    result = posterior(np.array([d]), np.array([s**2]), prior)
    assert result.mean[0] == pytest.approx(moments[1] / whole, rel=1e-6)
    assert result.sd[0] ** 2 == pytest.approx(moments[2] / whole - (moments[1] / whole) ** 2)
    assert result.lfsr[0] == pytest.approx((below + at_zero) / whole, rel=1e-6)


def test_weights_are_those_of_greatest_likelihood():
    _, d, s2 = built(3, 0.3, 2.0, 800)
    prior = fit_prior(d, s2)
    likelihood = np.exp(_log_density(np.abs(d) / np.sqrt(s2), prior.sigma))

    def loss(raw: np.ndarray) -> float:
        w = np.exp(raw - raw.max())
        w /= w.sum()
        return -float(np.log(likelihood @ w).sum() + NULL * np.log(w[0]))

    best = optimize.minimize(loss, np.zeros(len(prior.sigma)), method="L-BFGS-B")
    mine = -loss(np.log(np.maximum(prior.weight, 1e-300)))
    assert mine > -best.fun - 0.05


def test_what_is_not_measured_has_no_effect_and_no_sign():
    d, s2 = np.array([np.nan, 1.0]), np.array([np.nan, 0.01])
    result = posterior(d, s2, fit_prior(d, s2))
    assert (result.mean[0], result.sd[0], result.lfsr[0]) == (0.0, 0.0, 1.0)
    nothing = np.full(3, np.nan)
    assert posterior(nothing, nothing, fit_prior(nothing, nothing)).mean.tolist() == [0, 0, 0]


def test_a_prior_from_elsewhere_and_an_estimate_weigh_by_their_precision():
    result = combine(
        np.array([1.0, np.nan]), np.array([0.04, np.nan]), np.zeros(2), np.full(2, 0.1)
    )
    np.testing.assert_allclose(result.mean, [0.2, 0.0])
    np.testing.assert_allclose(result.sd, [np.sqrt(0.008), 0.1])


@pytest.mark.parametrize("departure", [1.0, 9.0])
def test_a_prior_counts_for_less_where_the_estimates_depart_from_it(departure: float):
    """A patient that responds otherwise than others: their spread says too little of it."""
    rng = np.random.default_rng(0)
    genes = 2_000
    centre, spread = rng.normal(0, 0.3, genes), rng.uniform(0.05, 0.15, genes)
    truth = centre + np.sqrt(departure) * spread * rng.normal(size=genes)
    noise = rng.uniform(0.05, 0.2, genes) ** 2
    change = truth + np.sqrt(noise) * rng.normal(size=genes)
    change[:5] = np.nan
    result = combine(change, noise, centre, spread)
    best = combine(change[:50], noise[:50], centre[:50], np.sqrt(departure) * spread[:50])
    # Too few genes to estimate it from, so the spread that is given holds.
    np.testing.assert_allclose(result.mean[:50], best.mean, atol=0.02)
    np.testing.assert_allclose(result.sd[:50], best.sd, rtol=0.1)
    covered = np.abs(result.mean - truth) < 1.96 * result.sd
    assert 0.93 < covered.mean() < 0.97
    plain = (change / noise + centre / spread**2) / (1 / noise + 1 / spread**2)
    errors = [np.nanmean((each - truth)[5:] ** 2) for each in (result.mean, plain)]
    assert errors[0] < (0.8 if departure > 1 else 1.01) * errors[1]


def test_the_sign_of_a_normal_posterior_is_wrong_as_often_as_its_tail():
    result = Posterior.normal(np.array([-0.2, 0.0, 0.3]), np.array([0.1, 0.1, 0.3]))
    np.testing.assert_allclose(result.lfsr, [stats.norm.cdf(-2), 0.5, stats.norm.cdf(-1)])


def test_weak_effects_are_not_put_at_zero_altogether_among_conditions_with_effects():
    # Weak effects of all genes: too little to tell from none in one condition, but not in forty.
    built_rows = [built(seed, 1.0, 0.25, 2000) for seed in range(40)]
    b, d, s2 = (np.stack(each) for each in zip(*built_rows, strict=True))
    pooled = pooled_prior(d, s2)
    alone = np.stack([posterior(*e, fit_prior(*e)).mean for e in zip(d, s2, strict=True)])
    among = np.stack([posterior(*e, fit_prior(*e, pooled)).mean for e in zip(d, s2, strict=True)])
    assert ((among - b) ** 2).mean() < ((alone - b) ** 2).mean()
    assert np.abs(among).max(axis=1).min() > 1e-3


def test_a_condition_without_effect_is_called_no_more_often_among_conditions_with_effects():
    strong = [built(seed, 0.3, 4.0, 2000) for seed in range(20)]
    null = [built(100 + seed, 0.0, 1.0, 2000) for seed in range(20)]
    _, d, s2 = (np.stack(each) for each in zip(*strong, *null, strict=True))
    pooled = pooled_prior(d, s2)
    calls = [
        (posterior(*e, fit_prior(*e, pooled)).lfsr < 0.05).sum()
        for e in zip(d[20:], s2[20:], strict=True)
    ]
    assert np.mean(calls) < 0.5


def test_the_effects_of_one_condition_have_pseudo_effects_of_zero():
    _, d, s2 = built(0, 0.5, 1.5)
    pooled = pooled_prior(d[None], s2[None])
    np.testing.assert_array_equal(fit_prior(d, s2, pooled).weight, fit_prior(d, s2).weight)
