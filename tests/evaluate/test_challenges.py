"""The files for the challenges' tools, and the table of what they say."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import CONTROL, GENES, SIZES, Truth

from benchmarks.vcc import __main__ as command
from benchmarks.vcc.cells import COLUMN, mean_factor, write_files
from benchmarks.vcc.cells import CONTROL as LABEL
from lingshu_model.evaluate import Population, Source
from lingshu_model.evaluate.metrics.matrices import csr

ENVS = os.environ.get("LINGSHU_PEER_ENVS")


def cells(n: int, seed: int) -> dict[str, object]:
    return {name: csr(each) for name, each in Truth().arms(n, seed).items()}


@pytest.fixture(scope="module")
def population() -> Population:
    return Truth().study(n_test=60).populations[0]


@pytest.fixture(scope="module")
def folder(population: Population, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vcc")
    expression = {name: each.astype(float) for name, each in cells(60, 8).items()}
    sources = {
        "model": Source([3, 4], [cells(50, 5), cells(50, 6)], paired=True),
        "peer": Source([0], [{n: c for n, c in cells(60, 7).items() if n != CONTROL}]),
        "means": Source([0], [expression]),
    }
    write_files(population, sources, folder)
    return folder


def test_every_predictor_and_seed_has_a_file_of_raw_counts(folder: Path):
    simple = ("model", "control_mean", "mean_shift", "resampled_training_cells")
    expected = {f"{name}-seed{seed}" for name in simple for seed in (3, 4)}
    assert {path.stem for path in folder.glob("*.h5ad")} == {"real", "peer-seed0", *expected}
    for path in folder.glob("*.h5ad"):
        data = anndata.read_h5ad(path)
        assert [*data.var_names] == GENES
        assert data.obs[COLUMN].nunique() == len(SIZES)
        assert (data.X.data == np.rint(data.X.data)).all()
        assert data.X.data.min() > 0


def test_everyone_predicts_as_many_cells_as_the_model_sampled(folder: Path):
    for path in folder.glob("*.h5ad"):
        counts = anndata.read_h5ad(path).obs[COLUMN].value_counts()
        n = 60 if path.stem == "real" else 50
        assert set(counts[counts.index != LABEL]) == {n}, path


def test_a_source_without_control_cells_has_the_held_out_ones(folder: Path):
    both = [anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("real", "peer-seed0")]
    controls = [data[data.obs[COLUMN] == LABEL].X.toarray() for data in both]
    np.testing.assert_array_equal(*controls)


def test_the_mean_shift_moves_control_cells_by_the_mean_training_change(
    folder: Path, population: Population
):
    train = {LABEL if n == CONTROL else n: c for n, c in population.train.items()}
    shares = {n: c.sum(axis=0) / c.sum() for n, c in train.items()}
    expected = np.mean([v for n, v in shares.items() if n != LABEL], axis=0) / shares[LABEL]
    np.testing.assert_allclose(mean_factor(train), expected)
    data = anndata.read_h5ad(folder / "mean_shift-seed3.h5ad")
    perturbed = data.X[(data.obs[COLUMN] != LABEL).to_numpy()].mean(axis=0).A1
    control = data.X[(data.obs[COLUMN] == LABEL).to_numpy()].mean(axis=0).A1
    assert np.corrcoef(perturbed / control, expected)[0, 1] > 0.9


def test_perturbations_with_several_controls_are_refused(tmp_path: Path, population: Population):
    renamed = [
        c.__class__(**{**c.__dict__, "control": "other"}) if c.name == "weak" else c
        for c in population.contrasts
    ]
    several = Population(**{**population.__dict__, "contrasts": renamed})
    with pytest.raises(ValueError, match="has 2 controls; the challenges' metrics need"):
        write_files(several, {"model": Source([0], [cells(20, 5)])}, tmp_path)


def scores(*rows: tuple[str, str, str, str, float]) -> list[dict[str, str]]:
    names = ("tool", "predictor", "metric", "perturbation", "value")
    return [dict(zip(names, map(str, row), strict=True)) for row in rows]


def test_the_summary_averages_seeds_and_scales_by_baseline_and_replicate():
    text = command.summary(
        scores(
            ("cell-eval", "model-seed0", "mae", "", 0.25),
            ("cell-eval", "model-seed1", "mae", "", 0.75),
            ("cell-eval", "model-seed0", "mae", "STAT1", 9.0),
            ("cell-eval", "model-seed0", "roc_auc", "", 0.5),
            ("cell-eval2", "model-seed0", "pds_cosine", "", 0.75),
            ("cell-eval2", "baseline", "pds_cosine", "", 0.5),
            ("cell-eval2", "replicate", "pds_cosine", "", 0.9),
        )
    )
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    assert lines[0] == ["tool", "metric", "model", "baseline", "replicate"]
    assert lines[2] == ["cell-eval", "mae", "0.5", "", ""]
    assert lines[3] == ["cell-eval2", "pds_cosine", "0.75", "0.5", "0.9"]
    assert lines[4] == ["cell-eval2", "pds_cosine, scaled", "0.625", "0", "1"]
    assert len(lines) == 5


def test_scoring_runs_the_script_in_the_environment_and_prints_the_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = tmp_path / "scorer.py"
    script.write_text(
        "import pathlib, sys\n"
        "rows = 'tool,version,predictor,metric,perturbation,value\\n'\n"
        "rows += 'cell-eval,0.8.2,model-seed0,mae,,0.25\\n'\n"
        "pathlib.Path(sys.argv[1], 'scores.csv').write_text(rows)\n"
    )
    monkeypatch.setattr(command, "HERE", tmp_path)
    monkeypatch.setattr(command, "python_of", lambda *_: Path(sys.executable))
    result = CliRunner().invoke(command.main, ["score", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "| cell-eval | mae | 0.25 |" in result.output


@pytest.mark.slow
@pytest.mark.skipif(not ENVS, reason="LINGSHU_PEER_ENVS names no folder of environments")
def test_the_tools_score_every_file_and_prefer_the_truth(folder: Path):
    result = CliRunner().invoke(
        command.main, ["score", str(folder), "--envs", str(ENVS)], catch_exceptions=False
    )
    assert result.exit_code == 0
    with (folder / "scores.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {(r["tool"], r["version"]) for r in rows} == {
        ("cell-eval", "0.8.2"),
        ("cell-eval2", "0.20.0"),
    }
    means = {
        (r["metric"], r["predictor"]): float(r["value"]) for r in rows if not r["perturbation"]
    }
    for metric in ("pearson_delta", "pds_cosine"):
        assert means[metric, "model-seed3"] > means[metric, "control_mean-seed3"]
    files = {path.stem for path in folder.glob("*.h5ad")} - {"real"}
    assert {r["predictor"] for r in rows} == files | {"baseline", "replicate"}
    before = (folder / "scores.csv").read_text()
    subprocess.run(
        [sys.executable, "-P", "-m", "benchmarks.vcc", "score", folder, "--envs", ENVS],
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (folder / "scores.csv").read_text() == before
