"""`Lab.inspect` and `Lab.train`: a user's own cells from Python, and the command `train`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_data import adata_of

from lingshu_model.train import __main__ as command
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.own_data import specify
from lingshu_model.train.spec import TrainingSpec
from lingshu_tools import Lab
from lingshu_tools.errors import InputError
from lingshu_tools.training import child


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command changes of its process is not changed of the tests'."""
    monkeypatch.setattr(command, "end_by_signals", lambda: None)
    monkeypatch.setattr(command, "_settle", lambda _: None)


def test_cells_in_memory_are_inspected_and_nothing_of_them_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(child.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with Lab(tmp_path / "home") as lab:
        matches = lab.inspect(adata_of(), control="ctrl", context={"cell_line": "K562"})
    assert matches.trainable
    assert matches.details["context"] == {"cell_line": "K562"}
    assert matches.details["conditions"] == {"": 40, "A": 40, "B": 40}
    assert "perturbation" in str(matches)
    assert not [*(tmp_path / "temporary").iterdir()]


def test_what_is_said_wrongly_of_cells_is_refused(tmp_path: Path):
    with Lab(tmp_path / "home") as lab:
        with pytest.raises(InputError, match="there is no option 'controls'"):
            lab.inspect(adata_of(), controls="ctrl")
        with pytest.raises(InputError, match="did you mean 'ctrl'"):
            lab.inspect(adata_of(), control="Ctrl")


def test_options_become_those_of_the_command():
    said = {"control": ["NT", "safe"], "context": {"a": "b"}, "kind": None, "gene_names": "s"}
    assert child.arguments(said) == [
        "--control", "NT", "--control", "safe", "--context", "a=b", "--gene-names", "s",
    ]  # fmt: skip


@pytest.mark.slow
def test_cells_in_memory_are_trained_on_and_can_be_asked_about(tmp_path: Path):
    with Lab(tmp_path / "home") as lab:
        trained = lab.train(adata_of(400), name="mine", out=tmp_path / "runs", recipe="effects")
        assert trained.folder == tmp_path / "runs" / "mine"
        assert lab.app.catalogue.load("mine").config["targets"][:2] == ["A", "B"]
        assert "to use it: lingshu models add" in trained.report
        # The same call goes on from what is there.
        lab.train(adata_of(400), name="mine", out=tmp_path / "runs", recipe="effects")
        described = lab.describe_model(checkpoint="mine")
    assert described.status == "succeeded"


def specified(folder: Path, **options: object) -> TrainingSpec:
    schedule = {"recipe": "default", "epochs": None, "minutes": 8.0, "allow_unfit": False}
    return specify(
        folder / "d.h5ad",
        folder / "runs",
        Options(),
        name=None,
        yes=True,
        schedule={**schedule, **options},
    )


def test_the_specification_is_kept_and_its_epochs_stay(tmp_path: Path):
    adata_of().write_h5ad(tmp_path / "d.h5ad")
    first = specified(tmp_path)
    kept = tmp_path / "runs" / "d" / "spec.json"
    assert TrainingSpec.read(kept) == first
    # A run that was begun on another machine goes on with its own number of epochs.
    value = json.loads(kept.read_text())
    value["epochs"] = first.epochs + 3
    kept.write_text(json.dumps(value))
    assert specified(tmp_path).epochs == first.epochs + 3
    assert specified(tmp_path, epochs=2).epochs == 2


def test_nobody_is_asked_on_a_pipe(tmp_path: Path):
    adata_of().write_h5ad(tmp_path / "d.h5ad")
    line = [str(tmp_path / "d.h5ad"), "--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(command.main, line)
    assert result.exit_code == 2
    assert "give --yes" in result.stderr
    assert "perturbation  obs['condition']" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(tmp_path: Path):
    adata_of(labels=("A", "B")).write_h5ad(tmp_path / "d.h5ad")
    line = [str(tmp_path / "d.h5ad"), "--out", str(tmp_path / "runs"), "--yes"]
    result = CliRunner().invoke(command.main, line)
    assert result.exit_code == 1
    assert "names a perturbation and control cells" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_specification_and_options_that_say_the_same_are_refused(tmp_path: Path):
    (tmp_path / "s.json").write_text("{}")
    line = [str(tmp_path / "s.json"), "--control", "NT"]
    result = CliRunner().invoke(command.main, line)
    assert result.exit_code == 2
    assert "--control describes an AnnData file" in result.stderr


def test_the_schema_is_printed():
    result = CliRunner().invoke(command.main, ["--schema"])
    assert result.exit_code == 0
    assert "gene_names" in json.dumps(json.loads(result.output)["$defs"])
