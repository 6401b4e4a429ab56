"""Effects of whole data sets: what rests on what, and what is said of it."""

import numpy as np
import pytest
from made_counts import draw, levels, rows, shares

from lingshu_model.effects import Effects, Group, Moments, measure
from lingshu_model.effects.estimate import BOTH, CARRIED, CELLS
from lingshu_model.effects.shrink import Shrinkage


def built(contexts: int, seed: int = 0, cells: int = 60, genes: int = 120):
    rng = np.random.default_rng(seed)
    p = shares(rng, genes)
    fold = np.where(rng.random(genes) < 0.2, np.exp(rng.normal(0, 1.0, genes)), 1.0)
    counts, labels, truth = [], [], {}
    for c in range(contexts):
        share = p * np.exp(0.3 * rng.normal(size=genes))
        share /= share.sum()
        moved = share * fold / (share @ fold)
        counts += [draw(rng, share, 80, 800.0), draw(rng, moved, cells, 800.0)]
        labels += [Group("ctrl", f"c{c}")] * 80 + [Group("drug", f"c{c}")] * cells
        truth[f"c{c}"] = np.log1p(1e4 * moved) - np.log1p(1e4 * share)
    return Effects.of([rows(counts)], labels, "ctrl", genes), truth


@pytest.mark.parametrize(("contexts", "source"), [(1, CELLS), (3, CELLS), (4, BOTH), (7, BOTH)])
def test_an_effect_says_what_it_rests_on(contexts: int, source: str):
    effects, _ = built(contexts)
    result = effects.seen("drug", "c0")
    assert result.source == source
    assert "60 cells against 80" in result.note
    assert "no replicates named" in result.note


def test_other_contexts_help_where_the_own_cells_are_few():
    with_others, without = [], []
    for seed in range(4):
        effects, truth = built(6, seed, cells=12)
        alone, _ = built(1, seed, cells=12)
        result = effects.seen("drug", "c0").posterior.mean
        with_others.append(((result - truth["c0"]) ** 2).mean())
        without.append(((alone.seen("drug", "c0").posterior.mean - truth["c0"]) ** 2).mean())
    assert np.mean(with_others) < 0.7 * np.mean(without)


def test_a_carried_effect_uses_no_cell_of_the_context_it_is_carried_to():
    effects, truth = built(5)
    control = effects.measured.controls["c0"]
    left = effects.carried("drug", control, "c0")
    assert left.source == CARRIED
    rest, _ = built(5)
    rest.measured.change[rest.measured.rows(context="c0")] = 99.0
    again = rest.carried("drug", control, "c0")
    np.testing.assert_array_equal(left.posterior.mean, again.posterior.mean)
    assert np.corrcoef(left.posterior.mean, truth["c0"])[0, 1] > 0.6


def test_what_was_never_seen_is_named_in_the_error():
    effects, _ = built(2)
    with pytest.raises(KeyError, match="'statin'"):
        effects.seen("statin", "c0")
    with pytest.raises(KeyError, match="'statin'"):
        effects.carried("statin", effects.measured.controls["c0"])
    with pytest.raises(KeyError, match="c0, c1"):
        effects.seen("drug", "c9")


GENES = 150


def animals(rng: np.random.Generator, fold: np.ndarray, scatter: float):
    """Return effects of three perturbed and three control animals, and held-out cells of them.

    All genes of an animal differ along one direction, as they do with its age.
    """
    p, direction = shares(rng, GENES, 0.8), rng.normal(size=GENES)
    counts, labels, held = [], [], {"drug": [], "ctrl": []}
    for i in range(6):
        arm = "drug" if i < 3 else "ctrl"
        share = p * np.exp(scatter * rng.normal() * direction) * (fold if i < 3 else 1.0)
        counts.append(draw(rng, share / share.sum(), 100, 1500.0))
        labels += [Group(arm, "a", f"animal{i}")] * 100
        held[arm].append(levels(draw(rng, share / share.sum(), 300, 1500.0)).mean(axis=0))
    truth = np.mean(held["drug"], axis=0) - np.mean(held["ctrl"], axis=0)
    return Effects.of([rows(counts)], labels, "ctrl", GENES), truth


def test_effects_between_different_animals_resemble_those_animals_and_are_shrunken():
    correlation, plain, size = [], [], []
    for seed in range(8):
        effects, truth = animals(np.random.default_rng(seed), np.ones(GENES), 0.25)
        mean = effects.seen("drug", "a").posterior.mean
        change = effects.measured.change[0]
        correlation.append(np.corrcoef(mean, truth)[0, 1])
        plain.append(np.corrcoef(change, truth)[0, 1])
        size.append((mean @ change) / (change @ change))
    # Shrinking gene by gene kept those few genes in which three animals agreed by chance.
    assert np.mean(correlation) > np.mean(plain) - 0.05
    assert np.mean(size) < 0.7


def test_no_effect_between_different_animals_is_certain_because_they_differ():
    calls = 0
    for seed in range(8):
        effects, _ = animals(np.random.default_rng(seed), np.ones(GENES), 0.25)
        calls += int((effects.seen("drug", "a").posterior.lfsr < 0.05).sum())
    assert calls <= 0.01 * 8 * GENES


def test_a_gene_that_changes_beyond_what_animals_explain_keeps_its_change():
    fold = np.ones(GENES)
    fold[:3] = 8.0
    kept = []
    for seed in range(4):
        effects, _ = animals(np.random.default_rng(seed), fold, 0.1)
        result = effects.seen("drug", "a").posterior
        kept.append(result.mean[:3] / effects.measured.change[0, :3])
        assert (result.lfsr[:3] < 0.05).all()
    assert np.mean(kept) > 0.85


def donors_in_types(rng: np.random.Generator, *, paired: bool, fold: np.ndarray):
    """Return effects in five cell types of the same donors.

    Three donors have the perturbation and three have not, and all differ; or, paired, three have
    both arms and differ in their response.
    """
    p, direction, of_donor = shares(rng, GENES, 0.8), rng.normal(size=GENES), rng.normal(size=6)
    counts, labels = [], []
    for context in "abcde":
        of_type = p * np.exp(0.3 * rng.normal(size=GENES))
        for arm in ("drug", "ctrl"):
            for i in range(3):
                donor = i if paired or arm == "drug" else i + 3
                # What a donor's cells have in common: in both arms, or in the response alone.
                differs = (
                    0.15 * of_donor[donor] * (arm == "drug") if paired else 0.2 * of_donor[donor]
                )
                share = of_type * np.exp(differs * direction) * (fold if arm == "drug" else 1.0)
                counts.append(draw(rng, share / share.sum(), 60, 1500.0))
                labels += [Group(arm, context, f"donor{donor}")] * 60
    return Effects.of([rows(counts)], labels, "ctrl", GENES)


@pytest.mark.parametrize("paired", [True, False])
def test_cell_types_of_the_same_donors_do_not_confirm_one_another(paired: bool):
    fold = np.ones(GENES)
    fold[:3] = 3.0  # of these genes a fiftieth of all counts, so that the others fall by .04
    right, false, carried = 0, 0, 0
    for seed in range(6):
        effects = donors_in_types(np.random.default_rng(seed), paired=paired, fold=fold)
        called = effects.seen("drug", "a").posterior.lfsr < 0.05
        right, false = right + int(called[:3].sum()), false + int(called[3:].sum())
        left = effects.carried("drug", effects.measured.controls["a"], "a").posterior
        carried += int((left.lfsr[3:] < 0.05).sum())
    # Three donors leave some chance; with types taken as independent a tenth was called and more.
    assert right >= 16
    assert false <= 0.04 * 6 * GENES
    assert carried <= 0.04 * 6 * GENES


def paired_donors(rng: np.random.Generator, fold: np.ndarray):
    """Return effects in four donors with both arms, whose responses differ along one factor."""
    p, direction = shares(rng, GENES, 0.8), rng.normal(size=GENES)
    counts, labels = [], []
    for donor in range(4):
        response = fold * np.exp(0.3 * rng.normal() * direction)
        for arm, share in (("ctrl", p), ("drug", p * response)):
            counts.append(draw(rng, share / share.sum(), 100, 1500.0))
            labels += [Group(arm, "a", f"donor{donor}")] * 100
    return Effects.of([rows(counts)], labels, "ctrl", GENES)


def test_donors_that_respond_differently_are_not_certain_of_what_they_have_in_common():
    fold, right, false = np.ones(GENES), 0, 0
    for seed in range(10, 16):
        lfsr = paired_donors(np.random.default_rng(seed), fold).seen("drug", "a").posterior.lfsr
        false += int((lfsr < 0.05).sum())
    # Taken gene by gene, 49 are called; where all four donors agree by chance, some still are.
    assert false <= 20
    fold[:3] = 3.0
    for seed in range(4):
        lfsr = paired_donors(np.random.default_rng(seed), fold).seen("drug", "a").posterior.lfsr
        right += int((lfsr[:3] < 0.05).sum())
    assert right >= 11


def sparse_cells(rng: np.random.Generator, *, effect: bool):
    """Return effects of six conditions at 60 UMI a cell, and the true changes, [conditions, genes].

    Half of the counts are of 40 genes, a quarter of which changes by a third; of each of the other
    1,960 one cell of an arm is expected to have a count.
    """
    p = np.concatenate([np.full(40, 0.5 / 40), np.full(1960, 0.5 / 1960)])
    counts, labels = [draw(rng, p, 300, 60.0)], [Group("ctrl", "a")] * 300
    truth = np.zeros((6, 2000))
    for row, name in enumerate("uvwxyz"):
        fold = np.ones(2000)
        if effect:
            fold[rng.choice(40, 10, replace=False)] = rng.choice([0.67, 1.5], 10)
        moved = p * fold / (p @ fold)
        counts.append(draw(rng, moved, 60, 60.0))
        labels += [Group(name, "a")] * 60
        # Levels of the 40 genes depend on the sum of the others alone.
        arms = [np.append(share[:40], share[40:].sum()) for share in (moved, p)]
        means = [levels(draw(rng, share, 4000, 60.0)).mean(axis=0)[:40] for share in arms]
        truth[row, :40] = (means[0] - means[1]) * (fold[:40] != 1)
    return Effects.of([rows(counts)], labels, "ctrl", 2000), truth


def test_rare_genes_do_not_put_the_effects_of_others_at_zero():
    effects, truth = sparse_cells(np.random.default_rng(0), effect=True)
    assert effects.shrinkage.rare.sum() == 1960
    means = [effects.seen(name, "a").posterior.mean for name in "uvwxyz"]
    m = effects.measured
    alike = Shrinkage.of(m.change, m.noise, np.full(2000, np.inf))
    common = [alike.posterior(d, s2).mean for d, s2 in zip(m.change, m.noise, strict=True)]
    errors = [((np.stack(part) - truth) ** 2).sum() for part in (means, common)]
    assert errors[0] < 0.8 * errors[1]
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(means, truth, strict=True)]
    assert np.mean(correlation) > 0.5


def test_a_prior_of_few_well_measured_genes_calls_no_noise():
    for seed in range(2):
        effects, _ = sparse_cells(np.random.default_rng(seed), effect=False)
        for name in "uvwxyz":
            assert (effects.seen(name, "a").posterior.lfsr >= 0.05).all()


def measured_by(counts: list[np.ndarray], groups: list[Group], known: np.ndarray):
    """Return effects in cells [cells, genes] of each group, of genes `known` [groups, genes]."""
    # Of a gene that is not measured there are no counts.
    held = [c * k for c, k in zip(counts, known, strict=True)]
    group = np.repeat(np.arange(len(groups)), [len(c) for c in counts])
    moments = Moments.of([rows(held)], group, len(groups), known.shape[1])
    return Effects(measure(moments, groups, "ctrl", known), "ctrl")


def test_a_gene_that_is_not_measured_leaves_the_certainty_of_others_as_it_is():
    rng = np.random.default_rng(0)
    p, groups, counts = shares(rng, GENES, 0.8), [], []
    for context in "abcde":
        # Both arms of one donor: nothing is known of differences between donors.
        for arm, fold in (("drug", 1.5), ("ctrl", 1.0)):
            share = p * np.where(np.arange(GENES) % 9 == 0, fold, 1.0)
            counts.append(draw(rng, share / share.sum(), 60, 1500.0))
            groups.append(Group(arm, context, "donor"))
    known = np.ones((len(groups), GENES), bool)
    for each in counts:
        each[:, -1] = 0  # in either case, so that the cells have the same totals
    whole = measured_by(counts, groups, known)
    known[:2, -1] = False  # context a does not measure the last gene
    less = measured_by(counts, groups, known)
    lfsr = [e.seen("drug", "a").posterior.lfsr[:-1] for e in (whole, less)]
    np.testing.assert_allclose(*lfsr, atol=1e-3)


def test_the_spread_of_donors_is_that_of_contexts_that_measure_the_gene():
    rng = np.random.default_rng(1)
    p, groups, counts = shares(rng, GENES, 0.8), [], []
    for context in "abcdef":
        for i in range(6):
            share = p * np.exp(0.2 * np.random.default_rng(i).normal(size=GENES))
            counts.append(draw(rng, share / share.sum(), 60, 1500.0))
            groups.append(Group("drug" if i < 3 else "ctrl", context, f"donor{i}"))
    known = np.ones((len(groups), GENES), bool)
    every = measured_by(counts, groups, known)
    known[12:, -30:] = False  # the last genes are measured in contexts a and b alone
    few = measured_by(counts, groups, known)
    sd = [e.carried("drug", e.measured.controls["c"]).posterior.sd[-30:] for e in (every, few)]
    assert np.median(sd[1]) > 0.8 * np.median(sd[0])
