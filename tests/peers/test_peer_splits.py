"""Split folders: what is asked of a peer, and from which training cells it may start."""

import json
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from made_peers import split_folder
from scipy import sparse

from benchmarks.peers import split
from benchmarks.peers.driver import PEERS, RECIPES, REQUIREMENTS, SCRIPTS


@pytest.fixture(scope="module")
def common():
    """What the peers' scripts share; it must not need their environments."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        import common  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(SCRIPTS))
    return common


def test_the_control_of_a_held_out_response_is_wanted_too(tmp_path: Path):
    wanted = split.wanted(split_folder(tmp_path / "split"))
    assert wanted["B, one"]["n_cells"] == wanted["B, one, IFN"]["n_cells"] == 7
    assert wanted["B, one"]["perturbation"] == "control"
    assert "T, one, IFN" not in wanted


def test_a_trained_perturbation_is_wanted_in_numbers_that_make_a_change(tmp_path: Path):
    folder = split_folder(tmp_path / "split")
    messages = json.loads((folder / "wanted.json").read_text())
    messages["T, one, IFN"] = {**messages["T, one"], "perturbation": "IFN", "n_cells": 4}
    (folder / "wanted.json").write_text(json.dumps(messages))
    wanted = split.wanted(folder)
    assert wanted["T, one"]["n_cells"] == wanted["T, one, IFN"]["n_cells"] == split.LEAST
    assert wanted["B, one, IFN"]["n_cells"] == 7


def test_a_condition_that_would_name_another_folder_is_refused(tmp_path: Path):
    folder = split_folder(tmp_path / "split")
    messages = json.loads((folder / "wanted.json").read_text())
    (folder / "wanted.json").write_text(json.dumps({"../T": messages["T, one"]}))
    with pytest.raises(ValueError, match="cannot name a file"):
        split.wanted(folder)


def test_cells_are_made_from_training_cells_of_the_condition(tmp_path: Path, common):
    split_folder(tmp_path / "split")
    split.stage(tmp_path / "split", tmp_path / "stage")
    work = common.Work(tmp_path / "stage", tmp_path / "out", 0, None)
    adata = work.cells()
    by_name = {wanted.condition: wanted for wanted in work.wanted()}
    rows = common.templates(adata.obs, by_name["T, one"])
    assert len(rows) == 6
    assert not adata.obs["validation"].to_numpy()[rows].any()


def test_a_condition_never_trained_on_is_made_from_its_controls(tmp_path: Path, common):
    split_folder(tmp_path / "split")
    split.stage(tmp_path / "split", tmp_path / "stage")
    work = common.Work(tmp_path / "stage", tmp_path / "out", 0, None)
    adata = work.cells()
    unseen = next(each for each in work.wanted() if each.condition == "B, one, IFN")
    rows = common.templates(adata.obs, unseen)
    assert set(adata.obs["condition"].iloc[rows]) == {"B, one"}


def test_both_arms_of_a_change_start_from_the_same_control_cells(tmp_path: Path, common):
    work = common.Work(tmp_path, tmp_path, 3, None)
    control = common.Wanted("B, one", "B", "one", "control", 5)
    perturbed = common.Wanted("B, one, IFN", "B", "one", "IFN", 7)
    elsewhere = common.Wanted("B, two", "B", "two", "control", 5)
    rows = [
        work.generator(each).choice(1000, each.n_cells).tolist()
        for each in (control, perturbed, elsewhere)
    ]
    assert rows[0] == rows[1][:5]
    assert rows[0] != rows[2]


def test_normalisation_is_that_of_the_metrics(common):
    from lingshu_model.evaluate.metrics.matrices import expression_levels

    counts = np.random.default_rng(0).poisson(1.0, (5, 9))
    counts[2] = 0
    expected = expression_levels(counts).toarray()
    assert np.allclose(common.log1p_cp10k(counts).toarray(), expected, atol=1e-6)


def test_every_peer_has_its_script_and_its_pinned_requirements():
    assert {peer for recipe in RECIPES.values() for peer in recipe} == set(PEERS)
    for peer in PEERS.values():
        assert (SCRIPTS / peer.script).is_file()
        lines = (REQUIREMENTS / f"{peer.environment}.txt").read_text().splitlines()
        assert "torch==2.13.0" in lines


def test_the_knock_outs_are_split_by_replicate_and_by_the_trainers_own_slice(tmp_path: Path):
    generator = np.random.default_rng(0)
    obs = pd.DataFrame(
        [(f"rep_{r}", p) for r in (1, 2, 3) for p in ("non-targeting", "STAT1") for _ in range(20)],
        columns=["bio_rep", "perturbation"],
    )
    obs.index = obs.index.astype(str)
    counts = sparse.csr_matrix(generator.poisson(2, (len(obs), 3)), dtype=np.int32)
    anndata.AnnData(counts, obs, pd.DataFrame(index=["A", "B", "C"])).write_h5ad(
        tmp_path / "cells.h5ad"
    )
    rule = {"column": "perturbation", "control": "non-targeting", "kind": "knockout"}
    source = {
        "file": "cells.h5ad",
        "where": {"bio_rep": ["rep_1", "rep_2"]},
        "context": {"cell_line": "THP-1"},
        "perturbation": rule,
    }
    spec = {"name": "made", "sources": [source], "network": "lingshu-tiny", "epochs": 1}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    split.split_thp1(tmp_path / "spec.json", tmp_path, tmp_path / "out", 50)
    sizes = {p.stem: anndata.read_h5ad(p).n_obs for p in (tmp_path / "out").glob("*.h5ad")}
    assert sizes == {"train": 72, "validation": 8, "test": 40}
    wanted = split.wanted(tmp_path / "out")
    assert {name: messages["n_cells"] for name, messages in wanted.items()} == {
        "control": 300,
        "STAT1": 300,
    }
    held = anndata.read_h5ad(tmp_path / "out" / "test.h5ad")
    assert held.X.sum() == counts[80:].sum()
