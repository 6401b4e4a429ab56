"""MCP over HTTP: who is let in, what each may see and use, and what is answered to the rest."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from held_engine import HeldEngine, until
from http_requests import ADDRESS, Caller, Web, answer, serving
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from lingshu_tools.app import App
from lingshu_tools.calls.registry import TOOL_NAMES

KNOCK_OUT = [{"kind": "knockout", "target": "STAT1"}]
PERTURB = {"interventions": KNOCK_OUT, "n_cells": 8}
SCREEN = {"objective": {"lower": ["PSMB9"]}, "candidates": "all_seen", "n_cells": 4}
PATIENCE_S = 60


def drive(app: App, act: Callable[[Web], Awaitable[Any]], **options: bool) -> Any:
    async def main() -> Any:
        with anyio.fail_after(PATIENCE_S):
            async with serving(app, **options) as web:
                return await act(web)

    return anyio.run(main)


def test_health_is_open_and_everything_else_wants_a_token(app: App):
    async def act(web: Web) -> None:
        health = await web.client.get("/health")
        assert (health.status_code, health.text) == (200, "ok\n")
        for token in (None, "", "nonsense", "x" * 5000):
            refused = await Caller(web, token).ask("initialize")
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Bearer")
        assert (await web.client.get("/metrics")).status_code == 401
        assert "token" in answer(refused)["error"]["message"]
        assert (await web.client.get("/elsewhere")).status_code == 404
        owner = await web.as_owner().greet()
        assert (await owner.structured("list_experiments"))["status"] == "succeeded"

    drive(app, act)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_of_either_era_works_with_a_token_and_hears_of_progress(app: App, mode: str):
    async def act(web: Web) -> Any:
        token = web.tokens.ensure_owner().read_text().strip()
        heard: list[float] = []

        async def hear(progress: float, *_: Any) -> None:
            heard.append(progress)

        async with (
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=web.gate),
                headers={"authorization": f"Bearer {token}"},
            ) as http,
            Client(
                streamable_http_client(f"http://{ADDRESS.netloc}/mcp", http_client=http), mode=mode
            ) as client,
        ):
            assert len((await client.list_tools()).tools) == len(TOOL_NAMES)
            result = await client.call_tool(
                "perturb_cells", PERTURB | {"wait_s": 45}, progress_callback=hear
            )
        return result.structured_content["status"], heard

    status, heard = drive(app, act)
    assert status == "succeeded"
    assert heard[-1:] in ([16], [16.0])


def test_without_tokens_everybody_is_the_owner(app: App):
    async def act(web: Web) -> str:
        caller = await Caller(web, None).greet()
        return (await caller.structured("perturb_cells", **PERTURB))["experiment_id"]

    name = drive(app, act, with_tokens=False)
    assert app.ledger.experiment(name).principal == "local"


@pytest.mark.parametrize(
    ("header", "value", "status"), [("host", "evil.example", 421), ("origin", "http://evil", 403)]
)
def test_foreign_host_and_origin_headers_are_refused_even_with_a_token(
    app: App, header: str, value: str, status: int
):
    async def act(web: Web) -> None:
        owner = web.as_owner()
        assert (await owner.post("{}", **{header: value})).status_code == status
        sent = {"authorization": f"Bearer {owner.token}", header: value}
        assert (await web.client.get("/metrics", headers=sent)).status_code == status

    drive(app, act)


def test_a_principal_finds_its_own_experiments_and_no_others(app: App):
    async def act(web: Web) -> None:
        alice, bob = await web.as_named("alice").greet(), await web.as_named("bob").greet()
        owner = await web.as_owner().greet()
        created = (await alice.structured("perturb_cells", **PERTURB, wait_s=45))["experiment_id"]
        screen = (await alice.structured("run_screen", **SCREEN, wait_s=45))["screen_id"]
        for other in (bob, owner):
            for tool, arguments in {
                "get_experiment": {"id": created},
                "cancel_experiment": {"id": created},
                "replay_experiment": {"id": created},
                "plot_experiment": {"id": created},
                "export_experiment": {"id": created, "format": "csv"},
            }.items():
                text = await other.refused(tool, **arguments)
                assert f"no experiment '{created}'" in text, tool
                # The nearest ids are offered: none of another principal's.
                assert text.count("exp_") == 1, tool
            for tool in ("get_experiment", "cancel_experiment", "plot_experiment"):
                assert f"no screen '{screen}'" in await other.refused(tool, id=screen)
            assert f"no screen '{screen}'" in await other.refused("run_screen", screen_id=screen)
            assert (await other.structured("list_experiments"))["experiments"] == []
            plan = await other.structured("plan_screen", **SCREEN)
            assert plan["screen_id"] != screen
        listed = (await alice.structured("list_experiments", limit=20))["experiments"]
        assert created in [row["experiment_id"] for row in listed]
        assert (await alice.structured("get_experiment", id=created))["status"] == "succeeded"

    drive(app, act)
    assert {e.experiment.principal for e in app.ledger.find(limit=50).items} == {"alice"}


def test_a_session_belongs_to_the_token_that_opened_it(app: App):
    async def act(web: Web) -> int:
        alice, bob = await web.as_named("alice").greet(), await web.as_named("bob").greet()
        bob.session = alice.session
        return (await bob.ask("tools/list")).status_code

    assert drive(app, act) == 404


@pytest.fixture
def engine(home: Path, monkeypatch: pytest.MonkeyPatch) -> HeldEngine:
    """The engine of every principal."""
    engine = HeldEngine.of_home()
    monkeypatch.setattr("lingshu_tools.engine_client.client.Engine", lambda *_, **__: engine)
    return engine


@pytest.fixture
def held(home: Path, engine: HeldEngine) -> App:
    return App(home, door="mcp")


@pytest.mark.parametrize("in_session", [True, False])
def test_a_revoked_token_is_refused_at_once_and_its_requests_end(held: App, in_session: bool):
    async def act(web: Web) -> None:
        alice = web.as_named("alice")
        if in_session:
            await alice.greet()
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                requested = PERTURB | {"wait_s": 45}
                if in_session:
                    await alice.ask("tools/call", name="perturb_cells", arguments=requested)
                    return
                # The connection ends without an answer, which this transport asserts against.
                with suppress(AssertionError):
                    await alice.ask_alone("perturb_cells", **requested)

            group.start_soon(wait)
            await until(lambda: len(web.calls.waits) == 1)
            web.tokens.revoke("alice")
            assert (await alice.ask("ping")).status_code == 401
            begin = anyio.current_time()
            await web.gate.tend()
        # The call would wait for 45 s.
        assert anyio.current_time() - begin < 20
        assert len(web.gate.sessions) == 0
        again = await web.as_named("alice").greet()
        (row,) = (await again.structured("list_experiments"))["experiments"]
        assert row["status"] in ("queued", "running")

    drive(held, act)


def test_cells_beyond_the_budget_are_refused_with_what_is_left(held: App, engine: HeldEngine):
    async def act(web: Web) -> None:
        alice = await web.as_named("alice", max_cells=40).greet()
        first = (await alice.structured("perturb_cells", **PERTURB, wait_s=0))["experiment_id"]
        text = await alice.refused("perturb_cells", interventions=KNOCK_OUT, n_cells=14)
        assert "40 cells" in text
        assert "left" in text
        assert "this asks for 28" in text
        # Six candidates of two arms with 4 cells.
        assert "this asks for 48" in await alice.refused("run_screen", **SCREEN)
        assert (await alice.structured("sample_cells", n_cells=8, wait_s=0))["status"] != "failed"
        bob = await web.as_named("bob").greet()
        assert (await bob.structured("run_screen", **SCREEN, wait_s=0))["status"] != "failed"
        engine.released.set()
        await alice.structured("get_experiment", id=first, wait_s=45)
        await until(lambda: web.gate.app_of("alice").runner.active == frozenset())
        finished = await alice.structured("perturb_cells", interventions=KNOCK_OUT, n_cells=14)
        assert finished["experiment_id"]

    drive(held, act)


def test_calls_beyond_the_budget_are_refused(held: App):
    async def act(web: Web) -> None:
        alice = await web.as_named("alice", max_calls=1).greet()
        bob = await web.as_named("bob", max_calls=1).greet()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: alice.call("perturb_cells", **PERTURB, wait_s=45))
            await until(lambda: len(web.calls.waits) == 1)
            text = await alice.refused("describe_model")
            assert "1 calls in flight" in text
            assert "0 are left" in text
            assert (await bob.structured("describe_model"))["status"] == "succeeded"
            web.calls.leave()
        assert (await alice.structured("describe_model"))["status"] == "succeeded"

    drive(held, act)


DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
@pytest.mark.parametrize(
    ("body", "number", "reason"),
    [
        ('{"jsonrpc":"2.0","id":7,"method":"tools/call","params":' + DEEP + "}", 7, "recursion"),
        (r'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":"\ud800"}}', 7, "surrogate"),
        ('[{"jsonrpc":"2.0","id":7,"method":"ping"}]', None, "batch"),
        ("hello", None, "Parse error"),
        (b"\xff\xfe", None, "Parse error"),
        ("", None, "Parse error"),
    ],
    ids=["deep", "surrogate", "batch", "junk", "no-text", "empty"],
)
def test_a_body_that_cannot_be_read_gets_a_json_rpc_error(
    app: App, body: str | bytes, number: int | None, reason: str, version: str
):
    async def act(web: Web) -> httpx2.Response:
        owner = await web.as_owner().greet()
        response = await owner.post(body, mcp_protocol_version=version)
        assert (await owner.ask("ping")).status_code == 200
        return response

    response = drive(app, act)
    assert response.status_code == 400
    assert answer(response)["id"] == number
    assert reason in answer(response)["error"]["message"]


async def dripping() -> AsyncIterator[bytes]:
    yield b"{"
    await anyio.sleep(PATIENCE_S)


async def flowing() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 65536


def test_bodies_and_headers_are_bounded_in_size_and_time(app: App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lingshu_mcp.http.bodies.BODY_S", 0.2)

    async def act(web: Web) -> list[int]:
        owner = web.as_owner()
        responses = [
            await owner.post(" " * (1 << 20) + "{}"),
            await owner.post(flowing()),
            await owner.post(dripping()),
            # Refused by what it says of its length, before any of it has come.
            await owner.post(dripping(), content_length=str(10 << 20)),
            await owner.post("{}", x_long="a" * 20_000),
        ]
        return [response.status_code for response in responses]

    assert drive(app, act) == [413, 413, 408, 413, 431]


def test_a_get_is_refused_as_nothing_is_ever_sent_unasked(app: App):
    async def act(web: Web) -> httpx2.Response:
        token = web.as_owner().token
        return await web.client.get("/mcp", headers={"authorization": f"Bearer {token}"})

    response = drive(app, act)
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]


def test_the_session_idle_for_longest_makes_room_for_a_new_one(held: App):
    async def act(web: Web) -> list[int]:
        web.gate.sessions.most = 3
        owner = web.as_owner()
        first, busy, third = [await Caller(web, owner.token).greet() for _ in range(3)]
        await first.ask("ping")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: busy.call("perturb_cells", **PERTURB, wait_s=45))
            await until(lambda: len(web.calls.waits) == 1)
            fourth = await Caller(web, owner.token).greet()
            callers = (first, busy, third, fourth)
            statuses = [(await caller.ask("ping")).status_code for caller in callers]
            web.calls.leave()
        assert len(web.gate.sessions) == 3
        return statuses

    assert drive(held, act) == [200, 200, 404, 200]


def test_a_new_session_is_refused_while_all_are_in_use(held: App):
    async def act(web: Web) -> int:
        web.gate.sessions.most = 1
        owner = await web.as_owner().greet()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: owner.call("perturb_cells", **PERTURB, wait_s=45))
            await until(lambda: len(web.calls.waits) == 1)
            refused = await Caller(web, owner.token).ask("initialize")
            web.calls.leave()
        return refused.status_code

    assert drive(held, act) == 503


def test_metrics_count_calls_waits_cells_and_sessions(held: App, engine: HeldEngine):
    async def act(web: Web) -> tuple[str, str]:
        owner = await web.as_owner().greet()
        headers = {"authorization": f"Bearer {owner.token}"}

        async def metrics() -> str:
            return (await web.client.get("/metrics", headers=headers)).text

        await owner.refused("find_genes", names=[])
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: owner.call("perturb_cells", **PERTURB, wait_s=45))
            await until(lambda: len(web.calls.waits) == 1)
            await until(lambda: web.gate.app_of("local").runner.n_cells_sampled > 0)
            during = await metrics()
            engine.released.set()
        await web.gate.tend()
        return during, await metrics()

    during, after = drive(held, act)
    assert "lingshu_waits 1\n" in during
    assert "lingshu_queue_experiments 1\n" in during
    assert 'lingshu_calls_total{tool="find_genes",outcome="refused"} 1\n' in during
    assert 'lingshu_calls_total{tool="perturb_cells",outcome="ok"} 1\n' in after
    assert "lingshu_waits 0\n" in after
    assert "lingshu_cells_total 16\n" in after
    assert "lingshu_sessions 1\n" in after
    for line in after.splitlines():
        assert line.startswith("# ") or float(line.rsplit(" ", 1)[1]) >= 0
