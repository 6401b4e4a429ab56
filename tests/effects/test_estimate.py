"""Effects of whole data sets: what rests on what, and what is said of it."""

import numpy as np
import pytest
from made_counts import draw, rows, shares

from lingshu_model.effects import Effects, Group
from lingshu_model.effects.estimate import BOTH, CARRIED, CELLS


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
