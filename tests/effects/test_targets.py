"""Effects of targets that were never perturbed."""

import numpy as np
import pytest
from made_counts import draw, rows, shares

from lingshu_model.effects import (
    Perturbed,
    TargetModel,
    expression_blocks,
    flag_block,
    set_block,
)

GENES = 200


def built(seed: int, targets: int, mean: float, by_features: float, control: float = 0.0):
    """Targets whose changes are a shared one, what their features say, and noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(targets + 1, 3))
    shared, slope = rng.normal(size=GENES), rng.normal(size=(3, GENES))
    truth = mean * shared + by_features * features @ slope
    noise = np.full((targets, GENES), 0.3**2 + control**2)
    change = truth[:-1] + 0.3 * rng.normal(size=noise.shape) - control * rng.normal(size=GENES)
    shrunken = change * (change.var() - noise.mean()) / change.var()
    perturbed = Perturbed(
        tuple(f"t{i}" for i in range(targets)), change, noise, shrunken, np.full(GENES, 9.0),
        np.full(GENES, control**2), np.ones(GENES), np.full(targets, -1),
    )  # fmt: skip
    return perturbed, {"good": features, "bad": rng.normal(size=(targets + 1, 5))}, truth[-1]


def split(blocks: dict[str, np.ndarray]):
    seen = {name: block[:-1] for name, block in blocks.items()}
    return seen, {name: block[-1] for name, block in blocks.items()}


def test_features_that_say_something_are_used_and_named():
    better = []
    for seed in range(4):
        perturbed, blocks, truth = built(seed, 24, 0.3, 0.4)
        seen, row = split(blocks)
        result = TargetModel(perturbed, seen).to(row)
        assert result.block == "good"
        assert "alike in good" in result.note
        simple = perturbed.change.mean(axis=0)
        better.append(((result.effect.mean - truth) ** 2).mean() / ((simple - truth) ** 2).mean())
    assert np.mean(better) < 0.5


def test_features_that_say_nothing_are_seldom_used():
    used = []
    for seed in range(20):
        perturbed, blocks, _ = built(seed, 20, 0.4, 0.0)
        seen, row = split(blocks)
        used.append(bool(TargetModel(perturbed, seen).to(row).block))
    assert np.mean(used) <= 0.3


def test_the_mean_ships_where_nothing_predicts_better():
    perturbed, _, truth = built(1, 20, 0.6, 0.0)
    result = TargetModel(perturbed, {}).to({})
    assert result.share == pytest.approx(1.0, abs=0.1)
    assert "no feature" in result.note
    np.testing.assert_allclose(result.effect.mean, truth, atol=0.4)


def test_noise_that_targets_share_with_their_control_is_no_mean_change():
    shares_ = [
        TargetModel(built(seed, 20, 0.0, 0.0, control=0.5)[0], {}).to({}).share for seed in range(5)
    ]
    assert np.mean(shares_) < 0.15


def test_a_target_has_on_its_own_gene_what_others_have_on_theirs():
    perturbed, _, _ = built(2, 6, 0.1, 0.0)
    mine = np.arange(6)
    changed = perturbed.change.copy()
    changed[mine, mine] = -3.0
    control = np.where(np.arange(GENES) == 9, 1, 5.0)
    p = Perturbed(
        perturbed.targets, changed, perturbed.noise, changed, control,
        perturbed.control_noise, perturbed.variance, mine,
    )  # fmt: skip
    model = TargetModel(p, {})
    assert model.to({}, own=8).effect.mean[8] == pytest.approx(-3.0)
    assert model.to({}, own=9).effect.mean[9] == pytest.approx(-1.0), "below no expression"
    assert abs(model.to({}).effect.mean[8]) < 1.0


def test_three_targets_say_nothing_of_a_fourth():
    perturbed, blocks, _ = built(0, 3, 0.5, 0.0)
    with pytest.raises(ValueError, match="3 targets"):
        TargetModel(perturbed, split(blocks)[0])


def test_intervals_hold_the_truth_of_unseen_targets():
    held = []
    for seed in range(8):
        perturbed, blocks, truth = built(seed, 20, 0.3, 0.3)
        seen, row = split(blocks)
        result = TargetModel(perturbed, seen).to(row).effect
        held.append(np.abs(result.mean - truth) < 1.96 * result.sd)
    assert np.mean(held) > 0.9


def test_genes_that_go_together_have_like_loadings():
    rng = np.random.default_rng(0)
    p = shares(rng, 40, 0.3)
    group = np.repeat([1.0, 0.0], [15, 25])
    cells = [
        draw(rng, s / s.sum(), 1, 3000.0) for s in p * np.exp(rng.normal(size=(300, 1)) * group)
    ]
    names = [f"g{i}" for i in range(40)]
    block = expression_blocks(rows(cells), names, [*names[:20], "absent"])
    like = block["co-expression"] @ block["co-expression"].T
    assert like[0, 1:15].mean() > 0.6 > 0.3 > like[0, 15:20].mean()
    assert not block["co-expression"][20].any()
    assert not block["expression"][20].any()


def test_sets_of_a_single_target_say_nothing():
    block = set_block({"a": {"x", "y"}, "b": {"x"}, "c": {"y", "z"}, "d": {"q"}}, ["x", "y", "z"])
    assert block.shape == (3, 2)
    np.testing.assert_allclose(np.linalg.norm(block, axis=1), 1.0)
    assert flag_block({"x"}, ["x", "y"]).ravel().tolist() == [1.0, -1.0]
