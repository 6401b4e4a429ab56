"""A checkpoint with a real, untrained network over a small made panel."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from made_evidence import PANEL, made_checkpoint
from made_model import SPEC, made_cells

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_model.network import numerics
from lingshu_model.sampling.sampler import Sampler
from lingshu_model.train import checkpoint as build
from lingshu_model.train.data import sources as data
from lingshu_model.train.data.cells import add_shams
from lingshu_model.train.initialisation import InitialState
from lingshu_testing import FakeEngine
from lingshu_tools.app import App


@pytest.fixture(scope="session", autouse=True)
def prepared() -> None:
    """The numerics of the commands: without them two threads add gradients in any order."""
    numerics.prepare(threads=1)


@pytest.fixture(autouse=True)
def accelerator_state() -> Iterator[None]:
    """Let every test choose a precision: accelerate keeps the first one of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with `made.h5ad`."""
    made_cells().write_h5ad(tmp_path / "made.h5ad")
    return tmp_path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint folder whose weights are random but large enough to tell genes apart."""
    root = tmp_path_factory.mktemp("checkpoints")
    made_cells().write_h5ad(root / "made.h5ad")
    initial_state = InitialState(SPEC, add_shams(data.read_cells(SPEC, root), SPEC.shams, 0))
    network = initial_state.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    weights = dict(network.named_parameters())
    build.write(root, SPEC, initial_state.config, initial_state.cells, network, weights, None)
    return Catalogue([root]).load("made")


@pytest.fixture(scope="session")
def sampler(checkpoint: Checkpoint) -> Sampler:
    """The checkpoint's sampler in float32 on one thread."""
    return Sampler.load(checkpoint, dtype="float32", threads=1, device="cpu")


@pytest.fixture(scope="session")
def stored_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint with stored effects and evidence of every kind."""
    return made_checkpoint(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def app(stored_checkpoint: Checkpoint, tmp_path: Path) -> Iterator[App]:
    """An application with that checkpoint and a fake engine."""
    catalogue = Catalogue([stored_checkpoint.path.parent])
    opened = App(tmp_path / "home", engine=FakeEngine(list(PANEL)), catalogue=catalogue)
    yield opened
    opened.close()
