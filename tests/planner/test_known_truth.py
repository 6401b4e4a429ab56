"""The benchmark of known truth: what it counts, and that it can fail."""

import numpy as np
import pytest

from benchmarks.combinations.make_k562 import Measured
from benchmarks.planning.fitted import COMBINATION, SEEN, UNSEEN, Model, change, training_cells
from benchmarks.planning.known_truth import Scored, called, proportions
from lingshu_model.contracts.posterior import Posterior
from lingshu_testing import Regulation
from lingshu_testing.regulation import Shape
from lingshu_tools.analysis.certainty import score_posterior

SHAPE = Shape(genes=60, targets=4, relays=4, pairs=3, genes_per_pair=15)


@pytest.fixture(scope="module")
def network() -> Regulation:
    return Regulation.draw(3, SHAPE)


@pytest.fixture(scope="module")
def model(network: Regulation) -> Model:
    conditions = [frozenset[str](), *(frozenset([t]) for t in network.targets)]
    conditions.append(frozenset(network.targets[:2]))
    counts = {c: network.cells(c, 150 if c else 400, 1) for c in conditions}
    return Model.of(training_cells(network.genes, counts, "knockout"), "knockout", judge=False)


def test_a_model_of_drawn_cells_has_the_effects_of_the_network(model: Model, network: Regulation):
    control = network.cells((), 2_000, 9)
    for target in network.targets:
        true, noise = change(network.cells((target,), 2_000, 9), control)
        other = np.array([g != target for g in network.genes])
        predicted = model.posterior(frozenset([target])).mean
        assert np.corrcoef(predicted[other], true[other])[0, 1] > 0.75
        assert (noise > 0).mean() > 0.9


def test_tiers_are_those_of_what_was_trained(model: Model, network: Regulation):
    a, b, c, _ = network.targets
    assert model.tier(frozenset([a])) == SEEN
    assert model.tier(frozenset([a, b])) == SEEN
    assert model.tier(frozenset([a, c])) == COMBINATION
    assert model.tier(frozenset([a, "nothing"])) == UNSEEN
    seen, expected = (model.posterior(frozenset([a, b]), expected=e).mean for e in (False, True))
    assert not np.allclose(seen, expected)


def scored(mean: float, sd: float, true: float) -> Scored:
    posterior = Posterior.normal(np.array([mean]), np.array([sd]))
    return Scored(score_posterior(posterior, np.array([1.0])), true, 0.0)


def test_false_discoveries_are_called_positive_with_a_true_score_that_is_not():
    screen = [scored(1.0, 0.1, 0.9), scored(0.8, 0.1, -0.2), scored(0.1, 0.5, 0.1)]
    screen += [scored(-1.0, 0.1, 0.5)]
    assert called(screen) == screen[:2]
    rows = {r["quantity"]: r for r in proportions([screen, [screen[0]]], [0, 1], "made")}
    # Half of one screen's discoveries, none of the other's.
    assert rows["false discovery proportion"]["value"] == 0.25
    assert rows["coverage of scores, 95 %"]["value"] == pytest.approx(3 / 5)
    assert rows["power, true score 0.4 to inf"]["n"] == 3
    assert rows["power, true score 0.4 to inf"]["value"] == pytest.approx(2 / 3)


def test_a_planner_that_is_too_sure_does_not_hold_the_level():
    rng = np.random.default_rng(0)
    screens = [[scored(float(m), 0.01, -0.1) for m in rng.normal(0, 1, 30)] for _ in range(20)]
    rows = {r["quantity"]: r for r in proportions(screens, range(20), "made")}
    assert rows["false discovery proportion"]["holds"] is False
    assert rows["coverage of scores, 95 %"]["holds"] is False


def test_doubles_without_both_singles_are_never_held_out():
    conditions = tuple(map(frozenset, ((), "a", "b", "c", "ab", "ac", "bc", "bz", "az")))
    values = np.ones((len(conditions), 2))
    measured = Measured(("g", "h"), conditions, values, values, values[:, 0])
    for seed in range(10):
        held = measured.truth(seed).of(2, trained=False)
        assert len(held) == 1
        assert not any("z" in pair for pair in held)
