"""The server as clients start it: a process that speaks JSON-RPC on stdout and dies with stdin."""

import json
import socket
from pathlib import Path

import pytest
from stdio import ask, greet, send, server

LIMIT_S = 90


def test_stdout_carries_json_rpc_only_and_the_server_ends_with_stdin(tmp_path: Path):
    with server(tmp_path) as process:
        assert greet(process) == "lingshu"
        assert ask(process, "tools/list")["result"]["tools"]
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.is_file():
            assert "libtorch" not in maps.read_text()
        rest, _ = process.communicate(timeout=LIMIT_S)
        assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
        assert process.returncode == 0


def test_the_server_ends_with_stdin_though_a_call_is_still_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The engine takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT_S)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("LINGSHU_ENGINE_URL", address)
        with server(tmp_path) as process:
            greet(process)
            asked = {"checkpoint": "thp1-crispr", "wait_s": 45}
            send(process, "tools/call", name="sample_cells", arguments=asked)
            with silent.accept()[0]:
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
