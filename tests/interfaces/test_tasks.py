"""Long experiments as tasks (SEP-2663), for clients that declare the extension."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from held_engine import HeldEngine
from http_requests import Caller, Web, answer, serving

from lingshu_mcp.tasks.experiments import LONG
from lingshu_mcp.tasks.extension import IDENTIFIER
from lingshu_tools.app import App
from lingshu_tools.calls.published import published_tools
from lingshu_tools.calls.registry import registry

PATIENCE_S = 120
PERTURB = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8, "wait_s": 2}
SCREEN = {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1", "JAK2"], "n_cells": 8}
MISSING, MISMATCH, INVALID, INTERNAL = -32021, -32020, -32602, -32603


@pytest.fixture
def engine(home: Path, monkeypatch: pytest.MonkeyPatch) -> HeldEngine:
    """The engine of every principal of the home."""
    engine = HeldEngine.of_home()
    monkeypatch.setattr("lingshu_tools.engine_client.client.Engine", lambda *_, **__: engine)
    return engine


@pytest.fixture
def held(home: Path, engine: HeldEngine) -> App:
    return App(home, door="mcp", engine=engine)


def drive(app: App, act: Callable[[Web], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        with anyio.fail_after(PATIENCE_S):
            async with serving(app) as web:
                return await act(web)

    return anyio.run(main)


async def begin(caller: Caller, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool as a client that takes tasks."""
    params = {"name": tool, "arguments": arguments}
    response = await caller.send_alone("tools/call", tool, params, extensions=[IDENTIFIER])
    return answer(response)["result"]


async def ask(
    caller: Caller, method: str, task: str, *, header: str | None = None, **more: Any
) -> dict[str, Any]:
    """Send a request about a task; return the whole answer."""
    params = {"taskId": task, **more}
    name = task if header is None else header
    while True:
        sent = await caller.send_alone(method, name, params, extensions=[IDENTIFIER])
        # On a busy machine the ledger may answer later than a call without `wait_s` takes.
        if answer(sent).get("error", {}).get("code") != INTERNAL:
            return answer(sent)


async def until_ended(caller: Caller, task: str) -> dict[str, Any]:
    while True:
        state = (await ask(caller, "tasks/get", task))["result"]
        if state["status"] != "working":
            return state
        await anyio.sleep(0.05)


@pytest.mark.parametrize(("tool", "arguments"), [
    ("perturb_cells", PERTURB),
    ("sample_cells", {"n_cells": 8, "wait_s": 2}),
    ("run_screen", SCREEN | {"wait_s": 4}),
])  # fmt: skip
def test_a_call_still_at_work_is_a_task_and_later_has_the_tools_result(
    held: App, engine: HeldEngine, home: Path, tool: str, arguments: dict[str, Any]
):
    async def start(web: Web) -> dict[str, Any]:
        caller = web.as_owner()
        task = await begin(caller, tool, **arguments)
        assert task["resultType"] == "task"
        assert task["status"] == "working"
        assert task["ttlMs"] is None
        datetime.fromisoformat(task["createdAt"])
        assert "result" not in task
        now = (await ask(caller, "tasks/get", task["taskId"]))["result"]
        assert (now["resultType"], now["status"]) == ("complete", "working")
        return task

    task = drive(held, start)
    assert task["taskId"].startswith("scr_" if tool == "run_screen" else "exp_")
    engine.released.set()

    async def later(web: Web) -> dict[str, Any]:
        return await until_ended(web.as_owner(), task["taskId"])

    # Another server of the same home: the task is a row.
    state = drive(App(home, door="mcp", engine=engine), later)
    assert state["status"] == "completed"
    assert state["createdAt"] == task["createdAt"]
    assert state["lastUpdatedAt"] >= task["createdAt"]
    result = state["result"]
    assert not result.get("isError")
    assert result["content"][0]["text"]
    assert result["structuredContent"]["status"] == "succeeded"
    (published,) = [each for each in published_tools() if each.name == tool]
    jsonschema.validate(result["structuredContent"], dict(published.output_schema))


def test_a_call_that_ends_in_time_is_answered_at_once(app: App):
    async def act(web: Web) -> dict[str, Any]:
        return await begin(web.as_owner(), "perturb_cells", **PERTURB | {"wait_s": 45})

    result = drive(app, act)
    assert result["resultType"] == "complete"
    assert result["structuredContent"]["status"] == "succeeded"


def test_other_tools_and_dry_runs_never_become_tasks(held: App):
    async def act(web: Web) -> list[dict[str, Any]]:
        caller = web.as_owner()
        name = (await begin(caller, "perturb_cells", **PERTURB))["taskId"]
        return [
            await begin(caller, "get_experiment", id=name),
            await begin(caller, "perturb_cells", **PERTURB, dry_run=True),
        ]

    assert [result["resultType"] for result in drive(held, act)] == ["complete"] * 2


def test_a_client_without_the_extension_gets_results_and_no_tasks(held: App):
    async def act(web: Web) -> None:
        caller = web.as_owner()
        plain = answer(await caller.ask_alone("perturb_cells", **PERTURB))["result"]
        assert plain["resultType"] == "complete"
        name = plain["structuredContent"]["experiment_id"]
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            params = {"taskId": name, "inputResponses": {}}
            refused = await caller.send_alone(method, name, params)
            assert answer(refused)["error"]["code"] == MISSING
            needed = answer(refused)["error"]["data"]["requiredCapabilities"]
            assert IDENTIFIER in needed["extensions"]

    drive(held, act)


def test_a_cancelled_task_is_cancelled_in_the_ledger_and_stays_so(held: App, engine: HeldEngine):
    async def act(web: Web) -> str:
        caller = web.as_owner()
        name = (await begin(caller, "perturb_cells", **PERTURB))["taskId"]
        for _ in range(2):
            acknowledged = (await ask(caller, "tasks/cancel", name))["result"]
            assert acknowledged["resultType"] == "complete"
            assert "status" not in acknowledged
        engine.released.set()
        assert (await until_ended(caller, name))["status"] == "cancelled"
        update = await ask(caller, "tasks/update", name, inputResponses={"any": {"x": 1}})
        assert update["result"]["resultType"] == "complete"
        return name

    outcome = held.ledger.outcome(drive(held, act))
    assert outcome is not None
    assert outcome.kind == "cancelled"


def test_a_task_is_its_principals_and_the_header_must_name_it(held: App):
    async def act(web: Web) -> None:
        owner, other = web.as_owner(), web.as_named("somebody")
        name = (await begin(owner, "perturb_cells", **PERTURB))["taskId"]
        refused = [
            await ask(other, "tasks/get", name),
            await ask(other, "tasks/cancel", name),
            await ask(owner, "tasks/get", "exp_nothing"),
        ]
        assert {each["error"]["code"] for each in refused} == {INVALID}
        assert (await ask(owner, "tasks/get", name))["result"]["status"] == "working"
        elsewhere = await ask(owner, "tasks/cancel", name, header="exp_other")
        assert elsewhere["error"]["code"] == MISMATCH

    drive(held, act)


def test_what_can_be_a_task_is_what_begins_an_experiment_with_an_id():
    begins = [name for name, spec in registry().items() if spec.simulates]
    # A replay is no experiment: its verdict is asked for with the id of its original.
    assert sorted(LONG) == sorted(set(begins) - {"replay_experiment"})
