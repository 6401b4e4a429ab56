"""`lingshu browse`: who gets in, what is sent, and when the server ends."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import click
import httpx2
import pytest
from click.testing import CliRunner
from page_lab import Lab, Served

from lingshu_mcp.calls import Calls
from lingshu_mcp.http import Address
from lingshu_mcp.http.run import gate_of
from lingshu_mcp.lab_page import serving
from lingshu_mcp.lab_page.document import headers, html
from lingshu_mcp.lab_page.serving import PageToken
from lingshu_tools.cli import main as lingshu

ALONE = "2026-07-28"
LIMIT_S = 90.0
"""A busy machine takes long to import what a server needs."""


def post(served: Served, token: str | None, **more: str) -> httpx2.Response:
    meta = {
        "io.modelcontextprotocol/protocolVersion": ALONE,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params: dict[str, Any] = {"name": "list_experiments", "arguments": {}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    sent = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": ALONE,
        "mcp-method": "tools/call",
        "mcp-name": "list_experiments",
    }
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    url = f"http://{served.address.netloc}/mcp"
    return httpx2.post(url, content=json.dumps(message), headers=sent | more, timeout=60)


def test_the_page_is_sent_with_its_policy_and_holds_nothing_of_the_home(served: Served):
    response = httpx2.get(f"http://{served.address.netloc}/")
    assert response.text == html()
    assert served.token.value not in response.text
    for name, value in headers().items():
        assert response.headers[name] == value
    assert "set-cookie" not in response.headers


def test_a_server_for_clients_has_no_page(lab: Lab):
    async def status() -> int:
        gate = gate_of(lab.app, Calls(), None, Address("127.0.0.1", 8931))
        transport = httpx2.ASGITransport(app=gate)
        async with (
            gate.inner.router.lifespan_context(gate.inner),  # type: ignore[attr-defined]
            httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8931") as client,
        ):
            return (await client.get("/")).status_code

    assert anyio.run(status) == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_the_page_is_only_read(served: Served, method: str):
    url = f"http://{served.address.netloc}/"
    sent = {"content-type": "application/json"}
    assert httpx2.request(method, url, headers=sent).status_code == 405


def test_calls_need_the_token(served: Served):
    assert post(served, served.token.value).status_code == 200
    for wrong in (None, "x", served.token.value[:-1], served.token.value + "x"):
        assert post(served, wrong).status_code == 401
    assert served.token.find("é" * 43) is None


def test_the_token_of_a_page_opens_no_other_page(served: Served):
    assert PageToken().find(served.token.value) is None
    assert PageToken().value != PageToken().value
    assert len(served.token.value) >= 43


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("host", "evil.example", 421),
        ("host", "localhost.evil.example:80", 421),
    ],
)
def test_other_origins_and_hosts_are_refused_even_with_the_token(
    served: Served, header: str, value: str, status: int
):
    assert post(served, served.token.value, **{header: value}).status_code == status
    if header == "host":
        url = f"http://{served.address.netloc}/"
        assert httpx2.get(url, headers={"host": value}).status_code == status


@pytest.mark.parametrize("name", ["../x", "exp_", "exp_A", "scr_1;", "<script>", "exp_" + "a" * 61])
def test_what_is_no_id_is_refused_before_a_server_starts(tmp_path: Path, name: str):
    run = CliRunner().invoke(serving.main, ["--home", str(tmp_path), name])
    assert run.exit_code == 2
    assert "is not an id" in run.output


def test_browse_becomes_the_server_of_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen: list[Any] = []

    def replaced(command: list[str], environ: dict[str, str]) -> None:
        seen.append((command, environ["LINGSHU_HOME"]))
        raise click.exceptions.Exit(0)

    monkeypatch.setattr("lingshu_tools.cli.common.replace_this_process", replaced)
    monkeypatch.setattr("lingshu_tools.system.interrupts.hold", lambda: None)
    run = CliRunner().invoke(lingshu, ["browse", "scr_1", "--home", str(tmp_path), "--open"])
    assert run.exit_code == 0, run.output
    ((command, home),) = seen
    assert command[:3] == ["-m", "lingshu_mcp.lab_page.serving", "scr_1"]
    assert command[-1] == "--open"
    assert home == str(tmp_path)


def started(home: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    command = [sys.executable, "-m", "lingshu_mcp.lab_page.serving", "--home", str(home), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    return process, process.stdout.readline().decode().strip()


def test_an_idle_server_ends_and_the_token_is_in_the_url_alone(tmp_path: Path):
    process, url = started(tmp_path, "exp_abc", "--idle-minutes", "0.02")
    try:
        match = re.fullmatch(r"http://127\.0\.0\.1:\d+/#([\w-]{43,})/exp_abc", url)
        assert match
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out == b""
    assert match[1].encode() not in err
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [p for p in kept if match[1].encode() in p.read_bytes()]


def test_ctrl_c_ends_the_server(tmp_path: Path):
    process, url = started(tmp_path)
    try:
        address = url.partition("#")[0]
        assert httpx2.get(address, timeout=60).status_code == 200
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 130
    assert time.monotonic() - begin < 30


def test_a_browser_is_led_to_the_page_by_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    url = "http://127.0.0.1:1/#token-of-the-page"
    path = serving._open(tmp_path / "home", url)
    assert opened == [path.absolute().as_uri()]
    assert "token-of-the-page" not in opened[0]
    assert f'content="0;url={url}"' in path.read_text("utf-8")
    assert path.stat().st_mode & 0o077 == 0
