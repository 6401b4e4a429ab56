"""Pictures and exports: the files are what they say, and the server loads none of the libraries."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from made_screens import PANEL, run
from scipy import sparse

from lingshu_model.contracts import Cells, decode_cells, digest_file, encode_cells
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.children import ChildError, export
from lingshu_tools.errors import InputError

SCREEN = {
    "objective": {"lower": ["G01", "T03"]},
    "candidates": ["T01", "T02", "T03"],
    "n_cells": 32,
}
T01 = [{"kind": "knockout", "target": "T01"}]


@pytest.fixture
def screen_id(app: App) -> str:
    return run(app, **SCREEN).screen_id


def perturb(app: App) -> str:
    result = call(app, "perturb_cells", {"interventions": T01, "n_cells": 40, "wait_s": 45})
    assert result.status == "succeeded"
    return result.experiment_id


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_a_ranking_is_drawn_with_the_numbers_behind_it(app: App, screen_id: str):
    drawn = call(app, "plot_experiment", {"id": screen_id, "wait_s": 45})
    assert png_size(Path(drawn.png)) == (drawn.width_px, drawn.height_px)
    assert drawn.width_px > 1000
    svg = Path(drawn.svg).read_text("utf-8")
    assert "prediction error" in svg
    assert "Monte Carlo" in svg
    assert "T03 knockout†" in svg
    rows = list(csv.DictReader(Path(drawn.csv).read_text("utf-8").splitlines()))
    ranking = call(app, "run_screen", {"screen_id": screen_id}).ranking
    assert [r["perturbation"] for r in rows] == [r.perturbation for r in ranking]
    assert [float(r["score"]) for r in rows] == pytest.approx([r.score for r in ranking], rel=1e-4)
    assert [r["own_gene_left_out"] for r in rows].count("True") == 1
    for suffix, path in (("png", drawn.png), ("svg", drawn.svg), ("csv", drawn.csv)):
        assert drawn.digests[suffix] == digest_file(Path(path))


def test_a_volcano_is_drawn_and_equal_numbers_give_equal_files(app: App):
    name = perturb(app)
    request = {"id": name, "wait_s": 45, "top": 5}
    drawn = call(app, "plot_experiment", request)
    assert png_size(Path(drawn.png)) == (drawn.width_px, drawn.height_px)
    assert "null labels" in Path(drawn.svg).read_text("utf-8")
    assert len(list(csv.DictReader(Path(drawn.csv).read_text("utf-8").splitlines()))) == len(PANEL)
    assert (
        call(app, "plot_experiment", {"id": name, "wait_s": 45, "top": 5}).digests == drawn.digests
    )


def test_a_picture_that_does_not_fit_the_id_is_refused(app: App, screen_id: str):
    with pytest.raises(InputError, match=r"'volcano' does not fit .*scr_"):
        call(app, "plot_experiment", {"id": screen_id, "wait_s": 45, "kind": "volcano"})


def test_a_screen_that_was_only_planned_has_nothing_to_draw_or_export(app: App):
    name = call(app, "plan_screen", SCREEN).screen_id
    with pytest.raises(InputError, match="no ranked candidate yet"):
        call(app, "plot_experiment", {"id": name, "wait_s": 45})
    with pytest.raises(InputError, match="no finished experiment"):
        call(app, "export_experiment", {"id": name, "wait_s": 45})


def test_an_exported_experiment_reads_back_with_equal_counts(app: App):
    name = perturb(app)
    result = call(app, "export_experiment", {"id": name, "wait_s": 45})
    assert result.digest == digest_file(Path(result.path))
    read = anndata.read_h5ad(result.path)
    assert sparse.issparse(read.X)
    assert read.X.dtype == np.int32
    outcome = app.ledger.outcome(name)
    for role in ("control", "perturbed"):
        stored = decode_cells(app.ledger.get_object(outcome.artifacts[role]))
        np.testing.assert_array_equal(read[read.obs.arm == role].X.toarray(), stored.counts)
    assert list(read.var_names) == PANEL
    assert read.var.measured.all()
    assert list(read.obs.cell_index[:40]) == list(range(40))
    assert set(read.obs.cell_line) == {"THP-1"}
    assert set(read.obs.perturbation) == {"control", "T01 knockout"}


def test_cells_go_to_the_file_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    counts = np.arange(60, dtype=np.int32).reshape(12, 5) % 7
    arms = []
    for name, part in (("control", counts[:7]), ("perturbed", counts[7:])):
        path = tmp_path / name
        path.write_bytes(encode_cells(Cells(part, np.ones(5, bool))))
        obs = {"experiment_id": "exp_1", "arm": name, "first_cell": 3}
        arms.append({"blob": str(path), "digest": digest_file(path), "obs": obs})
    var = {"symbol": list("abcde"), "ensembl": [""] * 5}
    job = {"arms": arms, "var": var, "uns": {}, "name": "cells.h5ad"}
    for at_once in (1, 9, 1 << 22):
        monkeypatch.setattr(export, "COUNTS_AT_ONCE", at_once)
        assert export.run(job, tmp_path) == {"n_obs": 12, "n_vars": 5}
        read = anndata.read_h5ad(tmp_path / "cells.h5ad")
        np.testing.assert_array_equal(read.X.toarray(), counts)
        assert list(read.obs.cell_index) == [*range(3, 10), *range(3, 8)]


ENCODINGS = {
    "anndata": "0.1.0",
    "array": "0.2.0",
    "categorical": "0.2.0",
    "csr_matrix": "0.1.0",
    "dataframe": "0.2.0",
    "dict": "0.1.0",
    "string": "0.2.0",
    "string-array": "0.2.0",
}
"""What anndata 0.8 wrote, and all releases since have read."""


def test_an_export_has_only_encodings_that_old_readers_know(app: App, screen_id: str):
    result = call(app, "export_experiment", {"id": screen_id, "wait_s": 45})
    encodings: dict[str, str] = {}
    with h5py.File(result.path) as file:
        assert (file.attrs["encoding-type"], file.attrs["encoding-version"]) == ("anndata", "0.1.0")
        file.visititems(lambda name, item: encodings.update({name: describe(item)}))
        texts = {n for n in encodings if isinstance(file[n], h5py.Dataset) and file[n].dtype == "O"}
    # The three arrays of a sparse matrix are plain.
    plain = {f"X/{name}" for name in ("data", "indices", "indptr")}
    assert {name for name, encoding in encodings.items() if not encoding} == plain
    assert all(encodings[name] in ("string 0.2.0", "string-array 0.2.0") for name in texts)
    expected = {f"{kind} {version}" for kind, version in ENCODINGS.items()} - {"anndata 0.1.0"}
    assert {*encodings.values()} - {""} == expected


def describe(item: h5py.Group | h5py.Dataset) -> str:
    return " ".join(item.attrs.get(f"encoding-{what}", "") for what in ("type", "version")).strip()


def test_texts_that_a_cell_lacks_and_names_beyond_ascii_read_back(tmp_path: Path):
    cells = tmp_path / "cells"
    cells.write_bytes(encode_cells(Cells(np.zeros((2, 1), np.int32), np.ones(1, bool))))
    arms = []
    for number, more in enumerate(({"dose": "1 µM", "seed": 2**63 - 1}, {"seed": 0})):
        obs = {"experiment_id": f"exp_{number}", "arm": "cells", "first_cell": 2**40, **more}
        arms.append({"blob": str(cells), "digest": digest_file(cells), "obs": obs})
    var = {"symbol": ["HLA-É"], "ensembl": [""]}
    job = {"arms": arms, "var": var, "uns": {"lingshu": "µ"}, "name": "a.h5ad"}
    export.run(job, tmp_path)
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert list(read.obs.dose) == ["1 µM", "1 µM", np.nan, np.nan]
    assert list(read.obs.seed) == [2**63 - 1] * 2 + [0] * 2
    assert list(read.obs.cell_index) == [2**40, 2**40 + 1] * 2
    assert list(read.var_names) == ["HLA-É"]
    assert read.uns["lingshu"] == "µ"


def test_stored_cells_that_were_damaged_are_not_exported(app: App):
    name = perturb(app)
    digest = app.ledger.outcome(name).artifacts["control"]
    path = app.ledger.object_path(digest)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ChildError, match=f"{digest}: it is damaged; replay its experiment"):
        call(app, "export_experiment", {"id": name, "wait_s": 45})


def test_an_export_carries_where_it_came_from(app: App):
    name = perturb(app)
    read = anndata.read_h5ad(call(app, "export_experiment", {"id": name, "wait_s": 45}).path)
    messages = json.loads(read.uns["lingshu"])
    row = app.ledger.experiment(name)
    assert messages["experiments"][0]["request"] == row.request
    assert messages["experiments"][0]["request_digest"] == row.request_digest
    assert messages["experiments"][0]["environment"]["profile"] == {"device": "fake"}
    assert messages["checkpoint"]["digest"] == row.checkpoint_digest
    assert messages["ledger_head"] == str(app.ledger.head())
    assert messages["evidence"]["seen"]["metric"] == "pearson_of_change"
    assert "not measured" in messages["note"]


def test_an_exported_screen_holds_its_control_once(app: App, screen_id: str):
    result = call(app, "export_experiment", {"id": screen_id, "wait_s": 45})
    read = anndata.read_h5ad(result.path)
    assert result.n_obs == 4 * 32
    assert read.obs_names.is_unique
    assert read.obs.groupby("perturbation", observed=True).size().to_dict() == {
        "control": 32,
        "T01 knockout": 32,
        "T02 knockout": 32,
        "T03 knockout": 32,
    }
    assert json.loads(read.uns["lingshu"])["screen"]["objective"]["lower"] == ["G01", "T03"]


def test_an_export_does_not_depend_on_the_libraries_whose_format_changes():
    code = (
        "import sys, lingshu_tools.children.export, lingshu_tools.children.table; "
        "print(*sorted({'anndata', 'pandas', 'torch', 'mcp'} & {*sys.modules}))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == ""


def test_the_tools_load_no_heavy_library():
    code = (
        "import sys, lingshu_tools.calls.registry as r; r.registry(); "
        "heavy = {'torch', 'scipy', 'pandas', 'anndata', 'matplotlib', 'mcp'}; "
        "print(*sorted(heavy & {*sys.modules}))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == ""
