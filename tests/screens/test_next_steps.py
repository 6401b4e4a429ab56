"""No next step is a dead end: every one that a tool prints can be executed as it is printed.

Each situation is followed to its end: the calls of a next step are made, then those of its result,
until nothing is left to do. A next step that leads back to where it was printed is a dead end too.
"""

import re
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_screens import PANEL, SMALL, TARGETS, make_checkpoint, open_app

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine, calls_in
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call, find_tool, parse
from lingshu_tools.calls.registry import TOOL_NAMES
from lingshu_tools.errors import EngineError
from lingshu_tools.tools.example_calls import control_call, genes_call, perturbation_call

KNOCK_OUT = {"interventions": [{"kind": "knockout", "target": "T01"}], "n_cells": 8}
SAMPLE = {"n_cells": 8}
SCREEN = SMALL | {"n_cells": 8}
TOOLS: dict[str, dict[str, Any]] = {
    "perturb_cells": KNOCK_OUT,
    "sample_cells": SAMPLE,
    "run_screen": SCREEN,
}
IN_PROGRESS = ("queued", "running", "interrupted")
DRAWN = ("plot_experiment", "export_experiment")
"""Their children take seconds: executed in tests of their own, and checked as calls elsewhere."""
LONGEST_PATH = 12


class StuckEngine(FakeEngine):
    def wait(self, job_id: str, wait_s: float):
        view = super().wait(job_id, wait_s)
        return view.model_copy(update={"state": "running", "done": 0, "seconds": None})


class FailingEngine(FakeEngine):
    def wait(self, job_id: str, wait_s: float):
        view = super().wait(job_id, wait_s)
        return view.model_copy(update={"state": "failed", "error": "not enough memory"})


class AbsentEngine(FakeEngine):
    def submit(self, arm, **_):
        message = "no torch here: pip install 'lingshu-tools[model]'"
        raise EngineError(message)


def tools_without_a_call(text: str) -> list[str]:
    """Return the tools that a text names without arguments: nobody can execute a name."""
    return re.findall(rf"\b(?:{'|'.join(TOOL_NAMES)})\b(?!\()", text)


def execute(app: App, tool: str, arguments: dict[str, Any]) -> Any:
    """Return the result of a call when nothing of it is under way any more."""
    result = call(app, tool, arguments)
    while result.status in ("queued", "running") and tool != "cancel_experiment":
        # Machines may be slow; the next step of what is under way is to wait on.
        ((tool, arguments), *_) = calls_in(result.next_step)
        result = call(app, tool, arguments)
    return result


def follow(app: App, result: Any) -> Any:
    """Return the last result of following the next steps of one, each executed as printed."""
    seen: set[str] = set()
    for _ in range(LONGEST_PATH):
        calls = calls_in(result.next_step or "")
        assert not tools_without_a_call(result.next_step or ""), result.next_step
        if not calls:
            return result
        for tool, arguments in calls:
            parse(find_tool(tool), arguments)
            # Some clients check a call against the published schema before they send it.
            jsonschema.validate(arguments, find_tool(tool).input_schema)
        (tool, arguments), *_ = calls
        if tool in DRAWN:
            return result
        waits = result.status in IN_PROGRESS
        again = f"{tool} {arguments} {result.status}"
        assert waits or again not in seen, f"{result.next_step} leads back to itself"
        seen.add(again)
        result = execute(app, tool, arguments)
    pytest.fail(f"no end after {LONGEST_PATH} steps: {result.next_step}")


def in_state(app: App, tool: str, state: str) -> str:
    """Return the id of an experiment or a screen of `tool` that is in a state now."""
    begun = call(app, tool, TOOLS[tool] | {"wait_s": 0})
    name = begun.screen_id or begun.experiment_id
    ids = [e.id for e in app.ledger.children(name)] if begun.screen_id else [name]
    if state == "cancelled":
        call(app, "cancel_experiment", {"id": name})
    if state in ("cancelled", "failed", "succeeded"):
        assert app.runner.wait(ids, 120)
    if state == "interrupted":
        app.runner.wait(ids, 120)
    return name


ENGINES: dict[str, Callable[[], FakeEngine]] = {
    "running": lambda: StuckEngine(PANEL),
    "interrupted": lambda: AbsentEngine(PANEL),
    "failed": lambda: FailingEngine(PANEL),
    "cancelled": lambda: StuckEngine(PANEL),
    "succeeded": lambda: FakeEngine(PANEL),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    make_checkpoint(tmp_path / "checkpoints")
    return tmp_path / "home"


@contextmanager
def opened(home: Path, engine: FakeEngine | None = None) -> Iterator[App]:
    app = open_app(home, engine or FakeEngine(PANEL))
    try:
        yield app
    finally:
        app.close()


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("state", ENGINES)
def test_from_every_state_the_next_steps_lead_to_the_result(home: Path, tool: str, state: str):
    with opened(home, ENGINES[state]()) as app:
        name = in_state(app, tool, state)
        # A look takes up what was interrupted, and soon finds again that it cannot go on.
        first = call(
            app, "get_experiment", {"id": name, "wait_s": 30 if state == "interrupted" else 0}
        )
        assert first.status == state or (state, first.status) == ("running", "queued")
    with opened(home) as app:
        last = follow(app, first)
        assert last.status == "succeeded", last.summary
        # Asked once more, whatever was begun meanwhile.
        assert follow(app, call(app, "get_experiment", {"id": name})).status == "succeeded"
        assert app.ledger.verify().ok


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("state", ENGINES)
def test_from_every_state_of_the_reference_ledger_too(
    home: Path, tool: str, state: str, monkeypatch: pytest.MonkeyPatch
):
    with opened(home, ENGINES[state]()) as app:
        name = in_state(app, tool, state)
        place = home.parent / "reference.db"
        with closing(sqlite3.connect(app.ledger.database)) as database:
            database.execute("VACUUM INTO ?", (str(place),))
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(place))
    with opened(home.parent / "another") as app:
        last = follow(app, call(app, "get_experiment", {"id": name}))
        assert last.status == "succeeded", last.summary


def test_a_candidate_of_every_end_leads_to_its_result(home: Path):
    for state in ("failed", "cancelled", "succeeded"):
        with opened(home, ENGINES[state]()) as app:
            screen = call(app, "run_screen", SCREEN | {"seed": len(state), "wait_s": 0}).screen_id
            if state == "cancelled":
                call(app, "cancel_experiment", {"id": screen})
            ids = [e.id for e in app.ledger.children(screen)]
            assert app.runner.wait(ids, 120)
        with opened(home) as app:
            assert follow(app, call(app, "get_experiment", {"id": ids[0]})).status == "succeeded"
            assert follow(app, call(app, "get_experiment", {"id": ids[0]})).status == "succeeded"


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "cancelled", "succeeded"])
def test_a_replay_in_every_state_leads_to_its_verdict(home: Path, state: str):
    with opened(home) as app:
        finished = call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45}).experiment_id
    with opened(home, ENGINES[state]()) as app:
        first = call(app, "replay_experiment", {"id": finished, "wait_s": 0})
        replay = first.experiment_id
        if state == "cancelled":
            call(app, "cancel_experiment", {"id": replay})
        if state != "running":
            app.runner.wait([replay], 120)
        looked = call(app, "get_experiment", {"id": replay})
    with opened(home) as app:
        for begin in (first, looked):
            assert follow(app, begin).status == "succeeded"
        assert {v.verdict for v in app.ledger.verifications(finished)} == {"exact"}


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "cancelled", "succeeded"])
def test_a_screens_replay_in_every_state_leads_to_its_verdict(home: Path, state: str):
    with opened(home) as app:
        screen = call(app, "run_screen", SCREEN | {"wait_s": 45})
        screen = follow(app, screen).screen_id
    with opened(home, ENGINES[state]()) as app:
        first = call(app, "replay_experiment", {"id": screen, "wait_s": 0})
        ids = [r.experiment_id for r in first.replays]
        if state == "cancelled":
            call(app, "cancel_experiment", {"id": screen})
        if state != "running":
            app.runner.wait(ids, 120)
            first = call(app, "replay_experiment", {"id": screen, "wait_s": 0})
    with opened(home) as app:
        assert follow(app, first).verdict == "exact"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_dry_run_leads_to_what_was_asked(home: Path, tool: str):
    with opened(home) as app:
        dry = call(app, tool, TOOLS[tool] | {"dry_run": True, "wait_s": 45})
        assert dry.status == "planned"
        assert calls_in(dry.next_step) == [(tool, TOOLS[tool] | {"wait_s": 45})]
        assert follow(app, dry).status == "succeeded"


def test_a_plan_leads_to_its_ranking(home: Path):
    with opened(home) as app:
        planned = call(app, "plan_screen", SCREEN)
        looked = call(app, "get_experiment", {"id": planned.screen_id})
        dry = call(app, "run_screen", {"screen_id": planned.screen_id, "dry_run": True})
        for result in (planned, looked, dry):
            assert result.status == "planned"
            assert follow(app, result).status == "succeeded"


def test_a_call_too_long_to_print_is_described(home: Path):
    with opened(home) as app:
        many = [[{"kind": "knockout", "target": a}, {"kind": "knockout", "target": b}]
                for a in TARGETS for b in TARGETS if a < b]  # fmt: skip
        dry = call(app, "run_screen", SCREEN | {"candidates": many, "dry_run": True})
        assert len(dry.next_step) < 200
        assert calls_in(dry.next_step) == []


@pytest.mark.parametrize("tool", TOOLS)
def test_cancelling_says_how_to_go_on(home: Path, tool: str):
    with opened(home, StuckEngine(PANEL)) as app:
        begun = call(app, tool, TOOLS[tool] | {"wait_s": 0})
        stopped = call(app, "cancel_experiment", {"id": begun.screen_id or begun.experiment_id})
    with opened(home) as app:
        assert follow(app, stopped).status == "succeeded"


def test_an_engine_that_could_not_be_told_is_told_again(home: Path):
    class Deaf(StuckEngine):
        def withdraw(self, experiments):
            message = "the engine does not answer"
            raise EngineError(message)

    with opened(home, Deaf(PANEL)) as app:
        begun = call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 0})
        stopped = call(app, "cancel_experiment", {"id": begun.experiment_id})
        assert any("does not answer" in caveat for caveat in stopped.caveats)
    with opened(home) as app:
        assert follow(app, stopped).status == "succeeded"


def test_a_screen_without_any_score_leads_to_an_effect(home: Path):
    with opened(home) as app:
        only_its_own = SCREEN | {"objective": {"lower": ["T03"]}, "candidates": ["T03"]}
        last = follow(app, call(app, "run_screen", only_its_own | {"wait_s": 45}))
        assert last.status == "succeeded"
        assert last.experiment_id


def test_every_call_that_a_look_at_the_model_names_succeeds_as_printed(home: Path):
    inspections = {
        "describe_model": [{}, {"checkpoint": "made"}],
        "find_genes": [{"names": names} for names in (["T01"], ["g01"], ["NOSUCH"], ["G01", "T02"])]
        + [{"query": query} for query in ("T", "nowhere")],
    }
    with opened(home) as app:
        for tool, several in inspections.items():
            for arguments in several:
                text = call(app, tool, arguments).next_step
                assert not tools_without_a_call(text), text
                calls = calls_in(text)
                assert calls, text
                for name, given in calls:
                    assert execute(app, name, given).status == "succeeded", text
        ((_, given),) = calls_in(call(app, "find_genes", {"names": ["G01", "T02"]}).next_step)
        assert given["interventions"] == [{"kind": "knockout", "target": "T02"}]


def test_a_checkpoint_without_perturbations_leads_to_its_control_cells(tmp_path: Path):
    make_checkpoint(tmp_path)
    control_only = Catalogue([tmp_path]).load("made")
    config = dict(control_only.config)
    config["seen"] = [entry for entry in config["seen"] if not entry["interventions"]]
    bare = replace(control_only, config=config)
    assert perturbation_call(bare) is None
    assert [tool for tool, _ in calls_in(control_call(bare))] == ["sample_cells"]
    assert calls_in(genes_call(bare)) == [
        ("find_genes", {"checkpoint": bare.name, "names": bare.panel[:3]})
    ]


def test_a_home_without_a_checkpoint_names_no_call(tmp_path: Path):
    with closing(App(tmp_path, engine=FakeEngine(PANEL), catalogue=Catalogue([]))) as app:
        assert call(app, "describe_model", {}).next_step is None


def test_lists_descriptions_and_searches_name_only_what_there_is(home: Path):
    with opened(home) as app:
        for _ in range(2):
            for tool, arguments in {
                "list_experiments": {},
                "describe_model": {},
                "find_genes": {"names": ["T01", "G01", "NOSUCH"]},
            }.items():
                result = call(app, tool, arguments)
                assert follow(app, result).status == "succeeded"
            call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45})
        page = call(app, "list_experiments", {"limit": 1, "tool": "perturb_cells"})
        call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45})
        page = call(app, "list_experiments", {"limit": 1, "tool": "perturb_cells"})
        ((tool, arguments),) = calls_in(page.truncated.how_to_get_more)
        assert call(app, tool, arguments).experiments


@pytest.mark.slow
def test_what_is_drawn_and_written_is_what_the_next_steps_say(home: Path):
    with opened(home) as app:
        finished = follow(app, call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45}))
        screen = follow(app, call(app, "run_screen", SCREEN | {"wait_s": 45}))
        sample = follow(app, call(app, "sample_cells", SAMPLE | {"wait_s": 45}))
        for result in (finished, screen, sample):
            for tool, arguments in calls_in(result.next_step):
                assert execute(app, tool, arguments).status == "succeeded"
        csv = {"id": sample.experiment_id, "format": "csv"}
        written = execute(app, "export_experiment", csv)
        ((tool, arguments),) = calls_in(written.next_step)
        read = execute(app, tool, arguments).next_step
        expression = read.partition(";")[0]
        anndata = pytest.importorskip("anndata")
        assert eval(expression, {"anndata": anndata}).n_obs == SAMPLE["n_cells"]


def test_the_command_of_an_exported_script_runs(home: Path):
    with opened(home) as app:
        finished = follow(app, call(app, "perturb_cells", KNOCK_OUT | {"wait_s": 45}))
        written = call(app, "export_experiment", {"id": finished.experiment_id, "format": "script"})
    command = shlex.split(written.next_step.split("`")[1])
    # Without an engine here it cannot end well, but it is a program that takes this folder.
    python, safe_path, program, folder = command
    assert (python, safe_path, program) == ("python", "-P", written.path)
    compile(Path(program).read_text("utf-8"), program, "exec")
    assert not Path(folder).exists()
