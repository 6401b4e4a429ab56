"""Effects carried over to a context in which a condition was never seen."""

import numpy as np
import pytest

from lingshu_model.effects import Carrier, Sources
from lingshu_model.effects.contexts import MEAN, NEAREST, PERTURBED, RELATED
from lingshu_model.effects.process import choose_rho, distances, predict

GENES = 400


def world(seed: int, contexts: int, kind: str, error: float = 0.1):
    """Contexts of which one rule says how they respond; the last is the one carried to."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(1.0, 3.0, GENES)
    shared = np.where(rng.random(GENES) < 0.3, rng.normal(0.0, 0.8, GENES), 0.0)
    if kind == "alike":
        control = base + rng.normal(0.0, 0.5, (contexts + 1, GENES))
        change = shared + 0.1 * rng.normal(size=control.shape)
    elif kind == "same end":
        control = base + rng.normal(0.0, 0.7, (contexts + 1, GENES))
        change = (base + shared) - control
    elif kind == "lineages":
        lineage = np.arange(contexts + 1) % 2
        control = base + 1.5 * rng.normal(size=(2, GENES))[lineage]
        control = control + 0.3 * rng.normal(size=control.shape)
        change = np.stack([shared, np.roll(shared, 7)])[lineage]
        change = change + 0.05 * rng.normal(size=change.shape)
    else:
        control = base + rng.normal(0.0, 0.1, (contexts + 1, GENES))
        change = np.zeros_like(control)
    control = np.maximum(control, 0.0)
    change = np.maximum(change, -control)
    noise = np.full_like(change, error**2)
    noisy_control = control + error / np.sqrt(2) * rng.normal(size=control.shape)
    noisy = change + (control - noisy_control) + error / np.sqrt(2) * rng.normal(size=change.shape)
    sources = Sources(
        tuple(f"c{i}" for i in range(contexts)),
        noisy[:-1],
        noise[:-1],
        noisy_control[:-1],
        noise[:-1] / 2,
        np.ones(GENES),
    )
    return sources, noisy_control[-1], change[-1]


def error(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(((predicted - truth) ** 2).mean())


@pytest.mark.parametrize("contexts", [1, 2])
def test_one_or_two_contexts_give_the_mean_shift_and_say_so(contexts: int):
    sources, control, _ = world(0, contexts, "alike")
    result = Carrier(sources).to(control)
    plain = np.maximum(sources.change.mean(axis=0), -control)
    np.testing.assert_allclose(result.effect.mean, plain, atol=0.05)
    assert result.weights == {MEAN: 1.0}
    assert ["one context", "two contexts"][contexts - 1] in result.note


def test_one_context_leaves_the_size_of_an_effect_open():
    sources, control, _ = world(0, 1, "alike")
    result = Carrier(sources).to(control).effect
    assert (result.sd >= np.abs(result.mean)).all()


@pytest.mark.parametrize("kind", ["alike", "same end", "lineages"])
@pytest.mark.parametrize("contexts", [3, 5])
def test_fewer_than_six_contexts_stack_two_candidates_at_most(kind: str, contexts: int):
    sources, control, _ = world(1, contexts, kind)
    weights = Carrier(sources).to(control).weights
    assert len(weights) <= 2
    assert weights[MEAN] > 0, "not shrunk to the mean shift"
    assert all(weight >= 0 for weight in weights.values())


@pytest.mark.parametrize(
    ("kind", "best"), [("same end", {PERTURBED}), ("lineages", {RELATED, NEAREST})]
)
@pytest.mark.parametrize("contexts", [4, 8])
def test_the_candidate_that_predicts_left_out_contexts_has_the_say(
    kind: str, best: set[str], contexts: int
):
    stacked, simple = [], []
    for seed in range(4):
        sources, control, truth = world(seed, contexts, kind)
        result = Carrier(sources).to(control)
        stacked.append(error(result.effect.mean, truth))
        simple.append(error(np.maximum(sources.change.mean(axis=0), -control), truth))
        assert sum(result.weights.get(name, 0.0) for name in best) > 0.4
    assert np.mean(stacked) < 0.6 * np.mean(simple)


@pytest.mark.parametrize("contexts", [3, 4, 8])
def test_where_contexts_respond_alike_the_stack_is_no_worse_than_the_mean_shift(contexts: int):
    stacked, simple = [], []
    for seed in range(10):
        sources, control, truth = world(seed, contexts, "alike")
        stacked.append(error(Carrier(sources).to(control).effect.mean, truth))
        simple.append(error(np.maximum(sources.change.mean(axis=0), -control), truth))
    assert np.mean(stacked) < 1.05 * np.mean(simple)


def test_noise_of_the_own_control_cells_does_not_speak_for_the_perturbed_mean():
    weights = []
    for seed in range(6):
        sources, control, _ = world(seed, 8, "nothing", error=0.4)
        weights.append(Carrier(sources).to(control).weights.get(PERTURBED, 0.0))
    assert np.mean(weights) < 0.08


@pytest.mark.parametrize("contexts", [1, 2, 4, 7])
def test_no_level_falls_below_nothing(contexts: int):
    sources, control, _ = world(2, contexts, "same end")
    low = np.where(np.arange(GENES) < 100, 0.05, control)
    assert (Carrier(sources).to(low).effect.mean >= -low - 1e-12).all()


@pytest.mark.parametrize("contexts", [2, 3, 5, 8])
def test_intervals_hold_the_truth_and_are_not_idle(contexts: int):
    held, width = [], []
    for seed in range(6):
        sources, control, truth = world(seed, contexts, "lineages" if contexts > 5 else "alike")
        result = Carrier(sources).to(control).effect
        held.append(np.abs(result.mean - truth) < 1.96 * result.sd)
        width.append(result.sd)
    assert np.mean(held) > 0.93
    assert np.mean(width) < 1.2


def test_a_gene_that_some_contexts_lack_comes_from_those_that_measure_it():
    sources, control, _ = world(3, 4, "alike")
    holed = sources.change.copy()
    holed[:3, 5], holed[:, 6] = np.nan, np.nan
    lacking = Sources(
        sources.contexts, holed, np.where(np.isnan(holed), np.nan, sources.noise),
        np.where(np.isnan(holed), np.nan, sources.control), sources.control_noise, sources.variance,
    )  # fmt: skip
    result = Carrier(lacking).to(control)
    assert np.isfinite(result.effect.mean).all()
    assert np.isfinite(result.effect.sd).all()
    assert result.effect.mean[6] == pytest.approx(0.0, abs=1e-9)
    assert result.effect.mean[5] * sources.change[3, 5] > 0


def test_contexts_without_the_condition_are_nothing_to_carry_from():
    sources, _, _ = world(0, 2, "alike")
    with pytest.raises(ValueError, match="no context"):
        Carrier(sources.take(np.array([], int)))


def test_a_noisy_context_weighs_less_in_the_mean_shift():
    sources, control, truth = world(4, 2, "alike")
    rng = np.random.default_rng(0)
    noisy = sources.change.copy()
    noisy[1] += 2.0 * rng.normal(size=GENES)
    noise = sources.noise.copy()
    noise[1] = 4.0
    result = Carrier(
        Sources(
            sources.contexts, noisy, noise, sources.control, sources.control_noise, sources.variance
        )
    ).to(control)
    assert error(result.effect.mean, truth) < 0.3 * error(noisy.mean(axis=0), truth)


def test_the_process_is_the_posterior_of_a_normal_with_its_covariance():
    rng = np.random.default_rng(5)
    profiles = rng.normal(size=(4, 50))
    y, s2 = rng.normal(size=(3, 50)), rng.uniform(0.05, 0.2, (3, 50))
    distance, rho = distances(profiles), 0.3
    result = predict(y, s2, distance, rho)
    for gene in (0, 17):
        v = max(float((y[:, gene] ** 2 - s2[:, gene]).mean()), 0.0)
        k = v * (1 - rho * distance)
        by_hand = k[3, :3] @ np.linalg.solve(k[:3, :3] + np.diag(s2[:, gene]), y[:, gene])
        assert result[gene] == pytest.approx(by_hand, abs=1e-6)


def test_likeness_is_found_where_it_is_and_not_where_it_is_not():
    alike, _, _ = world(6, 8, "alike")
    apart, _, _ = world(6, 8, "lineages")
    rho = [choose_rho(s.change, s.noise, distances(s.control)) for s in (alike, apart)]
    assert rho[0] <= 0.05 < rho[1]
