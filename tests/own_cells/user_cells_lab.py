"""A checkpoint with effects in two contexts, and h5ad files of cells as a user brings them."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from lingshu_model.contracts import ArmRequest, Catalogue, Cells, Checkpoint, JobView, Origin
from lingshu_model.contracts.effects import NoEffectError
from lingshu_model.contracts.user_cells import UserCellsStore
from lingshu_model.engine.http.requests import BadRequestError, check_arm
from lingshu_model.engine.user_cells import UserCellsSampler
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.sampler import sample_arm
from lingshu_model.system.private import private_folder
from lingshu_model.train.data.compressed import DataError
from lingshu_model.user_cells.__main__ import run
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.results import Result
from lingshu_tools.children import Answer, Children, Task, Work
from lingshu_tools.errors import InputError
from lingshu_tools.user_cells import Roots

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


class LocalEngine(FakeEngine):
    """Computes arms in this process, with the checkpoint's sampler and the home's cells."""

    def __init__(self, checkpoint: Checkpoint, home: Path) -> None:
        super().__init__(checkpoint.panel)
        self.checkpoint, self.store = checkpoint, UserCellsStore.of(home)
        self._inner = load_sampler(checkpoint)

    def submit(self, arm: ArmRequest, **more: object) -> JobView:
        try:
            check_arm(arm, self.checkpoint, store=self.store)
        except BadRequestError as error:
            raise InputError(str(error)) from error
        return super().submit(arm)

    def cells(self, job_id: str) -> Cells:
        arm = self.arms[job_id]
        # Anew each time: nothing is remembered of an earlier computation.
        sampler = UserCellsSampler(self.checkpoint, self._inner, self.store)

        class Tiles:
            tile, measured = sampler.tile, staticmethod(sampler.measured)

            @staticmethod
            def sample_tile(arm: ArmRequest, index: int, _: object = None):
                return sampler.sample_tile(arm, index, lambda: False)

        cells = sample_arm(Tiles(), arm)
        cells.origin = Origin(arm.digest, self.info().profile_digest)
        return cells


class LocalChildren(Children):
    """Reads users' files in this process: a child needs seconds to start. Others start."""

    def begin(self, task: Task) -> Answer | Work:
        if task.kind != "cells":
            return super().begin(task)
        folder = private_folder(task.folder)
        try:
            details = run({"limit_s": 60, **task.job}, folder)
        except (DataError, NoEffectError) as error:
            details = {"status": "error", "summary": str(error)}
        return Answer(task.digest, details, {}, {}, {}, 0.0)


@pytest.fixture
def app(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application whose engine computes in this process."""
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    home = tmp_path / "home"
    engine = LocalEngine(checkpoint, home)
    opened = App(home, engine=engine, catalogue=Catalogue([checkpoint.path.parent]))
    opened.children = LocalChildren(home)
    yield opened
    opened.close()


@pytest.fixture
def open_folder(app: App, folder: Path) -> Path:
    """The folder of the user's files, allowed."""
    return Roots(app.home).add(folder)


def patiently(app: App, tool: str, arguments: Mapping[str, object]) -> Result:
    """Return the result of a call that is made until the file is read and the cells are there."""
    while True:
        result = call(app, tool, {**arguments, "wait_s": 45})
        if result.status not in ("queued", "running"):
            return result
