"""An intervention seen in several contexts, held out of one: on made data, whose truth is known."""

import sys
from pathlib import Path
from types import SimpleNamespace

import made_contexts as made
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save

import lingshu_model
from lingshu_model.evaluate import distribution, effects, report, response
from lingshu_model.evaluate.__main__ import main
from lingshu_model.evaluate.arms import Condition
from lingshu_model.evaluate.changes import log1p_cp10k, pearson
from lingshu_model.evaluate.composition import markers
from lingshu_model.evaluate.data import load_study, read_gene_sets
from lingshu_model.evaluate.observed import Observed
from lingshu_model.evaluate.peers import read_peers
from lingshu_model.evaluate.predictors import Contexts
from lingshu_model.evaluate.response import overlap
from lingshu_model.evaluate.sparse import dense
from lingshu_model.evaluate.study import ALL_CONTROLS, EVERYTHING, HELD_OUT_CONTROLS, Study
from lingshu_model.wire import ArmRequest, Catalogue, Cells, Intervention, encode_cells
from lingshu_tools.analysis.null import ShamNull
from lingshu_tools.analysis.residuals import Residuals
from lingshu_tools.honesty import evidence_sentence

HELD_OUT = f"{made.HELD_OUT}, stimulated, {made.CYTOKINE}"
CONTROL = f"{made.HELD_OUT}, stimulated"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_data(tmp_path_factory.mktemp("contexts"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def study(folder: Path, checkpoint: Path) -> Study:
    return load_study(Catalogue([checkpoint.parent]).load("made"), folder, None)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer splits and draws than an evaluation makes."""
    kwdefaults = distribution.compare_distributions.__kwdefaults__
    monkeypatch.setitem(kwdefaults, "splits", 4)
    monkeypatch.setattr(effects, "DRAWS", 60)
    monkeypatch.setattr(effects, "MC_DRAWS", 40)
    monkeypatch.setattr(response, "SPLITS", 6)


@pytest.fixture
def fake_sampler(monkeypatch: pytest.MonkeyPatch) -> list[ArmRequest]:
    """A sampler that draws from the truth, and what it was asked for."""
    requests: list[ArmRequest] = []

    def sample_arm(_sampler: object, request: ArmRequest, _workers: int = 1) -> Cells:
        requests.append(request)
        asked = request.context, request.interventions, request.n_cells, request.seed
        return Cells(*made.asked(*asked))

    sampler = SimpleNamespace(profile=lambda: {"device": "made"})
    loader = SimpleNamespace(load=lambda _checkpoint, threads: sampler)
    module = SimpleNamespace(Sampler=loader, sample_arm=sample_arm)
    monkeypatch.setitem(sys.modules, "lingshu_model.sampler", module)
    monkeypatch.setattr(lingshu_model, "sampler", module, raising=False)
    return requests


def _run(*arguments: object) -> str:
    found = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_cells_that_measure_the_same_genes_are_judged_together(study: Study):
    stimulated, resting, everything = study.populations
    assert [p.name for p in study.populations] == ["stimulated", "resting", EVERYTHING]
    assert stimulated.observed.genes == made.GENES
    assert resting.observed.genes == everything.observed.genes == made.ELSEWHERE
    assert everything.joint
    assert not everything.observed.contrasts
    assert everything.observed.test.keys() >= resting.observed.test.keys()


def test_what_was_held_out_of_a_context_is_judged_there_and_trained_nowhere(study: Study):
    (stimulated, *_) = study.populations
    assert stimulated.held_out_contrasts == [made.HELD_OUT]
    assert sorted(stimulated.observed.contrasts) == sorted(set(made.TYPES) - {made.HELD_OUT})
    assert HELD_OUT not in stimulated.observed.train
    assert stimulated.observed.n_test(HELD_OUT) == made.N
    assert HELD_OUT not in stimulated.pools["stimulated"]
    assert stimulated.pools[HELD_OUT] == [HELD_OUT]
    assert HELD_OUT not in stimulated.controls


def test_the_quoted_truth_shares_no_cell_with_what_was_trained_on(study: Study):
    (stimulated, *_) = study.populations
    quoted, all_controls = stimulated.held_out.values()
    assert list(stimulated.held_out) == [HELD_OUT_CONTROLS, ALL_CONTROLS]
    assert quoted.n_test(CONTROL) == round(0.2 * made.N)
    assert all_controls.n_test(CONTROL) == made.N
    trained = {row.tobytes() for row in dense(quoted.train[CONTROL])}
    assert not trained & {row.tobytes() for row in dense(quoted.test[CONTROL])}


def test_both_arms_of_what_is_held_out_get_as_many_cells_as_there_are(study: Study):
    sizes = study.sizes(30)
    assert sizes[HELD_OUT] == sizes[CONTROL] == made.N
    assert sizes["B cell, stimulated"] == 30
    assert sizes["B cell, resting"] == round(0.2 * made.N)


def test_validation_cells_judge_in_place_of_test_cells(folder: Path, checkpoint: Path):
    loaded = Catalogue([checkpoint.parent]).load("made")
    study = load_study(loaded, folder, "validation")
    assert study.held_out == "validation"
    assert all(HELD_OUT not in p.observed.test for p in study.populations)
    assert not study.populations[0].held_out


def test_a_prediction_for_a_context_never_uses_its_own_perturbed_cells(study: Study):
    (stimulated, *_) = study.populations
    contexts = Contexts(stimulated.observed, study.related)
    for i, name in enumerate(stimulated.observed.perturbations):
        others = [
            change.value
            for other, change in contexts.shifts.items()
            if other not in (name, made.HELD_OUT)
        ]
        found = contexts.predictions(stimulated.observed)["mean_shift"][0][i]
        np.testing.assert_allclose(found.value, np.mean(others, axis=0))


def test_baselines_of_a_held_out_context_are_made_of_the_others(study: Study):
    (stimulated, *_) = study.populations
    contexts = Contexts(stimulated.observed, study.related)
    judged = stimulated.held_out[HELD_OUT_CONTROLS]
    found = {name: rows[0][0].value for name, rows in contexts.predictions(judged).items()}
    shifts = {name: change.value for name, change in contexts.shifts.items()}
    np.testing.assert_allclose(found["nearest_context_shift"], shifts["CD8 T cell"])
    related = (shifts["B cell"] + shifts["CD8 T cell"]) / 2
    np.testing.assert_allclose(found["related_mean_shift"], related)
    assert not found["control_mean"].any()
    train = stimulated.observed.train
    perturbed = [log1p_cp10k(dense(train[stimulated.observed.contrasts[n][0]])) for n in shifts]
    control = log1p_cp10k(dense(train[CONTROL])).mean(axis=0)
    expected = np.concatenate(perturbed).mean(axis=0) - control
    np.testing.assert_allclose(found["perturbed_mean"], expected)
    sizes = [len(cells) for cells in perturbed]
    weighted = np.average([shifts[n] for n in shifts], axis=0, weights=sizes)
    np.testing.assert_allclose(found["mean_shift_by_cells"], weighted)


def test_the_overlap_of_top_genes_disregards_sign_and_is_zero_for_no_change():
    real = np.zeros(100)
    real[:20] = np.arange(1, 21)
    predicted = np.where(np.arange(100) < 15, -real - 30, 0.0)
    predicted[50:55] = 9
    assert overlap(0, predicted, real) == pytest.approx(15 / 20)
    assert overlap(0, np.zeros(100), real) == 0
    assert overlap(0, predicted, np.stack([real, predicted])).tolist() == [0.75, 1.0]


def test_markers_are_the_genes_that_exceed_the_other_types_most():
    means = np.array([5.0, 1, 3, 0])
    others = np.array([[1.0, 1, 3, 0], [3.0, 1, 2, 0]])
    assert markers(means, others, 2).tolist() == [0, 2]


def test_a_true_model_wins_the_held_out_response_and_says_so(
    folder: Path, checkpoint: Path, tmp_path: Path, fake_sampler, few_draws
):
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("RAISED\tmade\tISG15\tG1\tG2\tNOWHERE\n", "utf-8")
    peers = _peer(tmp_path / "honest", 7), _peer(tmp_path / "deaf", 8, deaf=True)
    arguments = (checkpoint, "--data", folder, "--out", tmp_path / "out", "--seeds", "0,1")
    named = [f"--peer={path.name}={path}" for path in peers]
    sets = ("--gmt", gmt, "--gene-set", "RAISED")
    printed = _run(*arguments, "--n-cells", 30, *sets, *named, "--write-evidence")
    loaded = Catalogue([checkpoint.parent]).load("made")
    evidence = loaded.evidence
    headline = evidence["tiers"]["seen_elsewhere"]["headline"]
    assert headline["beats_trivial_baseline"] is True
    assert headline["set"] == made.HELD_OUT
    assert headline["verdicts"]["deaf"] == "win"
    assert headline["verdicts"]["honest"] == "tie"
    assert headline["baselines"]["context_mean"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert "split_half_reference" in headline["baselines"]
    found = evidence["tiers"]["seen_elsewhere"]["responses"][made.HELD_OUT]
    assert list(found["figures"]) == sorted([HELD_OUT_CONTROLS, ALL_CONTROLS])
    assert found["figures"][ALL_CONTROLS]["n_cells"] == [made.N, made.N]
    assert found["cells"]["n_cells"] == made.N // 2
    distances = found["cells"]["energy_distance"]
    assert distances["control_mean"]["verdict"] == "win"
    assert distances["deaf"]["value"] > 3 * distances["honest"]["value"]
    assert found["sets"]["ISG15"]["up"] is True
    assert found["sets"]["RAISED"]["genes"] == 3
    assert found["sets"]["RAISED"]["baselines"]["control_mean"] == 0
    assert evidence["data"]["held_out"]["unseen"][0]["target"] == made.CYTOKINE
    assert sorted(evidence["data"]["files"]) == ["resting.h5ad", "stimulated.h5ad"]
    groups = evidence["distribution"]["groups"]
    assert sorted(groups) == sorted(
        [EVERYTHING, "mean over sources", "resting", "stimulated", HELD_OUT]
    )
    assert "resampled_training_cells" not in groups[HELD_OUT]["mmd2"]
    assert evidence["copies"]["sources"] == ["stimulated"] * 2 + ["resting"] * 2
    recognised = evidence["composition"]["stimulated"]["recognised"]
    assert recognised["model"]["monocyte"] > 0.8
    for words in (f"{made.HELD_OUT}: figures against {HELD_OUT_CONTROLS}", "Cells recognised"):
        assert words in printed

    _the_tools_read_it(loaded)


def _the_tools_read_it(loaded) -> None:
    residuals = Residuals.from_evidence(loaded.evidence, "seen_elsewhere")
    assert residuals is not None
    assert residuals.perturbations == (made.CYTOKINE,)
    assert np.isfinite(residuals.of_genes(made.GENES)).all()
    null = ShamNull.from_evidence(loaded.evidence, made.GENES)
    assert null is not None
    assert null.n_shams == 3
    said = evidence_sentence(loaded, "seen_elsewhere")
    assert said.startswith("On held-out cells of seen elsewhere perturbations")
    assert "split half" not in said


def _peer(folder: Path, seed: int, *, deaf: bool = False) -> Path:
    """Write a peer's cells of the stimulated source; a deaf one does not hear the cytokine."""
    for i in (0, 1):
        (folder / f"seed-{i}").mkdir(parents=True)
        for kind in made.TYPES:
            for done in ("control", made.CYTOKINE):
                heard = () if deaf or done == "control" else (_cytokine(),)
                context = {"cell_type": kind, "dataset": "stimulated"}
                cells = Cells(*made.asked(context, heard, made.N, 10 * seed + i))
                name = f"{kind.replace(' ', '-')}__stimulated__{done}.safetensors"
                (folder / f"seed-{i}" / name).write_bytes(encode_cells(cells))
    return folder


def _cytokine() -> Intervention:
    return Intervention(kind="cytokine", target=made.CYTOKINE)


def test_a_peer_may_have_expression_alone(tmp_path: Path):
    (tmp_path / "seed-0").mkdir()
    values = np.ones((9, 60), np.float32)
    name = f"CD4-T-cell__stimulated__{made.CYTOKINE}.log1p.safetensors"
    (tmp_path / "seed-0" / name).write_bytes(save({"log1p_cp10k": values}))
    context = {"cell_type": made.HELD_OUT, "dataset": "stimulated"}
    conditions = {HELD_OUT: Condition(context, (_cytokine(),))}
    found = read_peers({"moved": tmp_path}, conditions, {HELD_OUT: 5}, 60).arms["moved"]
    assert found[0][HELD_OUT].shape == (5, 60)
    assert found[0][HELD_OUT].dtype == np.float32
    with pytest.raises(ValueError, match="has 60 genes; the panel has 61"):
        read_peers({"moved": tmp_path}, conditions, {HELD_OUT: 5}, 61)


def test_all_are_judged_by_as_many_cells_as_the_one_with_fewest():
    cells = np.arange(12).reshape(6, 2)
    model = [{"a": cells, "b": cells}, {"a": cells, "b": cells}]
    found = report._as_many({"model": model, "peer": [{"a": cells[:5]}]})
    sizes = [{name: len(arm) for name, arm in arms.items()} for arms in found["model"]]
    assert sizes == [{"a": 5, "b": 6}] * 2
    assert np.array_equal(found["model"][1]["a"], cells[:5])


def test_a_peer_with_far_fewer_cells_than_the_model_is_refused(tmp_path: Path):
    (tmp_path / "seed-0").mkdir()
    values = np.ones((9, 60), np.float32)
    name = f"CD4-T-cell__stimulated__{made.CYTOKINE}.log1p.safetensors"
    (tmp_path / "seed-0" / name).write_bytes(save({"log1p_cp10k": values}))
    context = {"cell_type": made.HELD_OUT, "dataset": "stimulated"}
    conditions = {HELD_OUT: Condition(context, (_cytokine(),))}
    with pytest.raises(ValueError, match=r"has 9 cells; the model samples 12: lower --n-cells"):
        read_peers({"moved": tmp_path}, conditions, {HELD_OUT: 12}, 60)
    found = read_peers({"moved": tmp_path}, conditions, {HELD_OUT: 10}, 60).arms["moved"]
    assert found[0][HELD_OUT].shape == (9, 60)


def test_a_folder_that_holds_no_peer_is_refused_with_what_it_should_hold(tmp_path: Path):
    conditions = {"a": Condition({"cell_type": "a"})}
    with pytest.raises(ValueError, match=r"has no known conditions .* among a"):
        read_peers({"peer": tmp_path}, conditions, {"a": 5}, 60)


def test_the_curve_has_a_line_per_number_of_steps_beside_a_real_half(
    folder: Path, checkpoint: Path, tmp_path: Path, fake_sampler, few_draws
):
    arguments = (checkpoint, "--data", folder, "--out", tmp_path, "--curve", "2,5", "--seeds", "4")
    printed = _run(*arguments, "--n-cells", 20)
    assert {request.steps for request in fake_sampler} == {2, 5}
    assert {request.seed for request in fake_sampler} == {4}
    lines = (tmp_path / "curve.md").read_text("utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:]] == [
        "2",
        "5",
        "resampled_training_cells",
        "real_split_half",
    ]
    for metric in ("correlation_error", "zero_rate_error", "library_quantile_error", "s per cell"):
        assert metric in printed


def test_evidence_never_comes_from_cells_that_chose_settings(
    folder: Path, checkpoint: Path, tmp_path: Path, fake_sampler
):
    arguments = ["--held-out", "validation", "--write-evidence", "--out", str(tmp_path)]
    found = CliRunner().invoke(main, [str(checkpoint), "--data", str(folder), *arguments])
    assert found.exit_code == 1
    assert "not from the validation slice" in found.output
    assert fake_sampler == []


def test_a_gene_set_that_is_not_there_is_refused_with_what_is(tmp_path: Path):
    path = tmp_path / "sets.gmt"
    path.write_text("ONE\tlink\tA\tB\n", "utf-8")
    assert read_gene_sets(path, ["ONE"]) == {"ONE": ["A", "B"]}
    with pytest.raises(ValueError, match="no gene set 'TWO'; it has ONE"):
        read_gene_sets(path, ["TWO"])


def test_a_context_alone_is_predicted_by_nothing_but_no_change():
    generator = np.random.default_rng(0)
    cells = {n: generator.poisson(3, (20, 5)) for n in ("a", "a, X")}
    alone = Observed([f"G{i}" for i in range(5)], cells, cells, {"a": ("a, X", "a")})
    found = Contexts(alone, {}).predictions(alone)
    assert sorted(found) == ["context_mean", "control_mean"]
    assert pearson(found["control_mean"][0][0].value, np.arange(5.0)) == 0
