"""The server as clients start it: a process that speaks JSON-RPC on stdout and dies with stdin."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "0"},
}
LIMIT_S = 90


@contextmanager
def server(home: Path) -> Generator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lingshu_mcp", "--home", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def send(process: "subprocess.Popen[str]", method: str, **params: Any) -> None:
    assert process.stdin
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    if method.startswith("notifications/"):
        del message["id"]
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def ask(process: "subprocess.Popen[str]", method: str, **params: Any) -> Any:
    assert process.stdout
    send(process, method, **params)
    return json.loads(process.stdout.readline())


def test_stdout_carries_json_rpc_only_and_the_server_ends_with_stdin(tmp_path: Path):
    with server(tmp_path) as process:
        assert ask(process, "initialize", **HELLO)["result"]["serverInfo"]["name"] == "lingshu"
        send(process, "notifications/initialized")
        assert ask(process, "tools/list")["result"]["tools"]
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.is_file():
            assert "libtorch" not in maps.read_text()
        rest, _ = process.communicate(timeout=LIMIT_S)
        assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
        assert process.returncode == 0


def test_the_server_ends_with_stdin_though_a_call_is_still_waiting(tmp_path: Path):
    """Nothing answers at the engine's address, so the call can only wait or be told so."""
    with server(tmp_path) as process:
        ask(process, "initialize", **HELLO)
        send(process, "notifications/initialized")
        send(process, "tools/call", name="sample_cells", arguments={"wait_s": 45})
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0


@pytest.mark.parametrize("address", ["0.0.0.0:8931", "example.org:80", "8931x", "127.0.0.1:99999"])
def test_http_is_refused_anywhere_but_on_this_machine(address: str):
    import click

    from lingshu_mcp.__main__ import loopback

    with pytest.raises(click.BadParameter, match=address.split(":")[0].strip("x")):
        loopback(address)


def test_a_foreign_host_header_is_refused_over_http(tmp_path: Path):
    import anyio
    import httpx2

    from lingshu_mcp.__main__ import security
    from lingshu_mcp.server import build_server
    from lingshu_tools.app import App

    app = build_server(App(tmp_path)).streamable_http_app(
        transport_security=security("127.0.0.1", 8931)
    )

    async def status(host: str) -> int:
        transport = httpx2.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as client,
        ):
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            accept = {"Accept": "application/json, text/event-stream"}
            return (await client.post("/mcp", json=body, headers=accept)).status_code

    assert anyio.run(status, "evil.example:8931") == 421
