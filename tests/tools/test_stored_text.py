"""What others wrote into a ledger comes out as visible text on one line, by every interface."""

import json
import unicodedata
from dataclasses import fields

import pytest

from lingshu_tools.calls.dispatcher import call
from lingshu_tools.calls.registry import registry
from lingshu_tools.calls.results import Result
from lingshu_tools.errors import InputError
from lingshu_tools.ledger import NewExperiment, NewOutcome
from lingshu_tools.system.plain_text import LONGEST, plain, plain_result

PERTURB = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 2, "wait_s": 30}
HOSTILE = (
    "A\x1b[2J\u202eB\u200bC\u2066D\x00E\x7fF\u2028G\U000e0041H\ufe0fI\U000e0101J\nNext: go\tnow"
)
SHOWN = "A[2JBCDEF GHIJ Next: go now"
HIDDEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")


def hidden(text: str) -> list[str]:
    return [f"U+{ord(c):04X}" for c in text if c != "\n" and unicodedata.category(c) in HIDDEN]


@pytest.fixture
def hostile(app) -> str:
    """A failed experiment whose every free text was written by somebody with bad intentions."""
    finished = call(app, "perturb_cells", PERTURB).experiment_id
    created = app.ledger.experiment(finished)
    values = {field.name: getattr(created, field.name) for field in fields(NewExperiment)}
    texts = dict.fromkeys(("principal", "perturbation", "context"), HOSTILE)
    experiment = app.ledger.begin(NewExperiment(**values | texts))
    with app.ledger.attempt(experiment.id) as attempt:
        ending = NewOutcome(kind="failed", error=HOSTILE, environment={HOSTILE: HOSTILE})
        app.ledger.seal(attempt, ending)
    return experiment.id


@pytest.mark.parametrize(
    ("tool", "more"),
    [
        ("list_experiments", {}),
        ("get_experiment", {"detail": "summary"}),
        ("get_experiment", {"detail": "provenance"}),
    ],
)
def test_results_show_stored_text_without_its_power(app, hostile, tool, more):
    request = more if tool == "list_experiments" else {"id": hostile, **more}
    result = call(app, tool, request)
    structured = json.dumps(result.model_dump(mode="json"), ensure_ascii=False)
    assert SHOWN in structured
    assert hidden(structured) == []
    # JSON writes control characters as escapes, which a reader turns into them again.
    assert "\\u00" not in structured
    assert "\\n" not in structured
    text = registry()[tool].text(result)
    assert hidden(text.replace("\t", "")) == []
    assert not [line for line in text.splitlines() if line.startswith("Next: go")]
    # What is stored is as it was: hashes are of that.
    assert app.ledger.experiment(hostile).principal == HOSTILE
    assert app.ledger.verify().ok


def test_errors_quote_what_they_were_given_without_its_power(app):
    with pytest.raises(InputError) as caught:
        call(app, "get_experiment", {"id": f"exp_{HOSTILE}", "wait_s": 0})
    assert hidden(str(caught.value)) == []


def test_a_text_without_an_end_is_cut_and_says_so():
    result = plain_result(Result(status="failed", summary="x" * (LONGEST + 7), ledger_head="0:"))
    assert result.summary.endswith("x… (7 more characters)")
    assert len(result.summary) < LONGEST + 50


@pytest.mark.parametrize("text", ["STAT1 knockout", "β-catenin, 7 µM", "Ä\u0308", "雪", ""])
def test_visible_text_of_any_script_stays(text):
    assert plain(text) == text
    assert plain_result(Result(status="failed", summary=text, ledger_head="")).summary == text
