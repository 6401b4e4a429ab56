"""The parts of a checkpoint beside it: effects without a network, and a network without effects."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lingshu_model.contracts import Catalogue
from lingshu_model.evaluate import Draws
from lingshu_model.evaluate.__main__ import main

SPEC = {
    "name": "made",
    "sources": [
        {
            "file": "made.h5ad",
            "where": {"replicate": ["1"]},
            "context": {"cell_line": "made"},
            "perturbation": {"column": "guide", "control": "none", "kind": "knockout"},
        }
    ],
    "network": "lingshu-tiny",
    "epochs": 1,
    "batch": 16,
    "micro_batch": 8,
    "shams": 2,
    "gene_features": 4,
    "sampler": {"steps": 2, "tile": 16},
    "delivery": "moved",
    "allow_unfit": True,
}


def trained(folder: Path, **changes: object) -> Path:
    """A checkpoint of made cells: the knock-out of G1 takes G1 and G2 away."""
    import anndata
    import pandas as pd

    from lingshu_model.train import command

    generator = np.random.default_rng(7)
    n = 240
    guide = np.array(["none", "G1"])[np.arange(n) % 2]
    counts = generator.poisson(np.linspace(0.5, 6, 30), (n, 30))
    counts[np.ix_(guide == "G1", [1, 2, 20])] = 0
    obs = pd.DataFrame({"guide": guide, "replicate": np.array(["1", "2"])[np.arange(n) % 2]})
    obs["replicate"] = np.where(np.arange(n) < 180, "1", "2")
    obs.index = [f"c{i}" for i in range(n)]
    var = pd.DataFrame(index=[f"G{i}" for i in range(30)])
    anndata.AnnData(counts.astype(np.float32), obs, var).write_h5ad(folder / "made.h5ad")
    (folder / "spec.json").write_text(json.dumps({**SPEC, **changes}))
    command.train(folder / "spec.json", folder, folder / "runs", 1, None, None)
    return folder / "runs" / "made" / "checkpoint" / "made"


def pearsons(checkpoint: Path, folder: Path) -> dict[str, float]:
    """Evaluate, and return the Pearson correlation of the change under G1 by predictor."""
    arguments = (checkpoint, "--data", folder, "--out", folder / "out", "--n-cells", 64)
    result = CliRunner().invoke(
        main, [*map(str, arguments), "--seeds", "0"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    figures = json.loads((folder / "out" / "evidence.json").read_text())["figures"]
    place = {name: i for i, name in enumerate(figures["columns"])}
    return {
        row[place["predictor"]]: row[place["value"]]
        for row in figures["rows"]
        if row[place["metric"]] == "pearson_of_change" and row[place["set"]] == "all"
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draws.__init__, "__defaults__", (20, 10, 20, 3, 200))


def test_without_effects_the_network_predicts_less_than_effects_without_a_network(tmp_path: Path):
    by_predictor = pearsons(trained(tmp_path), tmp_path)
    assert {"model", "effects", "effects only", "network only", "pinned"} <= set(by_predictor)
    assert "both" not in by_predictor  # the model is both
    assert by_predictor["effects"] > 0.8
    assert by_predictor["effects only"] > 0.8
    # One epoch of a tiny network has not learned what its perturbation tokens mean.
    assert by_predictor["network only"] < 0.5


@pytest.mark.slow
def test_the_parts_of_a_checkpoint_of_training_cells_are_the_network_and_both(tmp_path: Path):
    by_predictor = pearsons(trained(tmp_path, delivery="training_cells"), tmp_path)
    assert {"network only", "both", "pinned"} <= set(by_predictor)
    assert "effects only" not in by_predictor  # the model is that
    assert by_predictor["both"] > 0.8


@pytest.mark.slow
def test_the_recipe_effects_has_no_network_to_leave_out(tmp_path: Path):
    checkpoint = trained(tmp_path, recipe="effects", delivery="auto")
    by_predictor = pearsons(checkpoint, tmp_path)
    assert "effects" in by_predictor
    assert not {"network only", "both", "pinned", "effects only"} & set(by_predictor)
    assert Catalogue([checkpoint.parent]).load("made").delivery == "training_cells"
