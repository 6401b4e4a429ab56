"""What plan_screen and run_screen say in their summaries."""

import re
from pathlib import Path

import pytest

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call

SCREEN = {"checkpoint": "thp1-crispr", "candidates": "all_seen", "n_cells": 16,
          "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]}}  # fmt: skip


def test_a_plan_says_what_it_shows_how_well_and_what_it_costs(app: App):
    result = call(app, "plan_screen", SCREEN)
    shows, held_out, cost = re.split(r"(?<=\.) (?=[A-Z0-9])", result.summary)
    assert "not what real cells do" in shows
    assert f"closer than about {result.prediction_error:.2g} are not told apart" in shows
    assert "held-out cells of 25 candidates" in held_out
    assert "416 cells" in cost
    assert "closed form" in cost


def finished(app: App, **more):
    result = call(app, "run_screen", {**SCREEN, "wait_s": 45, **more})
    while result.status in ("queued", "running"):
        result = call(app, "run_screen", {**SCREEN, "wait_s": 45, **more})
    return result


def test_a_ranking_says_the_shape_of_the_rest_and_what_is_open(app: App):
    result = finished(app, top=25)
    scores = sorted(row.score for row in result.ranking[2:])
    assert f"Others {scores[0]:.2g} to {scores[-1]:.2g}, median" in result.summary
    (said,) = re.findall(r"Open \(chance of the top (\d+)\): ([^.]+\.\d+)", result.summary)
    assert int(said[0]) == result.top_k
    chances = {row.perturbation: row.in_top for row in result.ranking}
    nearest = min(chances, key=lambda name: abs(chances[name] - 0.5))
    assert said[1].startswith(f"{nearest} {chances[nearest]:.2f}")


def test_nothing_is_open_where_all_chances_are_clear(app: App):
    result = finished(app, candidates=["STAT1", "CAV1"])
    clear = all(not 0.1 < row.in_top < 0.9 for row in result.ranking)
    assert clear == ("Open (" not in result.summary)
    assert "Others" not in result.summary


@pytest.mark.parametrize("top_n", [2])
def test_the_same_call_proposes_the_same_and_is_recorded_once(app: App, top_n: int):
    objective = {"like": ["STAT1 knockout"], "avoid": ["MYC"], "keep": ["FN1"], "keep_within": 0.7}
    request = SCREEN | {"objective": objective, "candidates": {"pairs_of": "all_seen"}}
    screens = [call(app, "plan_screen", request | {"top_n": top_n}) for _ in range(2)]
    assert screens[0].screen_id == screens[1].screen_id
    plates = [
        call(app, "propose_batch", {"screen_id": screens[0].screen_id, "wait_s": 0})
        for _ in range(2)
    ]
    assert plates[0].picks == plates[1].picks
    assert plates[0].proposal_id == plates[1].proposal_id
    assert len(app.ledger.measurements(screens[0].screen_id)) == 1
    assert app.ledger.verify().ok


def test_measured_pairs_have_a_class_and_predicted_pairs_have_none(tmp_path: Path):
    checkpoint = Catalogue().load("k562-crispra-semisynthetic")
    app = App(tmp_path / "home", engine=FakeEngine(checkpoint.panel))
    pairs = ["IRF1 + SET", "CEBPE + PTPN12", "IRF1 + CEBPE"]
    request = {"checkpoint": checkpoint.name, "objective": {"magnitude": 1}, "candidates": pairs,
               "n_cells": 4, "wait_s": 45}  # fmt: skip
    result = call(app, "run_screen", request)
    while result.status in ("queued", "running"):
        result = call(app, "run_screen", request)
    said = {row.perturbation: row.combination for row in result.ranking}
    assert said["IRF1 crispra + SET crispra"].pair == "additive"
    assert said["CEBPE crispra + PTPN12 crispra"].pair == "suppressive"
    assert said["CEBPE crispra + IRF1 crispra"].pair is None
    first, second = said["IRF1 crispra + SET crispra"].coefficients
    assert 0 < first[1] < first[0] < first[2] < 1.3
    assert 0 < second[1] < second[0] < second[2] < 1.3
    app.close()
