"""The MCP server, driven by a real client in memory, in both protocol eras."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from held_engine import HeldEngine
from mcp import Client

from lingshu_mcp import build_server
from lingshu_mcp.server import INSTRUCTIONS
from lingshu_testing import OF_FILES, tool_calls
from lingshu_tools.app import App
from lingshu_tools.calls.registry import ToolSpec, registry

KNOCK_OUT = [{"kind": "knockout", "target": "STAT1"}]
PERTURB = {"interventions": KNOCK_OUT, "n_cells": 8, "wait_s": 45}
# Seconds each, in a process of their own: once is enough, as an era changes only the envelope.
IN_CHILDREN = ("propose_batch", "plot_experiment", "export_experiment")
MODES = ("auto", "legacy")
both_eras = pytest.mark.parametrize("mode", MODES)


def drive(app: App, mode: str, act: Callable[[Client], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with Client(build_server(app), mode=mode) as client:  # type: ignore[arg-type]
            return await act(client)

    return anyio.run(main)


def call(app: App, mode: str, tool: str, arguments: dict[str, Any]) -> Any:
    return drive(app, mode, lambda client: client.call_tool(tool, arguments))


def text(result: Any) -> str:
    return "\n".join(block.text for block in result.content if block.type == "text")


@both_eras
def test_every_tool_is_listed_in_order_with_all_it_declares(app: App, mode: str):
    listed = drive(app, mode, lambda client: client.list_tools()).tools
    assert [tool.name for tool in listed] == list(registry())
    for tool in listed:
        hints = tool.annotations
        assert tool.title
        assert tool.output_schema
        assert tool.input_schema == registry()[tool.name].input_schema
        # A hint that is left out is what the protocol assumes: not read-only, destructive, not
        # idempotent.
        assert hints.read_only_hint in (True, None)
        assert hints.read_only_hint or hints.destructive_hint in (False, None)
        spec = registry()[tool.name]
        assert (hints.destructive_hint is None) == (spec.destructive or spec.read_only)
        assert bool(hints.idempotent_hint) == spec.idempotent
        assert hints.open_world_hint is False


def test_the_tool_list_fits_what_clients_keep(app: App):
    listed = drive(app, "auto", lambda client: client.list_tools()).tools
    assert all(len(tool.description.encode()) < 2048 for tool in listed)
    assert all(len(tool.description.split()) <= 120 for tool in listed)
    assert len(INSTRUCTIONS.encode()) < 2048


def arguments_of(app: App) -> dict[str, dict[str, Any]]:
    """A good call of every tool, in an order in which each has what it needs."""
    ran = call(app, "auto", "perturb_cells", PERTURB)
    experiment_id = ran.structured_content["experiment_id"]
    second = call(app, "auto", "perturb_cells", PERTURB | {"seed": 1})
    second_id = second.structured_content["experiment_id"]
    app.runner.wait([experiment_id, second_id], 600)
    given = {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1", "JAK2"], "n_cells": 8}
    screened = call(app, "auto", "run_screen", given)
    screen_id = screened.structured_content["screen_id"]
    app.runner.wait([child.id for child in app.ledger.children(screen_id)], 600)
    return tool_calls(experiment_id, wait_s=45, second_id=second_id, screen_id=screen_id)


@both_eras
def test_every_tool_answers_with_its_typed_result_and_a_short_text(app: App, mode: str):
    calls = arguments_of(app)
    assert list(calls) == list(registry())
    calls = {name: given for name, given in calls.items() if name not in OF_FILES}
    if mode == "legacy":
        calls = {name: given for name, given in calls.items() if name not in IN_CHILDREN}

    async def act(client: Client) -> dict[str, Any]:
        return {name: await client.call_tool(name, given) for name, given in calls.items()}

    for name, result in drive(app, mode, act).items():
        assert not result.is_error, (name, text(result))
        typed = registry()[name].result.model_validate(result.structured_content)
        assert typed.status in ("succeeded", "planned"), (name, typed.summary)
        assert typed.summary in text(result)
        assert len(text(result)) < 8000
        # A picture comes on request: as text it would fill a model's context.
        assert [block.type for block in result.content] == ["text"]


@both_eras
@pytest.mark.parametrize(
    ("tool", "arguments", "taught"),
    [
        ("perturb_cells", {"interventions": KNOCK_OUT, "ncells": 8}, "n_cells"),
        ("perturb_cells", {"interventions": KNOCK_OUT, "n_cells": "8"}, "n_cells"),
        ("perturb_cells", {"interventions": [{"kind": "knockout", "target": "STAT11"}]}, "STAT1"),
        ("get_experiment", {"id": "exp_unknown"}, "exp_unknown"),
    ],
)
def test_a_wrong_call_is_an_error_that_teaches(
    app: App, mode: str, tool: str, arguments: dict[str, Any], taught: str
):
    result = call(app, mode, tool, arguments)
    assert result.is_error
    assert taught in text(result)
    assert "pydantic" not in text(result)


def test_containers_sent_as_json_text_are_unpacked_and_numbers_are_not(app: App):
    packed = '[{"kind": "knockout", "target": "STAT1"}]'
    good = {"interventions": packed, "n_cells": 8, "wait_s": 45}
    assert not call(app, "auto", "perturb_cells", good).is_error
    assert call(app, "auto", "perturb_cells", {**good, "n_cells": "8"}).is_error


def test_what_went_wrong_inside_stays_inside(app: App, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("the secret path /etc/x")

    spec = registry()["describe_model"]
    monkeypatch.setattr(
        "lingshu_tools.calls.dispatcher.registry", lambda: {spec.name: replaced(spec, broken)}
    )
    result = call(app, "auto", "describe_model", {})
    assert result.is_error
    assert "incident" in text(result)
    assert "secret" not in text(result)


@pytest.fixture
def held(home: Path) -> tuple[App, HeldEngine]:
    engine = HeldEngine.of_home()
    return App(home, door="mcp", engine=engine), engine


@both_eras
def test_a_waiting_client_hears_how_far_it_is(held: tuple[App, HeldEngine], mode: str):
    app, engine = held
    heard: list[tuple[float, float | None]] = []

    async def act(client: Client) -> Any:
        async def listen(progress: float, total: float | None, message: str | None) -> None:
            heard.append((progress, total))
            if progress:
                engine.released.set()

        return await client.call_tool("perturb_cells", PERTURB, progress_callback=listen)

    assert drive(app, mode, act).structured_content["status"] == "succeeded"
    assert {total for _, total in heard} == {16}
    assert any(0 < finished < 16 for finished, _ in heard)


@both_eras
def test_cancelling_the_request_leaves_the_experiment_running(
    held: tuple[App, HeldEngine], mode: str
):
    app, engine = held

    async def act(client: Client) -> Any:
        async with anyio.create_task_group() as group:

            async def listen(*_: Any) -> None:
                group.cancel_scope.cancel()

            async def ask() -> None:
                await client.call_tool("perturb_cells", PERTURB, progress_callback=listen)

            group.start_soon(ask)
        engine.released.set()
        (created,) = app.ledger.find().items
        return await client.call_tool("get_experiment", {"id": created.experiment.id, "wait_s": 45})

    assert drive(app, mode, act).structured_content["status"] == "succeeded"


def replaced(spec: ToolSpec, run: Callable[..., Any]) -> ToolSpec:
    return replace(spec, run=run)
