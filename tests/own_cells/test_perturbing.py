"""A user's cells perturbed: paired with themselves, recorded, replayed, refused in words."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from user_cells_lab import PANEL, cells_of, patiently

from lingshu_model.contracts import ArmRequest, Checkpoint, Intervention, decode_cells, digest_json
from lingshu_model.contracts.user_cells import FOLDER
from lingshu_model.user_cells.carrying import carried, target_of
from lingshu_model.user_cells.reading import Selection, read_cells
from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError

pytestmark = pytest.mark.usefixtures("open_folder")
KNOCKOUT = [{"kind": "knockout", "target": "G3"}]


def request(file: Path, **more: object) -> dict[str, object]:
    return {"interventions": KNOCKOUT, "cells": str(file), **more}


def stored(app: App, experiment_id: str, role: str):
    outcome = app.ledger.outcome(experiment_id)
    assert outcome
    return decode_cells(app.ledger.get_object(outcome.artifacts[role]))


@pytest.fixture
def partial_file(folder: Path) -> Path:
    """70 cells without the first ten genes of the panel."""
    path = folder / "partial.h5ad"
    cells_of(70, genes=PANEL[10:], seed=4).write_h5ad(path)
    return path


def test_the_users_cells_are_the_control_and_the_carried_effect_moves_them(
    app: App, checkpoint: Checkpoint, partial_file: Path
):
    result = patiently(app, "perturb_cells", request(partial_file, detail="detailed"))
    assert result.status == "succeeded"
    assert (result.support.tier, result.n_cells) == ("seen_elsewhere", 70)
    assert result.effect_source == "carried from other contexts"
    assert result.effect_note.endswith("Carried from: line=a; line=b; line=c")
    control = stored(app, result.experiment_id, "control")
    perturbed = stored(app, result.experiment_id, "perturbed")
    x = anndata.read_h5ad(partial_file).X.toarray()
    assert np.array_equal(control.counts[:, 10:], x)
    for cells in (control, perturbed):
        assert cells.measured.tolist() == [False] * 10 + [True] * 110
        assert not cells.counts[:, :10].any()
    # What the estimate says of these cells is what is delivered to them.
    cells = read_cells(partial_file, checkpoint, Selection()).cells
    target = target_of(cells, checkpoint)
    effect = carried(checkpoint, [Intervention(**KNOCKOUT[0])], target).posterior
    levels = [np.log1p(c.counts * 1e4 * target.share / c.counts.sum(1, keepdims=True)).mean(0)
              for c in (control, perturbed)]  # fmt: skip
    change = levels[1] - levels[0]
    sure = np.flatnonzero(effect.lfsr < 0.05)
    assert len(sure) >= 3
    assert np.corrcoef(change[sure], effect.mean[sure])[0, 1] > 0.9


def test_genes_that_the_file_lacks_have_no_effect_and_no_row(app: App, partial_file: Path):
    result = patiently(app, "perturb_cells", request(partial_file, genes=["G3", "G50"]))
    assert [gene.change is None for gene in result.genes] == [True, False]
    assert (result.user_cells.genes.missing, result.user_cells.genes.matched) == (10, 110)


def test_the_ledger_row_names_file_cells_and_effect_by_digest(app: App, file: Path):
    result = patiently(app, "perturb_cells", request(file, cells_where={"cell_type": "B"}))
    row = app.ledger.experiment(result.experiment_id)
    cells = row.request["cells"]
    assert cells["where"] == {"cell_type": "B"}
    assert all(cells[name].startswith("sha256:") for name in ("digest", "effect", "file_digest"))
    assert row.request["n_cells"] == 40
    assert row.context.startswith("cells=mine.h5ad ")
    assert app.ledger.verify().ok


def test_a_replay_is_exact_also_after_the_stored_cells_are_gone(app: App, file: Path):
    first = patiently(app, "perturb_cells", request(file, n_cells=50, seed=7))
    assert patiently(app, "replay_experiment", {"id": first.experiment_id}).verdict == "exact"
    shutil.rmtree(app.home / FOLDER)
    replayed = patiently(app, "replay_experiment", {"id": first.experiment_id})
    assert replayed.verdict == "exact"


@pytest.mark.parametrize("change", ["written", "gone", "closed"])
def test_a_replay_is_refused_once_the_file_is_not_as_it_was(
    app: App, file: Path, folder: Path, change: str
):
    first = patiently(app, "perturb_cells", request(file, n_cells=20))
    rows = len(app.ledger.find(limit=50).items)
    if change == "written":
        cells_of(81).write_h5ad(file)
        words = r"sha256:\w+ now: put it back"
    elif change == "gone":
        file.unlink()
        words = "there is no file"
    else:
        from lingshu_tools.user_cells import Roots

        Roots(app.home).remove(folder)
        words = "no folder is allowed"
    with pytest.raises(InputError, match=words) as refused:
        call(app, "replay_experiment", {"id": first.experiment_id})
    assert first.experiment_id in str(refused.value)
    assert len(app.ledger.find(limit=50).items) == rows


def test_a_combination_is_put_together_of_carried_parts(app: App, file: Path):
    pair = [*KNOCKOUT, {"kind": "knockout", "target": "G5"}]
    result = patiently(app, "perturb_cells", {"interventions": pair, "cells": str(file)})
    assert result.status == "succeeded"
    assert (result.support.tier, result.effect_source) == ("combination_of_seen", "combination")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"context": {"line": "a"}}, "context has no use beside cells"),
        ({"first_cell": 5}, "first_cell has no use"),
        ({"n_cells": 5001}, "at most 5,000"),
        ({"interventions": [{"kind": "knockout", "target": "G7"}]}, "no knockout target 'G7'"),
        ({"cells": "/etc/passwd"}, "no allowed folder"),
        ({"cells": None, "cells_where": {"cell_type": "B"}}, "name it with cells"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_begun(
    app: App, file: Path, more: dict[str, object], words: str
):
    with pytest.raises(InputError, match=words):
        patiently(app, "perturb_cells", {**request(file), **more})
    assert not app.ledger.find(limit=5).items


def test_a_dry_run_reports_the_genes_by_name_and_begins_nothing(app: App, partial_file: Path):
    result = patiently(app, "perturb_cells", request(partial_file, dry_run=True, detail="detailed"))
    assert result.status == "planned"
    assert result.user_cells.genes.missing_names == list(PANEL[:10])
    assert not app.ledger.find(limit=5).items


def test_a_concise_result_is_within_600_tokens(app: App, file: Path):
    arguments = request(file)
    result = patiently(app, "perturb_cells", arguments)
    value = structured(result, "perturb_cells", arguments, detailed=False)
    assert len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) <= 2400
    required = {"status", "summary", "experiment_id", "ledger_head", "next_step", "user_cells"}
    assert required <= value.keys()


def test_the_experiment_is_shown_exported_and_scripted_like_others(app: App, file: Path):
    result = patiently(app, "perturb_cells", request(file, n_cells=12))
    shown = call(app, "get_experiment", {"id": result.experiment_id, "detail": "provenance"})
    assert shown.provenance.request["cells"]["file"] == str(file.resolve())
    h5ad = patiently(app, "export_experiment", {"id": result.experiment_id})
    cells = anndata.read_h5ad(h5ad.path)
    assert cells.obs["arm"].value_counts().to_dict() == {"control": 12, "perturbed": 12}
    assert "as they were measured" in cells.uns["lingshu"]
    rows = patiently(app, "export_experiment", {"id": result.experiment_id, "format": "csv"})
    assert rows.rows == len(PANEL)
    script = patiently(app, "export_experiment", {"id": result.experiment_id, "format": "script"})
    text = Path(script.path).read_text()
    assert f"'cells': {str(file.resolve())!r}" in text
    assert "'n_cells': 12" in text


def test_arms_and_requests_of_simulated_cells_keep_their_digests():
    arm = ArmRequest(
        checkpoint="c", checkpoint_digest="d", context={"line": "a"}, seed=1, n_cells=2, steps=3
    )
    fields = {
        "checkpoint": "c",
        "checkpoint_digest": "d",
        "context": {"line": "a"},
        "interventions": [],
        "seed": 1,
        "first_cell": 0,
        "n_cells": 2,
        "steps": 3,
        "guidance": 0.0,
        "clamp": {},
    }
    assert arm.digest == digest_json(fields)
    assert arm.model_copy(update={"cells": "sha256:x"}).digest != arm.digest


def test_cells_do_not_depend_on_the_tile_they_are_computed_in(app: App, file: Path):
    result = patiently(app, "perturb_cells", request(file, n_cells=80))
    whole = stored(app, result.experiment_id, "perturbed").counts
    arm = next(a for a in app.engine.arms.values() if a.effect)
    part = arm.model_copy(update={"first_cell": 37, "n_cells": 5})
    app.engine.submit(part)
    assert np.array_equal(app.engine.cells(part.digest).counts, whole[37:42])


def test_the_engine_refuses_cells_that_it_does_not_have_or_that_were_changed(app: App, file: Path):
    patiently(app, "perturb_cells", request(file))
    arm = next(a for a in app.engine.arms.values() if a.effect)
    other = arm.model_copy(update={"cells": "sha256:" + "0" * 64})
    with pytest.raises(InputError, match="are not in"):
        app.engine.submit(other)
    with pytest.raises(InputError, match="of 80"):
        app.engine.submit(arm.model_copy(update={"n_cells": 81}))
    path = app.engine.store.path(arm.cells, "cells")
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(InputError, match="does not have its digest"):
        app.engine.submit(arm)
