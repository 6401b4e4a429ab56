import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import hypergeom
from synthetic import Truth

from lingshu_model.evaluate import Row, Source
from lingshu_model.evaluate.copies import EXACT, P, copy_rows, nearest_distance
from lingshu_model.evaluate.metrics.matrices import csr
from lingshu_model.evaluate.rows import HELD_OUT, MODEL


def check(arms: dict, seeds: int = 1) -> dict[tuple[str, str, int | None], float]:
    (population,) = Truth().study(120, 100).populations
    cells = {name: csr(each) for name, each in arms.items()}
    rows = copy_rows(population, Source([*range(seeds)], [cells] * seeds), "test")
    return {(row.metric, row.predictor, row.seed): row.value for row in rows if _has(row)}


def _has(row: Row) -> bool:
    return np.isfinite(row.value)


def test_an_honest_model_does_not_copy():
    result = check(Truth().arms(200, 5))
    assert result[EXACT, MODEL, 0] == 0
    assert result[f"{P}_exact", MODEL, 0] > 0.01
    assert result[f"{P}_near", MODEL, 0] > 0.01


def test_a_model_that_copies_one_cell_in_twenty_is_noticed():
    arms = Truth().arms(100, 5)
    for name, cells in Truth().arms(120, 1).items():
        arms[name][::20] = cells[: len(arms[name][::20])]
    result = check(arms)
    assert result[EXACT, MODEL, 0] == 25
    assert result[EXACT, HELD_OUT, 0] == 0
    assert result[f"{P}_exact", MODEL, 0] == pytest.approx(hypergeom.sf(24, 1000, 25, 500))
    assert result[f"{P}_exact", MODEL, 0] < 1e-6


def test_a_model_that_copies_nearly_is_noticed_by_distance():
    arms = {name: cells[:100].copy() for name, cells in Truth().arms(120, 1).items()}
    for cells in arms.values():
        cells[:, 0] += 1
    result = check(arms)
    assert result[EXACT, MODEL, 0] == 0
    assert result[f"{P}_near", MODEL, 0] < 1e-3
    assert result["distance_to_training", MODEL, 0] == 1


def test_training_cells_are_measured_against_the_others():
    result = check(Truth().arms(200, 5))
    assert result["distance_to_training", "training_cells", 0] > 0


def test_every_seed_is_compared_with_the_same_held_out_cells():
    result = check(Truth().arms(100, 5), seeds=2)
    distances = [result["distance_to_training", HELD_OUT, seed] for seed in (0, 1)]
    assert distances[0] == distances[1]


def test_distances_of_sparse_cells_are_those_of_scipy():
    truth = Truth()
    counts = np.concatenate([truth.cells("strong", 130, 1), np.zeros((1, 40), np.int32)])
    pool = truth.cells("weak", 50, 2) * (np.random.default_rng(0).random((50, 40)) < 0.5)
    result = nearest_distance(csr(counts), csr(pool))
    np.testing.assert_allclose(result, cdist(counts, pool, "cityblock").min(axis=1))
    among = nearest_distance(csr(pool[:7]), csr(pool), rank=1)
    np.testing.assert_allclose(among, np.sort(cdist(pool[:7], pool, "cityblock"))[:, 1])
