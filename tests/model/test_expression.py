"""What the network starts from, against plain computations on dense arrays."""

from pathlib import Path

import numpy as np
import pytest
from made_model import SPEC

from lingshu_model.network import tokens
from lingshu_model.train.data import sources as data
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.expression import (
    LEVELS,
    Levels,
    components,
    histogram,
    largest_tokens,
    log_frequencies,
)
from lingshu_model.train.data.store import gathered


@pytest.fixture
def cells(folder: Path) -> TrainingCells:
    """The made cells with one gene not measured."""
    (folder / "panel.csv").write_text("\n".join(["ABSENT", *(f"G{i}" for i in range(30))]))
    return data.read_cells(SPEC.model_copy(update={"panel": "panel.csv"}), folder)


def test_histograms_count_zeros_of_measured_genes_alone(cells: TrainingCells) -> None:
    counts = histogram(cells)
    dense = cells.dense(np.arange(len(cells)))
    for gene in (1, 5, 30):
        assert counts[gene].tolist() == np.bincount(dense[:, gene], minlength=281).tolist()
    assert not counts[0].any()
    assert largest_tokens(counts)[1:].tolist() == dense[:, 1:].max(axis=0).tolist()
    assert largest_tokens(counts)[0] == 0


def test_frequencies_are_those_of_the_cells_and_never_nil(cells: TrainingCells) -> None:
    counts = histogram(cells)
    distribution = np.exp(log_frequencies(counts)[5].astype(float))
    distribution /= distribution.sum()
    assert distribution[:4] == pytest.approx(counts[5, :4] / 120, abs=0.02)
    assert (distribution > 0).all()


def test_levels_are_at_the_median_depth(cells: TrainingCells) -> None:
    median = float(np.median(cells.depth()))
    levels = Levels.of(cells, median)
    counts = cells.counts().astype(float)
    plain = np.log1p(counts * median / counts.sum(axis=1, keepdims=True))
    assert levels.mean[1:] == pytest.approx(plain[:, 1:].mean(axis=0), abs=1e-5)
    assert levels.variance[1:] == pytest.approx(plain[:, 1:].var(axis=0), abs=1e-4)
    assert np.isnan(levels.mean[0])
    assert LEVELS[tokens.encode(5)] == pytest.approx(np.log(6))


def test_components_are_those_of_the_centred_matrix(cells: TrainingCells) -> None:
    levels = Levels.of(cells, 60.0)
    result = components(levels, 3)
    plain = levels.values.toarray()
    plain = plain - plain.mean(axis=0)
    _, singular, v = np.linalg.svd(plain, full_matrices=False)
    assert result.spread == pytest.approx(singular[:3] / np.sqrt(len(plain)), rel=1e-4)
    for item, other in zip(result.loadings.T, v[:3], strict=True):
        assert abs(item @ other) == pytest.approx(1, abs=1e-3)
    again = components(levels, 3)
    assert np.array_equal(result.loadings, again.loadings)


def test_rows_kept_in_files_are_those_kept_in_memory(folder: Path, tmp_path: Path) -> None:
    inside, outside = (data.read_cells(SPEC, folder, store) for store in (None, tmp_path / "rows"))
    rows = np.array([7, 3, 3, 119])
    assert np.array_equal(inside.dense(rows), outside.dense(rows))
    assert isinstance(outside.tokens.data.base, np.memmap) or isinstance(
        outside.tokens.data, np.memmap
    )
    assert np.array_equal(inside.depth(), outside.depth())


def test_no_rows_at_all_are_rows_too(tmp_path: Path) -> None:
    empty = gathered([], 5, tmp_path)
    assert empty.shape == (0, 5)
