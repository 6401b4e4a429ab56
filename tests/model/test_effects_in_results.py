"""What a checkpoint stores of an effect reaches results; unfit conditions are refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_training import PANEL, finished, training_cells

from lingshu_model.contracts import ArmRequest, Catalogue, Intervention
from lingshu_model.contracts.catalogue import pin
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_model.engine.http.requests import BadRequestError, check_arm
from lingshu_model.finishing.finish import request
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.findings import unpack_effect
from lingshu_tools.report.effect_view import EffectView
from lingshu_tools.report.experiment_views import shown


class Allowing(FakeEngine):
    """A fake engine that remembers which arms were asked for with `allow_unfit`."""

    def __init__(self) -> None:
        super().__init__(list(PANEL))
        self.allowed: list[ArmRequest] = []

    def submit(self, arm, *, allow_unfit=False, **more):
        if allow_unfit:
            self.allowed.append(arm)
        return super().submit(arm, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    cells = training_cells(contexts=("a", "b"), targets=("G3", "G5"), absent=(("b", "G5"),))
    built = finished(cells, root, shams=0)
    report = json.loads((built.path / "fitness.json").read_text())
    for entry in report["conditions"]:
        if entry["context"] == {"line": "b"} and entry["interventions"][0]["target"] == "G3":
            entry["reasons"] = ["slope 2.00"]
    (built.path / "fitness.json").write_text(json.dumps(report))
    pin(built.path)
    return built.path.parent


@pytest.fixture
def engine() -> Allowing:
    return Allowing()


@pytest.fixture
def app(folder: Path, tmp_path: Path, engine: Allowing) -> Iterator[App]:
    opened = App(tmp_path / "home", engine=engine, catalogue=Catalogue([folder]))
    yield opened
    opened.runner.close()


def requested(target: str, line: str, **more: object) -> dict[str, object]:
    done = [{"kind": "knockout", "target": target}]
    return {"context": {"line": line}, "interventions": done, "n_cells": 8, "wait_s": 30, **more}


@pytest.mark.parametrize(
    ("target", "line", "source"),
    [("G3", "a", "this condition's cells"), ("G5", "b", "carried from other contexts")],
)
def test_a_result_says_where_its_effect_comes_from(app: App, target: str, line: str, source: str):
    observed = call(app, "perturb_cells", requested(target, line, genes=["G3", "G20"]))
    assert observed.status == "succeeded"
    assert observed.effect_source == source
    assert ("Carried from: line=a" in observed.effect_note) == (line == "b")
    effects = Catalogue(app.catalogue.roots).load("made").effects
    assert effects
    stored = effects.effect({"line": line}, [Intervention(kind="knockout", target=target)])
    checkpoint = app.catalogue.load("made")
    model = ErrorModel.from_evidence(checkpoint.evidence, observed.support.tier)
    wider = model.widened(stored.posterior, checkpoint.gene_variance)
    for gene, number in zip(observed.genes, (3, 20), strict=True):
        assert gene.model_mean == pytest.approx(stored.posterior.mean[number], rel=1e-3, abs=1e-6)
        assert gene.sd == pytest.approx(wider.sd[number], rel=1e-3)
        assert gene.lfsr == pytest.approx(max(wider.lfsr[number], 0.001), rel=1e-3)


def test_a_combination_is_said_to_be_one(app: App):
    wanted = requested("G3", "a")
    wanted["interventions"] = [{"kind": "knockout", "target": t} for t in ("G3", "G5")]
    assert call(app, "perturb_cells", wanted).effect_source == "combination"


def test_the_contexts_of_a_carried_part_are_named_too(app: App):
    wanted = requested("G5", "b", detail="detailed")
    wanted["interventions"] = [{"kind": "knockout", "target": t} for t in ("G3", "G5")]
    wanted["allow_unfit"] = True
    observed = call(app, "perturb_cells", wanted)
    assert observed.effect_source == "combination"
    # G3 has cells in b; G5 has none, and comes from a.
    assert observed.effect_note.endswith("Carried from: line=a")


def test_a_combination_is_shown_beside_the_plain_sum_of_its_parts(app: App):
    genes = ["G7", "G20", "G3"]
    single = {
        target: call(app, "perturb_cells", requested(target, "a", genes=genes))
        for target in ("G3", "G5")
    }
    wanted = requested("G3", "a", genes=genes)
    wanted["interventions"] = [{"kind": "knockout", "target": t} for t in ("G3", "G5")]
    double = call(app, "perturb_cells", wanted)
    parts = zip(double.genes, single["G3"].genes, single["G5"].genes, strict=True)
    for both, first, second in parts:
        # Numbers of results have five digits.
        assert both.additive == pytest.approx(first.model_mean + second.model_mean, abs=2e-4)
        assert abs(both.model_mean) <= abs(both.additive) + 1e-4
        assert first.additive is second.additive is None
    (caveat,) = [c for c in double.caveats if "plain sum" in c]
    factor = float(caveat.split(" times as large")[0].split()[-1])
    assert factor > 1
    assert not any("plain sum" in c for c in single["G3"].caveats)


def test_an_unfit_condition_is_refused_by_name_unless_it_is_allowed(app: App, engine: Allowing):
    with pytest.raises(InputError, match=r"G3 knockout in line=b is unfit .*slope 2.00.*allow_unf"):
        call(app, "perturb_cells", requested("G3", "b"))
    observed = call(app, "perturb_cells", requested("G3", "b", allow_unfit=True))
    assert observed.status == "succeeded"
    assert any("failed the fitness check (slope 2.00" in c for c in observed.caveats)
    assert len(engine.allowed) == 2
    row = app.ledger.experiment(observed.experiment_id)
    assert row.request["allow_unfit"] is True
    engine.allowed.clear()
    fit = call(app, "perturb_cells", requested("G3", "a"))
    assert engine.allowed == []
    assert not any("fitness check" in c for c in fit.caveats)
    assert "allow_unfit" not in app.ledger.experiment(fit.experiment_id).request


@pytest.mark.parametrize(("line", "named"), [("a", False), ("b", True)])
def test_a_screen_names_its_unfit_candidates_before_and_after_it_is_run(
    app: App, line: str, named: bool
):
    wanted = {"objective": {"raise": ["G7"]}, "candidates": ["G3", "G5"], "context": {"line": line}}
    planned = call(app, "plan_screen", {**wanted, "n_cells": 16})
    run = call(app, "run_screen", {"screen_id": planned.screen_id, "wait_s": 30})
    for result in (planned, run):
        sentences = [caveat for caveat in result.caveats if caveat.startswith("Unfit: ")]
        assert len(sentences) == named
        assert all("G3 knockout (slope 2.00)" in s and "G5" not in s for s in sentences)


def test_the_engine_refuses_it_too_and_what_it_has_no_effect_of(folder: Path):
    checkpoint = Catalogue([folder]).load("made")
    done = (Intervention(kind="knockout", target="G3"),)
    arm = request(checkpoint, {"line": "b"}, done, 8, 0)
    with pytest.raises(BadRequestError, match="is unfit in made"):
        check_arm(arm, checkpoint)
    check_arm(arm, checkpoint, allow_unfit=True)
    unknown = (Intervention(kind="knockout", target="G30"),)
    with pytest.raises(BadRequestError, match="nothing is known of knockout of 'G30'"):
        check_arm(request(checkpoint, {"line": "a"}, unknown, 8, 0), checkpoint)


def test_nothing_is_said_of_a_gene_that_is_not_measured(app: App):
    result = call(app, "perturb_cells", requested("G3", "a"))
    record = shown(app, result.experiment_id)
    effect = unpack_effect(record.artifact("effects"))
    assert EffectView(record.design, effect).gene(1).lfsr is not None
    arrays = {name: np.array(values) for name, values in effect.arrays().items()}
    for values in arrays.values():
        values[1] = np.nan
    row = EffectView(record.design, replace(effect, **arrays)).gene(1)
    assert row.certainty == "not measured in this context"
    assert (row.change, row.model_mean, row.interval, row.lfsr) == (None, None, None, None)
