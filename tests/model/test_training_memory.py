"""What training holds in memory, for two numbers of cells, and rows beyond 2^31 counts."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from made_model import SPEC
from scipy import sparse

from lingshu_model.finishing.estimate import EffectFit
from lingshu_model.train import checkpoint as build
from lingshu_model.train.data import h5ad
from lingshu_model.train.data import sources as data
from lingshu_model.train.data.cells import add_shams
from lingshu_model.train.data.store import Stored
from lingshu_model.train.initialisation import InitialState, run_digest
from lingshu_testing.memory import most_held

GENES, PER_CELL = 400, 100
FEW, MANY = 4096, 8192
OF_A_CELL = 120
"""Bytes of a cell that may be held: numbers and labels on their way; its counts take 600 alone."""
BLOCK = 512


def folder_of(n: int, place: Path) -> Path:
    """A folder with the file that SPEC reads, of `n` cells."""
    rng = np.random.Generator(np.random.Philox(0))
    width = GENES // PER_CELL
    genes = np.arange(PER_CELL) * width + rng.integers(0, width, (n, PER_CELL))
    parts = 1.0 + rng.poisson(1.0, genes.size), genes.ravel(), np.arange(n + 1) * PER_CELL
    counts = sparse.csr_matrix(parts, (n, GENES), dtype=np.float32)
    labels = np.where(np.arange(n) % 2, "none", "G0")
    names = pd.Index([f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=pd.Index([f"G{i}" for i in range(GENES)]))
    folder = place / str(n)
    folder.mkdir()
    labelled = {"guide": pd.Categorical(labels), "kept": pd.Categorical(["yes"] * n)}
    obs = pd.DataFrame(labelled, index=names)
    anndata.AnnData(counts, obs, var).write_h5ad(folder / SPEC.sources[0].file)
    return folder


def start(folder: Path) -> None:
    """All that training does with all cells, before and after its steps."""
    cells = data.read_cells(SPEC, folder, folder / "store")
    parts = data.split(cells, SPEC)
    initial_state = InitialState(SPEC, add_shams(cells.take(parts.train), 2, 0))
    initial_state.network()
    initial_state.forget_sample()
    run_digest(SPEC, initial_state.cells)
    build.reference(initial_state.cells)


def test_training_holds_numbers_of_a_cell_and_not_its_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lingshu_model.train.initialisation.SAMPLED", 50_000)
    monkeypatch.setattr(h5ad, "BLOCK", BLOCK)
    monkeypatch.setattr("lingshu_model.train.data.cells.BLOCK", BLOCK)
    folders = [folder_of(n, tmp_path) for n in (FEW, MANY)]
    few, many = (most_held(lambda folder=folder: start(folder)) for folder in folders)
    assert many - few < (MANY - FEW) * OF_A_CELL


def test_effects_hold_sums_of_conditions_and_not_counts(tmp_path: Path) -> None:
    def measure(n: int) -> int:
        cells = data.read_cells(SPEC, folder_of(n, tmp_path), tmp_path / f"store-{n}")
        fit = EffectFit(add_shams(cells, 2, 0))
        return most_held(lambda: fit.run(unseen=False))

    few, many = (measure(n) for n in (FEW, MANY))
    assert many - few < (MANY - FEW) * OF_A_CELL


def test_rows_beyond_2_31_counts_are_read_alone() -> None:
    n = 200_000
    indices = np.tile(np.arange(3, dtype=np.int32), n)
    stored = Stored(np.ones(3 * n, np.uint16), indices, np.arange(0, 3 * n + 1, 3), 5)
    rows = np.array([7, n - 1, 7])
    assert stored[rows].toarray().tolist() == [[1, 1, 1, 0, 0]] * 3
    assert stored[rows[:0]].shape == (0, 5)
    assert most_held(lambda: stored[rows]) < indices.nbytes / 10
