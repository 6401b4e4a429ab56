import numpy as np
from made import Truth
from scipy.spatial.distance import cdist

from lingshu_model.evaluate.copies import METRICS, _Pool, copy_check
from lingshu_model.evaluate.sparse import csr


def test_an_honest_model_is_not_taken_for_a_copyist():
    truth = Truth()
    (found,) = copy_check(truth.observed(120, 100), [truth.arms(200, 5)], np.random.default_rng(0))
    assert found.exact["sampled"] == 0
    assert not found.copies
    assert found.n_cells == 500


def test_a_model_that_copies_one_cell_in_twenty_is_caught():
    truth = Truth()
    observed, arms = truth.observed(120, 100), truth.arms(100, 5)
    for name, cells in arms.items():
        cells[::20] = observed.train[name][: len(cells[::20])]
    (found,) = copy_check(observed, [arms], np.random.default_rng(0))
    assert found.exact["sampled"] == 25
    assert found.exact["real"] == 0
    assert found.copies


def test_a_model_that_copies_nearly_is_caught_by_distance():
    truth = Truth()
    observed = truth.observed(120, 100)
    arms = {name: cells[:100].copy() for name, cells in observed.train.items()}
    for cells in arms.values():
        cells[:, 0] += 1
    (found,) = copy_check(observed, [arms], np.random.default_rng(0))
    assert found.exact["sampled"] == 0
    assert found.p["near_cityblock"] < 1e-3
    assert found.copies


def test_training_cells_are_measured_against_the_others():
    truth = Truth()
    (found,) = copy_check(truth.observed(120, 100), [truth.arms(200, 5)], np.random.default_rng(0))
    assert found.n_measured == 500
    assert min(found.quantiles["cityblock"]["training"]) > 0


def test_every_seed_is_checked_against_the_same_held_out_cells():
    truth = Truth()
    seeds = [truth.arms(100, 5), truth.arms(100, 6)]
    one, other = copy_check(truth.observed(120, 100), seeds, np.random.default_rng(0))
    assert one.quantiles["cityblock"]["real"] == other.quantiles["cityblock"]["real"]
    assert one.quantiles["cityblock"]["sampled"] != other.quantiles["cityblock"]["sampled"]


def test_distances_of_sparse_cells_are_scipys():
    truth = Truth()
    counts = np.concatenate([truth.cells("strong", 30, 1), np.zeros((1, 40), np.int32)])
    pool = truth.cells("weak", 50, 2) * (np.random.default_rng(0).random((50, 40)) < 0.5)
    for metric in METRICS:
        found = _Pool(csr(pool)).nearest(csr(counts), metric)
        np.testing.assert_allclose(found, cdist(counts, pool, metric).min(axis=1))
        among = _Pool(csr(pool)).nearest(csr(pool[:7]), metric, itself=True)
        np.testing.assert_allclose(among, np.sort(cdist(pool[:7], pool, metric))[:, 1])
