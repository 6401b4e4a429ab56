"""A checkpoint with a real, untrained network over a small made panel."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from lingshu_model.config import PRESETS
from lingshu_model.network import Network
from lingshu_model.sampler import Sampler
from lingshu_model.train import build, data
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.vocabulary import Vocabulary
from lingshu_model.wire import ArmRequest, Catalogue, Checkpoint, Intervention

CONTEXT = {"cell_line": "made"}
GENES = [f"G{i}" for i in range(30)]
SPEC = TrainingSpec.model_validate(
    {
        "name": "made",
        "sources": [
            {
                "file": "made.h5ad",
                "where": {"kept": ["yes"]},
                "context": CONTEXT,
                "perturbation": {"column": "guide", "control": "none", "kind": "knockout"},
            }
        ],
        "network": "lingshu-tiny",
        "epochs": 2,
        "batch": 16,
        "micro_batch": 8,
        "warmup_steps": 2,
        "lr": 1e-3,
        "shams": 2,
        "gene_features": 4,
        "sampler": {"steps": 4, "tile": 16},
    }
)


def made_cells(n: int = 120) -> anndata.AnnData:
    """Counts in which the knock-out of G1 takes G1 and G2 away."""
    generator = np.random.Generator(np.random.Philox(7))
    guide = np.array(["none", "G1", "G5"])[np.arange(n) % 3]
    counts = generator.poisson(np.linspace(0.2, 6, len(GENES)), (n, len(GENES)))
    counts[np.ix_(guide == "G1", [1, 2])] = 0
    obs = pd.DataFrame({"guide": guide, "kept": "yes"}, index=[f"c{i}" for i in range(n)])
    return anndata.AnnData(counts.astype(np.float32), obs, pd.DataFrame(index=GENES))


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
    cells = data.add_shams(data.read_cells(SPEC, root), SPEC.shams, 0)
    config = build.config_json(SPEC, cells)
    vocabulary = Vocabulary.from_config(config, cells.panel)
    network = Network(PRESETS[SPEC.network], len(cells.panel), vocabulary.sizes, seed=3)
    build.set_from_data(network, cells)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    build.write(root, SPEC, config, cells, network, dict(network.named_parameters()), None)
    return Catalogue([root]).load("made")


@pytest.fixture(scope="session")
def sampler(checkpoint: Checkpoint) -> Sampler:
    """The checkpoint's sampler in float32 on one thread."""
    return Sampler.load(checkpoint, dtype="float32", threads=1, device="cpu")


def arm(checkpoint: Checkpoint, *targets: str, **changes: object) -> ArmRequest:
    """Return a request for the knock-out of `targets` (none = control)."""
    interventions = tuple(Intervention(kind="knockout", target=t) for t in targets)
    fields: dict[str, object] = {
        "checkpoint": checkpoint.name,
        "checkpoint_digest": checkpoint.digest,
        "context": CONTEXT,
        "interventions": interventions,
        "seed": 11,
        "n_cells": 40,
        "steps": 4,
    }
    return ArmRequest.model_validate(fields | changes)
