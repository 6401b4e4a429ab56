"""steps, guidance and clamp: part of the row and of replay, refused where they have no effect."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call, parse
from lingshu_tools.calls.registry import registry
from lingshu_tools.engine_client.arms import arms_of
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.sampling_options import resolve_sampling
from lingshu_tools.lab import Lab
from lingshu_tools.report.evidence import design_cost
from lingshu_tools.tools.clamp_argument import clamp_map

STAT1 = {"kind": "knockout", "target": "STAT1"}
LEARNED = {"n_cells": 4, "wait_s": 45, "steps": 3, "clamp": ["PD-L1=0", "IRF1 = 5"]}


@pytest.fixture
def app(open_app: Any, engine: FakeEngine) -> App:
    return open_app(engine)


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return Catalogue().load("thp1-crispr")


def request_of(app: App, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    experiment = call(app, tool, arguments).experiment_id
    return app.ledger.experiment(experiment).request


def test_a_row_and_its_arms_have_steps_guidance_and_clamp(app: App):
    given = {**LEARNED, "interventions": [STAT1], "guidance": 2}
    request = request_of(app, "perturb_cells", given)
    assert (request["steps"], request["guidance"]) == (3, 2.0)
    assert request["clamp"] == {"CD274": 0, "IRF1": 5}
    arms = arms_of("perturb_cells", request)
    assert arms["perturbed"].clamp == request["clamp"]
    # Control is sampled as it is: the clamps stand for what is known of the perturbed cells.
    assert arms["control"].clamp == {}
    assert {(a.steps, a.guidance) for a in arms.values()} == {(3, 2.0)}


def test_a_row_without_them_is_as_before(app: App):
    plain = request_of(app, "sample_cells", {"n_cells": 4})
    same = {"n_cells": 4, "steps": 8, "guidance": 0, "clamp": []}
    assert request_of(app, "sample_cells", same) == plain
    assert "clamp" not in plain


@pytest.mark.parametrize("tool", ["sample_cells", "perturb_cells"])
def test_a_replay_and_the_script_of_another_home_are_the_same(app: App, open_app: Any, tool: str):
    first = call(app, tool, {**LEARNED, "interventions": [STAT1], "guidance": 2})
    assert any("8 and 0" in caveat for caveat in first.caveats)
    assert any("CD274 = 0, IRF1 = 5 are set" in caveat for caveat in first.caveats)
    again = call(app, "replay_experiment", {"id": first.experiment_id, "wait_s": 45})
    assert again.status == "succeeded"
    wanted = {"id": first.experiment_id, "format": "script"}
    script = runpy.run_path(call(app, "export_experiment", wanted).path)
    assert script["main"](Lab(app=open_app(FakeEngine(app.catalogue.load("made").panel), "b"))) == 0


@pytest.mark.parametrize(
    ("delivery", "tool", "given", "words"),
    [
        ("training_cells", "sample_cells", {"steps": 2}, "steps=2 has no use.*stored control"),
        ("training_cells", "sample_cells", {"clamp": {"IRF1": 0}}, "clamp has no use.*stored"),
        ("moved", "perturb_cells", {"guidance": 2.0}, "guidance=2.*closed form.*recipe `paper`"),
        ("moved", "perturb_cells", {"clamp": {"IRF1": 0}}, "clamp.*sample_cells takes clamp"),
        ("pinned", "perturb_cells", {"guidance": 1.5}, "guidance=1.5.*no perturbation"),
        (None, "sample_cells", {"guidance": 2.0}, "control cells have none.*name interventions"),
        (None, "sample_cells", {"clamp": {"STAT1O": 0}}, "STAT1O"),
        (None, "sample_cells", {"clamp": {"CD274": 0, "PD-L1": 1}}, "a gene twice"),
    ],
)
def test_what_a_checkpoint_cannot_do_is_refused_with_the_reason(
    checkpoint: Checkpoint, delivery: str | None, tool: str, given: Any, words: str
):
    delivering = replace(checkpoint, config={**checkpoint.config, "delivery": delivery})
    perturbed = (Intervention(kind="knockout", target="STAT1"),) if tool[0] == "p" else ()
    with pytest.raises(InputError, match=words):
        resolve_sampling(delivering, tool, perturbed, **given)


def test_the_default_is_accepted_everywhere(shipped: Checkpoint):
    sampler = shipped.config["sampler"]
    given = {"steps": sampler["steps"], "guidance": sampler["guidance"]}
    stat1 = (Intervention(kind="knockout", target="STAT1"),)
    assert resolve_sampling(shipped, "perturb_cells", stat1, **given).steps == sampler["steps"]
    assert resolve_sampling(shipped, "perturb_cells", stat1, steps=16).steps == 16


@pytest.mark.parametrize(
    "clamp", [["IRF1"], ["IRF1=-1"], ["IRF1=1.5"], ["IRF1=1", "IRF1=2"], "IRF1=1", [["IRF1", 1]],
              {"IRF1": -1}, [{"gene": "IRF1", "count": 2_000_000}]]
)  # fmt: skip
def test_clamps_of_another_form_are_refused(clamp: Any):
    with pytest.raises(InputError, match="clamp"):
        parse(registry()["sample_cells"], {"clamp": clamp})


def test_clamps_have_three_forms():
    forms = (["IRF1=3"], {"IRF1": 3}, [{"gene": "IRF1", "count": 3}])
    parsed = [parse(registry()["sample_cells"], {"clamp": form}) for form in forms]
    assert parsed[0] == parsed[1] == parsed[2]


def test_a_users_cells_take_none_of_them(app: App, tmp_path: Path):
    given = {"cells": str(tmp_path / "a.h5ad"), "interventions": [STAT1], "steps": 3}
    with pytest.raises(InputError, match="steps has no use beside cells"):
        call(app, "perturb_cells", given)


def test_the_estimate_grows_with_the_passes_of_the_network(app: App):
    def seconds(**given: Any) -> float:
        arguments = parse(registry()["perturb_cells"], {"interventions": [STAT1], **given})
        cost = design_cost(arguments.design(app, "perturb_cells"))
        assert cost.seconds is not None
        return cost.seconds

    assert seconds(steps=16) == pytest.approx(2 * seconds())
    assert seconds(guidance=2) == pytest.approx(2 * seconds())


@pytest.mark.parametrize("given", [{5: 1}, [{"gene": 5, "count": 1}], {None: 0, "IRF1": 1}])
def test_a_gene_that_is_no_text_is_named_as_that(given: object):
    with pytest.raises(ValueError, match=r"(5|None) is no name of a gene") as error:
        clamp_map(given)
    assert "twice" not in str(error.value)
