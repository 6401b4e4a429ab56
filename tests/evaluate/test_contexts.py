"""An intervention seen in several contexts and held out of one, on synthetic cells."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic_contexts as synthetic
from click.testing import CliRunner
from fakes import fake_sampler, run
from safetensors.numpy import save

from lingshu_model.contracts import ArmRequest, Catalogue, Cells, Intervention, encode_cells
from lingshu_model.evaluate import Contrast, Draws, Population, Study, build_study
from lingshu_model.evaluate.__main__ import main
from lingshu_model.evaluate.data import load_split
from lingshu_model.evaluate.metrics.changes import pearson
from lingshu_model.evaluate.metrics.matrices import csr, expression_levels
from lingshu_model.evaluate.predictors import PREDICTORS, Training
from lingshu_model.evaluate.sources import Source, in_population, read_peers
from lingshu_model.train.data.cells import Condition
from lingshu_tools.analysis.null import NullLabels
from lingshu_tools.analysis.residuals import Residuals
from lingshu_tools.report.evidence import tier_sentence

HELD_OUT = f"{synthetic.HELD_OUT}, stimulated, {synthetic.CYTOKINE}"
CONTROL = f"{synthetic.HELD_OUT}, stimulated"
FAMILIES = [["B cell", "CD4 T cell", "CD8 T cell"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_data(tmp_path_factory.mktemp("contexts"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def study(folder: Path, checkpoint: Path) -> Study:
    loaded = Catalogue([checkpoint.parent]).load("synthetic")
    return build_study(load_split(loaded, folder, None), FAMILIES)


@pytest.fixture
def stimulated(study: Study) -> Population:
    return study.populations[0]


@pytest.fixture
def held_out(stimulated: Population) -> Contrast:
    (contrast,) = [c for c in stimulated.contrasts if c.name == synthetic.HELD_OUT]
    return contrast


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> list[ArmRequest]:
    monkeypatch.setattr(Draws.__init__, "__defaults__", (60, 40, 100, 3, 1000))
    return fake_sampler(monkeypatch, synthetic.sampled)


def test_a_held_out_condition_without_held_out_control_cells_is_named(
    folder: Path, checkpoint: Path
):
    split = load_split(Catalogue([checkpoint.parent]).load("synthetic"), folder, None)
    assert not build_study(split).unjudged
    perturbed = {key: cells for key, cells in split.test.items() if key[1].interventions}
    names = build_study(replace(split, test=perturbed)).unjudged
    assert any(synthetic.HELD_OUT in name for name in names)


def test_cells_that_measure_the_same_genes_are_a_population(study: Study):
    stimulated, resting = study.populations
    assert [p.name for p in study.populations] == ["stimulated", "resting"]
    assert stimulated.genes == synthetic.GENES
    assert resting.genes == synthetic.ELSEWHERE
    assert not resting.contrasts


def test_what_was_held_out_of_a_context_is_compared_there_and_trained_nowhere(
    stimulated: Population, held_out: Contrast
):
    assert held_out.tier == "seen_elsewhere"
    assert {c.tier for c in stimulated.contrasts if c != held_out} == {"seen"}
    trained = [c.name for c in stimulated.trained]
    assert trained == sorted({*synthetic.TYPES} - {synthetic.HELD_OUT})
    assert HELD_OUT not in stimulated.train
    assert stimulated.n_test(HELD_OUT) == synthetic.N
    assert HELD_OUT not in stimulated.pools["stimulated"]
    assert stimulated.pools[HELD_OUT] == [HELD_OUT]


def test_the_truth_shares_no_cell_with_what_was_trained_on(stimulated: Population):
    assert stimulated.n_test(CONTROL) == round(0.2 * synthetic.N)
    train, test = (cells[CONTROL].toarray() for cells in (stimulated.train, stimulated.test))
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}


def test_both_arms_of_what_is_held_out_get_as_many_cells_as_there_are(study: Study):
    sizes = study.sizes(30)
    assert sizes[HELD_OUT] == sizes[CONTROL] == synthetic.N
    assert sizes["B cell, stimulated"] == 30
    assert sizes["B cell, resting"] == round(0.2 * synthetic.N)


def test_validation_cells_stand_in_for_test_cells(folder: Path, checkpoint: Path):
    loaded = Catalogue([checkpoint.parent]).load("synthetic")
    study = build_study(load_split(loaded, folder, "validation"))
    assert study.held_out == "validation"
    assert all(HELD_OUT not in p.test for p in study.populations)
    assert {c.tier for p in study.populations for c in p.contrasts} == {"seen"}


def test_a_prediction_for_a_context_never_uses_its_perturbed_cells(stimulated: Population):
    training = Training(stimulated, FAMILIES)
    for contrast in stimulated.contrasts:
        others = [c.value for name, c in training.changes.items() if name != contrast.name]
        result = PREDICTORS["mean_shift"](training, contrast)
        np.testing.assert_allclose(result.value, np.mean(others, axis=0))


def test_predictors_of_a_held_out_context_are_made_of_the_others(
    stimulated: Population, held_out: Contrast
):
    training = Training(stimulated, FAMILIES)
    result = {name: predict(training, held_out) for name, predict in PREDICTORS.items()}
    shifts = {name: change.value for name, change in training.changes.items()}
    np.testing.assert_allclose(result["nearest_context_shift"].value, shifts["CD8 T cell"])
    related = (shifts["B cell"] + shifts["CD8 T cell"]) / 2
    np.testing.assert_allclose(result["related_mean_shift"].value, related)
    assert not result["control_mean"].value.any()
    assert not result["context_mean"].value.any()
    assert result["additive"] is result["replicate_reference"] is None
    cells = [expression_levels(stimulated.train[c.perturbed]).toarray() for c in stimulated.trained]
    control = expression_levels(stimulated.train[CONTROL]).toarray().mean(axis=0)
    expected = np.concatenate(cells).mean(axis=0) - control
    np.testing.assert_allclose(result["perturbed_mean"].value, expected)
    sizes = [len(each) for each in cells]
    weighted = np.average([shifts[c.name] for c in stimulated.trained], axis=0, weights=sizes)
    np.testing.assert_allclose(result["mean_shift_by_cells"].value, weighted)


def test_without_families_no_context_is_related(stimulated: Population, held_out: Contrast):
    assert PREDICTORS["related_mean_shift"](Training(stimulated), held_out) is None


def test_a_context_alone_is_predicted_by_nothing_but_no_change():
    generator = np.random.default_rng(0)
    cells = {n: csr(generator.poisson(3, (20, 5))) for n in ("a", "a, X")}
    condition = Condition((("type", "a"),), (synthetic_intervention(),))
    contrast = Contrast("a", "a, X", "a", condition, "seen")
    genes = [f"G{i}" for i in range(5)]
    alone = Population("x", genes, np.arange(5), cells, cells, [contrast], [contrast])
    training = Training(alone, FAMILIES)
    result = {n: c for n, predict in PREDICTORS.items() if (c := predict(training, contrast))}
    assert sorted(result) == ["context_mean", "control_mean", "replicate_reference"]
    assert pearson(result["control_mean"].value, np.arange(5.0)) == 0


def test_contexts_with_few_training_cells_do_not_enter_means(
    stimulated: Population, held_out: Contrast
):
    name = "monocyte, stimulated, IFN-beta"
    few = stimulated.train | {name: stimulated.train[name][:9]}
    training = Training(Population(**{**stimulated.__dict__, "train": few}))
    others = [training.changes[n].value for n in ("B cell", "CD8 T cell")]
    result = PREDICTORS["mean_shift"](training, held_out)
    np.testing.assert_allclose(result.value, np.mean(others, axis=0))


def synthetic_intervention() -> Intervention:
    return Intervention(kind="cytokine", target=synthetic.CYTOKINE)


def write_peer(folder: Path, seed: int, *, deaf: bool = False) -> Path:
    """Write a peer's cells of the stimulated source; a deaf one ignores the cytokine."""
    for i in (0, 1):
        (folder / f"seed-{i}").mkdir(parents=True)
        for kind in synthetic.TYPES:
            for name in ("control", synthetic.CYTOKINE):
                ignored = deaf or name == "control"
                applied = () if ignored else (synthetic_intervention(),)
                context = {"cell_type": kind, "dataset": "stimulated"}
                cells = synthetic.sampled_cells(context, applied, synthetic.N, 10 * seed + i)
                path = f"{kind.replace(' ', '-')}__stimulated__{name}.safetensors"
                (folder / f"seed-{i}" / path).write_bytes(encode_cells(Cells(*cells)))
    return folder


def test_a_true_model_wins_the_held_out_response_and_the_tools_say_so(
    folder: Path, checkpoint: Path, tmp_path: Path, sampler: list[ArmRequest]
):
    peers = write_peer(tmp_path / "honest", 7), write_peer(tmp_path / "deaf", 8, deaf=True)
    named = [f"--peer={path.name}={path}" for path in peers]
    families = ("--related", ";".join(",".join(f) for f in FAMILIES))
    arguments = (checkpoint, "--data", folder, "--out", tmp_path / "out", "--seeds", "0,1")
    printed = run(*arguments, "--n-cells", 30, *named, *families, "--write-evidence")
    loaded = Catalogue([checkpoint.parent]).load("synthetic")
    tier = loaded.evidence["tiers"]["seen_elsewhere"]
    headline = tier["headline"]
    assert headline["beats_trivial_baseline"] is True
    assert headline["set"] == synthetic.HELD_OUT
    assert headline["verdicts"]["deaf"] == "win"
    assert headline["verdicts"]["honest"] == "tie"
    assert headline["baselines"]["context_mean"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert "split_half_reference" in headline["baselines"]
    assert headline["best_simple"]["predictor"] == "related_mean_shift"
    (row,) = tier["per_perturbation"].values()
    assert row["context"] == {"cell_type": synthetic.HELD_OUT, "dataset": "stimulated"}
    assert row["n_test_cells"] == synthetic.N
    columns = loaded.evidence["figures"]["columns"]
    rows = [dict(zip(columns, r, strict=True)) for r in loaded.evidence["figures"]["rows"]]
    cells = {(r["metric"], r["predictor"]): r for r in rows if r["set"] == HELD_OUT}
    assert cells["energy_distance", "control_mean"]["verdict"] == "win"
    distances = [cells["energy_distance", name]["value"] for name in ("deaf", "honest")]
    assert distances[0] > 3 * distances[1]
    assert loaded.evidence["data"]["held_out"]["unseen"][0]["target"] == synthetic.CYTOKINE
    assert sorted(loaded.evidence["data"]["files"]) == ["resting.h5ad", "stimulated.h5ad"]
    pools = {r["set"] for r in rows if r["metric"] == "mmd2"}
    assert pools == {"mean over sources", "resting", "stimulated", HELD_OUT}
    assert "Changes, perturbations trained on in other contexts: all" in printed
    assert "Copies of training cells: resting" in printed
    the_tools_read(loaded)


def the_tools_read(checkpoint) -> None:
    residuals = Residuals.from_evidence(checkpoint.evidence, "seen_elsewhere")
    assert residuals is not None
    assert residuals.perturbations == (synthetic.CYTOKINE,)
    assert np.isfinite(residuals.of_genes(synthetic.GENES)).all()
    null = NullLabels.from_evidence(checkpoint.evidence, synthetic.GENES)
    assert null is not None
    assert null.n_shams == 3
    sentence = tier_sentence(checkpoint, "seen_elsewhere")
    assert sentence.startswith("Held out, carried conditions pooled")
    assert "split half" not in sentence


def test_a_peer_may_have_expression_alone(tmp_path: Path):
    conditions = peer_of_expression(tmp_path)
    result = read_peers({"moved": tmp_path}, conditions, {HELD_OUT: 5}, 60)["moved"]
    assert result.arms[0][HELD_OUT].shape == (5, 60)
    assert result.arms[0][HELD_OUT].dtype == np.float32
    with pytest.raises(ValueError, match="has 60 genes; the panel has 61"):
        read_peers({"moved": tmp_path}, conditions, {HELD_OUT: 5}, 61)


def test_a_peer_with_far_fewer_cells_than_the_model_is_refused(tmp_path: Path):
    conditions = peer_of_expression(tmp_path)
    with pytest.raises(ValueError, match=r"has 9 cells; the model samples 12: lower --n-cells"):
        read_peers({"moved": tmp_path}, conditions, {HELD_OUT: 12}, 60)
    result = read_peers({"moved": tmp_path}, conditions, {HELD_OUT: 10}, 60)["moved"]
    assert result.arms[0][HELD_OUT].shape == (9, 60)


def peer_of_expression(folder: Path) -> dict[str, Condition]:
    (folder / "seed-0").mkdir()
    name = f"CD4-T-cell__stimulated__{synthetic.CYTOKINE}.log1p.safetensors"
    blob = save({"log1p_cp10k": np.ones((9, 60), np.float32)})
    (folder / "seed-0" / name).write_bytes(blob)
    context = (("cell_type", synthetic.HELD_OUT), ("dataset", "stimulated"))
    return {HELD_OUT: Condition(context, (synthetic_intervention(),))}


def test_a_folder_that_holds_no_peer_is_refused_with_what_it_should_hold(tmp_path: Path):
    conditions = {"a": Condition((("cell_type", "a"),))}
    with pytest.raises(ValueError, match=r"has no known conditions .* among a"):
        read_peers({"peer": tmp_path}, conditions, {"a": 5}, 60)


def test_all_sources_have_as_many_cells_as_the_one_with_fewest():
    cells = csr(np.arange(1, 13).reshape(6, 2))
    whole = {"a": cells, "b": cells}
    population = Population("x", ["G0", "G1"], np.arange(2), whole, whole)
    sources = {"model": Source([0, 1], [whole, whole]), "peer": Source([0], [{"a": cells[:5]}])}
    result = in_population(sources, population)
    for arms in result["model"].arms:
        assert {name: each.shape[0] for name, each in arms.items()} == {"a": 5, "b": 6}
    assert (result["model"].arms[1]["a"] != cells[:5]).nnz == 0


def test_other_numbers_of_steps_are_sources_beside_the_default(
    folder: Path, checkpoint: Path, tmp_path: Path, sampler: list[ArmRequest]
):
    arguments = (checkpoint, "--data", folder, "--out", tmp_path, "--curve", "2,5")
    printed = run(*arguments, "--seeds", "4", "--n-cells", 20)
    assert {request.steps for request in sampler} == {2, 3, 5}
    assert {request.seed for request in sampler} == {4}
    assert all(f"| {n} steps |" in printed for n in (2, 5))
    assert '"held_out": "validation"' in (tmp_path / "evidence.json").read_text("utf-8")


@pytest.mark.parametrize("options", [["--held-out", "validation"], ["--curve", "2"]])
def test_evidence_never_comes_from_cells_that_chose_settings(
    folder: Path, checkpoint: Path, tmp_path: Path, sampler: list[ArmRequest], options: list[str]
):
    arguments = [str(checkpoint), "--data", str(folder), "--write-evidence", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*arguments, *options])
    assert result.exit_code == 1
    assert "not from the validation slice" in result.output
    assert sampler == []
