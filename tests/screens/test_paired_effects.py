"""Effects against brute force, and the standard errors against what repeated draws do."""

import numpy as np
import pytest

from lingshu_model.contracts import Cells
from lingshu_tools.analysis import (
    Objective,
    expression_levels,
    interval,
    paired_effect,
    paired_score,
    summarised,
)


def make_pair(n: int, seed: int = 0, genes: int = 12, strength: float = 0.3) -> tuple[Cells, Cells]:
    """Cells that share a random size and rate, the first genes lowered in the perturbed arm."""
    rng = np.random.Generator(np.random.Philox(seed))
    rates = np.linspace(0.5, 40, genes) * rng.gamma(4, 0.25, (n, 1))
    factor = np.ones(genes)
    factor[:4] = 1 - strength
    uniform = rng.random((n, genes, 200))
    # Thinned from one stream, so that the arms are paired as the sampler pairs them.
    control = (uniform < rates[..., None] / 200).sum(-1)
    perturbed = (uniform < (rates * factor)[..., None] / 200).sum(-1)
    measured = np.ones(genes, bool)
    return Cells(control.astype(np.int32), measured), Cells(perturbed.astype(np.int32), measured)


def normalised(cells: Cells) -> np.ndarray:
    return cells.counts / cells.counts.sum(1, keepdims=True) * 1e4


def test_means_and_changes_are_those_of_the_definition():
    control, perturbed = make_pair(50)
    effect = paired_effect(control, perturbed)
    x0, x1 = normalised(control), normalised(perturbed)
    np.testing.assert_allclose(effect.control_mean, np.log1p(x0).mean(0))
    np.testing.assert_allclose(effect.perturbed_mean, np.log1p(x1).mean(0))
    np.testing.assert_allclose(effect.change, (np.log1p(x1) - np.log1p(x0)).mean(0), atol=1e-12)
    np.testing.assert_allclose(
        effect.log2_fold_change, np.log2((x1.mean(0) + 1) / (x0.mean(0) + 1)), atol=1e-12
    )
    assert effect.magnitude == pytest.approx(np.sqrt((effect.change**2).sum()))


def test_the_standard_error_of_a_change_is_that_of_the_paired_differences():
    control, perturbed = make_pair(333)
    difference = np.log1p(normalised(perturbed)) - np.log1p(normalised(control))
    expected = difference.std(0, ddof=1) / np.sqrt(333)
    np.testing.assert_allclose(paired_effect(control, perturbed).change_se, expected, rtol=1e-9)


def test_standard_errors_agree_with_a_brute_force_bootstrap_over_pairs():
    control, perturbed = make_pair(400)
    effect = paired_effect(control, perturbed)
    rng = np.random.Generator(np.random.Philox(1))
    draws = []
    for _ in range(200):
        rows = rng.integers(0, 400, 400)
        again = paired_effect(
            Cells(control.counts[rows], control.measured),
            Cells(perturbed.counts[rows], perturbed.measured),
        )
        draws.append((again.change, again.log2_fold_change))
    change, fold = np.array(draws).std(0, ddof=1)
    np.testing.assert_allclose(effect.change_se, change, rtol=0.25)
    np.testing.assert_allclose(effect.log2_fold_change_se, fold, rtol=0.25)


def test_the_standard_error_of_a_magnitude_is_that_of_new_draws():
    # One estimate from 20 blocks is itself uncertain by a sixth: compare over many draws.
    effects = [paired_effect(*make_pair(200, seed)) for seed in range(40)]
    spread = np.std([effect.magnitude for effect in effects], ddof=1)
    estimated = np.sqrt(np.mean([effect.magnitude_se**2 for effect in effects]))
    assert estimated == pytest.approx(spread, rel=0.3)


def test_pairing_makes_the_error_smaller_than_shuffled_partners():
    control, perturbed = make_pair(300, strength=0.1)
    order = np.random.Generator(np.random.Philox(2)).permutation(300)
    shuffled = Cells(perturbed.counts[order], perturbed.measured)
    paired, unpaired = paired_effect(control, perturbed), paired_effect(control, shuffled)
    np.testing.assert_allclose(paired.change, unpaired.change, atol=1e-12)
    assert (paired.change_se < 0.6 * unpaired.change_se).all()


def test_blocks_of_cells_change_nothing():
    control, perturbed = make_pair(1500, genes=4)
    effect = paired_effect(control, perturbed)
    difference = np.log1p(normalised(perturbed)) - np.log1p(normalised(control))
    np.testing.assert_allclose(effect.change, difference.mean(0), atol=1e-12)


def test_how_many_cells_are_dense_at_a_time_changes_nothing_but_rounding(monkeypatch):
    control, perturbed = make_pair(300)
    objective = Objective(up=("G9",), down=("G0",))
    whole = paired_effect(control, perturbed)
    score = paired_score(control, perturbed, objective, PANEL)
    summary = summarised(control)
    monkeypatch.setattr("lingshu_model.contracts.cells.BLOCK_COUNTS", 7 * 12)
    effect = paired_effect(control, perturbed)
    for name, array in whole.arrays().items():
        np.testing.assert_allclose(effect.arrays()[name], array, rtol=1e-10, atol=1e-13)
    assert effect.magnitude_se == pytest.approx(whole.magnitude_se)
    parts = paired_score(control, perturbed, objective, PANEL)
    assert (parts.value, parts.se) == pytest.approx((score.value, score.se))
    np.testing.assert_allclose(summarised(control).se, summary.se, rtol=1e-10)


def test_a_summary_is_that_of_the_dense_counts():
    counts = make_pair(40)[0].counts
    counts[3] = 0
    measured = np.arange(12) != 5
    cells = Cells(np.where(measured, counts, 0), measured)
    result, dense = summarised(cells), cells.counts[:, measured]
    normal = expression_levels(cells)
    assert np.array_equal(result.mean, normal.mean(0))
    assert np.array_equal(result.se, normal.std(0, ddof=1) / np.sqrt(40))
    assert np.array_equal(result.mean_count, dense.mean(0))
    assert np.array_equal(result.zero_rate, (dense == 0).mean(0))
    assert np.array_equal(result.totals, dense.sum(1))
    assert result.zeros == (dense == 0).mean()
    assert summarised(cells[:1]).se is None


def test_one_pair_has_an_effect_but_no_standard_error():
    effect = paired_effect(*make_pair(1))
    assert np.isfinite(effect.change).all()
    assert effect.change_se is None
    assert effect.log2_fold_change_se is None
    assert effect.magnitude_se is None
    assert interval(0.3, None, 1) is None


def test_an_unmeasured_gene_has_no_number_and_no_part_in_the_library_size():
    control, perturbed = make_pair(20)
    measured = np.ones(12, bool)
    measured[5] = False
    effect = paired_effect(Cells(control.counts, measured), Cells(perturbed.counts, measured))
    assert np.isnan(effect.change[5])
    assert effect.measured.sum() == 11
    kept = np.delete(control.counts, 5, axis=1)
    expected = np.log1p(kept / kept.sum(1, keepdims=True) * 1e4).mean(0)
    np.testing.assert_allclose(np.delete(effect.control_mean, 5), expected)


def test_an_empty_cell_counts_as_zero_everywhere():
    cells = Cells(np.array([[0, 0], [3, 1]], np.int32), np.ones(2, bool))
    np.testing.assert_array_equal(expression_levels(cells), np.log1p([[0, 0], [7500, 2500]]))
    assert np.isfinite(paired_effect(cells, cells).change).all()


def test_arms_of_different_size_are_refused():
    control, perturbed = make_pair(5)
    with pytest.raises(ValueError, match=r"\(5, 12\) and \(4, 12\) cannot be paired"):
        paired_effect(control, Cells(perturbed.counts[:4], perturbed.measured))


PANEL = [f"G{i}" for i in range(12)]


def test_a_score_is_the_mean_signed_change_and_better_when_larger():
    control, perturbed = make_pair(200)
    effect = paired_effect(control, perturbed)
    score = paired_score(control, perturbed, Objective(up=("G9",), down=("G0", "G1")), PANEL)
    expected = (effect.change[9] - effect.change[0] - effect.change[1]) / 3
    assert score.value == pytest.approx(expected)
    assert score.value > 0
    low, high = score.mc_interval
    assert low < score.value < high


def test_the_error_of_a_score_is_over_cells_not_over_genes():
    control, perturbed = make_pair(250)
    score = paired_score(control, perturbed, Objective(down=("G0", "G1")), PANEL)
    difference = np.log1p(normalised(perturbed)) - np.log1p(normalised(control))
    per_cell = -difference[:, :2].mean(1)
    assert score.se == pytest.approx(per_cell.std(ddof=1) / np.sqrt(250))


def test_a_targets_own_gene_is_left_out_of_its_score():
    control, perturbed = make_pair(100)
    objective = Objective(down=("G0", "G1", "G5"))
    effect = paired_effect(control, perturbed)
    score = paired_score(control, perturbed, objective, PANEL, targets={"G0", "G7"})
    assert score.left_out == ("G0",)
    assert score.value == pytest.approx(-(effect.change[1] + effect.change[5]) / 2)


def test_no_score_is_given_when_nothing_is_left_of_the_objective():
    control, perturbed = make_pair(10)
    score = paired_score(control, perturbed, Objective(down=("G0",)), PANEL, targets={"G0"})
    assert (score.value, score.mc_interval, score.left_out) == (None, None, ("G0",))


def test_no_score_is_given_when_a_gene_is_unmeasured():
    control, perturbed = make_pair(10)
    measured = np.arange(12) != 0
    arms = Cells(control.counts, measured), Cells(perturbed.counts, measured)
    assert paired_score(*arms, Objective(down=("G0",)), PANEL).value is None
