"""Lists say how many there are and how to get the rest; screens are found again."""

from typing import Any

import pytest

from lingshu_testing import calls_in
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError


def screened(app: App, gene: str, *candidates: str) -> str:
    given = {"objective": {"lower": [gene]}, "candidates": [*candidates], "n_cells": 8}
    result = call(app, "run_screen", given | {"wait_s": 30})
    assert result.status == "succeeded"
    return result.screen_id


def listed(app: App, **given: Any) -> Any:
    return call(app, "list_experiments", {"kind": "screens"} | given)


def test_screens_are_listed_newest_first_with_objective_and_progress(app: App):
    ids = [screened(app, "PSMB9", "STAT1", "JAK2"), screened(app, "TAP1", "IRF1")]
    result = listed(app)
    assert [s.screen_id for s in result.screens] == ids[::-1]
    assert [(s.n_candidates, s.n_ended) for s in result.screens] == [(1, 1), (2, 2)]
    assert [s.objective for s in result.screens] == ["lower TAP1", "lower PSMB9"]
    assert result.experiments == []
    assert result.truncated is None


ODD_PLANS: list[dict[str, Any]] = [
    {"objective": {"lower": ["STAT1"]}},
    {"objective": "lower STAT1"},
    {"objective": {"lower": 5, "raise": None}},
    {"objective": {"aims": [{"kind": "like"}], "lower": [], "raise": []}},
    {"objective": {"sets": [1]}},
    {"objective": {"lower": ["STAT1"], "raise": []}, "context": "THP-1"},
    {"objective": {"lower": ["STAT1"], "raise": []}, "candidates": 7},
    {},
]


@pytest.mark.parametrize("plan", ODD_PLANS)
def test_a_plan_of_another_form_hides_no_screen(app: App, plan: dict[str, Any]):
    known = screened(app, "PSMB9", "STAT1")
    odd = app.ledger.record_screen(plan).id
    result = listed(app)
    assert [screen.screen_id for screen in result.screens] == [odd, known]
    assert result.screens[1].objective == "lower PSMB9"
    assert [s.screen_id for s in listed(app, objective="PSMB9").screens] == [known]


@pytest.mark.parametrize("plan", ODD_PLANS)
@pytest.mark.parametrize(
    ("tool", "name"),
    [("get_experiment", "id"), ("run_screen", "screen_id"), ("plot_experiment", "id"),
     ("propose_batch", "screen_id")],
)  # fmt: skip
def test_a_plan_of_another_form_is_refused_in_words(
    app: App, plan: dict[str, Any], tool: str, name: str
):
    odd = app.ledger.record_screen(plan).id
    with pytest.raises(InputError, match="has a form that this version does not read"):
        call(app, tool, {name: odd})


def test_counting_ends_in_time_and_says_that_there_are_more(
    app: App, monkeypatch: pytest.MonkeyPatch
):
    for seed in range(3):
        given = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 2}
        call(app, "perturb_cells", given | {"seed": seed, "wait_s": 30})
    assert call(app, "list_experiments", {"limit": 1}).truncated.total == 3
    monkeypatch.setattr("lingshu_tools.tools.list_experiments.COUNT_S", -1.0)
    cut = call(app, "list_experiments", {"limit": 1}).truncated
    assert "more than 1 in all" in cut.how_to_get_more


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"objective": "psmb9"}, [0]),
        ({"objective": "PSMB"}, []),
        ({"text": "irf1"}, [1]),
        ({"since": "2020-01-01"}, [1, 0]),
        ({"since": "2999-01-01"}, []),
        ({"checkpoint": "made"}, [1, 0]),
        ({"checkpoint": "other"}, []),
    ],
)
def test_screens_are_found_by_objective_text_day_and_checkpoint(
    app: App, given: dict[str, Any], expected: list[int]
):
    ids = [screened(app, "PSMB9", "STAT1"), screened(app, "TAP1", "IRF1")]
    assert [s.screen_id for s in listed(app, **given).screens] == [ids[i] for i in expected]


def test_the_pages_of_screens_join_and_say_how_many_there_are(app: App):
    ids = [screened(app, "PSMB9", target) for target in ("STAT1", "JAK2", "IRF1")]
    pages: list[str] = []
    arguments: dict[str, Any] = {"kind": "screens", "limit": 1}
    for n in range(3):
        page = call(app, "list_experiments", arguments)
        pages += [s.screen_id for s in page.screens]
        assert "3 screens" in page.summary
        if n < 2:
            assert (page.truncated.shown, page.truncated.total) == (1, 3)
            ((_, arguments),) = calls_in(page.truncated.how_to_get_more)
    assert page.truncated is None
    assert pages == ids[::-1]


def test_what_does_not_find_screens_is_refused(app: App):
    for name, value in (
        ("tool", "run_screen"),
        ("status", "failed"),
        ("tag", "a"),
        ("parent", "x"),
    ):
        with pytest.raises(InputError, match=f"not found by {name}"):
            listed(app, **{name: value})
    with pytest.raises(InputError, match="add kind="):
        call(app, "list_experiments", {"objective": "PSMB9"})
    with pytest.raises(InputError, match="since"):
        listed(app, since="yesterday")


def test_experiments_are_found_by_their_day_and_counted_so(app: App):
    for seed in range(3):
        call(app, "sample_cells", {"n_cells": 4, "seed": seed, "wait_s": 30})
    newest, middle, _ = call(app, "list_experiments", {}).experiments
    result = call(app, "list_experiments", {"since": middle.created_at, "limit": 1})
    assert [e.experiment_id for e in result.experiments] == [newest.experiment_id]
    assert (result.truncated.shown, result.truncated.total) == (1, 2)
    assert call(app, "list_experiments", {"since": "2999-01-01"}).experiments == []


def test_a_summary_of_many_unknown_names_says_how_many_there_are(app: App):
    names = [f"NOGENE{i}" for i in range(33)]
    result = call(app, "find_genes", {"names": names})
    assert "and 13 more of 33" in result.summary
    assert len(result.genes) == 33
    few = call(app, "find_genes", {"names": names[:20]})
    assert "more of" not in few.summary


def test_a_time_to_the_second_includes_all_of_that_second(app: App):
    sampled = call(app, "sample_cells", {"n_cells": 4, "wait_s": 30}).experiment_id
    at = app.ledger.experiment(sampled).created_at
    for since in (f"{at[:19]}Z", at[:19], f"{at[:16]}Z", f"{at[:21]}Z", at, at[:10]):
        result = call(app, "list_experiments", {"since": since})
        assert [e.experiment_id for e in result.experiments] == [sampled], since
    later = f"{at[:-1]}9Z"
    assert call(app, "list_experiments", {"since": later}).experiments == []
