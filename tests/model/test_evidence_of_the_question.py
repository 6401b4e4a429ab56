"""The figure that an answer quotes is that of its own question, else of the nearest, named."""

from pathlib import Path

import pytest
from made_evidence import PANEL, made_checkpoint, made_evidence

from lingshu_model.contracts import Catalogue, Checkpoint
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call


def answer(app: App, *targets: str, line: str = "a", **more: object):
    done = [{"kind": "knockout", "target": t} for t in targets]
    arguments = {"context": {"line": line}, "interventions": done, "n_cells": 8, "wait_s": 30}
    return call(app, "perturb_cells", arguments | more)


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    ("target", "value", "said"),
    [
        ("G3", 0.8, "better than the best simple predictor (training mean 0.60)"),
        ("G5", 0.02, "not better than no change (best simple: training mean 0.10)"),
        ("G7", 0.5, "worse than a simple predictor (training mean 0.70)"),
    ],
)
def test_the_one_figure_of_a_summary_is_that_of_its_condition(
    app: App, target: str, value: float, said: str, dry: bool
):
    result = answer(app, target, dry_run=dry)
    assert result.held_out.level == "this condition"
    assert (result.held_out.value, result.held_out.n_cells, result.held_out.n_folds) == (
        value,
        77,
        2,
    )
    assert f"Pearson of change {value:.2f} [" in result.summary
    assert result.summary.endswith(f"{said}.")
    assert "On 77 held-out cells of this condition" in result.summary
    # The pooled figures, of the strongest and of all, are not in the sentence.
    assert "0.90" not in result.summary
    assert "0.44" not in result.summary
    assert result.evidence.model.value == 0.44


def test_what_was_not_held_out_quotes_its_tier_and_says_so(app: App):
    result = answer(app, "G3", line="c")
    assert result.support.tier == "seen_elsewhere"
    assert (result.held_out.level, result.held_out.tier) == ("its tier", "carried")
    assert "Nothing was held out of this very condition; pooled over 2 carried" in result.summary
    assert "mean shift 0.30" in result.summary


def test_a_figure_of_another_tier_is_called_borrowed(app: App):
    result = answer(app, "G3", "G5")
    assert (result.held_out.level, result.held_out.tier) == ("another tier", "seen")
    assert "No combination condition was held out; borrowed from another question" in result.summary
    assert result.evidence is None


def test_a_held_out_condition_that_choices_were_adapted_to_is_called_so(app: App):
    result = answer(app, "G3", line="b")
    assert result.held_out.adapted
    assert "choices of the recipe were adapted to held-out cells of it" in result.summary
    assert not answer(app, "G3").held_out.adapted


def test_a_condition_held_out_whole_is_said_to_be_a_harder_question(app: App):
    # G3 has cells in line b: the evidence of that condition is the one without any of them.
    result = answer(app, "G3", line="b")
    assert (result.support.tier, result.held_out.tier) == ("seen", "carried")
    assert "(none of them trained on)" in result.summary


def test_describing_a_checkpoint_lists_the_figure_of_every_condition_in_pages(app: App):
    (view,) = call(app, "describe_model", {}).checkpoints
    assert [(row.condition, row.value, row.holds) for row in view.held_out] == [
        ("G3 knockout in line=a", 0.8, True),
        ("G5 knockout in line=a", 0.02, False),
        ("G7 knockout in line=a", 0.5, False),
        ("G3 knockout in line=b", 0.4, True),
    ]
    result = call(app, "describe_model", {"checkpoint": "made", "limit": 2})
    assert (result.truncated.shown, result.truncated.total) == (2, 4)
    assert "offset=2" in result.truncated.how_to_get_more
    (rest,) = call(app, "describe_model", {"limit": 2, "offset": 2}).checkpoints
    assert [row.value for row in rest.held_out] == [0.5, 0.4]
    assert rest.contexts == [{"line": "c"}]


def test_a_screen_shows_each_candidates_own_figure(app: App):
    screen = {"objective": {"lower": ["G20"]}, "candidates": "all_seen", "n_cells": 16,
              "context": {"line": "a"}}  # fmt: skip
    planned = call(app, "plan_screen", screen)
    assert "On held-out cells of 3 candidates" in planned.summary
    assert "every simple predictor for 1 and not better than no change for 1" in planned.summary
    result = call(app, "run_screen", screen | {"wait_s": 30})
    rows = {row.perturbation: row for row in result.ranking}
    assert rows["G3 knockout"].held_out == [0.8, 0.75, 0.85]
    assert [rows[f"{t} knockout"].beats_simple for t in ("G3", "G5", "G7")] == [True, False, False]
    assert rows["G7 knockout"].held_out == [0.5, 0.45, 0.55]
    assert "G3 knockout" in result.summary
    assert "held-out Pearson 0.80 [0.75, 0.85]" in result.summary


def test_a_figure_is_not_that_of_another_context_or_dose(stored_checkpoint: Checkpoint):
    from lingshu_model.contracts import Intervention
    from lingshu_tools.analysis.held_out import held_out

    here = held_out(stored_checkpoint, {"line": "a"}, [Intervention(kind="knockout", target="G3")])
    elsewhere = held_out(
        stored_checkpoint, {"line": "c"}, [Intervention(kind="knockout", target="G3")]
    )
    dosed = held_out(
        stored_checkpoint, {"line": "a"}, [Intervention(kind="drug", target="G3", dose=2)]
    )
    assert here.level == "this condition"
    assert (elsewhere.level, dosed.level) == ("its tier", "another tier")
    null = held_out(stored_checkpoint, {"line": "a"}, [Intervention(kind="sham", target="sham-00")])
    assert null is None


def test_pooled_evidence_of_an_earlier_format_is_named_as_pooled(tmp_path: Path):

    old = made_evidence()
    seen = old["tiers"]["seen"]
    del seen["overall"], seen["certainty"]
    seen["per_perturbation"] = {"G3": {"pearson": 0.8, "interval": [0.7, 0.9]}}
    seen["headline"]["set"] = "twelve strongest"
    seen["sets"] = {"twelve strongest": [f"g{i}" for i in range(12)]}
    stored_checkpoint = made_checkpoint(tmp_path, old | {"format": "lingshu-evidence-1"})
    app = App(tmp_path / "home", engine=FakeEngine(list(PANEL)),
              catalogue=Catalogue([stored_checkpoint.path.parent]))  # fmt: skip
    result = answer(app, "G3", dry_run=True)
    app.close()
    assert (
        "pooled over 12 seen conditions (twelve strongest): Pearson of change 0.90"
        in result.summary
    )
    assert result.held_out.level == "its tier"
