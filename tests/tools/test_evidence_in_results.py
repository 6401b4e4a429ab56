"""A figure is never quoted alone, and a checkpoint that is no good is said to be none."""

from pathlib import Path

import pytest

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.results import BaselineView, EvidenceView, Result
from lingshu_tools.report.evidence import tier_sentence

PERTURB = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8, "wait_s": 30}


@pytest.fixture
def app_with(tmp_path: Path):
    opened: list[App] = []

    def make(**evidence: bool) -> App:
        checkpoint = make_checkpoint(tmp_path / "checkpoints", **evidence)
        engine = FakeEngine(checkpoint.panel)
        catalogue = Catalogue([checkpoint.path.parent])
        opened.append(App(tmp_path / "home", engine=engine, catalogue=catalogue))
        return opened[-1]

    yield make
    for app in opened:
        app.close()


def test_the_held_out_figure_stands_beside_the_best_simple_predictor(app_with):
    result = call(app_with(), "perturb_cells", PERTURB)
    assert "0.62" in result.summary
    # The training mean is a simple predictor too, and better than the mean shift of 0.31.
    assert "worse than a simple predictor (training mean 0.66)" in result.summary
    assert "pooled over seen conditions (twelve strongest)" in result.summary
    assert result.evidence.beats_trivial_baseline is False


def test_what_is_better_than_the_model_is_named_and_a_real_half_is_no_predictor(tmp_path: Path):
    checkpoint = make_checkpoint(tmp_path / "checkpoints")
    headline = checkpoint.evidence["tiers"]["seen"]["headline"]
    headline["baselines"] |= {
        "related_mean_shift": {"value": 0.7, "interval": [0.6, 0.8]},
        "split_half_reference": {"value": 0.9, "interval": [0.8, 1.0]},
    }
    said = tier_sentence(checkpoint, "seen")
    assert "worse than a simple predictor (mean shift of related contexts 0.70)" in said
    assert "split half" not in said


def test_a_checkpoint_that_beats_no_baseline_says_so_in_the_summary(app_with):
    app = app_with(beats_baseline=False)
    for tool, arguments in (("perturb_cells", PERTURB), ("describe_model", {})):
        summary = call(app, tool, arguments).summary
        assert "worse than a simple predictor (training mean 0.66)" in summary
        assert "0.21" in summary


def test_a_checkpoint_without_evidence_says_so_and_gives_no_significance(app_with):
    result = call(app_with(evidence=False), "perturb_cells", PERTURB)
    assert "No held-out figure" in result.summary
    assert result.evidence is None
    assert result.genes[0].sham_q is None
    assert result.genes[0].prediction_error is None
    assert result.magnitude.sham_p is None
    assert any("no null labels" in caveat for caveat in result.caveats)


def test_an_unknown_cost_is_called_unknown(app_with):
    planned = call(app_with(evidence=False), "perturb_cells", PERTURB | {"dry_run": True})
    assert planned.cost.seconds is None
    assert "unknown time" in planned.summary


@pytest.mark.parametrize(
    ("baselines", "best"),
    [
        ({"mean_shift": -0.1, "control_mean": 0.0}, {"control_mean": 0.0}),
        ({"mean_shift": -0.1, "control_mean": -0.2}, {"mean_shift": -0.1}),
        ({"mean_shift": None, "control_mean": 0.0}, {"control_mean": 0.0}),
        ({"mean_shift": None, "control_mean": None}, {}),
    ],
)
def test_a_figure_of_0_can_be_the_best_of_the_simple_ones(baselines: dict, best: dict):
    figures = {name: BaselineView(value=value, interval=None) for name, value in baselines.items()}
    evidence = EvidenceView(
        tier="seen",
        metric="pearson_of_change",
        set="all",
        model=BaselineView(value=0.1, interval=None),
        baselines=figures,
        beats_trivial_baseline=True,
    )
    result = Result(status="succeeded", summary="", ledger_head="", evidence=evidence)
    shown = structured(result, "perturb_cells", {}, detailed=False)["evidence"]["baselines"]
    assert {name: figure["value"] for name, figure in shown.items()} == best
