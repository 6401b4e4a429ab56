"""A context field that is left out: cells of all its values, in the proportions of training."""

import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_model.contracts.catalogue import pack_genes, pin
from lingshu_testing import FakeEngine, calls_in, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.engine_client.arms import arms_of
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import design_of
from lingshu_tools.lab import Lab

TYPES = ("B cell", "CD4 T cell", "natural killer cell")
CELLS = {"p1": (300, 600, 100), "p2": (10, 10, 80)}
CONTEXTS = [{"cell_type": t, "donor": d} for d in CELLS for t in TYPES]
SIZES = [n for cells in CELLS.values() for n in cells]
OF_P1 = {"context": {"donor": "p1"}, "n_cells": 128, "wait_s": 45}
KNOCKOUT = {"kind": "knockout", "target": "STAT1"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "checkpoints", contexts=CONTEXTS, control_cells=SIZES)


def rewritten(checkpoint: Checkpoint, **changed: Any) -> Checkpoint:
    """Return a checkpoint with entries of its configuration replaced."""
    file = checkpoint.path / "config.json"
    file.write_text(json.dumps({**checkpoint.config, **changed}), "utf-8")
    pin(checkpoint.path)
    return Catalogue([checkpoint.path.parent]).load(checkpoint.name)


def row(app: App, result: Any) -> dict[str, Any]:
    return app.ledger.experiment(result.experiment_id).request


def shares(result: Any) -> dict[str, float]:
    return {kind.cells: kind.share for kind in result.composition}


def test_the_cells_of_a_donor_come_by_one_call_in_the_proportions_of_its_training_cells(app: App):
    result = call(app, "sample_cells", OF_P1)
    assert result.status == "succeeded"
    # Most frequent first.
    assert [kind.cells for kind in result.composition] == ["CD4 T cell", "B cell", TYPES[2]]
    assert [kind.training_share for kind in result.composition] == [0.6, 0.3, 0.1]
    # 128 stratified cells: each share is off by a few of them at most.
    assert all(abs(k.share - k.training_share) < 0.03 for k in result.composition)
    assert sum(kind.share for kind in result.composition) == pytest.approx(1, abs=1e-3)
    assert "CD4 T cell 60%" in result.summary
    assert "donor=p1 (3 contexts mixed)" in result.summary
    assert any("sorted or subsampled" in caveat for caveat in result.caveats)
    assert result.support.n_cells == 1000


def test_the_plan_is_in_the_row_and_in_its_arm(app: App):
    request = row(app, call(app, "sample_cells", OF_P1))
    assert request["context"] == {"donor": "p1"}
    assert request["mixture"]["of"] == "control"
    parts = [(p["context"], p["weight"]) for p in request["mixture"]["parts"]]
    assert parts == list(zip(CONTEXTS[:3], CELLS["p1"], strict=True))
    arm = arms_of("sample_cells", request)["cells"]
    assert [part.weight for part in arm.mixture] == [300, 600, 100]


def test_one_context_has_a_row_without_a_plan(app: App):
    whole = {"context": CONTEXTS[0], "n_cells": 4, "wait_s": 45}
    result = call(app, "sample_cells", whole)
    assert "mixture" not in row(app, result)
    assert result.composition == []
    # A field that decides the context is enough of it, as ever.
    del whole["context"]
    only = make_checkpoint(app.catalogue.roots[0], name="single", contexts=CONTEXTS[:1])
    result = call(app, "sample_cells", whole | {"checkpoint": only.name})
    assert result.context == CONTEXTS[0]


def test_each_cell_is_one_of_its_type_and_the_file_says_of_which(app: App, engine: FakeEngine):
    result = call(app, "sample_cells", OF_P1 | {"first_cell": 70})
    path = call(app, "export_experiment", {"id": result.experiment_id, "wait_s": 45}).path
    cells = anndata.read_h5ad(path)
    counted = Counter(cells.obs["cell_type"])
    assert {k: n / 128 for k, n in counted.items()} == pytest.approx(shares(result), abs=1e-4)
    assert set(cells.obs["donor"]) == {"p1"}
    arm = design_of(app, app.ledger.experiment(result.experiment_id)).arms["cells"]
    # The fake engine gives every context different rates: a cell under another type would differ.
    for context in CONTEXTS[:3]:
        alone = engine.cells(engine.submit(arm.within(context)).job_id).counts
        rows = np.flatnonzero(cells.obs["cell_type"] == context["cell_type"])
        assert len(rows)
        assert np.array_equal(cells.X[rows].toarray(), alone[rows])  # pyright: ignore[reportIndexIssue]
    table = Path(call(app, "export_experiment", {"id": result.experiment_id, "format": "csv",
                                                  "wait_s": 45}).path)  # fmt: skip
    assert "donor=p1 (3 contexts mixed)" in table.read_text("utf-8").splitlines()[1]


def test_a_replay_and_the_script_of_another_home_give_the_same_cells(app: App, open_app: Any):
    first = call(app, "sample_cells", OF_P1)
    again = call(app, "replay_experiment", {"id": first.experiment_id, "wait_s": 45})
    assert (again.status, again.verdict) == ("succeeded", "exact")
    wanted = {"id": first.experiment_id, "format": "script"}
    script = runpy.run_path(call(app, "export_experiment", wanted).path)
    assert script["main"](Lab(app=open_app(FakeEngine(app.catalogue.load("made").panel), "b"))) == 0


def test_the_plan_of_a_replay_is_that_of_its_row(app: App):
    first = call(app, "sample_cells", OF_P1)
    design = design_of(app, app.ledger.experiment(first.experiment_id))
    # The plan is read from the row, not made again.
    assert design.mixture is not None
    assert design.request == row(app, first)
    other = app.ledger.experiment(first.experiment_id).request | {
        "mixture": {"of": "control", "parts": [{"context": CONTEXTS[0], "weight": 1}]}
    }
    assert arms_of("sample_cells", other)["cells"].digest != design.arms["cells"].digest


def test_a_series_goes_on_where_it_stopped(app: App):
    whole = call(app, "sample_cells", OF_P1)
    halves = [call(app, "sample_cells", OF_P1 | {"n_cells": 64, "first_cell": f}) for f in (0, 64)]
    for kind, share in shares(whole).items():
        assert share == pytest.approx(sum(shares(h)[kind] for h in halves) / 2, abs=1e-4)


def test_pooled_donors_are_said_to_be_pooled(app: App):
    result = call(app, "sample_cells", {"n_cells": 64, "wait_s": 45})
    assert "all contexts (6 contexts mixed)" in result.summary
    # By type over both donors: 310, 610 and 180 of 1,100.
    assert [k.training_share for k in result.composition] == pytest.approx(
        [610 / 1100, 310 / 1100, 180 / 1100], abs=1e-4
    )
    assert any("pooled over 2 of donor" in caveat for caveat in result.caveats)
    listed = call(app, "list_experiments", {})
    assert listed.experiments[0].context == "all contexts (6 contexts mixed)"


def test_a_perturbed_population_has_the_proportions_of_its_cells(
    tmp_path: Path, checkpoint: Checkpoint, open_app: Any
):
    seen = [dict(entry) for entry in checkpoint.config["seen"]]
    for entry in seen:
        if entry["interventions"] == [KNOCKOUT] and entry["context"] == CONTEXTS[1]:
            entry["n_cells"] = 20
    rewritten(checkpoint, seen=seen)
    app = open_app(FakeEngine(checkpoint.panel))
    knocked = OF_P1 | {"interventions": [KNOCKOUT]}
    result = call(app, "sample_cells", knocked)
    assert row(app, result)["mixture"]["of"] == "perturbed"
    # A fifth of the control cells, but for the T cells that the knock-out took away.
    assert [k.training_share for k in result.composition] == pytest.approx([0.6, 0.2, 0.2])
    assert not any("those of control" in caveat for caveat in result.caveats)
    # Without cells of it in one context nothing is known of its proportions.
    rewritten(checkpoint, seen=[e for e in seen if e["n_cells"] != 20])
    result = call(open_app(FakeEngine(checkpoint.panel), "other"), "sample_cells", knocked)
    assert [k.training_share for k in result.composition] == pytest.approx([0.6, 0.3, 0.1])
    assert any("those of control cells" in caveat for caveat in result.caveats)
    assert result.support.tier == "seen_elsewhere"


def printed(error: pytest.ExceptionInfo[InputError]) -> tuple[str, dict[str, Any]]:
    (only,) = calls_in(str(error.value))
    return only


def test_contexts_that_measure_different_genes_are_refused_with_a_call_that_is_not(
    checkpoint: Checkpoint, open_app: Any
):
    n = len(checkpoint.panel)
    sets = {d: pack_genes(np.arange(n) >= i) for i, d in enumerate(CELLS)}
    contexts = [{"context": c, "measured": c["donor"]} for c in CONTEXTS]
    rewritten(checkpoint, contexts=contexts, measured_sets=sets)
    app = open_app(FakeEngine(checkpoint.panel))
    for context in ({}, {"cell_type": "B cell"}):
        with pytest.raises(InputError, match=r"measure different genes.* Name donor") as error:
            call(app, "sample_cells", {"context": context, "n_cells": 4})
        tool, arguments = printed(error)
        assert call(app, tool, arguments | {"n_cells": 4, "wait_s": 45}).status == "succeeded"


def test_a_donor_that_was_not_trained_is_refused_with_the_call_for_all_donors(app: App):
    given = {"context": {"donor": "p9"}, "n_cells": 4}
    with pytest.raises(InputError, match=r"No donor of this name was trained.*pooled") as error:
        call(app, "sample_cells", given)
    tool, arguments = printed(error)
    result = call(app, tool, arguments | {"n_cells": 8, "wait_s": 45})
    assert any("pooled over 2 of donor" in caveat for caveat in result.caveats)


@pytest.mark.parametrize("context", [{}, {"donor": "p1"}, {"donor": "p9"}, {"tissue": "gut"}])
def test_effects_are_of_one_context_and_the_error_names_one(app: App, context: dict[str, str]):
    given = {"context": context, "interventions": [KNOCKOUT], "n_cells": 4}
    with pytest.raises(InputError, match="For example context=") as error:
        call(app, "perturb_cells", given)
    example = str(error.value).splitlines()[0].rpartition("For example context=")[2]
    assert call(
        app, "perturb_cells", given | {"context": json.loads(example), "wait_s": 45}
    ).experiment_id


def test_one_unfit_context_refuses_the_population(checkpoint: Checkpoint, open_app: Any):
    entry = {"context": CONTEXTS[1], "interventions": [KNOCKOUT], "reasons": ["slope 0.2"]}
    (checkpoint.path / "fitness.json").write_text(json.dumps({"conditions": [entry]}), "utf-8")
    rewritten(checkpoint)
    app = open_app(FakeEngine(checkpoint.panel))
    knocked = OF_P1 | {"interventions": [KNOCKOUT]}
    with pytest.raises(InputError, match="cell_type=CD4 T cell, donor=p1 is unfit"):
        call(app, "sample_cells", knocked)


def test_a_dry_run_says_where_the_cells_would_come_from(app: App):
    planned = call(app, "sample_cells", OF_P1 | {"dry_run": True})
    assert "donor=p1 (3 contexts mixed)" in planned.summary
    assert planned.support.n_cells == 1000


@pytest.mark.parametrize("tool", ["sample_cells", "get_experiment"])
def test_many_types_with_long_names_fit_a_concise_answer(
    tmp_path: Path, open_app: Any, checkpoint: Checkpoint, tool: str
):
    names = [f"activated enteroendocrine progenitor of the lamina propria {i}" for i in range(68)]
    contexts = [{"cell_type": name} for name in names]
    sizes = [20 + i for i in range(len(names))]
    make_checkpoint(checkpoint.path.parent, name="gut", contexts=contexts, control_cells=sizes)
    app = open_app(FakeEngine(checkpoint.panel))
    given: dict[str, Any] = {"checkpoint": "gut", "n_cells": 200, "wait_s": 45}
    result = call(app, "sample_cells", given)
    if tool == "get_experiment":
        given = {"id": result.experiment_id}
        result = call(app, tool, given)
    value = structured(result, tool, given, detailed=False)
    assert len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) / 4 <= 600
    assert 3 <= len(value["composition"]) <= 8
    assert f"{68 - len(value['composition'])} further" in result.summary
    # Nothing is lost: the detailed result has every type.
    given |= {"detail": "detailed"} if tool == "sample_cells" else {"detail": "effects"}
    whole = call(app, tool, given)
    assert len(whole.composition) == 68
    assert sum(kind.share for kind in whole.composition) == pytest.approx(1, abs=1e-3)


def test_the_provenance_of_hundreds_of_contexts_stays_short(open_app: Any, checkpoint: Checkpoint):
    contexts = [{"cell_type": f"type {i % 300}", "donor": f"p{i}"} for i in range(600)]
    make_checkpoint(checkpoint.path.parent, name="gut", contexts=contexts, control_cells=[20] * 600)
    app = open_app(FakeEngine(checkpoint.panel))
    given = {"checkpoint": "gut", "n_cells": 64, "wait_s": 45, "detail": "detailed"}
    result = call(app, "sample_cells", given)
    rest = 300 - len(result.composition)
    assert f"{rest} further" in result.summary
    for arguments in (given, {"id": result.experiment_id, "detail": "provenance"}):
        tool = "get_experiment" if "id" in arguments else "sample_cells"
        value = structured(call(app, tool, arguments), tool, arguments, detailed=True)
        assert len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) / 4 <= 4000
    assert value["provenance"]["request"]["mixture"]["n_parts"] == 600
    # All of them are in the row.
    assert len(row(app, result)["mixture"]["parts"]) == 600


@pytest.mark.parametrize("tool", ["perturb_cells", "plan_screen", "run_screen"])
def test_a_checkpoint_of_unperturbed_cells_is_refused_with_a_call_of_another(
    checkpoint: Checkpoint, open_app: Any, tool: str
):
    other = make_checkpoint(checkpoint.path.parent, name="atlas", contexts=CONTEXTS)
    rewritten(other, seen=[e for e in other.config["seen"] if not e["interventions"]])
    app = open_app(FakeEngine(checkpoint.panel))
    given: dict[str, Any] = {"checkpoint": "atlas", "context": CONTEXTS[0]}
    given |= (
        {"interventions": [KNOCKOUT]}
        if tool == "perturb_cells"
        else {"candidates": ["STAT1 knockout"], "objective": {"lower": ["PSMB9"]}}
    )
    with pytest.raises(InputError, match="unperturbed cells alone") as error:
        call(app, tool, given)
    same, arguments = printed(error)
    assert (same, arguments["checkpoint"]) == (tool, "made")
    assert call(app, tool, arguments | {"wait_s": 0} if tool != "plan_screen" else arguments)


def test_a_population_of_contexts_with_few_cells_is_said_to_be_hardly_learned(app: App):
    # 20 of the 100 cells of p2 are of two types with 10 cells each, and 80 of one.
    few = call(app, "sample_cells", OF_P1 | {"context": {"donor": "p2"}})
    assert any(c.startswith("20% are of contexts with fewer than 30") for c in few.caveats)
    assert not any("fewer than" in c for c in call(app, "sample_cells", OF_P1).caveats)
