"""Moved control cells: the effect arrives, in whole counts, and nothing runs away."""

import numpy as np
import pytest
from made_counts import draw, levels, rows, shares
from scipy import sparse, stats

from lingshu_model.effects import Effects, Group, fit_mover, largest_share, moved
from lingshu_model.effects.moments import expression_levels
from lingshu_model.effects.moved import FitCells
from lingshu_model.effects.quantiles import LARGE, Quantiles, stray
from lingshu_model.effects.roots import roots

GENES = 200


def built(kind: str, rng: np.random.Generator, share: np.ndarray, cells: int):
    """Cells of one kind of assay."""
    if kind == "50 UMI":
        return draw(rng, share, cells, 50.0)
    if kind == "deep":
        return draw(rng, share, cells, 5000.0)
    if kind == "reads":
        molecules = draw(rng, share, cells, 1500.0)
        return molecules * rng.poisson(40.0, molecules.shape)
    if kind == "ambient":
        stray = (rng.random((cells, GENES)) < 0.003) * rng.geometric(0.03, (cells, GENES))
        return draw(rng, share, cells, 150.0) + stray
    if kind == "uneven":
        return draw(rng, share, cells, 400.0, size=0.3, spread=1.0)
    return draw(rng, share, cells, 800.0)


def world(kind: str, seed: int = 0, controls: int = 300, perturbed: int = 200, library=1.0):
    """Control cells, the effect estimated from perturbed ones, and new control cells."""
    rng = np.random.default_rng(seed)
    p = shares(rng, GENES)
    fold = np.where(rng.random(GENES) < 0.15, np.exp(rng.normal(0, 1.2, GENES)), 1.0)
    q = p * fold / (p @ fold)
    control, moved = built(kind, rng, p, controls), built(kind, rng, q, perturbed)
    if library != 1.0:
        moved = rng.binomial(moved, library)
    labels = [Group("control", "a")] * controls + [Group("x", "a")] * perturbed
    effects = Effects.of([rows([control, moved])], labels, "control", GENES)
    top = largest_share(rows([control, moved]))
    return control, effects, top, built(kind, rng, p, 512)


def at(result: Quantiles, genes: np.ndarray, fold: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Counts of shifted distributions, [chosen genes, cells]."""
    out = np.zeros((len(genes), result.counts.shape[1]))
    gene, cell, count = result.shifted(genes, fold, size)
    out[gene, cell] = count
    return out


KINDS = ["plain", "50 UMI", "deep", "reads", "ambient", "uneven"]


@pytest.mark.parametrize("perturbed", [30, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_new_cells_change_by_the_effect_and_keep_their_library(kind: str, perturbed: int):
    control, effects, top, new = world(kind, perturbed=perturbed)
    target = effects.seen("x", "a").posterior
    ratio = float(effects.measured.library[0])
    mover = fit_mover(rows(control), target.mean, top, ratio)
    cells = mover.move(rows(new), seed=3).toarray()
    difference = levels(cells) - levels(new)
    delivered = difference.mean(axis=0)
    sure = target.lfsr < 0.05
    if sure.sum() >= 3:
        assert 0.9 < delivered[sure] @ target.mean[sure] / (target.mean[sure] ** 2).sum() < 1.1
        assert np.corrcoef(delivered[sure], target.mean[sure])[0, 1] > 0.95
    library = cells.sum() / new.sum()
    assert 0.9 < library / mover.library < 1.1
    assert min(1.0, ratio) * 0.9 < library < max(1.0, ratio) * 1.1
    error = difference.std(axis=0) / np.sqrt(len(new))
    assert (np.abs(delivered - target.mean) - 3 * error).max() < 0.25
    assert (cells == np.rint(cells)).all()
    assert cells.min() >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_effect_leaves_every_count_as_it_is(kind: str):
    control, _, top, new = world(kind)
    mover = fit_mover(rows(control), np.zeros(GENES), top)
    assert (mover.move(rows(new), seed=0) != rows(new)).nnz == 0


def test_uncertain_parts_of_an_effect_arrive_too():
    control, effects, top, new = world("plain", perturbed=40)
    target = effects.seen("x", "a").posterior
    unsure = (target.lfsr > 0.2) & (np.abs(target.mean) > 0.02) & (np.abs(target.mean) < 0.15)
    assert unsure.sum() > 10
    cells = fit_mover(rows(control), target.mean, top).move(rows(np.tile(new, (4, 1))), seed=1)
    delivered = levels(cells.toarray()).mean(axis=0) - levels(new).mean(axis=0)
    assert delivered[unsure] @ target.mean[unsure] / (target.mean[unsure] ** 2).sum() > 0.8


def test_a_gene_that_no_control_cell_shows_can_be_switched_on():
    rng = np.random.default_rng(0)
    p = shares(rng, GENES)
    p[7] = 0.0
    control, new = draw(rng, p, 200, 1000.0), draw(rng, p, 400, 1000.0)
    target = np.zeros(GENES)
    target[7] = 4.0
    top = np.full(GENES, 0.05)
    cells = fit_mover(rows(control), target, top).move(rows(new), seed=0).toarray()
    assert levels(cells)[:, 7].mean() == pytest.approx(4.0, abs=0.2)
    assert (cells[:, 7] <= np.ceil(0.05 * new.sum(axis=1))).all()


def test_no_count_is_larger_than_the_largest_share_that_a_cell_gave_the_gene():
    rng = np.random.default_rng(0)
    p = shares(rng, GENES)
    control, new = draw(rng, p, 200, 1000.0), draw(rng, p, 400, 1000.0)
    control[:, 7] = new[:, 7] = 0
    target = np.zeros(GENES)
    target[7] = 3.0
    cells = [
        fit_mover(rows(control), target, np.full(GENES, top)).move(rows(new), seed=0).toarray()
        for top in (0.5, 0.004)
    ]
    most = np.ceil(0.004 * new.sum(axis=1))
    assert (cells[0][:, 7] > most).any()
    assert (cells[1][:, 7] <= most).all()
    assert levels(cells[1])[:, 7].mean() == pytest.approx(3.0, abs=0.2)


def test_a_gene_that_few_cells_show_is_raised_in_most_cells():
    rng = np.random.default_rng(0)
    p = shares(rng, GENES)
    control, new = draw(rng, p, 300, 2000.0), draw(rng, p, 300, 2000.0)
    for counts in (control, new):
        counts[:, 7] = np.where(rng.random(300) < 0.05, 5, 0)
    target = np.zeros(GENES)
    target[7] = 3.5
    cells = fit_mover(rows(control), target, np.ones(GENES)).move(rows(new), seed=0).toarray()
    assert levels(cells)[:, 7].mean() - levels(new)[:, 7].mean() == pytest.approx(3.5, abs=0.2)
    assert (cells[:, 7] > 0).mean() > 0.8


def test_a_gene_that_is_lost_goes_to_nothing_and_no_further():
    control, _, top, new = world("plain")
    target = np.zeros(GENES)
    gene = int(control.sum(axis=0).argmax())
    target[gene] = -50.0
    cells = fit_mover(rows(control), target, top).move(rows(new), seed=0).toarray()
    assert cells[:, gene].mean() < 0.02 < new[:, gene].mean()


@pytest.mark.parametrize("up", [True, False])
def test_cells_keep_their_ranks(up: bool):
    rng = np.random.default_rng(1)
    control = rng.poisson(3.0, (300, GENES))
    control[:, 0] = np.arange(300) % 60
    control[:, 1] += 900 - control.sum(axis=1)  # One library size for all cells.
    target = np.zeros(GENES)
    target[0] = 0.7 if up else -0.7
    cells = fit_mover(rows(control), target, np.ones(GENES)).move(rows(control), seed=5).toarray()
    before, after = control[:, 0], cells[:, 0]
    worse = (before[:, None] < before[None, :]) & (after[:, None] > after[None, :])
    assert not worse.any()
    assert (after >= before).all() if up else (after <= before).all()


def test_a_cell_is_the_same_alone_in_any_batch_and_again():
    control, effects, top, new = world("plain")
    mover = fit_mover(rows(control), effects.seen("x", "a").posterior.mean, top)
    whole = mover.move(rows(new[:50]), seed=9, first_cell=100).toarray()
    parts = [mover.move(rows(new[i : i + 1]), seed=9, first_cell=100 + i) for i in range(50)]
    assert (sparse.vstack(parts).toarray() == whole).all()
    again = fit_mover(rows(control), effects.seen("x", "a").posterior.mean, top)
    np.testing.assert_array_equal(again.log_fold, mover.log_fold)
    assert (mover.move(rows(new[:50]), seed=8, first_cell=100).toarray() != whole).any()
    assert (mover.move(rows(new[:50]), seed=9).toarray() != whole).any()


def test_a_stray_count_stays_and_the_effect_is_that_of_the_other_cells():
    rng = np.random.default_rng(2)
    p = shares(rng, GENES, 0.3)
    control, new = draw(rng, p, 300, 500.0), draw(rng, p, 300, 500.0)
    new[0, 3] = 60
    target = np.zeros(GENES)
    target[3] = 1.5
    cells = fit_mover(rows(control), target).move(rows(new), seed=0).toarray()
    assert cells[0, 3] == 60
    assert cells[1:, 3].mean() > 1.5 * new[1:, 3].mean()


def test_deeper_or_shallower_libraries_come_where_the_effect_is_that_of_one():
    control, effects, top, new = world("deep", perturbed=400, library=0.5)
    target = effects.seen("x", "a").posterior
    mover = fit_mover(rows(control), target.mean, top, float(effects.measured.library[0]))
    cells = mover.move(rows(new), seed=0).toarray()
    assert cells.sum() / new.sum() == pytest.approx(0.5, rel=0.1)
    delivered = levels(cells).mean(axis=0) - levels(new).mean(axis=0)
    assert np.corrcoef(delivered, target.mean)[0, 1] > 0.98


@pytest.mark.parametrize("spread", [0.4, 0.8])
def test_levels_of_cells_that_respond_differently_fill_the_library(
    spread: float, monkeypatch: pytest.MonkeyPatch
):
    """Such cells have larger means at the same mean levels than control cells moved alike."""
    rng = np.random.default_rng(1)
    p = shares(rng, GENES)
    control = rng.poisson(1500.0 * np.tile(p, (500, 1)))
    # Each perturbed cell has its share of every gene, log-normal around that of the condition.
    q = p * np.exp(rng.normal(0, 1.0, GENES)) * np.exp(rng.normal(0, spread, (500, GENES)))
    perturbed = rng.poisson(1500.0 * q / q.sum(axis=1, keepdims=True))
    target = levels(perturbed).mean(axis=0) - levels(control).mean(axis=0)
    errors = []
    for most in (moved.MOST_DISPERSED, 0.0):
        monkeypatch.setattr(moved, "MOST_DISPERSED", most)
        mover = fit_mover(rows(control), target, np.ones(GENES))
        cells = mover.move(rows(control), seed=3).toarray()
        assert (mover.dispersion > 0.3 * spread**2) == (most > 0)
        assert cells.sum() / control.sum() == pytest.approx(1.0, abs=0.05)
        errors.append(levels(cells).mean(axis=0) - levels(control).mean(axis=0) - target)
    assert abs(errors[0].mean()) < 0.01
    assert np.sqrt((errors[0] ** 2).mean()) < 0.03
    # All levels too high by what the library would lack.
    assert errors[1].mean() > 5 * max(abs(errors[0].mean()), 0.004)


def test_a_gene_less_dispersed_than_others_is_raised_and_not_lost():
    """With additional counts as dispersed as those of others, its mean level had no single root."""
    rng = np.random.default_rng(0)
    # 45 UMI in 500 cells: rare genes in bursts, and one gene with a few counts in every cell.
    bursts = (rng.random((500, GENES)) < 0.04) * rng.geometric(0.2, (500, GENES))
    common = rng.poisson(3.0, 500)
    control = bursts.copy()
    control[:, 0] = common
    target = np.zeros(GENES)
    target[0] = 0.3
    mover = fit_mover(rows(control), target, np.ones(GENES))
    assert mover.added[0] > 1.0
    cells = mover.move(rows(control), seed=1).toarray()
    delivered = levels(cells)[:, 0].mean() - levels(control)[:, 0].mean()
    assert delivered == pytest.approx(0.3, abs=0.05)
    assert 0.0 < mover.log_fold[0] < 2.0
    assert np.median(cells[:, 0]) < 3 * np.median(common)


def test_a_library_near_that_of_the_control_cells_leaves_genes_without_change():
    control, _, top, new = world("50 UMI")
    mover = fit_mover(rows(control), np.zeros(GENES), top, 0.95)
    assert (mover.move(rows(new), seed=0) != rows(new)).nnz == 0


@pytest.mark.parametrize("library", [0.6, 1.6])
def test_another_library_does_not_come_where_no_gene_changes(library: float):
    control, _, top, new = world("50 UMI")
    mover = fit_mover(rows(control), np.zeros(GENES), top, library)
    assert (mover.move(rows(new), seed=0) != rows(new)).nnz == 0


@pytest.mark.parametrize("library", [0.6, 1.1, 1.6])
def test_genes_shrunk_to_0_are_not_dispersed_to_fill_another_library(library: float):
    """At 50 UMI shares that stay in another library are other levels than those of target 0."""
    control, _, top, new = world("50 UMI")
    change = np.zeros(GENES)
    change[0] = 0.05
    mover = fit_mover(rows(control), change, top, library)
    assert mover.dispersion < 0.1
    cells = mover.move(rows(new), seed=0).toarray()
    delivered = levels(cells).mean(axis=0) - levels(new).mean(axis=0)
    assert np.abs(delivered - change).max() < 0.1


@pytest.mark.parametrize("library", [0.5, 1.3, 2.5])
@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("depth", [300.0, 3000.0])
def test_the_library_of_perturbed_cells_comes_where_all_changes_are_known(
    depth: float, spread: float, library: float
):
    """Also where cells respond differently, so that the levels alone do not fill the library."""
    rng = np.random.default_rng(5)
    p = shares(rng, GENES)
    q = p * np.exp(rng.normal(0, 0.4, GENES) * (rng.random(GENES) < 0.3))
    control = draw(rng, p, 500, depth)
    each = q * np.exp(rng.normal(0, spread, (500, GENES)))
    perturbed = draw(rng, each / each.sum(axis=1, keepdims=True), 500, depth * library)
    target = levels(perturbed).mean(axis=0) - levels(control).mean(axis=0)
    top = largest_share(rows([control, perturbed]))
    wanted = perturbed.sum() / control.sum()
    mover = fit_mover(rows(control), target, top, wanted)
    cells = mover.move(rows(control), seed=7).toarray()
    assert cells.sum() / control.sum() == pytest.approx(wanted, rel=0.05)
    assert abs((levels(cells).mean(axis=0) - levels(perturbed).mean(axis=0)).mean()) < 0.01
    assert (mover.dispersion > 0.1) == (spread > 0)


@pytest.mark.parametrize("library", [0.0, -1.0, np.nan, np.inf])
def test_a_library_that_no_cell_can_have_is_refused(library: float):
    with pytest.raises(ValueError, match="library"):
        fit_mover(rows(np.ones((3, 4), np.int64)), np.zeros(4), library=library)


@pytest.mark.parametrize("bad", [0.5, -1.0, np.nan])
def test_what_is_not_a_whole_count_is_refused(bad: float):
    counts = rows(np.ones((3, 4), np.int64))
    mover = fit_mover(counts, np.zeros(4))
    broken = counts.copy()
    broken.data[1] = bad
    for call in (lambda: fit_mover(broken, np.zeros(4)), lambda: mover.move(broken, 0)):
        with pytest.raises(ValueError, match="raw counts"):
            call()


@pytest.mark.parametrize("kind", KINDS)
def test_effects_that_share_their_control_cells_are_solved_as_each_alone(kind: str):
    control, effects, top, new = world(kind)
    target = effects.seen("x", "a").posterior.mean
    shared = FitCells(rows(control), top)
    # Others first, with another library: nothing of an earlier effect may stay behind.
    shared.mover(-target, 0.6)
    for change, library in ((target, 1.0), (0.5 * target, 0.8)):
        alone = fit_mover(rows(control), change, top, library)
        together = shared.mover(change, library)
        np.testing.assert_array_equal(alone.log_fold, together.log_fold)
        assert (alone.move(rows(new), 3) != together.move(rows(new), 3)).nnz == 0


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_any_few_genes_are_those_among_all(kind: str):
    rng = np.random.default_rng(5)
    share = shares(rng, GENES)
    counts = built(kind, rng, share, 60).T.astype(float)
    mean, size = share[:, None] * counts.sum(axis=0), rng.uniform(0.1, 9.0, GENES)
    most, v = np.full(counts.shape, 400.0), rng.random(counts.shape)
    result = Quantiles.of(counts, mean, size, most, v)
    fold = np.exp(rng.normal(0, 1, GENES))
    whole = at(result, np.arange(GENES), fold, size)
    some = rng.permutation(GENES)[:37]
    np.testing.assert_array_equal(at(result, some, fold[some], size[some]), whole[some])
    lower = np.minimum(whole, np.maximum(7.0, counts))
    capped = result.capped(np.full(counts.shape, 7.0))
    np.testing.assert_array_equal(at(capped, np.arange(GENES), fold, size), lower)


def test_control_cells_without_a_count_are_refused():
    with pytest.raises(ValueError, match="not one count"):
        fit_mover(sparse.csr_matrix((3, 4)), np.zeros(4))


@pytest.mark.parametrize("size", [0.2, 3.0, 500.0])
def test_quantiles_are_those_of_the_negative_binomial(size: float):
    mean = np.array([[0.05], [2.0], [30.0]])
    r = np.full(3, size)
    for k in (0, 1, 2, 5, 40):
        counts = np.full((3, 1), float(k))
        v = np.full((3, 1), 0.37)
        result = Quantiles.of(counts, mean, r, np.full((3, 1), 1e9), v)
        distribution = stats.nbinom(size, size / (size + mean[:, 0]))
        u = distribution.cdf(k - 1) + 0.37 * distribution.pmf(k)
        used = ~stray(counts, mean, r[:, None])[:, 0]
        np.testing.assert_allclose(np.exp(result.log_u[:, 0])[used], u[used], rtol=1e-9)
        shifted = stats.nbinom(size, size / (size + 1.7 * mean[:, 0]))
        got = at(result, np.arange(3), np.full(3, 1.7), r)[:, 0]
        sure = used & (u < 1 - 1e-9)
        np.testing.assert_array_equal(got[sure], shifted.ppf(u)[sure])
        assert (got[~used] == k).all()


@pytest.mark.parametrize("size", [0.5, 4.0, 1e4])
@pytest.mark.parametrize("fold", [0.5, 30.0, 3000.0])
def test_quantiles_of_high_means_are_those_of_the_distribution_nearly(size: float, fold: float):
    v = np.linspace(0.05, 0.95, 19)[None]
    mean, r = np.full((1, 19), 0.8), np.array([size])
    for k in (0.0, 1.0, 2.0):
        counts = np.full((1, 19), k)
        result = Quantiles.of(counts, mean, r, np.full((1, 19), 1e9), v)
        got = at(result, np.array([0]), np.array([fold]), r)[0]
        u = np.exp(result.log_u[0])
        wanted = stats.nbinom(size, size / (size + 0.8 * fold)).ppf(u)
        np.testing.assert_allclose(got, wanted, rtol=0.03, atol=2.0)


def test_a_count_far_below_a_high_mean_scales_and_does_not_vanish():
    result = Quantiles.of(
        np.full((1, 1), 60.0), np.full((1, 1), 5000.0), np.array([1e4]), np.full((1, 1), 1e9),
        np.full((1, 1), 0.5),
    )  # fmt: skip
    assert at(result, np.array([0]), np.array([2.0]), np.array([1e4]))[0, 0] == 120


def test_counts_beyond_the_steps_scale_with_their_mean():
    counts = np.array([[LARGE + 36.0]])
    result = Quantiles.of(
        counts, np.array([[90.0]]), np.ones(1), np.array([[1e9]]), np.full((1, 1), 0.5)
    )
    assert at(result, np.array([0]), np.array([1.5]), np.ones(1))[0, 0] == 150


def test_roots_of_step_functions_and_of_those_that_have_none():
    targets = np.array([0.3, -2.0, 5.0, 1e9, 0.0])

    def miss(which: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.floor(50 * x) / 50 - targets[which]

    result = roots(miss, np.zeros(5), 8.0, 1e-6)
    np.testing.assert_allclose(result[[0, 1, 2, 4]], targets[[0, 1, 2, 4]], atol=0.021)
    assert result[3] == 8.0


@pytest.mark.parametrize("library", [0.65, 0.75])
def test_a_lost_gene_of_many_counts_raises_no_other(library: float):
    # One gene has a seventh of 58 counts. Without it, neither its library nor that of the
    # perturbed cells, which are shallower, suits the levels of the other genes.
    rng = np.random.default_rng(3)
    p = shares(rng, GENES)
    p = np.append(p * (1 - 0.15) / p.sum(), 0.15)
    control = draw(rng, p, 300, 58.0)
    change = np.zeros(GENES + 1)
    change[-1] = -2.5
    mover = fit_mover(rows(control), change, library=library)
    new = draw(rng, p, 1024, 58.0)
    cells = mover.move(rows(new), seed=5).toarray()
    difference = levels(cells) - levels(new)
    error = difference.std(axis=0) / np.sqrt(len(new))
    assert (np.abs(difference.mean(axis=0) - change) - 2 * error).max() < 0.1
    assert 0.9 * library < cells.sum() / new.sum() < 1.1


def test_a_gene_that_thousands_of_control_cells_lack_is_raised_as_far_as_its_effect_says():
    rng = np.random.default_rng(11)
    rate = np.concatenate([[0.0], np.full(40, 14.0)])
    control = sparse.csr_matrix(rng.poisson(rate, (2_048, 41)).astype(np.float64))
    change, largest = np.zeros(41), np.full(41, 0.1)
    change[0] = 1.6
    mover = fit_mover(control, change, largest)
    moved = expression_levels(mover.move(control, seed=5))
    reached = float(moved[:, [0]].mean() - expression_levels(control)[:, [0]].mean())
    assert reached == pytest.approx(1.6, abs=0.1)
