"""Strengths of single cells: a made mixture is recovered, a homogeneous shift has none."""

import numpy as np
import pytest
from made_counts import draw, levels, rows, shares

from lingshu_model.contracts.posterior import Posterior
from lingshu_model.contracts.responders import Responders
from lingshu_model.effects.moved import FitCells, largest_share
from lingshu_model.strengths.fit import GRADED, STRENGTHS, em_shares, fit_responders
from lingshu_model.strengths.states import move_states, solve_states, states_of

GENES, CHANGED = 60, 12
SEEDS = range(3)


def effect_of(control: np.ndarray, perturbed: np.ndarray, changed: np.ndarray) -> Posterior:
    """The observed change of all genes, certain for the `changed` ones."""
    change = levels(perturbed).mean(axis=0) - levels(control).mean(axis=0)
    sure = np.isin(np.arange(GENES), changed)
    return Posterior(change, np.full(GENES, 0.05), np.where(sure, 1e-4, 1.0))


def folded(
    rng: np.random.Generator, p: np.ndarray, changed: np.ndarray, fold: float, cells: int
) -> np.ndarray:
    """Cells with the counts of `changed` genes times a fold.

    Additional counts vary independently of the others, as those of moved cells do.
    """
    less, more = p.copy(), np.zeros(GENES)
    less[changed] *= min(fold, 1.0)
    more[changed] = p[changed] * max(fold - 1.0, 0.0)
    umi = 600.0 * rng.lognormal(0.0, 0.4, (cells, 1))
    noise = rng.gamma(2.0, 0.5, (2, cells, GENES))
    return rng.poisson(umi * less * noise[0]) + rng.poisson(umi * more * noise[1])


def mixture(folds: tuple[float, ...], of: tuple[float, ...], seed: int, cells: int = 300):
    """Control cells, cells of which a share `of` has counts times a fold, and the effect."""
    rng = np.random.default_rng(seed)
    p = np.sort(shares(rng, GENES, 0.8))
    changed = np.arange(GENES - 2 * CHANGED, GENES - CHANGED)
    control = draw(rng, p, 400, 600.0)
    parts = []
    for fold, share in zip(folds, of, strict=True):
        parts.append(folded(rng, p, changed, fold, round(cells * share)))
    perturbed = rng.permutation(np.concatenate(parts))
    return control, perturbed, effect_of(control, perturbed, changed), changed


def fitted(control: np.ndarray, perturbed: np.ndarray, effect: Posterior) -> Responders | None:
    most = largest_share(rows([control, perturbed]))
    library = ratio(control, perturbed)
    return fit_responders(rows(control), rows(perturbed), effect, most, library)


def ratio(control: np.ndarray, perturbed: np.ndarray) -> float:
    """UMI of a perturbed cell over those of a control cell."""
    return float(perturbed.sum() / len(perturbed) / (control.sum() / len(control)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("edited", [0.5, 0.8])
def test_a_made_mixture_is_recovered(edited: float, seed: int):
    responders = fitted(*mixture((1.0, 0.15), (1 - edited, edited), seed)[:3])
    assert responders is not None
    assert responders.share == pytest.approx(edited, abs=0.1)
    assert responders.shares.sum() == pytest.approx(1)
    assert responders.shares @ responders.strengths == pytest.approx(1)
    assert responders.gain > 3 * responders.error > 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fold", [0.15, 0.6, 3.0])
def test_a_homogeneous_shift_has_a_single_strength(fold: float, seed: int):
    assert fitted(*mixture((fold,), (1.0,), seed)[:3]) is None


def test_more_than_two_strengths_are_used_where_two_do_not_describe_the_cells():
    shallow, deep = (mixture(f, s, 3, 1500)[:3] for f, s in (
        ((1.0, 0.2), (0.3, 0.7)), ((1.0, 0.35, 0.04), (0.35, 0.35, 0.3))))  # fmt: skip
    two, more = fitted(*shallow), fitted(*deep)
    assert two is not None
    assert len(two.strengths) == 2
    assert more is not None
    assert len(more.strengths) > 2


def test_replicates_that_differ_are_no_strengths():
    """Perturbed cells of two replicates look like a mixture beside control cells of a third."""
    rng = np.random.default_rng(1)
    p = np.sort(shares(rng, GENES, 0.8))
    changed = np.arange(GENES - 2 * CHANGED, GENES - CHANGED)

    def cells(replicate: float, fold: float, n: int) -> np.ndarray:
        return folded(rng, p, changed, replicate * fold, n)

    low, high = 0.3, 2.0
    control = np.concatenate([cells(1.0, 1.0, 400), cells(low, 1.0, 100), cells(high, 1.0, 100)])
    perturbed = np.concatenate([cells(low, 0.6, 150), cells(high, 0.6, 150)])
    effect = effect_of(control[:400], cells(1.0, 0.6, 400), changed)
    arguments = rows(control), rows(perturbed), effect, largest_share(rows([control, perturbed]))
    groups = np.repeat(["a", "b", "c"], [400, 100, 100]), np.repeat(["b", "c"], 150)
    assert fit_responders(*arguments) is not None
    assert fit_responders(*arguments, groups=groups) is None


def test_few_cells_or_genes_have_a_single_strength():
    control, perturbed, effect, changed = mixture((1.0, 0.15), (0.4, 0.6), 0)
    assert fitted(control, perturbed, effect) is not None
    assert fitted(control, perturbed[:49], effect) is None
    four = np.isin(np.arange(GENES), changed[:4])
    assert fitted(control, perturbed, Posterior(
        effect.mean, effect.sd, np.where(four, 1e-4, 1.0))) is None  # fmt: skip


def test_em_keeps_both_constraints_and_never_lowers_the_likelihood():
    rng = np.random.default_rng(0)
    strengths = np.array(GRADED)
    density = rng.dirichlet(np.full(24, 0.4), len(strengths)) + 1e-3
    density /= density.sum(axis=1, keepdims=True)
    truth = np.array([0.5, 0.0, 0.2, 0.1, 0.2, 0.0])
    truth[-1] = 1 - truth.sum()
    counts = 500.0 * truth @ density
    estimate = em_shares(density, counts, strengths)
    assert estimate.sum() == pytest.approx(1)
    assert estimate @ strengths == pytest.approx(1)

    def value(shares: np.ndarray) -> float:
        return float(counts @ np.log(shares @ density) + 10 * np.log(shares[2]))

    # No step within the constraints from the maximum is uphill.
    basis = np.linalg.svd(np.stack([np.ones(6), strengths]))[2][2:]
    for direction in [*basis, *-basis]:
        step = estimate + 1e-2 * direction
        if (step > 0).all():
            assert value(step) < value(estimate) + 1e-4


@pytest.mark.parametrize(
    ("strengths", "of"), [((0.0, 2.0), (0.5, 0.5)), ((0.0, 0.5, 1.5), (0.2, 0.2, 0.6))]
)
def test_the_mean_of_the_strengths_is_the_effect_even_at_the_ends_of_the_scale(
    strengths: tuple[float, ...], of: tuple[float, ...]
):
    responders = Responders(np.array(strengths), np.array(of))
    before, most = np.array([2.0, 2.0, 2.0, 1.0, 1.0, 0.0]), np.full(6, 5.0)
    # A small change, one that responding cells cannot carry alone, all of a level; up; too far up.
    change = np.array([-0.4, -1.5, -2.0, 3.0, 9.0, 0.0])
    changes = responders.changes(change, before, most)
    assert np.allclose(responders.shares @ changes, change)
    assert (changes[:, :3] >= -before[:3] - 1e-12).all()
    assert (np.abs(np.diff(changes, axis=0)[:, :4]) >= -1e-12).all()
    assert changes[0, 0] == strengths[0]
    # Stronger cells change at least as much.
    assert (np.diff(np.abs(changes), axis=0) >= -1e-12).all()
    assert np.allclose(changes[:, 2], -2.0)


def delivered_library() -> float:
    """UMI of a perturbed cell of `delivered` over that of a control cell."""
    control, perturbed, _, _ = mixture((1.0, 0.15), (0.4, 0.6), 4)
    return ratio(control, perturbed)


def delivered(cells: int = 1024):
    """Control cells, and cells with strengths and all alike, of the same effect."""
    control, perturbed, effect, _ = mixture((1.0, 0.15), (0.4, 0.6), 4)
    responders = fitted(control, perturbed, effect)
    assert responders is not None
    fit = FitCells(rows(control))
    library = delivered_library()
    movers = solve_states(fit, effect.mean, library, responders)
    (alike,) = solve_states(fit, effect.mean, library, None)
    fresh = np.tile(control, (-(-cells // len(control)), 1))[:cells]
    mixed = move_states(rows(fresh), movers, responders, 8, 0).toarray()
    return responders, fresh, mixed, alike.move(rows(fresh), 8, 0).toarray(), effect, perturbed


def test_cells_with_strengths_have_the_mean_effect_and_the_spread_of_real_cells():
    _, control, mixed, alike, effect, perturbed = delivered()
    change = levels(mixed).mean(axis=0) - levels(control).mean(axis=0)
    changed = np.flatnonzero(effect.lfsr < 0.05)
    assert np.allclose(change, effect.mean, atol=0.06)
    score = [levels(c)[:, changed].mean(axis=1).std() for c in (mixed, alike, perturbed)]
    assert score[0] == pytest.approx(score[2], rel=0.1)
    assert score[1] < 0.8 * score[2]
    assert mixed.sum() / control.sum() == pytest.approx(delivered_library(), abs=0.08)


def test_escaped_cells_are_their_control_cells_and_two_perturbations_share_them():
    responders, control, mixed, _, _, _ = delivered(cells=256)
    state = states_of(responders, 8, np.arange(256))
    escaped = responders.strengths[state] == 0
    assert escaped.mean() == pytest.approx(1 - responders.share, abs=1 / 64 + 1e-9)
    assert np.array_equal(mixed[escaped], control[escaped])
    assert (mixed[~escaped] != control[~escaped]).any(axis=1).all()
    # The uniform of a cell is that of its number and the seed: other shares, nested cells.
    fewer = Responders(np.array([0.0, 1.25]), np.array([0.2, 0.8]))
    there = fewer.strengths[states_of(fewer, 8, np.arange(256))] == 0
    assert (escaped >= there).all()
    assert (states_of(responders, 9, np.arange(256)) != state).any()


def test_a_cell_does_not_depend_on_the_cells_beside_it():
    responders, control, mixed, _, effect, _ = delivered(cells=192)
    fit = FitCells(rows(mixture((1.0, 0.15), (0.4, 0.6), 4)[0]))
    movers = solve_states(fit, effect.mean, delivered_library(), responders)
    for first, last in ((64, 128), (70, 71), (100, 192)):
        part = move_states(rows(control[first:last]), movers, responders, 8, first).toarray()
        assert np.array_equal(part, mixed[first:last])


def test_strengths_survive_the_checkpoint():
    responders = Responders(np.array([0.0, 1.4]), np.array([2 / 7, 5 / 7]), 0.7, 0.1,
                            np.array([1.0, 0.86]), np.array([0.0, 0.2]), 3)  # fmt: skip
    again = Responders.of_entry({"responders": responders.entry()})
    assert again is not None
    assert np.array_equal(again.shares, responders.shares)
    assert again.first == 3
    assert again.libraries is not None
    assert np.array_equal(again.libraries, [1.0, 0.86])
    assert again.dispersions is not None
    assert np.array_equal(again.dispersions, [0.0, 0.2])
    assert Responders.of_entry({"source": "x"}) is None
    assert (STRENGTHS[0], len(np.unique(STRENGTHS))) == (0.0, len(STRENGTHS))
