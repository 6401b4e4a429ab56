"""Each real peer in its environment, on a few made cells; skipped where there are none."""

import os
from pathlib import Path

import numpy as np
import pytest
from made_peers import Sizes, split_folder
from safetensors.numpy import load

from benchmarks.peers.driver import Places, run_peer
from lingshu_model.contracts import decode_cells

ENVS = os.environ.get("LINGSHU_PEER_ENVS")
GENES = [f"G{i}" for i in range(24)]
KNOCKOUTS: Sizes = {
    "train.h5ad": {"T, one": 60, "T, one, STAT1": 40},
    "validation.h5ad": {"T, one": 12, "T, one, STAT1": 8},
    "test.h5ad": {"T, one": 9, "T, one, STAT1": 9},
    "unseen.h5ad": {},
}
STIMULATION: Sizes = {
    "train.h5ad": {
        "T, one": 40,
        "B, one": 40,
        "NK, one": 30,
        "B, one, IFN": 40,
        "NK, one, IFN": 30,
    },
    "validation.h5ad": {"T, one": 8, "B, one, IFN": 8},
    "test.h5ad": {"T, one": 9, "B, one, IFN": 5},
    "unseen.h5ad": {"T, one, IFN": 9},
}
BRIEF = {
    "scvi": ("--epochs", "3", "--warmup", "1", "--hidden", "8", "--latent", "4"),
    "scgen": ("--epochs", "2", "--hidden", "8", "--latent", "4"),
    "state": ("--steps", "2", "--sets", "1", "--length", "8", "--check-every", "1"),
    "state-baselines": ("--length", "8"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ENVS, reason="LINGSHU_PEER_ENVS names no folder of environments"),
]


def _run(peer: str, folder: Path, built: Sizes) -> list[Path]:
    places = Places(split_folder(folder / "split", built, GENES), folder / "out", Path(ENVS or ""))
    return [path / "seed-0" for path in run_peer(peer, places, [0], BRIEF[peer])]


def _expression(folder: Path, condition: str) -> np.ndarray:
    return load((folder / f"{condition}.log1p.safetensors").read_bytes())["log1p_cp10k"]


def test_scvi_draws_counts_of_a_stimulation_it_never_saw_in_that_type(tmp_path: Path):
    for folder in _run("scvi", tmp_path, STIMULATION):
        counts = decode_cells((folder / "T, one, IFN.safetensors").read_bytes()).counts
        assert counts.shape == (9, 24)
        assert counts.min() >= 0
        assert 5 < counts.sum(axis=1).mean() < 200


def test_scgen_moves_control_cells_and_decodes_its_control_too(tmp_path: Path):
    (folder,) = _run("scgen", tmp_path, STIMULATION)
    moved, control = (_expression(folder, name) for name in ("T, one, IFN", "T, one"))
    assert moved.shape == control.shape == (9, 24)
    assert np.isfinite(moved).all()
    assert not np.allclose(moved.mean(axis=0), control.mean(axis=0))


def test_state_moves_control_cells(tmp_path: Path):
    folders = _run("state", tmp_path, KNOCKOUTS)
    assert [folder.parent.name for folder in folders] == ["state", "state-last"]
    for folder in folders:
        moved = _expression(folder, "T, one, STAT1")
        assert moved.shape == (300, 24)
        assert np.isfinite(moved).all()


def test_the_mean_baselines_give_a_control_cell_for_a_control(tmp_path: Path):
    context, perturb = _run("state-baselines", tmp_path, KNOCKOUTS)
    assert (context.parent.name, perturb.parent.name) == ("context-mean", "perturb-mean")
    assert np.ptp(_expression(context, "T, one, STAT1"), axis=0).max() == 0
    assert np.array_equal(_expression(context, "T, one"), _expression(perturb, "T, one"))
