"""Calls that wait hold no thread; every call is answered in time, and what is stuck is counted."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from held_engine import HeldEngine, until
from mcp import Client

from lingshu_mcp import build_server, rendering
from lingshu_mcp import calls as server_calls
from lingshu_mcp.calls import FIRST_FINISH_S, Calls
from lingshu_mcp.threads import LANES
from lingshu_model.system.file_locks import try_lock
from lingshu_model.system.private import private_folder
from lingshu_tools.app import App
from lingshu_tools.calls.registry import Tools, ToolSpec, registry
from lingshu_tools.calls.waiting import Pending
from lingshu_tools.children.task import TaskFiles, key_of

PERTURB = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8}
PATIENCE_S = 60
"""How long a test waits for what must come soon: machines are slow, a hang lasts for ever."""


@pytest.fixture
def engine(home: Path) -> HeldEngine:
    return HeldEngine.of_home()


@pytest.fixture
def held(home: Path, engine: HeldEngine) -> App:
    return App(home, door="mcp", engine=engine)


def drive(app: App, calls: Calls, act: Callable[[Client], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with Client(build_server(app, calls)) as client:
            with anyio.fail_after(PATIENCE_S):
                return await act(client)

    return anyio.run(main)


def text(result: Any) -> str:
    return result.content[0].text


async def begun(client: Client) -> str:
    result = await client.call_tool("perturb_cells", PERTURB | {"wait_s": 0})
    return result.structured_content["experiment_id"]


@pytest.mark.parametrize("n_calls", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_waiting_calls_hold_no_thread_and_delay_no_other(
    held: App, engine: HeldEngine, n_calls: int
):
    calls, statuses = Calls(), list[str]()

    async def act(client: Client) -> int:
        name = await begun(client)
        threads = threading.active_count()

        async def wait() -> None:
            result = await client.call_tool("get_experiment", {"id": name, "wait_s": 45})
            statuses.append(result.structured_content["status"])

        async with anyio.create_task_group() as group:
            for _ in range(n_calls):
                group.start_soon(wait)
            await until(lambda: len(calls.waits) == n_calls)
            assert not (await client.call_tool("describe_model", {})).is_error
            other = await begun(client)
            cancelled = await client.call_tool("cancel_experiment", {"id": other})
            assert not cancelled.is_error
            assert len(calls.waits) == n_calls
            grown = threading.active_count() - threads
            engine.released.set()
        return grown

    grown = drive(held, calls, act)
    assert statuses == ["succeeded"] * n_calls
    assert grown < 30


def test_calls_that_wait_for_a_child_process_hold_no_thread(app: App):
    calls, statuses = Calls(), list[str]()

    async def act(client: Client) -> int:
        created = await client.call_tool("perturb_cells", PERTURB | {"wait_s": 45})
        name = created.structured_content["experiment_id"]
        files = TaskFiles(app.home / "children", key_of("plot", f"{name} volcano"))
        private_folder(files.folder)
        held = try_lock(files.lock)  # as a child that is stuck would
        assert held
        threads = threading.active_count()

        async def draw() -> None:
            result = await client.call_tool("plot_experiment", {"id": name, "wait_s": 45})
            statuses.append(result.structured_content["status"])

        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(draw)
            await until(lambda: len(calls.waits) == 40)
            script = {"id": name, "format": "script"}
            assert not (await client.call_tool("export_experiment", script)).is_error
            assert not (await client.call_tool("get_experiment", {"id": name})).is_error
            assert len(calls.waits) == 40
            grown = threading.active_count() - threads
            held.release()
        return grown

    assert drive(app, calls, act) < 20
    assert statuses == ["succeeded"] * 40


def test_all_waiting_calls_share_one_look_at_the_ledger(
    held: App, engine: HeldEngine, monkeypatch: pytest.MonkeyPatch
):
    calls, inspections = Calls(), list[int]()
    sealed = held.ledger.sealed

    def counted(ids: list[str]) -> set[str]:
        inspections.append(len(ids))
        return sealed(ids)

    async def act(client: Client) -> None:
        names = [await begun(client) for _ in range(10)]
        async with anyio.create_task_group() as group:
            for name in names * 5:
                group.start_soon(client.call_tool, "get_experiment", {"id": name, "wait_s": 45})
            await until(lambda: len(calls.waits) == 50)
            await anyio.sleep(0.1)
            monkeypatch.setattr(held.ledger, "sealed", counted)
            await anyio.sleep(1.2)
            monkeypatch.undo()
            engine.released.set()

    drive(held, calls, act)
    assert 1 <= len(inspections) <= 6
    assert max(inspections) <= 10


def test_calls_that_begin_together_stop_waiting_one_after_another():
    calls, ends = Calls(), list[float]()
    for _ in range(400):
        ends.append(calls.wait_end(until=1000.0, wait_s=45.0))
        calls.waits.add(asyncio.Event())
    assert ends[0] == 1000.0
    # Between two of them a state can be read, as long as that takes no more than half of the wait.
    pause = FIRST_FINISH_S / LANES["follow"]
    assert all(before - after >= pause for before, after in pairwise(ends))
    assert ends[-1] >= 1000.0 - 45.0 / 2
    assert calls.wait_end(until=1000.0, wait_s=1.0) == 999.5


@pytest.mark.slow
def test_calls_whose_time_ends_together_are_all_answered_with_the_state(
    held: App, monkeypatch: pytest.MonkeyPatch
):
    # Reading 40 states takes 40 x 0.35 s / 4 threads = 3.5 s, more than a call has after its wait.
    rendered, seconds = rendering.rendered, 0.35

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return rendered(*args, **options)

    async def act(client: Client) -> list[Any]:
        name, results = await begun(client), list[Any]()
        monkeypatch.setattr(rendering, "rendered", slow)

        async def wait() -> None:
            results.append(await client.call_tool("get_experiment", {"id": name, "wait_s": 5}))

        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(wait)
        return results

    monkeypatch.setattr(server_calls, "FIRST_FINISH_S", seconds)
    results = drive(held, Calls(), act)
    assert [text(result) for result in results if result.is_error] == []
    assert {result.structured_content["status"] for result in results} <= {"queued", "running"}


def test_a_waiting_call_ends_with_its_time_and_says_how_to_go_on(held: App):
    async def act(client: Client) -> Any:
        return await client.call_tool("perturb_cells", PERTURB | {"wait_s": 0.2})

    result = drive(held, Calls(), act).structured_content
    assert result["status"] in ("queued", "running")
    assert result["experiment_id"] in result["next_step"]


def test_a_call_that_waits_for_nothing_is_answered_when_as_many_wait_as_may(
    held: App, engine: HeldEngine
):
    calls = Calls(max_waiting=2)

    async def act(client: Client) -> tuple[Any, Any, Any]:
        name = await begun(client)
        wait = {"id": name, "wait_s": 45}
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(client.call_tool, "get_experiment", wait)
            await until(lambda: len(calls.waits) == 2)
            refused = await client.call_tool("get_experiment", wait)
            quick = await client.call_tool("get_experiment", {"id": name, "wait_s": 0})
            engine.released.set()
        return refused, quick, await client.call_tool("get_experiment", wait)

    refused, quick, later = drive(held, calls, act)
    assert refused.is_error
    assert "server busy: 2 calls in flight" in text(refused)
    assert not quick.is_error
    assert later.structured_content["status"] == "succeeded"
    assert calls.counts.calls["get_experiment", "busy"] == 1


def test_waiting_calls_answer_at_once_when_the_server_is_to_end(held: App):
    calls = Calls()

    async def act(client: Client) -> Any:
        async with anyio.create_task_group() as group:

            async def leave() -> None:
                await until(lambda: len(calls.waits) == 1)
                calls.leave()

            group.start_soon(leave)
            return await client.call_tool("perturb_cells", PERTURB | {"wait_s": 45})

    begin = time.monotonic()
    result = drive(held, calls, act).structured_content
    assert result["status"] in ("queued", "running")
    assert time.monotonic() - begin < 30


def test_a_cancelled_request_leaves_nothing_behind_but_the_experiment(
    held: App, engine: HeldEngine
):
    calls = Calls()

    async def act(client: Client) -> Any:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "perturb_cells", PERTURB | {"wait_s": 45})
            await until(lambda: len(calls.waits) == 1)
            group.cancel_scope.cancel()
        await until(lambda: not calls.waits)
        assert not +calls.counts.in_flight
        engine.released.set()
        (row,) = held.ledger.find().items
        return await client.call_tool("get_experiment", {"id": row.experiment.id, "wait_s": 45})

    assert drive(held, calls, act).structured_content["status"] == "succeeded"
    assert calls.counts.calls["perturb_cells", "cancelled"] == 1


@contextmanager
def answered_within(seconds: float) -> Generator[None]:
    """Shorten the time to answer for calls that are expected to be late, and for no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lingshu_mcp.calls.LAST_S", seconds)
        yield


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ToolSpec]:
    """Replace what a tool runs, for the server and the dispatcher."""

    def replace_run(name: str, run: Callable[..., Any]) -> ToolSpec:
        tools = Tools()
        tools._specs.update(registry())
        tools._specs[name] = replace(registry()[name], run=run)
        # The server looks the registry up at the first call, the dispatcher holds it.
        for module in ("lingshu_tools.calls.dispatcher", "lingshu_tools.calls.registry"):
            monkeypatch.setattr(f"{module}.registry", lambda: tools)
        return tools[name]

    return replace_run


def test_a_call_whose_thread_is_stuck_is_answered_at_its_deadline_and_others_go_on(
    app: App, replaced: Callable[..., ToolSpec]
):
    stuck, calls = threading.Event(), Calls()
    replaced("find_genes", lambda *_: stuck.wait(PATIENCE_S))

    async def act(client: Client) -> None:
        with answered_within(0.3):
            async with anyio.create_task_group() as group:
                for _ in range(12):
                    group.start_soon(client.call_tool, "find_genes", {"names": ["STAT1"]})
            assert calls.threads.stuck >= 4
            late = await client.call_tool("find_genes", {"names": ["STAT1"]})
        assert late.is_error
        assert "list_experiments" in text(late)
        assert not (await client.call_tool("list_experiments", {})).is_error
        stuck.set()
        await until(lambda: calls.threads.stuck == 0)

    drive(app, calls, act)
    assert calls.counts.calls["find_genes", "late"] == 13


def test_a_result_that_cannot_be_read_in_time_still_names_its_experiment(
    app: App, replaced: Callable[..., ToolSpec]
):
    stuck, perturb = threading.Event(), registry()["perturb_cells"].run

    def never_finished(*given: Any) -> Any:
        pending = perturb(*given)
        assert isinstance(pending, Pending)
        return replace(pending, finish=lambda: stuck.wait(PATIENCE_S))

    replaced("perturb_cells", never_finished)

    async def act(client: Client) -> Any:
        # Long enough for the row to be written on a slow machine.
        with answered_within(2.0):
            return await client.call_tool("perturb_cells", PERTURB | {"wait_s": 0.1})

    late = drive(app, Calls(), act)
    stuck.set()
    (row,) = app.ledger.find().items
    assert late.is_error
    assert f'get_experiment(id="{row.experiment.id}"' in text(late)


def test_too_many_stuck_threads_are_an_error_that_says_so(
    app: App, replaced: Callable[..., ToolSpec], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lingshu_mcp.threads.MOST_STUCK", 3)
    stuck, calls = threading.Event(), Calls()
    replaced("find_genes", lambda *_: stuck.wait(PATIENCE_S))

    async def act(client: Client) -> Any:
        with answered_within(0.3):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(client.call_tool, "find_genes", {"names": ["STAT1"]})
        refused = await client.call_tool("describe_model", {})
        stuck.set()
        await until(lambda: calls.threads.stuck == 0)
        return refused, await client.call_tool("describe_model", {})

    refused, later = drive(app, calls, act)
    assert refused.is_error
    assert "3 calls are stuck" in text(refused)
    assert not later.is_error
