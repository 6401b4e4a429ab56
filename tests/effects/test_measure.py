"""Changes that cells show, and how sure they are before any shrinkage."""

import numpy as np
import pytest
from made_counts import draw, levels, rows, shares

from lingshu_model.effects import Group, Moments, measure


def measured(parts: dict[Group, np.ndarray], genes: np.ndarray | None = None):
    groups = list(parts)
    number = np.repeat(np.arange(len(groups)), [len(parts[g]) for g in groups])
    width = parts[groups[0]].shape[1]
    moments = Moments.of([rows(list(parts.values()))], number, len(groups), width)
    return measure(moments, groups, "control", genes)


def test_a_change_is_the_difference_of_mean_levels_of_its_own_context():
    rng = np.random.default_rng(0)
    p = shares(rng, 30)
    parts = {
        Group(condition, context): draw(rng, p, n, 500.0)
        for condition, context, n in [
            ("control", "a", 40), ("control", "b", 50), ("x", "a", 30), ("x", "b", 20),
            ("y", "b", 10), ("y", "c", 10),
        ]
    }  # fmt: skip
    result = measured(parts)
    assert list(zip(result.conditions, result.contexts, strict=True)) == [
        ("x", "a"), ("x", "b"), ("y", "b"),
    ]  # fmt: skip
    for row, (condition, context) in enumerate(
        zip(result.conditions, result.contexts, strict=True)
    ):
        arms = [levels(parts[Group(c, context)]).mean(axis=0) for c in (condition, "control")]
        np.testing.assert_allclose(result.change[row], arms[0] - arms[1])
    assert result.cells.tolist() == [[30, 40], [20, 50], [10, 50]]
    np.testing.assert_allclose(
        result.controls["b"].mean, levels(parts[Group("control", "b")]).mean(axis=0)
    )


def test_a_control_that_no_context_has_is_refused_by_name():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'control'"):
        measured({Group("NT", "a"): draw(rng, shares(rng, 5), 9, 99.0)})


@pytest.mark.parametrize(("n", "controls", "depth"), [(15, 60, 60.0), (30, 200, 150.0)])
def test_few_cells_of_rare_genes_are_seldom_sure_of_a_change_that_is_none(
    n: int, controls: int, depth: float
):
    rng = np.random.default_rng(1)
    p = shares(rng, 400)
    large, squares, noise = [], 0.0, 0.0
    mine = []
    for _ in range(20):
        parts = {
            Group("x", "a"): draw(rng, p, n, depth),
            Group("control", "a"): draw(rng, p, controls, depth),
            Group("y", "a"): draw(rng, p, 300, depth),
        }
        result = measured(parts)
        d, s2 = result.change[0], result.noise[0]
        large.append(np.abs(d) > 3 * np.sqrt(s2))
        y = [levels(parts[Group(c, "a")]) for c in ("x", "control")]
        plain = y[0].var(axis=0, ddof=1) / n + y[1].var(axis=0, ddof=1) / controls
        mine.append(np.abs(d) > 3 * np.sqrt(np.maximum(plain, 1e-12)))
        squares, noise = squares + (d**2).mean(), noise + s2.mean()
    assert np.mean(large) < 0.006
    assert np.mean(mine) > 2 * np.mean(large), "no test: the arms' own variances would do"
    assert 0.8 < squares / noise < 1.15


def test_a_sure_change_of_many_cells_has_the_standard_error_of_its_arms():
    rng = np.random.default_rng(2)
    p = shares(rng, 20, 0.5)
    q = p * np.exp(rng.normal(0, 1, 20))
    parts = {
        Group("x", "a"): draw(rng, q / q.sum(), 800, 2000.0),
        Group("control", "a"): draw(rng, p, 900, 2000.0),
    }
    y = [levels(parts[Group(c, "a")]) for c in ("x", "control")]
    plain = y[0].var(axis=0, ddof=1) / 800 + y[1].var(axis=0, ddof=1) / 900
    np.testing.assert_allclose(measured(parts).noise[0], plain, rtol=0.02)


def donors(rng: np.random.Generator, names: list[str], scatter: float):
    """Profiles of donors around a common one."""
    p = shares(rng, 150, 0.8)
    result = {name: p * np.exp(scatter * rng.normal(size=150)) for name in names}
    return {name: share / share.sum() for name, share in result.items()}


@pytest.mark.parametrize("named", [True, False])
def test_replicates_of_their_own_enter_the_standard_error_where_they_are_named(named: bool):
    rng = np.random.default_rng(3)
    z = []
    for _ in range(12):
        of = donors(rng, [f"d{i}" for i in range(8)], 0.35)
        parts: dict[Group, np.ndarray] = {}
        for i, (name, share) in enumerate(of.items()):
            arm = "x" if i < 4 else "control"
            counts = draw(rng, share, 60, 1500.0)
            key = Group(arm, "a", name if named else "")
            parts[key] = np.concatenate([parts[key], counts]) if key in parts else counts
        result = measured(parts)
        assert result.replicates[0] == (4 if named else 1)
        z.append(result.change[0] / np.sqrt(result.noise[0]))
    spread = np.std(z)
    assert 0.85 < spread < 1.2 if named else spread > 2.0


def test_a_batch_that_both_arms_share_does_not_look_like_an_effect():
    rng = np.random.default_rng(4)
    of = donors(rng, ["r1", "r2"], 0.6)
    sizes = {("x", "r1"): 200, ("x", "r2"): 40, ("control", "r1"): 60, ("control", "r2"): 300}
    parts = {Group(c, "a", r): draw(rng, of[r], n, 2000.0) for (c, r), n in sizes.items()}
    paired = measured(parts)
    pooled = measured(
        {
            Group(c, "a"): np.concatenate([parts[Group(c, "a", r)] for r in ("r1", "r2")])
            for c in ("x", "control")
        }
    )
    assert np.std(paired.change[0] / np.sqrt(paired.noise[0])) < 1.2
    assert np.std(pooled.change[0] / np.sqrt(pooled.noise[0])) > 3


def test_a_replicate_with_one_arm_only_is_left_aside():
    rng = np.random.default_rng(5)
    of = donors(rng, ["r1", "r2"], 0.6)
    parts = {
        Group("x", "a", "r1"): draw(rng, of["r1"], 100, 1000.0),
        Group("control", "a", "r1"): draw(rng, of["r1"], 100, 1000.0),
        Group("control", "a", "r2"): draw(rng, of["r2"], 100, 1000.0),
    }
    result = measured(parts)
    arms = [levels(parts[Group(c, "a", "r1")]).mean(axis=0) for c in ("x", "control")]
    np.testing.assert_allclose(result.change[0], arms[0] - arms[1])
    assert result.cells.tolist() == [[100, 100]]


def arms_of(rng: np.random.Generator, x: list[str], control: list[str], sizes: dict[str, int]):
    """Return cells of donors in either arm, 40 of each unless `sizes` says another number."""
    of = donors(rng, sorted({*x, *control}), 0.4)
    return {
        Group(arm, "a", name): draw(rng, of[name], sizes.get(name, 40), 1500.0)
        for arm, names in (("x", x), ("control", control))
        for name in names
    }


@pytest.mark.parametrize("unnamed", ["", "2/"])
def test_cells_without_a_name_do_not_pair_arms_of_different_donors(unnamed: str):
    rng = np.random.default_rng(9)
    parts = arms_of(rng, ["d1", "d2", unnamed], ["d3", "d4", unnamed], {unnamed: 4})
    result = measured(parts)
    assert result.cells.tolist() == [[84, 84]]
    assert not result.paired[0]
    assert (result.between[0] > 0).all()


def test_cells_without_a_name_are_another_pair_beside_paired_donors():
    names = ["d1", "d2", ""]
    result = measured(arms_of(np.random.default_rng(9), names, names, {}))
    assert result.cells.tolist() == [[120, 120]]
    assert result.paired[0]


@pytest.mark.parametrize(
    ("shared", "each", "paired"),
    [(1, 1, True), (1, 2, False), (1, 3, False), (2, 4, True), (2, 6, True), (2, 8, False),
     (3, 8, True), (8, 8, True)],
)  # fmt: skip
def test_a_few_donors_of_both_arms_do_not_put_the_others_aside(
    shared: int, each: int, paired: bool
):
    names = [f"d{i:02}" for i in range(2 * each - shared)]
    parts = arms_of(np.random.default_rng(9), names[:each], names[each - shared :], {})
    result = measured(parts)
    used = shared if paired else each
    assert result.paired[0] == paired
    assert result.replicates[0] == used
    assert result.cells.tolist() == [[40 * used, 40 * used]]


def test_the_donors_that_an_arm_has_are_paired_however_many_the_other_has():
    names = [f"d{i}" for i in range(9)]
    result = measured(arms_of(np.random.default_rng(9), names[:1], names, {}))
    assert result.paired[0]
    assert result.cells.tolist() == [[40, 40]]


def test_a_gene_that_a_source_does_not_measure_is_unmeasured_and_not_zero():
    rng = np.random.default_rng(6)
    p = shares(rng, 12)
    parts = {
        Group(c, "a", r): draw(rng, p, 50, 300.0) for c in ("x", "control") for r in ("s1", "s2")
    }
    known = np.ones((4, 12), bool)
    known[:, 3] = False
    known[[1, 3], 5] = False
    result = measured(parts, known)
    assert np.isnan(result.change[0, 3])
    assert np.isnan(result.controls["a"].mean[3])
    assert result.between[0, 3] == 0
    arms = [levels(parts[Group(c, "a", "s1")]).mean(axis=0)[5] for c in ("x", "control")]
    np.testing.assert_allclose(result.change[0, 5], arms[0] - arms[1])
    assert np.isfinite(np.delete(result.change[0], 3)).all()


def test_the_library_ratio_is_that_of_geometric_means():
    rng = np.random.default_rng(7)
    p = shares(rng, 50)
    parts = {
        Group("x", "a"): draw(rng, p, 300, 500.0),
        Group("control", "a"): draw(rng, p, 300, 1000.0),
    }
    assert measured(parts).library[0] == pytest.approx(0.5, rel=0.1)


def test_the_certainty_of_paired_donors_does_not_depend_on_other_conditions():
    rng = np.random.default_rng(12)
    of = donors(rng, [f"d{i}" for i in range(8)], 0.4)
    paired = {
        Group(arm, "a", name): draw(rng, of[name], 40, 1500.0)
        for arm in ("x", "control")
        for name in ("d0", "d1", "d2", "d3")
    }
    others = {
        Group("y", "a", name): draw(rng, of[name], 40, 1500.0) for name in ("d4", "d5", "d6", "d7")
    }
    alone, both = measured(paired), measured({**paired, **others})
    assert both.paired.tolist() == [True, False]
    # The pooled variance of cells differs a little with the cells of y.
    ratio = both.noise[0].sum() / alone.noise[0].sum()
    assert 0.9 < ratio < 1.1
    assert both.noise[1].sum() > 3 * both.noise[0].sum()


def test_a_single_pair_beside_unpaired_donors_has_their_variance():
    rng = np.random.default_rng(13)
    of = donors(rng, [f"d{i}" for i in range(7)], 0.4)
    plan = [
        ("x", "d0"),
        *(("control", f"d{i}") for i in range(4)),
        *(("y", f"d{i}") for i in (4, 5, 6)),
    ]
    parts = {Group(arm, "a", name): draw(rng, of[name], 40, 1500.0) for arm, name in plan}
    result = measured(parts)
    assert result.paired.tolist() == [True, False]
    assert result.between[0].sum() > 0
