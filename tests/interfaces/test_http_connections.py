"""HTTP connections, over real sockets: silent, slow, many, or deaf ones do no harm."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from held_engine import HeldEngine
from http_requests import ADDRESS

from lingshu_mcp.calls import Calls
from lingshu_mcp.http import connections
from lingshu_mcp.http.connections import Sparing, connection_limits, protocol, quiet_when_scarce
from lingshu_mcp.http.run import gate_of
from lingshu_tools.app import App

PATIENCE_S = 30
GET = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def drive(act: Callable[[int], Awaitable[Any]], app: Any, most: int = 100) -> Any:
    """Serve `app` on a free port while `act` runs."""

    async def main() -> Any:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=protocol(most), ws="none", lifespan="on", log_config=None, access_log=False,
            h11_max_incomplete_event_size=connections.MAX_HEAD, timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not server.started:
                    await asyncio.sleep(0.01)
                return await act(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await serving

    return asyncio.run(main())


async def connect(port: int, sent: bytes = b"") -> Streams:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    return reader, writer


async def status(streams: Streams) -> bytes:
    """The status in the answer; b"" where the connection was closed without one."""
    return (await streams[0].readline())[9:12]


async def close(*opened: Streams) -> None:
    for _, writer in opened:
        writer.close()


@pytest.fixture
def gate(app: App) -> Any:
    return gate_of(app, Calls(), None, ADDRESS)


@pytest.mark.parametrize("sent", [b"", b"GET /he", GET[:-2]], ids=["nothing", "line", "headers"])
def test_a_connection_without_a_whole_request_is_closed(
    gate: Any, sent: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "SILENT_S", 0.3)

    async def act(port: int) -> bytes:
        streams = await connect(port, sent)
        answer = await streams[0].read()
        await close(streams)
        return answer

    assert drive(act, gate) == b""


def test_bytes_that_drip_in_do_not_keep_a_connection_open(
    gate: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "SILENT_S", 0.5)

    async def act(port: int) -> None:
        reader, writer = await connect(port, b"GET /health HTTP/1.1\r\n")
        gone = asyncio.ensure_future(reader.read())
        while not gone.done():
            writer.write(b"X-A: 1\r\n")
            await asyncio.sleep(0.05)
        writer.close()

    drive(act, gate)


def test_a_connection_that_is_used_stays_and_is_closed_when_silent_again(
    gate: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "SILENT_S", 0.5)

    async def act(port: int) -> list[bytes]:
        reader, writer = await connect(port)
        seen: list[bytes] = []
        for _ in range(4):
            await asyncio.sleep(0.2)
            writer.write(GET)
            seen.append((await reader.readuntil(b"ok\n"))[9:12])
        seen.append(await reader.read())
        writer.close()
        return seen

    assert drive(act, gate) == [b"200"] * 4 + [b""]


@pytest.mark.parametrize("piece", [400, 100_000])
def test_a_head_that_is_too_long_is_answered_with_431(gate: Any, piece: int):
    head = b"GET /health HTTP/1.1\r\nHost: here\r\nX-A: " + b"a" * 30_000 + b"\r\n\r\n"

    async def act(port: int) -> bytes:
        streams = await connect(port)
        for i in range(0, len(head), piece):
            streams[1].write(head[i : i + piece])
            await asyncio.sleep(0.001)
        result = await status(streams)
        await close(streams)
        return result

    assert drive(act, gate) == b"431"


def test_junk_is_answered_with_400(gate: Any):
    async def act(port: int) -> bytes:
        streams = await connect(port, b"\x16\x03\x01 hello\r\n\r\n")
        result = await status(streams)
        await close(streams)
        return result

    assert drive(act, gate) == b"400"


def test_a_new_connection_takes_the_place_of_the_one_silent_for_longest(gate: Any):
    async def act(port: int) -> list[bytes]:
        flood = [await connect(port) for _ in range(50)]
        answers = []
        for _ in range(3):
            streams = await connect(port, GET)
            answers.append(await status(streams))
            await close(streams)
        assert await flood[0][0].read() == b""
        await close(*flood)
        return answers

    assert drive(act, gate, most=5) == [b"200"] * 3


def test_where_every_connection_is_in_use_a_new_one_is_answered_with_503():
    release = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await release.wait()
            await send({"type": "http.response.body", "body": b""})

    async def act(port: int) -> tuple[list[bytes], bytes]:
        busy = [await connect(port, GET) for _ in range(3)]
        first = [await status(streams) for streams in busy]
        extra = await connect(port, GET)
        refused = await status(extra)
        release.set()
        await close(*busy, extra)
        return first, refused

    assert drive(act, slow, most=3) == ([b"200"] * 3, b"503")


def test_a_request_ends_at_its_time_limit(home: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lingshu_mcp.http.gate.ANSWER_S", 0.5)
    # What ends a request that does not end by itself comes later than this test may take.
    monkeypatch.setattr("lingshu_mcp.http.gate._FLUSH_S", 600.0)
    engine = HeldEngine.of_home()
    monkeypatch.setattr("lingshu_tools.engine_client.client.Engine", lambda *_, **__: engine)
    gate = gate_of(App(home, door="mcp"), Calls(), None, ADDRESS)

    def post(body: str, session: str = "") -> bytes:
        lines = [
            "POST /mcp HTTP/1.1",
            f"Host: {ADDRESS.netloc}",
            "Accept: application/json, text/event-stream",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"Mcp-Session-Id: {session}"] if session else []),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    hello = (
        '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
        '"capabilities":{},"clientInfo":{"name":"t","version":"0"}}}'
    )
    call = (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"perturb_cells",'
        '"arguments":{"interventions":[{"kind":"knockout","target":"STAT1"}],"n_cells":8,'
        '"wait_s":45}}}'
    )

    async def act(port: int) -> bytes:
        first = await connect(port, post(hello))
        head = (await first[0].readuntil(b"\r\n\r\n")).decode()
        (session,) = [x[16:] for x in head.splitlines() if x.startswith("mcp-session-id: ")]
        second = await connect(port, post(call, session))
        answer = await second[0].read()
        await close(first, second)
        return answer

    answer = drive(act, gate)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"structuredContent" not in answer


@pytest.mark.parametrize("descriptors", [16, 64, 256, 1024, 1 << 20])
def test_half_of_the_descriptors_are_left_for_other_files(descriptors: int):
    most, backlog = connection_limits(descriptors)
    assert most >= 4
    assert backlog >= 4
    assert most + backlog <= max(descriptors // 2, 8)


def test_a_lack_of_descriptors_is_said_once_a_minute_and_other_faults_always():
    said: list[str] = []
    handle = quiet_when_scarce(said.append)

    class Loop:
        faults = 0

        def default_exception_handler(self, _: Any) -> None:
            self.faults += 1

    loop: Any = Loop()
    for _ in range(1000):
        handle(loop, {"exception": OSError(24, "Too many open files")})
    handle(loop, {"exception": ValueError("x")})
    assert said == ["lingshu: no connection can be accepted for now (Too many open files)\n"]
    assert loop.faults == 1


def test_a_log_message_that_repeats_is_left_out_after_a_while():
    import logging

    sparing = Sparing()

    def written(text: str) -> int:
        records = [logging.makeLogRecord({"name": "x", "msg": text}) for _ in range(100)]
        return sum(sparing.filter(record) for record in records)

    assert written("Invalid Host header") == 6
    assert written("another") == 6
