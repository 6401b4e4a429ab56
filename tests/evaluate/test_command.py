"""The whole command on synthetic cells: a fake sampler, a checkpoint without weights, a file."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import fake_sampler, run
from synthetic import (
    CONTEXT,
    CONTROL,
    GENES,
    SIZES,
    Truth,
    condition,
    sampled,
    write_checkpoint,
    write_data,
)

from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint
from lingshu_model.contracts.evidence_text import dumps, rounded
from lingshu_model.evaluate import Draws, build_study
from lingshu_model.evaluate.__main__ import main
from lingshu_model.evaluate.arms import ArmStore, can_sample, profile_digest
from lingshu_model.evaluate.data import load_split


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


@pytest.fixture
def loaded(checkpoint: Path) -> Checkpoint:
    return Catalogue([checkpoint.parent]).load("synthetic")


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> list[ArmRequest]:
    monkeypatch.setattr(Draws.__init__, "__defaults__", (60, 40, 100, 3, 1000))
    return fake_sampler(monkeypatch, sampled)


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 1
    return result.output


def test_evaluating_writes_tables_and_canonical_evidence_and_pins_it(
    checkpoint: Path, loaded: Checkpoint, data: Path, tmp_path: Path, sampler: list[ArmRequest]
):
    out = tmp_path / "out"
    common = (checkpoint, "--data", data, "--out", out, "--seeds", "0,1", "--n-cells", 200)
    printed = run(*common, "--write-evidence")
    assert len(sampler) == 2 * len(SIZES) + 3
    pinned = Catalogue([tmp_path]).load("synthetic")
    result = pinned.evidence
    assert pinned.digest == loaded.digest == result["checkpoint_digest"]
    assert (out / "tables.md").read_text("utf-8") in printed
    assert result["format"] == "lingshu-evidence-3"
    tier = result["tiers"]["seen"]
    headline = tier["headline"]
    assert headline["beats_trivial_baseline"] is True
    assert headline["baselines"]["control_mean"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert headline["verdicts"]["mean_shift"] == "win"
    assert headline["set"] == "twelve strongest"
    assert np.shape(tier["residuals"]["values"]) == (len(SIZES) - 1, len(GENES))
    assert tier["residuals"]["perturbations"] == tier["residuals"]["names"]
    assert np.shape(result["sham"]["changes"]) == (3, len(GENES))
    assert result["data"]["held_out"] == {"field": "bio_rep", "value": "rep_3"}
    assert result["folds"] == ["bio_rep=rep_3"]
    assert result["settings"]["steps"] == 3
    assert result["cost"]["seconds_per_cell"] > 0
    assert result["cost"]["machine"] == "synthetic"
    text = (checkpoint / "evidence.json").read_text("utf-8")
    assert text == dumps(json.loads(text))
    assert max(map(len, text.splitlines())) > 8 * len(GENES)

    # Again: nothing is sampled and every figure is the same.
    again = run(*common)
    assert len(sampler) == 2 * len(SIZES) + 3
    assert again == printed[: len(again)]
    assert (out / "evidence.json").read_text("utf-8") == text


def test_the_csv_has_every_figure_of_the_evidence(
    checkpoint: Path, data: Path, tmp_path: Path, sampler: list[ArmRequest]
):
    run(checkpoint, "--data", data, "--out", tmp_path, "--seeds", "0,1", "--n-cells", 50)
    written = json.loads((tmp_path / "evidence.json").read_text("utf-8"))["figures"]
    with (tmp_path / "figures.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == len(written["rows"])
    assert list(rows[0]) == written["columns"]
    strongest = [
        row
        for row in rows
        if (row["metric"], row["predictor"]) == ("pearson_of_change", "model")
        and row["set"] == "twelve strongest"
    ]
    (row,) = strongest
    assert float(row["low"]) < float(row["value"]) < float(row["high"])
    seeds = [*map(float, row["by_seed"].split(";"))]
    assert np.mean(seeds) == pytest.approx(float(row["value"]), abs=1e-5)
    compared = [r for r in rows if r["p_not_inferior"]]
    assert {r["metric"] for r in compared} >= {"pearson_of_change", "mse_of_change"}
    assert all(0 <= float(r["p_not_inferior"]) <= 1 for r in compared)


def test_rows_of_other_folds_are_added(
    checkpoint: Path, data: Path, tmp_path: Path, sampler: list[ArmRequest]
):
    common = (checkpoint, "--data", data, "--seeds", "0", "--n-cells", 50)
    first, second = tmp_path / "first", tmp_path / "second"
    run(*common, "--out", first, "--held-out", "validation")
    run(*common, "--out", second, "--fold", first)
    result = json.loads((second / "evidence.json").read_text("utf-8"))
    assert result["folds"] == ["bio_rep=rep_3", "validation"]
    assert result["tiers"]["seen"]["n_folds"] == 2
    assert result["tiers"]["seen"]["per_perturbation"]["weak"]["n_test_cells"] == 120 + 30
    assert "rows.npz" in refused(*common, "--out", second, "--fold", tmp_path)


def test_what_a_specification_leaves_out_of_its_file_is_held_out(loaded: Checkpoint, data: Path):
    study = build_study(load_split(loaded, data, None))
    assert study.held_out == {"field": "bio_rep", "value": "rep_3"}
    (population,) = study.populations
    truth = Truth()
    assert population.genes == GENES
    for side, n, seed in ((population.train, 150, 1), (population.test, 120, 2)):
        for name, cells in truth.arms(n, seed).items():
            np.testing.assert_array_equal(side[name].toarray(), cells)
    assert study.conditions["weak"] == condition("weak")
    assert study.conditions[CONTROL] == condition(CONTROL)


def test_the_validation_slice_is_that_of_training(loaded: Checkpoint, data: Path):
    (population,) = build_study(load_split(loaded, data, "validation")).populations
    assert population.n_test("weak") == 30
    assert population.n_train("weak") == 120


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ("test", "kept no test cells; use --held-out FIELD=VALUE"),
        ("bio_rep=rep_1", "trained on cells with bio_rep = 'rep_1'; choose another value"),
        ("batch=1", "trained on cells of every 'batch'; choose a column of its `where`"),
        ("bio_rep=rep_9", "no cell has {'bio_rep': ['rep_9']}"),
    ],
)
def test_cells_that_were_not_held_out_are_refused(
    loaded: Checkpoint, data: Path, held_out: str, message: str
):
    with pytest.raises(ValueError, match="(?s)" + message.replace("{", r"\{").replace("[", r"\[")):
        load_split(loaded, data, held_out)


def test_data_that_are_not_there_or_lack_genes_are_refused(loaded: Checkpoint, data: Path):
    with pytest.raises(ValueError, match="does not exist; give the folder"):
        load_split(loaded, data / "nowhere", None)
    wider = replace(loaded)
    object.__setattr__(wider, "panel", ["NOWHERE", *GENES])
    with pytest.raises(ValueError, match="do not have 1 genes of the panel, NOWHERE"):
        load_split(wider, data, None)


def test_a_condition_without_a_token_is_named_and_left_out(
    checkpoint: Path, data: Path, tmp_path: Path, sampler: list[ArmRequest]
):
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    config["seen"] = [e for e in config["seen"] if e["interventions"][:1] != [_knockout("weak")]]
    (checkpoint / "config.json").write_text(json.dumps(config))
    from lingshu_model.contracts.catalogue import pin

    pin(checkpoint)
    common = (checkpoint, "--data", data, "--out", tmp_path, "--seeds", "0", "--n-cells", 50)
    assert "not evaluated, never trained on: weak" in run(*common)
    result = json.loads((tmp_path / "evidence.json").read_text("utf-8"))
    assert "weak" not in result["tiers"]["seen"]["per_perturbation"]


def _knockout(name: str) -> dict[str, str]:
    return {"kind": "knockout", "target": name}


def test_a_target_of_the_panel_can_be_sampled_though_never_perturbed(loaded: Checkpoint):
    assert can_sample(loaded, condition("G1"))
    assert can_sample(loaded, condition("strong+weak"))
    assert not can_sample(loaded, condition("NOWHERE"))
    elsewhere = replace(condition("strong"), context=(("cell_line", "K562"),))
    assert not can_sample(loaded, elsewhere)


def test_an_unknown_checkpoint_is_an_error_that_names_it(tmp_path: Path):
    assert "no checkpoint 'nowhere'" in refused("nowhere", "--out", tmp_path)


def test_cells_of_two_numerics_profiles_are_not_mixed():
    with pytest.raises(ValueError, match="2 numerics profiles"):
        profile_digest([{"profile": {"device": "a"}}, {"profile": {"device": "b"}}])


def store_of(loaded: Checkpoint, folder: Path) -> ArmStore:
    return ArmStore(loaded, folder / "arms", n_cells=20, steps=3, guidance=0.0)


def test_an_arm_is_sampled_once_and_read_back_the_same(
    loaded: Checkpoint, tmp_path: Path, sampler: list[ArmRequest]
):
    store, control = store_of(loaded, tmp_path), condition(CONTROL)
    first = store.counts(control, 7).toarray()
    np.testing.assert_array_equal(store.counts(control, 7).toarray(), first)
    assert [request.seed for request in sampler] == [7]
    store.counts(control, 7, steps=8)
    assert [request.steps for request in sampler] == [3, 8]
    assert store.counts(control, 7, n=5).shape == (5, len(GENES))
    assert sampler[-1].n_cells == 5


def test_whole_tiles_are_sampled_and_the_first_cells_kept(
    loaded: Checkpoint, tmp_path: Path, sampler: list[ArmRequest]
):
    tiled = {**loaded.config, "sampler": {**loaded.config["sampler"], "tile": 16}}
    store = store_of(replace(loaded, config=tiled), tmp_path)
    assert store.counts(condition(CONTROL), 7).shape[0] == 20
    assert sampler[-1].n_cells == 32


def test_arms_of_a_context_are_pairs_and_contexts_share_no_cells(
    loaded: Checkpoint, tmp_path: Path
):
    elsewhere = {"cell_line": "elsewhere"}
    contexts = [*loaded.config["contexts"], {**loaded.config["contexts"][0], "context": elsewhere}]
    tiled = {**loaded.config["sampler"], "tile": 48}
    more = replace(loaded, config={**loaded.config, "contexts": contexts, "sampler": tiled})
    store, knockout = store_of(more, tmp_path), condition("G1")
    assert dict(knockout.context) == CONTEXT
    first = store.request(knockout, 7).first_cell
    assert first == store.request(condition(CONTROL), 7).first_cell == 0
    other = replace(knockout, context=tuple(elsewhere.items()))
    second = store.request(other, 7).first_cell
    assert second == store.request(replace(other, interventions=()), 7).first_cell
    assert second % 48 == 0
    assert second > 1_000_000


def test_figures_are_rounded_to_five_digits_and_never_nan():
    result = rounded({"a": [1 / 3, float("nan"), -0.0], "b": 1_234_567, 1: (2.5,)})
    assert result == {"a": [0.33333, None, 0.0], "b": 1_234_567, "1": [2.5]}
    assert str(result["a"][2]) == "0.0"
