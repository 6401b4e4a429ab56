"""The server as clients start it: a process that speaks JSON-RPC on stdout and dies with stdin."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stdio import (
    HELLO,
    LIMIT_S,
    Server,
    ask,
    greet,
    message,
    receive,
    send,
    send_line,
    server,
    silent_engine,
)

from lingshu_mcp.messages import MAX_LINE

SAMPLE = {"checkpoint": "thp1-crispr", "wait_s": 45}


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
    """The engine takes the connection and never answers; the call does before the end."""
    with silent_engine(monkeypatch) as silent, server(tmp_path) as process:
        greet(process)
        send(process, "tools/call", name="sample_cells", arguments=SAMPLE)
        with silent.accept()[0]:
            rest, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0
        assert structured(rest)["experiment_id"].startswith("exp_")


def test_requests_from_a_file_are_answered_before_the_server_ends(tmp_path: Path):
    requests = tmp_path / "requests"
    lines = [
        message("initialize", number=0, **HELLO),
        message("notifications/initialized"),
        message("tools/call", number=1, name="list_experiments", arguments={}),
        message("ping", number=2),
    ]
    requests.write_text("".join(lines))
    with requests.open() as file, server(tmp_path / "home", stdin=file) as process:
        answers, _ = process.communicate(timeout=LIMIT_S)
    assert {json.loads(line)["id"] for line in answers.splitlines()} == {0, 1, 2}
    assert all("result" in json.loads(line) for line in answers.splitlines())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_one_signal_ends_the_server_and_a_waiting_call_is_answered_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
):
    with silent_engine(monkeypatch) as silent, server(tmp_path) as process:
        greet(process)
        send(process, "tools/call", name="sample_cells", arguments=SAMPLE)
        with silent.accept()[0]:
            process.send_signal(number)
            assert process.wait(LIMIT_S) == status
        assert process.stdout
        assert process.stderr
        assert structured(process.stdout.read())["experiment_id"].startswith("exp_")
        assert process.stderr.read() == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_ctrl_c_at_a_terminal_ends_the_server_at_the_first_press(tmp_path: Path):
    leader, terminal = os.openpty()
    with server(tmp_path, stdin=terminal) as process:
        os.close(terminal)
        os.write(leader, message("initialize", **HELLO).encode())
        assert receive(process)["result"]
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert process.stderr
        assert "Traceback" not in process.stderr.read()
    os.close(leader)


def test_ctrl_c_during_the_start_ends_the_server_without_a_traceback(tmp_path: Path):
    with server(tmp_path) as process:
        modules = Path(f"/proc/{process.pid}/maps")
        if modules.is_file():
            while "pydantic_core" not in modules.read_text():
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, said) == (130, "")


def test_a_client_that_reads_no_more_ends_the_server_quietly(tmp_path: Path):
    with server(tmp_path) as process:
        greet(process)
        assert process.stdout
        process.stdout.close()
        send(process, "ping")
        assert process.wait(LIMIT_S) == 0
        assert process.stderr
        assert process.stderr.read() == ""


DEEP = "[" * 3000 + "]" * 3000


def request(number: str, names: str, *, last: bool = False) -> str:
    """A call of find_genes with JSON texts in it; the id comes first or `last`."""
    parts = [
        f'"id": {number}',
        '"jsonrpc": "2.0", "method": "tools/call"',
        '"params": {"name": "find_genes", "arguments": {"names": ' + names + "}}",
    ]
    return "{" + ", ".join(parts[1:] + parts[:1] if last else parts) + "}"


@pytest.mark.parametrize(
    ("line", "number", "reason"),
    [
        (request("7", DEEP), 7, "recursion"),
        (request("7", DEEP, last=True), 7, "recursion"),
        (request('"a-b"', DEEP), "a-b", "recursion"),
        (request("7", r'["\ud800"]'), 7, "surrogate"),
        (request("7", '["STAT1"'), 7, "Parse error"),
        (request("7", "9" * 6000), 7, "out of range"),
        (request("7", '"' + "x" * MAX_LINE + '"'), 7, "longer than"),
        (request("1.5", "[]"), None, "id is 1.5"),
        (request("null", "[]"), None, "id is None"),
        ('{"id": 7, "method": "ping"}', 7, "JSON-RPC"),
        ('[{"jsonrpc": "2.0", "id": 7, "method": "ping"}]', None, "batch"),
        ("hello", None, "Parse error"),
        ('{"params": {"id": 5}, "x": ' + DEEP + "}", None, "recursion"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_message_that_cannot_be_read_is_answered_with_its_id(
    talking: Server, line: str, number: int | str | None, reason: str
):
    send_line(talking, line + "\n")
    answer = receive(talking)
    assert answer["id"] == number
    assert answer["error"]["code"] in (-32700, -32600)
    assert reason in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 300
    assert ask(talking, "ping")["result"] == {}


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("home")) as process:
        greet(process)
        yield process


def test_bytes_that_are_no_text_blank_lines_and_a_byte_order_mark_harm_nothing(talking: Server):
    assert talking.stdin
    for piece in (b"\n", b"\xff\xfe\n", b"\r\n"):
        talking.stdin.buffer.write(piece)
    talking.stdin.flush()
    assert receive(talking)["error"]["code"] == -32700
    send_line(talking, "\ufeff" + message("ping"))
    assert receive(talking)["result"] == {}


def structured(lines: str) -> dict[str, Any]:
    """The structured result of the one answer in these lines."""
    (answer,) = [json.loads(line) for line in lines.splitlines()]
    return answer["result"]["structuredContent"]
