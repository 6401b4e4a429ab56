"""The whole path on made data: a fake sampler, a made checkpoint, a made h5ad file."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made import GENES, SIZES, Truth
from scipy import sparse

import lingshu_model
from lingshu_model.evaluate import distribution
from lingshu_model.evaluate.__main__ import main
from lingshu_model.evaluate.arms import ArmStore, Condition, profile_digest
from lingshu_model.evaluate.data import Split, load_observed, load_study
from lingshu_model.evaluate.evidence import dumps, rounded
from lingshu_model.evaluate.observed import CONTROL
from lingshu_model.evaluate.sparse import dense
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.wire import ArmRequest, Catalogue, Cells, Intervention
from lingshu_model.wire.catalogue import FORMAT, pin

CONTEXT = {"cell_line": "THP-1"}
TRAINING = TrainingSpec.model_validate(
    {
        "name": "made",
        "sources": [
            {
                "file": "cells.h5ad",
                "where": {"bio_rep": ["rep_1"]},
                "context": CONTEXT,
                "perturbation": {
                    "column": "perturbation",
                    "control": "non-targeting",
                    "kind": "knockout",
                },
            }
        ],
        "network": "lingshu-tiny",
        "epochs": 1,
        "validation": 0.2,
    }
)


class FakeSampler:
    """Draws from the truth; counts what it was asked for."""

    asked: list[ArmRequest]

    @staticmethod
    def load(_checkpoint: object, *, threads: int | None = None) -> "FakeSampler":
        return FakeSampler()

    def profile(self) -> dict[str, str]:
        return {"device": "made"}


def _sample_arm(_sampler: FakeSampler, request: ArmRequest, _workers: int = 1) -> Cells:
    FakeSampler.asked.append(request)
    target = request.interventions[0].target if request.interventions else CONTROL
    name = CONTROL if target.startswith("sham") else target
    seed = request.seed * 1000 + sum(map(ord, target))
    return Cells(Truth().cells(name, request.n_cells, seed), np.ones(len(GENES), bool))


@pytest.fixture
def fake_sampler(monkeypatch: pytest.MonkeyPatch) -> type[FakeSampler]:
    FakeSampler.asked = []
    monkeypatch.setitem(distribution.compare_distributions.__kwdefaults__, "splits", 6)
    module = SimpleNamespace(Sampler=FakeSampler, sample_arm=_sample_arm)
    monkeypatch.setitem(sys.modules, "lingshu_model.sampler", module)
    monkeypatch.setattr(lingshu_model, "sampler", module, raising=False)
    return FakeSampler


def _checkpoint(folder: Path) -> Path:
    targets = [("knockout", name) for name in SIZES if name != CONTROL]
    targets += [("sham", f"sham-{i:02}") for i in range(3)]
    seen = [{"context": CONTEXT, "interventions": [], "n_cells": 300}]
    for kind, target in targets:
        one = {"kind": kind, "target": target}
        seen.append({"context": CONTEXT, "interventions": [one], "n_cells": 300})
    config = {
        "format": FORMAT,
        "contexts": [{"context": CONTEXT}],
        "seen": seen,
        "sampler": {"steps": 3, "guidance": 0.0},
        "training": TRAINING.model_dump(mode="json"),
    }
    path = folder / "made"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    panel = {"genes": [{"symbol": gene} for gene in GENES]}
    (path / "panel.json").write_text(json.dumps(panel))
    pin(path)
    return path


def _data(folder: Path) -> Path:
    observed = Truth().observed(150, 120)
    blocks, rows = [], []
    for replicate, side in (("rep_1", observed.train), ("rep_3", observed.test)):
        for name, counts in side.items():
            label = "non-targeting" if name == CONTROL else name
            blocks.append(counts)
            rows += [(label, replicate)] * len(counts)
    obs = pd.DataFrame(rows, columns=["perturbation", "bio_rep"])
    obs.index = [f"cell{i}" for i in range(len(obs))]
    order = GENES[::-1]
    counts = np.concatenate(blocks)[:, ::-1].astype(np.float32)
    data = anndata.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=order))
    path = folder / "cells.h5ad"
    data.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return _checkpoint(tmp_path)


def _run(*arguments: object) -> str:
    found = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_the_file_is_split_by_the_held_out_field_and_read_in_panel_order(data: Path):
    found = load_observed(data, GENES, Split())
    made = Truth().observed(150, 120)
    assert sorted(found.train) == sorted(SIZES)
    np.testing.assert_array_equal(found.train["strong"], made.train["strong"])
    np.testing.assert_array_equal(found.test[CONTROL], made.test[CONTROL])


@pytest.mark.parametrize(
    ("panel", "split", "said"),
    [
        (["G0", "NOWHERE"], Split(), "does not measure 1 panel genes, NOWHERE"),
        (GENES, Split(field="batch"), "no obs column 'batch'; it has perturbation, bio_rep"),
        (GENES, Split(control="DMSO"), "no perturbation 'DMSO' on both sides"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_it_has(data: Path, panel, split, said):
    with pytest.raises(ValueError, match=said):
        load_observed(data, panel, split)


def test_evaluating_writes_tables_and_canonical_evidence_and_pins_it(
    checkpoint: Path, data: Path, tmp_path: Path, fake_sampler
):
    before = Catalogue([tmp_path]).load("made").digest
    out = tmp_path / "out"
    common = (checkpoint, "--data", data, "--out", out, "--seeds", "0,1", "--n-cells", 200)
    printed = _run(*common, "--write-evidence")
    assert len(fake_sampler.asked) == 2 * len(SIZES) + 3
    loaded = Catalogue([tmp_path]).load("made")
    found = loaded.evidence
    assert loaded.digest == before == found["checkpoint_digest"]
    assert (out / "tables.md").read_text("utf-8") in printed

    tier = found["tiers"]["seen"]
    headline = tier["headline"]
    assert headline["beats_trivial_baseline"] is True
    assert headline["baselines"]["control_mean"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert headline["verdicts"]["mean_shift"] == "win"
    assert tier["residuals"]["genes"] == GENES
    assert np.shape(tier["residuals"]["values"]) == (len(SIZES) - 1, len(GENES))
    assert tier["residuals"]["perturbations"] == tier["residuals"]["names"]
    assert np.shape(found["sham"]["changes"]) == (3, len(GENES))
    assert sorted(found["distribution"]["groups"]) == ["control", "perturbations"]
    assert found["composition"] == {}
    assert found["data"]["held_out"] == {"field": "bio_rep", "value": "rep_3"}
    assert found["settings"]["steps"] == 3
    assert found["cost"]["seconds_per_cell"] > 0
    assert found["cost"]["machine"] == "made"
    assert found["copies"]["more_than_real"] is False
    text = (checkpoint / "evidence.json").read_text("utf-8")
    assert text == dumps(json.loads(text))
    assert max(map(len, text.splitlines())) > 8 * len(GENES)

    # Again: nothing is sampled and every figure is the same.
    again = _run(*common)
    assert len(fake_sampler.asked) == 2 * len(SIZES) + 3
    assert again == printed[: len(again)]
    assert (out / "evidence.json").read_text("utf-8") == text


def test_what_a_specification_leaves_out_of_its_file_is_held_out(
    checkpoint: Path, data: Path, tmp_path: Path
):
    loaded = Catalogue([tmp_path]).load("made")
    by_default = load_study(loaded, data, None)
    assert by_default.held_out == {"field": "bio_rep", "value": "rep_3"}
    (population,) = by_default.populations
    made = Truth().observed(150, 120)
    np.testing.assert_array_equal(population.observed.test["weak"], made.test["weak"])
    assert by_default.conditions["weak"].interventions[0].kind == "knockout"
    assert by_default.conditions[CONTROL] == Condition(CONTEXT)


def test_the_validation_slice_is_that_of_training(checkpoint: Path, data: Path, tmp_path: Path):
    study = load_study(Catalogue([tmp_path]).load("made"), data, "validation")
    (population,) = study.populations
    assert population.observed.n_test("weak") == 30
    assert population.observed.n_train("weak") == 120
    assert study.conditions["weak"].context == CONTEXT


def test_test_cells_that_were_not_kept_are_refused(checkpoint: Path, data: Path, tmp_path: Path):
    loaded = Catalogue([tmp_path]).load("made")
    with pytest.raises(ValueError, match="kept no test cells"):
        load_study(loaded, data, "test")
    with pytest.raises(ValueError, match="does not exist; give the folder"):
        load_study(loaded, tmp_path / "nowhere", None)


def test_the_pairing_table_needs_its_three_knock_outs(
    checkpoint: Path, tmp_path: Path, fake_sampler
):
    arguments = [str(checkpoint), "--pairing", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 1
    assert "was not trained on STAT1, SMAD4, CD86; it knows middling" in found.output
    assert fake_sampler.asked == []


def test_an_unknown_checkpoint_is_an_error_that_names_it(tmp_path: Path):
    found = CliRunner().invoke(main, ["nowhere", "--out", str(tmp_path)])
    assert found.exit_code == 1
    assert "no checkpoint 'nowhere'" in found.output


def test_cells_of_two_numerics_profiles_are_not_mixed():
    with pytest.raises(ValueError, match="2 numerics profiles"):
        profile_digest([{"profile": {"device": "a"}}, {"profile": {"device": "b"}}])


def test_an_arm_is_sampled_once_and_read_back_the_same(
    checkpoint: Path, tmp_path: Path, fake_sampler
):
    loaded = Catalogue([tmp_path]).load("made")
    store = ArmStore(loaded, tmp_path / "arms", n_cells=20, steps=3, guidance=0.0)
    control = Condition(CONTEXT)
    first = dense(store.counts(control, 7))
    np.testing.assert_array_equal(dense(store.counts(control, 7)), first)
    assert [request.seed for request in fake_sampler.asked] == [7]
    store.counts(control, 7, steps=8)
    assert [request.steps for request in fake_sampler.asked] == [3, 8]
    assert store.counts(control, 7, n=5).shape == (5, len(GENES))
    assert fake_sampler.asked[-1].n_cells == 5


def test_whole_tiles_are_asked_for_and_the_first_cells_kept(
    checkpoint: Path, tmp_path: Path, fake_sampler
):
    loaded = Catalogue([tmp_path]).load("made")
    sampler = {**loaded.config["sampler"], "tile": 16}
    tiled = replace(loaded, config={**loaded.config, "sampler": sampler})
    store = ArmStore(tiled, tmp_path / "arms", n_cells=20, steps=3, guidance=0.0)
    cells = store.counts(Condition(CONTEXT), 7)
    assert cells.shape[0] == 20
    assert fake_sampler.asked[-1].n_cells == 32


def test_arms_of_a_context_are_pairs_and_contexts_share_no_cells(
    checkpoint: Path, tmp_path: Path, fake_sampler
):
    loaded = Catalogue([tmp_path]).load("made")
    elsewhere = {"cell_line": "elsewhere"}
    contexts = [*loaded.config["contexts"], {**loaded.config["contexts"][0], "context": elsewhere}]
    sampler = {**loaded.config["sampler"], "tile": 48}
    more = replace(loaded, config={**loaded.config, "contexts": contexts, "sampler": sampler})
    store = ArmStore(more, tmp_path / "arms", n_cells=20, steps=3, guidance=0.0)
    knocked_out = Intervention(kind="knockout", target="G1")
    one, other = Condition(CONTEXT, (knocked_out,)), Condition(elsewhere, (knocked_out,))
    first = store.request(one, 7).first_cell
    assert first == store.request(one.control, 7).first_cell == 0
    apart = store.request(other, 7).first_cell
    assert apart == store.request(other.control, 7).first_cell
    assert apart % 48 == 0
    assert apart > 1_000_000


def test_figures_are_rounded_to_five_digits_and_never_nan():
    found = rounded({"a": [1 / 3, float("nan"), -0.0], "b": 1_234_567, 1: (2.5,)})
    assert found == {"a": [0.33333, None, 0.0], "b": 1_234_567, "1": [2.5]}
    assert str(found["a"][2]) == "0.0"
