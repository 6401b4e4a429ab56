"""Effects carried from contexts where they were seen to one where they were not."""

import numpy as np
import pytest

from lingshu_model.train.effect_offsets.related_contexts import carry_over, distances, likeness

GENES = 600


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape)


@pytest.fixture
def world() -> dict[str, np.ndarray]:
    """Two lineages of three contexts: effects share a part within the lineage, a part with all."""
    lineage = np.array([0, 0, 0, 1, 1, 1])
    profiles = 3 * normal(1, 2, GENES)[lineage] + 0.5 * normal(2, 6, GENES)
    strength = np.where(np.arange(GENES) < 120, 1.0, 0.0)
    effect = (normal(3, GENES) + normal(4, 2, GENES)[lineage]) * strength
    return {"profiles": profiles, "effect": effect, "lineage": lineage}


def test_alike_contexts_lie_close(world: dict[str, np.ndarray]) -> None:
    result = distances(world["profiles"], np.zeros(6, np.int64))
    assert np.allclose(np.diag(result), 0, atol=1e-6)
    assert result[0, 1] < 0.3 < result[0, 3]


def test_genes_that_a_context_lacks_do_not_move_it(world: dict[str, np.ndarray]) -> None:
    holed = world["profiles"].copy()
    holed[1, :200] = np.nan
    result = distances(holed, np.zeros(6, np.int64))
    assert result[0, 1] < 0.3 < result[1, 4]


def test_an_unseen_context_is_told_by_its_own_lineage(world: dict[str, np.ndarray]) -> None:
    observed = np.array([0, 1, 3, 4, 5])
    noise = np.full((5, GENES), 0.04)
    value = world["effect"][observed] + 0.2 * normal(5, 5, GENES)
    distance = distances(world["profiles"], np.zeros(6, np.int64))
    result = carry_over(value, noise, distance, observed)[2]
    truth = world["effect"][2]
    plain = value.mean(axis=0)
    assert np.corrcoef(result, truth)[0, 1] > np.corrcoef(plain, truth)[0, 1] + 0.1
    assert np.abs(result[120:]).mean() < 0.5 * np.abs(plain[120:]).mean()


def test_that_contexts_differ_makes_no_prediction_smaller() -> None:
    strength = np.where(np.arange(GENES) < 300, 1.0, 0.0)
    common, mine = normal(11, GENES) * strength, 0.7 * normal(12, 40, GENES) * strength
    profiles = normal(13, 40, GENES)
    distance = distances(profiles, np.zeros(40, np.int64))
    slopes: list[float] = []
    for new in range(32, 40):
        observed = np.arange(8)
        value = (common + mine)[observed] + 0.1 * normal(14, 8, GENES)
        result = carry_over(value, np.full((8, GENES), 0.01), distance, observed)[new]
        truth = common + mine[new]
        slopes.append(result @ truth / (result @ result))
    assert np.mean(slopes) == pytest.approx(1.0, abs=0.05)


def test_what_was_seen_well_is_kept(world: dict[str, np.ndarray]) -> None:
    observed = np.arange(6)
    value = world["effect"] + 0.01 * normal(6, 6, GENES)
    distance = distances(world["profiles"], np.zeros(6, np.int64))
    result = carry_over(value, np.full((6, GENES), 1e-4), distance, observed)
    assert np.abs(result - world["effect"])[:, :120].mean() < 0.05


def test_what_nobody_measured_has_no_effect(world: dict[str, np.ndarray]) -> None:
    value = world["effect"].copy()
    value[:, 7] = np.nan
    distance = distances(world["profiles"], np.zeros(6, np.int64))
    result = carry_over(value, np.full((6, GENES), 0.01), distance, np.arange(6))
    assert not result[:, 7].any()
    assert np.isfinite(result).all()


def test_contexts_differ_as_far_as_their_effects_do(world: dict[str, np.ndarray]) -> None:
    distance = distances(world["profiles"], np.zeros(6, np.int64))
    noise = np.full((6, GENES), 0.04)
    strength = np.where(np.arange(GENES) < 120, 2.0, 0.0)
    apart = world["effect"] + 0.2 * normal(7, 6, GENES)
    same = world["effect"][:1] + 0.2 * normal(8, 6, GENES)
    # Effects of two lineages correlate by a half, their control cells by -0.96.
    assert 0.2 <= likeness(apart, noise, strength, distance) <= 0.3
    assert likeness(same, noise, strength, distance) < 0.05


def test_two_contexts_by_hand() -> None:
    # Covariance 1 - 0 = 1 between all: the posterior mean is the sum over (1 / v + n / s2) s2.
    value = np.array([[1.0], [3.0]])
    result = carry_over(value, np.full((2, 1), 2.0), np.zeros((3, 3)), np.arange(2))
    strength = 5.0 - 2.0
    assert result[:, 0] == pytest.approx(np.full(3, (4.0 / 2) / (1 / strength + 2 / 2)), rel=1e-6)
