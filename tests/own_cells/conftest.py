"""A checkpoint with effects in two contexts, and h5ad files of cells as a user brings them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_tools.app import App

sys.path.append(str(Path(__file__).parent.parent / "model"))

from made_training import PANEL, finished, training_cells


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint of 120 genes, G3 and G5 knocked out in three contexts."""
    cells = training_cells(contexts=("a", "b", "c"), targets=("G3", "G5"))
    return finished(cells, tmp_path_factory.mktemp("made"), shams=0).checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the user's files."""
    path = tmp_path / "data"
    path.mkdir()
    return path


def cells_of(
    n: int = 80, genes: tuple[str, ...] = PANEL, seed: int = 1, **obs: list[str]
) -> AnnData:
    """Return Poisson counts of `n` cells; obs has `cell_type` and what is given."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0.0, 1.2, len(genes))
    counts = rng.poisson(800 * share / share.sum(), (n, len(genes))).astype(np.float32)
    columns = {"cell_type": ["B" if i % 2 else "T" for i in range(n)], **obs}
    frame = pd.DataFrame(columns, index=[f"c{i}" for i in range(n)])
    return AnnData(sparse.csr_matrix(counts), frame, pd.DataFrame(index=list(genes)))


@pytest.fixture
def file(folder: Path) -> Path:
    """A file of 80 cells over the whole panel."""
    path = folder / "mine.h5ad"
    cells_of().write_h5ad(path)
    return path


@pytest.fixture
def app(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application without an engine, which reads and begins nothing by itself."""
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    opened = App(tmp_path / "home", catalogue=Catalogue([checkpoint.path.parent]))
    yield opened
    opened.close()
