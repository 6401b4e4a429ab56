import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import mannwhitneyu

from benchmarks.scoring.made import CONTROL, made_screen
from lingshu_model.evaluate.scoring import (
    Reference,
    Scale,
    jackknife,
    predicted_side,
    ranksum,
    real_side,
    scaled,
    threads,
    vcc2025,
    vcc2026,
)
from lingshu_model.evaluate.scoring.cells import cell_sums, gene_sums
from lingshu_model.evaluate.scoring.normal import (
    median_log1p,
    order_float32,
    order_log1p_per_million,
)

SMALL = {"genes": 250, "perturbations": 4, "cells": 60, "controls": 150, "depth": 3000.0}


@pytest.fixture(scope="module")
def screen():
    return made_screen(5, **SMALL)


@pytest.fixture(scope="module")
def reference(screen) -> Reference:
    return Reference.of(screen.real, screen.genes, CONTROL)


def _tested(control: np.ndarray, groups: list[np.ndarray]) -> ranksum.RankSum:
    first, second = (sparse.csr_matrix(x.astype(np.float32)) for x in (control, np.vstack(groups)))
    bounds = np.cumsum([0, *map(len, groups)])
    return ranksum.rank_sums(order_float32(first), order_float32(second), bounds)


def test_rank_sums_are_scipys_with_ties_and_zeros_everywhere():
    generator = np.random.default_rng(0)
    control = generator.poisson(0.7, (40, 30))
    groups = [generator.poisson(rate, (n, 30)) for rate, n in ((0.7, 25), (1.5, 7), (0.1, 1))]
    control[:, 3] = 0
    groups[0][:, 4] = control[:25, 4] = 2
    found = _tested(control, groups)
    for i, group in enumerate(groups):
        wanted = mannwhitneyu(group, control, method="asymptotic")
        np.testing.assert_array_equal(found.u[i], wanted.statistic)
        np.testing.assert_allclose(found.p[i], np.nan_to_num(wanted.pvalue, nan=1.0), rtol=1e-12)


def test_a_gene_that_is_the_same_everywhere_has_p_one_and_half_of_all_pairs():
    found = _tested(np.full((5, 2), [0, 3]), [np.full((4, 2), [0, 3])])
    np.testing.assert_array_equal(found.u, [[10, 10]])
    np.testing.assert_array_equal(found.p, [[1, 1]])


def test_blocks_and_workers_change_nothing(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(1)
    control = generator.poisson(1, (30, 50))
    groups = [generator.poisson(1, (10, 50)) for _ in range(6)]
    whole = _tested(control, groups)
    monkeypatch.setattr(ranksum, "BLOCK", 64)
    monkeypatch.setattr(threads, "WORKERS", 3)
    cut = _tested(control, groups)
    np.testing.assert_array_equal(cut.u, whole.u)
    np.testing.assert_array_equal(cut.p, whole.p)


def test_too_many_values_for_a_key_are_refused_rather_than_mixed_up():
    cells = sparse.csr_matrix((1, 1 << 20), dtype=np.float32)
    highest = np.array([2**32 - 1], np.uint32)
    ordered = replace(order_float32(cells), codes=highest)
    with pytest.raises(OverflowError, match="exceed 63 bits"):
        ranksum._Layout.of(ordered, ordered, 1 << 11)


def test_integers_stand_in_the_order_of_the_values_they_replace():
    generator = np.random.default_rng(2)
    counts = [generator.poisson(2, (8, 40)).astype(np.float32) for _ in range(2)]
    counts[0][0, 0], counts[1][3, 3] = 4000, 0.25
    matrices = [sparse.csr_matrix(c) for c in counts]
    scales = [np.repeat(cell_sums(m) / 1e6, np.diff(m.indptr)) for m in matrices]
    values = [np.log1p(m.data / s) for m, s in zip(matrices, scales, strict=True)]
    by_gene = [np.argsort(m.indices, kind="stable") for m in matrices]
    values = np.concatenate([v[order] for v, order in zip(values, by_gene, strict=True)])
    codes = np.concatenate([o.codes for o in order_log1p_per_million(matrices)])
    order = np.argsort(values, kind="stable")
    np.testing.assert_array_equal(np.diff(values[order]) > 0, np.diff(codes[order]) > 0)


def test_cells_are_scaled_to_the_median_total_and_empty_ones_stay_empty():
    first, second = median_log1p(
        [sparse.csr_matrix(np.array(x, np.float32)) for x in ([[1, 1], [0, 0]], [[6, 2]])]
    )
    np.testing.assert_allclose(first.toarray(), np.log1p([[1, 1], [0, 0]]), rtol=1e-6)
    np.testing.assert_allclose(second.toarray(), np.log1p([[1.5, 0.5]]), rtol=1e-6)


def test_sums_beyond_single_precision_are_exact():
    cells = sparse.csr_matrix(np.array([[2**24, 1], [1, 2**24]], np.float32))
    assert gene_sums(cells).tolist() == cell_sums(cells).tolist() == [2**24 + 1] * 2


@pytest.mark.parametrize("n", [2, 40])
def test_the_jackknife_is_that_of_leaving_out_each_cell(n: int):
    counts = np.random.default_rng(3).poisson(1.5, (n, 25)).astype(np.float32)
    left = np.stack([jackknife.log_bulk(np.delete(counts, i, 0).sum(0)) for i in range(n)])
    wanted = (n - 1) / n * ((left - left.mean(axis=0)) ** 2).sum()
    assert jackknife.variance(sparse.csr_matrix(counts)) == pytest.approx(wanted, rel=1e-6)


def test_the_series_and_the_direct_jackknife_agree(monkeypatch: pytest.MonkeyPatch):
    counts = np.random.default_rng(4).poisson(0.4, (200, 80)).astype(np.float32)
    cells = sparse.csr_matrix(counts)
    series = jackknife.variance(cells)
    monkeypatch.setattr(jackknife, "LARGEST_SHARE", 0.0)
    assert series == pytest.approx(jackknife.variance(cells), rel=1e-11)


def test_one_cell_or_no_counts_have_no_jackknife():
    assert jackknife.variance(sparse.csr_matrix(np.ones((1, 3), np.float32))) == 0
    assert jackknife.variance(sparse.csr_matrix((4, 3), dtype=np.float32)) == 0


def test_the_real_cells_themselves_are_a_perfect_prediction(screen, reference: Reference):
    found = reference.score(screen.real)
    assert found.vcc2025.aggregate["mae"] == 0
    assert found.vcc2025.aggregate["discrimination_score_l1"] == 1
    assert found.vcc2025.aggregate["pearson_delta"] == pytest.approx(1)
    assert found.vcc2025.by_metric[vcc2025.PAPER_PDS] == dict.fromkeys(reference.side.names, 1.0)
    assert found.vcc2026.aggregate[vcc2026.PDS] == 1
    assert found.vcc2026.aggregate[vcc2026.JACCARD] == 1
    assert found.vcc2026.aggregate[vcc2026.FOLD_ERROR] == 0


def test_predicting_the_control_has_no_change_and_cannot_tell_perturbations_apart(
    screen, reference: Reference
):
    control = screen.real[CONTROL]
    found = reference.score(dict.fromkeys(reference.side.names, control))
    assert set(found.vcc2026.by_metric[vcc2026.PDS].values()) == {0.5}
    assert found.vcc2026.aggregate[vcc2026.FOLD_ERROR] == 1
    assert math.isnan(found.vcc2025.aggregate["pearson_delta"])


def test_a_prediction_without_control_cells_shares_the_real_ones(screen, reference: Reference):
    bare = {name: cells for name, cells in screen.predicted.items() if name != CONTROL}
    shared = reference.score(bare)
    given = reference.score({**bare, CONTROL: screen.real[CONTROL]})
    assert repr(list(shared.rows())) == repr(list(given.rows()))


def test_dense_cells_and_stored_zeros_score_as_sparse_ones(screen, reference: Reference):
    stored = {n: c.copy() for n, c in screen.predicted.items()}
    zeroed = {n: sparse.csr_matrix(c) for n, c in stored.items()}
    for cells in zeroed.values():
        cells.data[::2] = 0
    dense = {n: c.toarray().astype(np.int64) for n, c in zeroed.items()}
    one, other = reference.score(zeroed), reference.score(dense)
    assert one.vcc2026.aggregate == pytest.approx(other.vcc2026.aggregate, nan_ok=True)
    assert any((c.data == 0).any() for c in zeroed.values())


def test_log1p_cells_score_as_the_counts_they_come_from(screen):
    real = real_side(screen.real, screen.genes, CONTROL)
    counts = vcc2025.score(real, predicted_side(screen.predicted, real))
    logged = [
        dict(zip(arms, median_log1p(list(arms.values())), strict=True))
        for arms in (screen.real, screen.predicted)
    ]
    real = real_side(logged[0], screen.genes, CONTROL)
    again = vcc2025.score(real, predicted_side(logged[1], real), "log1p")
    assert again.aggregate == pytest.approx(counts.aggregate, nan_ok=True)


def test_a_target_without_a_measured_gene_has_to_be_said_to_have_none(screen):
    genes = [f"OTHER{i}" for i in range(SMALL["genes"])]
    real = real_side(screen.real, genes, CONTROL)
    with pytest.raises(ValueError, match="no perturbation has a measured gene of its own"):
        vcc2026.own_columns(real, None)
    assert set(vcc2026.own_columns(real, dict.fromkeys(real.names))) == {-1}
    assert vcc2026.own_columns(real, {real.names[0]: "OTHER7"})[0] == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arms: arms.pop(CONTROL), "needed: the control 'non-targeting'"),
        (lambda arms: arms.update(bad=np.zeros((3, 2))), "'bad' is 3 cells × 2 genes"),
        (lambda arms: arms.update(bad=np.full((3, 250), -1)), "'bad' holds -1.0"),
        (lambda arms: arms.update(bad=np.full((3, 250), np.nan)), "'bad' holds values not finite"),
        (lambda arms: arms.update(bad=np.zeros((0, 250))), "'bad' is 0 cells × 250 genes"),
    ],
)
def test_cells_that_cannot_be_scored_are_refused_by_name(screen, change, said: str):
    arms = dict(screen.real)
    change(arms)
    with pytest.raises(ValueError, match=said):
        real_side(arms, screen.genes, CONTROL)


def test_a_prediction_of_other_perturbations_is_refused(screen, reference: Reference):
    with pytest.raises(ValueError, match="differ in 'NEW'"):
        reference.score({**screen.predicted, "NEW": screen.predicted[CONTROL]})


def test_a_scaled_score_is_0_at_the_baseline_and_1_at_the_replicate():
    base = {m: 0.9 if m in scaled.LOWER_IS_BETTER else 0.1 for m in vcc2026.MEMBERS}
    best = {m: 0.4 if m in scaled.LOWER_IS_BETTER else 0.6 for m in vcc2026.MEMBERS}
    scale = Scale(base, best)
    assert set(scale.of(base).values()) == {0.0}
    assert list(scale.of(best).values()) == pytest.approx([1.0] * 7)


def test_scaled_scores_are_clipped_where_the_challenge_clips_them():
    base = {m: 0.9 if m in scaled.LOWER_IS_BETTER else 0.1 for m in vcc2026.MEMBERS}
    best = {m: 0.4 if m in scaled.LOWER_IS_BETTER else 0.6 for m in vcc2026.MEMBERS}
    scale = Scale(base, best)
    awful = scale.of({m: 9.0 if m in scaled.LOWER_IS_BETTER else 0.0 for m in vcc2026.MEMBERS})
    assert awful[vcc2026.ERROR] == 0
    assert awful[vcc2026.FOLD_ERROR] == -6
    assert awful[vcc2026.PDS] == pytest.approx(-0.2)
    assert scale.of({**best, vcc2026.ERROR: 0.0})[vcc2026.ERROR] == 1
    undefined = scale.of({**best, vcc2026.REACH: math.nan, vcc2026.FOLD_ERROR: math.nan})
    assert undefined[vcc2026.REACH] == pytest.approx(-0.2)
    assert undefined[vcc2026.FOLD_ERROR] == -6


def test_a_replicate_no_better_than_the_baseline_scales_nothing():
    flat = dict.fromkeys(vcc2026.MEMBERS, 0.5)
    found = Scale(flat, {**flat, vcc2026.PDS: 0.9}).of({**flat, vcc2026.PDS: 0.7})
    assert found[scaled.SCORE] == found[vcc2026.PDS] == pytest.approx(0.5)
    assert math.isnan(found[vcc2026.JACCARD])


def test_gains_over_a_baseline_are_relative_and_never_negative():
    base = dict.fromkeys(vcc2025.HIGHER, 0.5)
    user = {**base, "mae": 0.25, "overlap_at_N": 0.75, "pr_auc": 0.1, "pearson_delta": math.nan}
    gains = vcc2025.against_baseline(user, base)
    assert gains["mae"] == gains["overlap_at_N"] == 0.5
    assert gains["pr_auc"] == gains["pearson_delta"] == 0
    assert gains["avg_score"] == pytest.approx(1 / 7)


def test_halves_share_no_cell_and_single_cells_are_left_out(reference: Reference):
    side = reference.side
    first, second = scaled.halves(side, 0)
    for half in (first, second):
        assert (half.sizes == side.sizes // 2).all()
        assert half.control.shape[0] == side.control.shape[0] // 2
    rows = [{tuple(row) for row in half.control.toarray()} for half in (first, second)]
    assert not rows[0] & rows[1]
    arms = dict(zip(side.names, side.groups(), strict=True)) | {CONTROL: side.control}
    arms[side.names[1]] = arms[side.names[1]][:1]
    assert side.names[1] not in scaled.halves(real_side(arms, side.genes, CONTROL), 0)[0].names


def test_the_context_mean_is_control_cells_scaled_gene_by_gene_to_the_mean_response(
    reference: Reference,
):
    side = reference.side
    found = scaled.context_mean(side)
    assert (found.sizes == side.sizes).all()
    means = np.stack([group.toarray().mean(axis=0) for group in side.groups()])
    own = vcc2026.own_columns(side, None)
    control = side.control.toarray()
    for gene in (int(own[0]), int(own[1]), 200):
        # A perturbation has no say on its own gene.
        response = means[own != gene, gene].mean()
        scaled_counts = control[:, gene] * (response / control[:, gene].mean())
        emitted = found.perturbed[:, gene].toarray().ravel()
        nearest = np.abs(emitted[:, None] - scaled_counts).min(axis=1)
        assert emitted.max() > 0
        np.testing.assert_allclose(nearest, 0, atol=1e-3)
