import numpy as np
import pytest
from made import SIZES, Truth, nowhere

from lingshu_model.evaluate.changes import pearson
from lingshu_model.evaluate.effects import EffectTable, compare_effects, perturbation_rows
from lingshu_model.evaluate.observed import (
    CONTROL,
    Observed,
    bounds,
    choose_sets,
    strengths,
)
from lingshu_model.evaluate.predictors import seen_predictions


def _table(sampled: list, observed: Observed | None = None) -> EffectTable:
    generator = np.random.default_rng(0)
    observed = observed or Truth().observed()
    sizes = [{name: len(cells) for name, cells in arms.items()} for arms in sampled]
    predicted = seen_predictions(observed, sizes, generator)
    sets = choose_sets(observed, generator)
    return compare_effects(observed, sampled, predicted, sets, generator)


@pytest.fixture(scope="module")
def honest() -> EffectTable:
    """A model that draws from the truth."""
    truth = Truth()
    return _table([truth.arms(600, 5), truth.arms(600, 6)])


def test_strength_ranks_effects_and_is_about_one_for_none():
    observed = Truth().observed()
    found = dict(
        zip(observed.perturbations, strengths(observed, np.random.default_rng(1)), strict=True)
    )
    assert found["strong"] > found["middling"] > found["weak"] > 0
    assert found["nothing"] == pytest.approx(1, abs=0.35)


def test_the_strongest_are_chosen_among_perturbations_with_fifty_held_out_cells():
    observed = Truth().observed()
    few = {**observed.test, "strong": observed.test["strong"][:49]}
    sets = choose_sets(Observed(observed.genes, observed.train, few), np.random.default_rng(0))
    names = [observed.perturbations[i] for i in sets["four strongest"]]
    assert names[0] == "middling"
    assert "strong" not in names
    assert len(sets["all"]) == len(SIZES) - 1


def test_the_bound_is_what_the_truth_itself_reaches():
    truth = Truth()
    observed = truth.observed()
    bound = bounds(observed, np.random.default_rng(0))
    for i, name in enumerate(observed.perturbations):
        if name in ("strong", "middling"):
            reached = float(pearson(truth.change(name), observed.test_changes[i].value))
            assert bound[i] == pytest.approx(reached, abs=0.05)


def test_a_model_that_draws_from_the_truth_reaches_the_bound(honest: EffectTable):
    strong = honest.observed.perturbations.index("strong")
    assert honest.score_of("model", strong).value > honest.bound[strong] - 0.03
    assert honest.verdict("control_mean", "all") == "win"
    assert honest.verdict("mean_shift", "all") == "win"


def test_a_model_that_draws_from_the_truth_has_the_real_magnitude(honest: EffectTable):
    ratio = honest.magnitude("model", "all")
    assert ratio.value == pytest.approx(1, abs=0.1)
    assert ratio.interval[0] < 1 < ratio.interval[1]
    assert honest.magnitude("control_mean", "all").value == 0


def test_a_halved_effect_has_half_the_magnitude_and_the_same_pearson(honest: EffectTable):
    halved = _table([Truth().arms(2000, 5, scale=0.5)])
    assert halved.magnitude("model", "all").value == pytest.approx(0.5, abs=0.06)
    strong = halved.observed.perturbations.index("strong")
    assert halved.score_of("model", strong).value > honest.bound[strong] - 0.06


def test_the_control_mean_predicts_nothing_and_is_scored_zero(honest: EffectTable):
    found = honest.score("control_mean", "all")
    assert (found.value, found.interval) == (0, (0, 0))


def test_a_model_that_ignores_the_perturbation_wins_nothing():
    table = _table([nowhere(Truth().arms(600, 5))])
    assert table.verdict("control_mean", "all") != "win"
    assert table.verdict("replicate_reference", "all") == "loss"
    assert table.magnitude("model", "all").value < 0.3


def test_a_model_equal_to_a_baseline_ties_with_it():
    observed = Truth().observed()
    table = _table([observed.train], observed)
    assert table.difference("replicate_reference", "all").value == pytest.approx(0, abs=1e-12)
    assert table.verdict("replicate_reference", "all") == "tie"


def test_seeds_are_scored_one_by_one_and_averaged(honest: EffectTable):
    each = [honest.score("model", "all", seed=i).value for i in (0, 1)]
    assert each[0] != each[1]
    assert honest.score("model", "all").value == pytest.approx(np.mean(each))
    shift = [honest.score("mean_shift", "all", seed=i) for i in (0, 1)]
    assert shift[0] == shift[1]


def test_monte_carlo_error_falls_with_the_cells_sampled():
    spread = []
    for n in (100, 900):
        table = _table([Truth().arms(n, 5)])
        strong = table.observed.perturbations.index("strong")
        spread.append(table.figures["pearson_of_change"].wobble[0, :, strong].std())
    # By a factor of 3 where Pearson is far from 1, of up to 9 where it is near.
    assert 2 < spread[0] / spread[1] < 12


def test_a_row_counts_the_cells_of_its_perturbation(honest: EffectTable):
    rows = perturbation_rows(honest)
    assert sorted(rows) == sorted(set(SIZES) - {CONTROL})
    assert (rows["weak"]["n_train_cells"], rows["weak"]["n_test_cells"]) == (300, 200)
    assert rows["strong"]["magnitude_ratio"] == pytest.approx(1, abs=0.1)
