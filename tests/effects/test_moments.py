"""Sums of levels over groups of cells, in one pass over blocks of sparse counts."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from made_counts import draw, levels, rows, shares
from scipy import sparse

from lingshu_model.effects import Moments, moments


def built(cells: int = 300, genes: int = 40):
    rng = np.random.default_rng(0)
    return draw(rng, shares(rng, genes), cells, 200.0), rng.integers(0, 5, cells)


@pytest.mark.parametrize("cuts", [[], [1], [100, 100, 250], list(range(10, 300, 10))])
def test_sums_are_those_of_the_whole_matrix_wherever_blocks_end(cuts: list[int]):
    counts, group = built()
    blocks = [rows(part) for part in np.split(counts, cuts)]
    result = Moments.of(blocks, group, 5, 40)
    for g in range(5):
        y = levels(counts[group == g])
        np.testing.assert_allclose(result.mean[g], y.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(result.squares[g], (y**2).sum(axis=0), rtol=1e-12)
        np.testing.assert_allclose(
            result.log_depth[g], np.log(counts[group == g].sum(axis=1)).mean(), rtol=1e-12
        )
    np.testing.assert_allclose(
        result.within(np.arange(5)),
        sum(levels(counts[group == g]).var(axis=0) * (group == g).sum() for g in range(5)) / 295,
        rtol=1e-9,
    )


def test_a_block_larger_than_the_piece_worked_on_gives_the_same_sums(
    monkeypatch: pytest.MonkeyPatch,
):
    counts, group = built()
    whole = Moments.of([rows(counts)], group, 5, 40)
    monkeypatch.setattr(moments, "BLOCK", 7)
    np.testing.assert_allclose(Moments.of([rows(counts)], group, 5, 40).total, whole.total)


def test_entries_of_the_same_place_are_added_before_the_logarithm():
    counts, group = built()
    split = counts // 2
    item, two = sparse.coo_matrix(split), sparse.coo_matrix(counts - split)
    twice = sparse.csr_matrix((300, 40))
    order = np.argsort(np.concatenate([item.row, two.row]), kind="stable")
    twice.data = np.concatenate([item.data, two.data])[order].astype(float)
    twice.indices = np.concatenate([item.col, two.col])[order]
    twice.indptr = np.searchsorted(np.sort(np.concatenate([item.row, two.row])), np.arange(301))
    twice.has_canonical_format = False
    assert twice.nnz > np.count_nonzero(counts)
    before = twice.data.copy()
    result = Moments.of([twice], group, 5, 40)
    np.testing.assert_allclose(result.mean, Moments.of([rows(counts)], group, 5, 40).mean)
    assert (twice.data == before).all(), "the caller's matrix changed"


def test_cells_of_a_negative_group_are_left_out():
    counts, group = built()
    some = np.where(group == 2, -1, group)
    result = Moments.of([rows(counts)], some, 5, 40)
    assert result.cells[2] == 0
    assert np.isnan(result.mean[2]).all()
    np.testing.assert_allclose(result.mean[0], levels(counts[group == 0]).mean(axis=0))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_counts_that_cannot_be_counts_are_refused_with_their_value(bad: float):
    counts = rows(built()[0])
    counts.data[3] = bad
    with pytest.raises(ValueError, match=str(bad)):
        Moments.of([counts], built()[1], 5, 40)


@pytest.mark.parametrize("labels", [299, 301])
def test_rows_and_labels_of_different_number_are_refused(labels: int):
    counts, group = built()
    with pytest.raises(ValueError, match="one per cell"):
        Moments.of([rows(counts)], np.resize(group, labels), 5, 40)


def test_blocks_of_another_width_are_refused():
    counts, group = built()
    with pytest.raises(ValueError, match="40 genes where 41"):
        Moments.of([rows(counts)], group, 5, 41)


LARGE = """
import resource, sys
import numpy as np
from scipy import sparse
from lingshu_model.effects import Group, Moments, measure
from lingshu_model.effects.estimate import Effects

cells, genes, conditions = {cells}, {genes}, {conditions}
rng = np.random.default_rng(0)
def blocks():
    for first in range(0, cells, 4096):
        n, k = min(4096, cells - first), genes // 10
        places = rng.integers(0, genes, (n, k))
        values = rng.integers(1, 4, n * k).astype(np.float32)
        yield sparse.csr_matrix((values, places.ravel(), np.arange(n + 1) * k), (n, genes))
names = ["control", *(f"p{{i}}" for i in range(conditions - 1))]
labels = [Group(names[i % conditions], "x") for i in range(cells)]
effects = Effects.of(blocks(), labels, "control", genes)
for condition in effects.conditions:
    effects.seen(condition, "x")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(cells: int, genes: int, conditions: int) -> float:
    code = LARGE.format(cells=cells, genes=genes, conditions=conditions)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout) * 1024 / 1e9


@pytest.mark.slow
def test_a_hundred_thousand_cells_of_eighteen_thousand_genes_fit_in_eight_gigabytes():
    assert peak(100_000, 18_000, 500) < 8.0


def peak_here(cells: int) -> int:
    def blocks():
        for first in range(0, cells, 1000):
            rng = np.random.default_rng(first)
            yield sparse.csr_matrix(rng.poisson(0.1, (1000, 500)).astype(np.float32))

    tracemalloc.start()
    Moments.of(blocks(), np.arange(cells) % 10, 10, 500)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_cells():
    peak_here(2_000)
    assert peak_here(20_000) < 1.2 * peak_here(4_000)
