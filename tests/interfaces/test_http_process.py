"""The HTTP server as a process: its first line, its token, its end."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx2
import pytest
from click.testing import CliRunner
from http_requests import ACCEPT
from stdio import HELLO, LIMIT_S, message, silent_engine

from lingshu_mcp.__main__ import main
from lingshu_mcp.http import Address, AddressError
from lingshu_tools.cli import main as lingshu

SAMPLE = {"checkpoint": "thp1-crispr", "wait_s": 45}


@contextmanager
def http_server(home: Path, *options: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A server process and its first line on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lingshu_mcp", "--home", str(home), "--http", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert process.stderr
    try:
        yield process, process.stderr.readline()
    finally:
        process.kill()
        process.communicate()


def url_of(line: str) -> str:
    return line.split()[2].rstrip(",")


def session(url: str, headers: dict[str, str]) -> dict[str, str]:
    response = httpx2.post(url, content=message("initialize", **HELLO), headers=headers)
    assert response.status_code == 200, response.text
    return headers | {"mcp-session-id": response.headers["mcp-session-id"]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_line_names_url_and_token_file_and_one_signal_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    with silent_engine(monkeypatch), http_server(tmp_path, "127.0.0.1:0") as (process, line):
        token_file = tmp_path / "http-token"
        assert line.endswith(f"token in {token_file}\n")
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        token = token_file.read_text().strip()
        assert token not in line
        headers = session(url_of(line), ACCEPT | {"authorization": f"Bearer {token}"})
        call = message("tools/call", number=2, name="sample_cells", arguments=SAMPLE)
        address = "127.0.0.1", int(url_of(line).split(":")[2][:-4])
        half = f"POST /mcp HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
        half += f"Authorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
        with (
            socket.create_connection(address),
            socket.create_connection(address) as slow,
            httpx2.stream("POST", url_of(line), content=call, headers=headers) as answer,
        ):
            # Its body has 30 s to arrive.
            slow.sendall(half.encode())
            httpx2.get(f"http://{address[0]}:{address[1]}/health")
            begin = time.monotonic()
            process.send_signal(number)
            text = answer.read().decode()
            assert process.wait(LIMIT_S) == (130 if number == signal.SIGINT else 0)
            assert time.monotonic() - begin < 10
    assert "exp_" in text
    assert process.stderr
    assert token not in (rest := process.stderr.read() if not process.stderr.closed else "")
    assert "Traceback" not in rest


def test_the_token_of_an_earlier_start_stays(tmp_path: Path):
    with http_server(tmp_path, "127.0.0.1:0"):
        token = (tmp_path / "http-token").read_text()
    with http_server(tmp_path, "[::1]:0") as (_, line):
        assert "http://[::1]:" in line
        assert (tmp_path / "http-token").read_text() == token
        assert httpx2.get(url_of(line).replace("/mcp", "/health")).text == "ok\n"


def test_without_a_token_the_first_line_says_so(tmp_path: Path):
    with http_server(tmp_path, "localhost:0", "--no-token") as (_, line):
        assert "http://localhost:" in line
        assert "--no-token" in line
        assert not (tmp_path / "http-token").exists()
        session(url_of(line), ACCEPT)


def test_a_port_in_use_is_one_line_and_exit_status_1(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with http_server(tmp_path, address) as (process, line):
            _, rest = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert f"{address} is in use" in line
    assert rest == ""


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8931", "[::]:0", "example.org:80", "8931x", "127.0.0.1:99999", "1.2.3.4:5"]
)
def test_http_is_refused_anywhere_but_on_this_machine(address: str):
    with pytest.raises(AddressError, match=r"127\.0\.0\.1"):
        Address.parse(address)


def test_no_token_is_refused_where_there_is_none_to_leave_out():
    with pytest.raises(click.UsageError, match="--http"):
        main.main(["--no-token"], standalone_mode=False)


def test_tokens_are_added_listed_and_revoked(tmp_path: Path):
    shell = CliRunner()

    def run(*arguments: str) -> Any:
        return shell.invoke(lingshu, ["serve", "tokens", *arguments, "--home", str(tmp_path)])

    added = run("add", "alice", "--max-cells", "500")
    token = added.stdout.strip()
    assert len(token) > 40
    assert token not in (tmp_path / "http-tokens.json").read_text()
    assert stat.S_IMODE((tmp_path / "http-tokens.json").stat().st_mode) == 0o600
    listed = run("list").stdout
    assert "alice" in listed
    assert "500 cells" in listed
    assert token not in listed
    assert "already" in run("add", "alice").stderr
    assert run("add", "Al ice").exit_code == 1
    assert run("add", "local").exit_code == 1
    assert run("revoke", "alice").exit_code == 0
    assert "no token 'alice'" in run("revoke", "alice").stderr
