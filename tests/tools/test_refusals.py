"""Refusals teach: the value got, what is allowed, and what to do next."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine, calls_in, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call, error_result, find_tool, parse
from lingshu_tools.calls.registry import TOOL_NAMES
from lingshu_tools.errors import InputError, InternalError, NotFoundError

STAT1 = {"kind": "knockout", "target": "STAT1"}
IN_PROGRESS = ("queued", "running")

REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("perturb_cels", {}, ["'perturb_cels'", "'perturb_cells'", "run_screen"]),
    ("perturb_cells", {}, ["interventions is missing"]),
    ("perturb_cells", {"interventions": []}, ["interventions = []", "at least 1"]),
    (
        "perturb_cells",
        {"interventions": [STAT1], "ncells": 5},
        ["ncells", "Did you mean 'n_cells'"],
    ),
    (
        "perturb_cells",
        {"interventions": [{**STAT1, "gene": "JAK2"}]},
        ["interventions[0].gene is not an argument", "kind, target, dose"],
    ),
    ("perturb_cells", {"interventions": [STAT1], "n_cells": "5"}, ["n_cells = '5'", "integer"]),
    ("perturb_cells", {"interventions": [STAT1], "n_cells": 2.5}, ["n_cells = 2.5", "1 to 100000"]),
    ("perturb_cells", {"interventions": [STAT1], "n_cells": 0}, ["n_cells = 0", "1 to 100000"]),
    ("perturb_cells", {"interventions": [STAT1], "seed": -1}, ["seed = -1"]),
    ("perturb_cells", {"interventions": [STAT1], "seed": True}, ["seed = True"]),
    ("perturb_cells", {"interventions": [STAT1], "wait_s": float("nan")}, ["wait_s", "0 to 45"]),
    ("perturb_cells", {"interventions": [STAT1], "wait_s": 60}, ["wait_s = 60", "0 to 45"]),
    (
        "perturb_cells",
        {"interventions": [{"kind": "knockout", "target": "STAT2"}]},
        ["'STAT2'", "IFNGR1"],
    ),
    (
        "perturb_cells",
        {"interventions": [{"kind": "drug", "target": "ruxolitinib"}]},
        ["'drug'", "Trained kinds: knockout"],
    ),
    (
        "perturb_cells",
        {"interventions": [{"kind": "knockout", "target": "sham-00"}]},
        ["'sham-00'", "Trained knockout targets"],
    ),
    ("perturb_cells", {"interventions": [STAT1, STAT1]}, ["'STAT1' twice"]),
    (
        "perturb_cells",
        {"interventions": [{**STAT1, "time": "24 h"}]},
        ["interventions[0].time is not an argument", "kind, target, dose"],
    ),
    (
        "perturb_cells",
        {"interventions": [STAT1], "context": {"cell_line": "THP-1", "time": "24 h"}},
        ["time", "cell_line"],
    ),
    ("perturb_cells", {"interventions": [STAT1], "genes": ["PSMB99"]}, ["'PSMB99'", "PSMB9"]),
    (
        "perturb_cells",
        {"interventions": [STAT1], "context": {"cell_line": "K562"}},
        ["K562", "THP-1"],
    ),
    ("perturb_cells", {"interventions": [STAT1], "checkpoint": "mde"}, ["'mde'", "'made'"]),
    ("sample_cells", {"context": "THP-1"}, ["context = 'THP-1'", "object"]),
    ("find_genes", {}, ["names=[…]", "query"]),
    ("get_experiment", {"id": "exp_nothing"}, ["'exp_nothing'", "list_experiments"]),
    ("get_experiment", {"id": "scr_nothing"}, ["'scr_nothing'"]),
    ("get_experiment", {"id": "exp_x", "detail": "all"}, ["detail = 'all'", "'provenance'"]),
    ("replay_experiment", {"id": "exp_nothing"}, ["'exp_nothing'"]),
    ("list_experiments", {"status": "done"}, ["status = 'done'", "'succeeded'"]),
    ("describe_model", {"verbose": True}, ["verbose is not an argument", "checkpoint"]),
]


@pytest.fixture(scope="module")
def unwritten(tmp_path_factory: pytest.TempPathFactory) -> App:
    """One application for all refusals, since none of them may write."""
    root = tmp_path_factory.mktemp("refusals")
    checkpoint = make_checkpoint(root / "checkpoints")
    catalogue = Catalogue([checkpoint.path.parent])
    return App(root / "home", engine=FakeEngine(checkpoint.panel), catalogue=catalogue)


@pytest.mark.parametrize(("tool", "arguments", "said"), REFUSED)
def test_a_wrong_call_is_told_what_was_wrong_and_what_is_right(
    unwritten: App, tool: str, arguments: dict[str, Any], said: list[str]
):
    app = unwritten
    before = str(app.ledger.head())
    with pytest.raises(InputError) as refusal:
        call(app, tool, arguments)
    text = str(refusal.value)
    assert [part for part in said if part not in text] == []
    assert "pydantic" not in text
    assert str(app.ledger.head()) == before


def test_an_impossible_size_is_refused_before_anything_is_written(app: App, monkeypatch):
    monkeypatch.setattr("lingshu_tools.experiments.designs.MAX_COUNTS", 40 * 2 * 100)
    with pytest.raises(InputError, match="between 1 and 100"):
        call(app, "perturb_cells", {"interventions": [STAT1], "n_cells": 101})
    result = call(app, "perturb_cells", {"interventions": [STAT1], "n_cells": 100, "dry_run": True})
    assert result.status == "planned"


def test_cells_that_do_not_fit_on_the_disk_are_refused_before_anything_is_written(
    app: App, monkeypatch
):
    usage = SimpleNamespace(free=(64 << 20) + 60_000)
    monkeypatch.setattr("lingshu_tools.experiments.disk_space.shutil.disk_usage", lambda _: usage)
    before = str(app.ledger.head())
    with pytest.raises(InputError, match=r"n_cells=100: 200 cells need about .*Free some space"):
        call(app, "perturb_cells", {"interventions": [STAT1], "n_cells": 100})
    assert str(app.ledger.head()) == before
    fits = {"interventions": [STAT1], "n_cells": 60, "wait_s": 30}
    assert call(app, "perturb_cells", fits).status == "succeeded"
    screen = {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1", "JAK2"], "n_cells": 60}
    with pytest.raises(InputError, match="180 cells need about"):
        call(app, "run_screen", screen)


def test_a_sham_is_allowed_when_it_is_named_as_one(app: App):
    null_label = {"kind": "sham", "target": "sham-00"}
    result = call(app, "perturb_cells", {"interventions": [null_label], "n_cells": 4, "wait_s": 30})
    assert result.status == "succeeded"
    assert any("null label" in caveat for caveat in result.caveats)


def test_a_fault_of_ours_is_a_fixed_sentence_and_an_incident(app: App, monkeypatch, capsys):
    def broken(checkpoint: str | None = None) -> None:
        message = "secret detail"
        raise ZeroDivisionError(message)

    monkeypatch.setattr(app.engine, "info", broken)
    with pytest.raises(InternalError) as fault:
        call(app, "describe_model", {})
    text = str(fault.value)
    assert "secret detail" not in text
    incident = text.split("incident ")[1].split(")")[0]
    logged = capsys.readouterr().err
    assert incident in logged
    assert "secret detail" in logged


def test_an_error_can_be_shown_in_the_shape_of_a_result(app: App):
    with pytest.raises(NotFoundError) as refusal:
        call(app, "nothing", {})
    shown = error_result(refusal.value)
    assert shown.status == "error"
    assert shown.error == "NotFoundError"
    assert "'nothing'" in shown.summary


def test_arguments_that_are_no_json_are_refused(app: App):
    with pytest.raises(InputError, match="JSON"):
        call(app, "find_genes", {"names": {"STAT1"}})


REQUIRED: dict[str, dict[str, object]] = {
    "perturb_cells": {"interventions": [STAT1]},
    "plan_screen": {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1"]},
    "propose_batch": {"screen_id": "scr_x"},
    "score_cells": {"cells": "mine.h5ad"},
    "complete_cells": {"cells": "mine.h5ad"},
    "compare_experiments": {"ids": ["exp_x", "exp_y"]},
    "record_measurements": {
        "screen_id": "scr_x",
        "values": [{"perturbation": "STAT1", "value": 1.0}],
        "units": "z_score",
    },
    **{
        name: {"id": "exp_x"}
        for name in (
            "get_experiment",
            "plot_experiment",
            "export_experiment",
            "replay_experiment",
            "cancel_experiment",
        )
    },
}


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_a_null_is_an_optional_argument_left_out(tool: str):
    spec, given = find_tool(tool), REQUIRED.get(tool, {})
    names = [field.alias or name for name, field in spec.arguments.model_fields.items()]
    nulls = dict.fromkeys(names) | given
    assert parse(spec, nulls) == parse(spec, given)
    assert parse(spec, nulls).model_fields_set == set(given)


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_a_required_argument_is_not_null(tool: str):
    spec = find_tool(tool)
    for name, field in spec.arguments.model_fields.items():
        if field.is_required():
            with pytest.raises(InputError, match=f"{name}.* = None"):
                parse(spec, REQUIRED[tool] | {name: None})


def test_a_whole_number_is_an_integer_as_in_json_schema():
    spec = find_tool("perturb_cells")
    given = {"interventions": [STAT1], "n_cells": 64.0, "seed": 1e15, "wait_s": 4.0}
    arguments = parse(spec, given)
    assert (arguments.n_cells, arguments.seed) == (64, 10**15)
    assert isinstance(arguments.n_cells, int)
    for seed in (1e16, 0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match="seed = "):
            parse(spec, given | {"seed": seed})


def test_a_null_inside_an_intervention_is_left_out_too():
    spec = find_tool("perturb_cells")
    assert parse(spec, {"interventions": [{**STAT1, "dose": None}]}) == parse(
        spec, {"interventions": [STAT1]}
    )


@pytest.mark.parametrize(("tool", "arguments", "said"), REFUSED)
def test_a_refusal_shows_a_call_that_is_valid(
    unwritten: App, tool: str, arguments: dict[str, Any], said: list[str]
):
    with pytest.raises(InputError) as refusal:
        call(unwritten, tool, arguments)
    shown = calls_in(str(refusal.value))
    assert shown
    for name, given in shown:
        jsonschema.validate(given, find_tool(name).input_schema)
        assert parse(find_tool(name), given)


@pytest.mark.parametrize("tool", TOOL_NAMES)
def test_the_call_that_a_refusal_shows_can_be_made(app: App, tool: str):
    finished = call(app, "perturb_cells", {"interventions": [STAT1], "n_cells": 8, "wait_s": 45})
    app.runner.wait([finished.experiment_id], 120)
    with pytest.raises(InputError) as refusal:
        call(app, tool, {"no_argument": 1})
    ((name, given),) = calls_in(str(refusal.value))
    # A screen is planned before wells are proposed, and one experiment is compared with none.
    leads = dict.fromkeys(("cancel_experiment", "compare_experiments"), "list_experiments")
    leads["propose_batch"] = "plan_screen"
    # This home knows no file of a user's cells.
    leads |= dict.fromkeys(("score_cells", "complete_cells"), "describe_model")
    leads["record_measurements"] = "plan_screen"
    assert name == leads.get(tool, tool)
    wait = {"wait_s": 0} if "wait_s" in find_tool(name).input_schema["properties"] else {}
    small = {"n_cells": 16} if "n_cells" in find_tool(name).input_schema["properties"] else {}
    assert call(app, name, given | wait | small).status in ("succeeded", "planned", *IN_PROGRESS)


def test_an_unknown_tool_is_refused_with_a_call_of_one_that_there_is(app: App):
    with pytest.raises(NotFoundError) as refusal:
        call(app, "perturb", {})
    assert calls_in(str(refusal.value)) == [("describe_model", {})]


def test_the_call_that_a_refusal_shows_is_of_the_checkpoint_that_was_asked(tmp_path: Path):
    checkpoints = [make_checkpoint(tmp_path / "checkpoints", name=name) for name in ("one", "two")]
    catalogue = Catalogue([tmp_path / "checkpoints"])
    app = App(tmp_path / "home", engine=FakeEngine(checkpoints[0].panel), catalogue=catalogue)
    unknown = {"checkpoint": "two", "interventions": [{"kind": "knockout", "target": "STAT2"}]}
    with pytest.raises(InputError) as refusal:
        call(app, "perturb_cells", unknown)
    ((_, given),) = calls_in(str(refusal.value))
    assert given["checkpoint"] == "two"
