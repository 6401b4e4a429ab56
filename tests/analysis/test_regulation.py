"""The regulatory network of `lingshu_testing`: a truth that is known, and cells around it."""

from itertools import combinations

import numpy as np
import pytest

from lingshu_testing import Regulation, Shape
from lingshu_tools.analysis.pairs.interactions import interaction

SMALL = Shape(genes=60, targets=5, relays=5, genes_per_pair=20, pairs=6, depth=600.0)


def change(network: Regulation, targets: tuple[str, ...]) -> np.ndarray:
    return np.log1p(1e4 * network.share(targets)) - np.log1p(1e4 * network.share())


def test_a_network_and_its_cells_are_functions_of_their_seeds():
    item, again, other = Regulation.draw(3, SMALL), Regulation.draw(3, SMALL), Regulation.draw(4)
    assert np.array_equal(item.share(("REG00",)), again.share(("REG00",)))
    cells = item.cells(("REG00", "REG01"), 5, seed=1)
    assert np.array_equal(cells, again.cells(("REG01", "REG00"), 5, seed=1))
    assert not np.array_equal(cells, item.cells(("REG00", "REG01"), 5, seed=2))
    assert not np.array_equal(cells, item.cells(("REG00", "REG02"), 5, seed=1))
    assert not np.array_equal(item.base[:60], other.base[:60])


def test_control_is_the_steady_state_it_was_drawn_as():
    network = Regulation.draw(0, SMALL)
    assert network.level(()) == pytest.approx(1.0)
    assert network.share() == pytest.approx(network.base)


def test_a_knock_out_is_gone_and_others_follow():
    network = Regulation.draw(0, SMALL)
    level = network.level(("REG02",))
    assert level[network.genes.index("REG02")] == 0
    assert (np.abs(np.log(np.delete(level, network.genes.index("REG02")))) > 0.1).sum() > 3


def test_mean_counts_are_the_true_shares_at_the_stated_depth():
    network = Regulation.draw(1, SMALL)
    cells = network.cells(("REG00",), 6_000, seed=0)
    truth = SMALL.depth * network.share(("REG00",))
    error = (cells.mean(axis=0) - truth) / np.maximum(cells.std(axis=0), 1e-9) * np.sqrt(6_000)
    assert cells.dtype == np.int32
    assert np.abs(error).max() < 4.5
    # Counts scatter more than Poisson's: the depth and the negative binomial.
    assert (cells.var(axis=0) > 1.2 * truth)[truth > 5].all()


def test_pairs_and_triples_interact_less_with_each_order():
    network = Regulation.draw(2, SMALL)
    subsets = [frozenset(s) for k in (1, 2, 3) for s in combinations(network.targets, k)]
    changes = {s: change(network, tuple(s)) for s in subsets}
    size = {
        k: np.sqrt(np.mean([interaction(changes, s) ** 2 for s in subsets if len(s) == k]))
        for k in (1, 2, 3)
    }
    assert size[1] > size[2] > size[3] > 0.02


def test_over_expression_is_another_perturbation():
    network = Regulation.draw(0, SMALL)
    up, down = network.level(("REG01",), fold=4.0), network.level(("REG01",))
    assert up[network.genes.index("REG01")] == 4.0
    assert np.corrcoef(np.log(up[10:]), np.log(down[10:]))[0, 1] < 0


def test_an_unknown_target_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"\['STAT1'\] are not among the targets REG00"):
        Regulation.draw(0, SMALL).level(("STAT1",))
