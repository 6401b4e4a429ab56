"""What the planner refuses: errors that say what is allowed, and nothing stored."""

import pytest

from benchmarks.planning.refusals import CASES, Case, good_screen, refusal
from lingshu_tools.app import App


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.tool}-{case.kind}")
def test_a_call_that_cannot_be_meant_is_refused_and_stores_nothing(app: App, case: Case):
    said, nothing_stored = refusal(app, case, good_screen(app))
    missing = [word for word in case.words if word not in said]
    assert not missing, said
    assert nothing_stored
    assert "failed for a reason of its own" not in said
