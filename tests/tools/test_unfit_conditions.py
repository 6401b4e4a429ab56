"""Conditions that failed their fitness check: examples leave them out, scripts run them again."""

import json
import runpy
from pathlib import Path

import pytest

from lingshu_model.contracts import Catalogue
from lingshu_model.contracts.catalogue import pin
from lingshu_testing import CONTEXT, TARGETS, FakeEngine, calls_in, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError
from lingshu_tools.lab import Lab
from lingshu_tools.tools.example_calls import example


class Allowing(FakeEngine):
    """Takes arms of unfit conditions where they are allowed."""

    def submit(self, arm, *, allow_unfit=False, **more):
        assert allow_unfit or not arm.interventions
        return super().submit(arm, **more)


def unfit(checkpoint, *names: str, context: object = CONTEXT) -> None:
    """Write the named knock-outs down as unfit; `control` is the control condition."""
    conditions = [
        {
            "context": context,
            "interventions": [] if name == "control" else [{"kind": "knockout", "target": name}],
            "reasons": ["slope 2.00"],
        }
        for name in names
    ]
    path = checkpoint.path
    (path / "fitness.json").write_text(json.dumps({"conditions": conditions}), "utf-8")
    pin(path)


def test_the_script_of_an_unfit_condition_runs_it_again(open_app, checkpoint, tmp_path: Path):
    unfit(checkpoint, "STAT1")
    app = open_app(Allowing(checkpoint.panel))
    request = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8}
    with pytest.raises(InputError, match="allow_unfit"):
        call(app, "perturb_cells", request)
    done = call(app, "perturb_cells", {**request, "allow_unfit": True, "wait_s": 30}).experiment_id
    script = call(app, "export_experiment", {"id": done, "format": "script", "wait_s": 45}).path
    other = open_app(Allowing(checkpoint.panel), home="another")
    assert runpy.run_path(script)["main"](Lab(app=other)) == 0


def test_every_argument_that_a_request_keeps_is_in_the_script(open_app, checkpoint):
    unfit(checkpoint, "STAT1")
    app = open_app(Allowing(checkpoint.panel))
    request = {
        "interventions": [{"kind": "knockout", "target": "STAT1"}],
        "n_cells": 5,
        "seed": 7,
        "first_cell": 3,
        "steps": 5,
        "guidance": 0.5,
        "clamp": {"IRF1": 2},
        "allow_unfit": True,
        "wait_s": 30,
    }
    done = call(app, "perturb_cells", request).experiment_id
    script = call(app, "export_experiment", {"id": done, "format": "script", "wait_s": 45}).path
    (record,) = runpy.run_path(script)["RECORD"]
    assert record["arguments"].keys() == request.keys() - {"wait_s"} | {"checkpoint", "context"}


def test_an_example_is_a_call_that_is_accepted(open_app, checkpoint):
    unfit(checkpoint, *TARGETS[:2])
    app: App = open_app(Allowing(checkpoint.panel))
    app.catalogue = Catalogue([checkpoint.path.parent])
    text = example(app, "perturb_cells", {})
    ((tool, arguments),) = calls_in(text)
    assert arguments["interventions"][0]["target"] not in TARGETS[:2]
    assert call(app, tool, {**arguments, "dry_run": True}).status == "planned"


def test_a_checkpoint_without_a_fit_perturbation_has_no_example_of_one(open_app, checkpoint):
    unfit(checkpoint, *TARGETS)
    app: App = open_app(Allowing(checkpoint.panel))
    app.catalogue = Catalogue([checkpoint.path.parent])
    assert example(app, "perturb_cells", {}) is None


@pytest.mark.parametrize("name", ["STAT1", "JAK2"])
def test_sampled_cells_of_an_unfit_condition_are_said_to_be_so(open_app, checkpoint, name: str):
    unfit(checkpoint, "STAT1")
    app = open_app(Allowing(checkpoint.panel))
    request = {
        "interventions": [{"kind": "knockout", "target": name}],
        "n_cells": 8,
        "allow_unfit": True,
        "wait_s": 30,
    }
    caveats = call(app, "sample_cells", request).caveats
    assert any("failed the fitness check (slope 2.00)" in c for c in caveats) == (name == "STAT1")


def test_the_unfit_contexts_of_a_mixed_population_are_named(open_app, tmp_path: Path):
    contexts = [{"cell_type": kind, "donor": "p1"} for kind in ("B cell", "CD4 T cell")]
    checkpoint = make_checkpoint(tmp_path / "several", contexts=contexts, control_cells=[300, 600])
    unfit(checkpoint, "STAT1", context=contexts[1])
    app = open_app(Allowing(checkpoint.panel))
    app.catalogue = Catalogue([checkpoint.path.parent])
    request = {"context": {"donor": "p1"}, "n_cells": 8, "wait_s": 30}
    perturbed = {
        **request,
        "interventions": [{"kind": "knockout", "target": "STAT1"}],
        "allow_unfit": True,
    }
    (said,) = [c for c in call(app, "sample_cells", perturbed).caveats if "fitness" in c]
    assert said.startswith("1 of 2 contexts")
    assert "CD4 T cell" in said
    assert "B cell" not in said
    assert not any("fitness" in c for c in call(app, "sample_cells", request).caveats)
