"""The real server as clients start it, spoken to in JSON-RPC lines."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "0"},
}
Server = subprocess.Popen[str]
LIMIT_S = 90


@contextmanager
def server(home: Path, *, program: str | Path = "", **streams: Any) -> Generator[Server]:
    """A server process of `home`, greeted by nobody yet; killed at the end.

    `program` is a script that starts the server in another way than `python -m lingshu_mcp`.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, *([program] if program else ["-m", "lingshu_mcp"]), "--home", str(home)],
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        **(pipes | streams),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def silent_engine(environ: Any) -> Generator[socket.socket]:
    """An engine that takes connections and never answers, named in `environ`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT_S)
        environ.setenv("LINGSHU_ENGINE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        yield silent


def greet(process: Server) -> str:
    """Shake hands; return the server's name."""
    name = ask(process, "initialize", **HELLO)["result"]["serverInfo"]["name"]
    send(process, "notifications/initialized")
    return name


def message(method: str, *, number: int = 1, **params: Any) -> str:
    """Return a request or a notification as one line."""
    values = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    if method.startswith("notifications/"):
        del values["id"]
    return json.dumps(values) + "\n"


def send(process: Server, method: str, **params: Any) -> None:
    """Send a request or a notification without waiting for an answer."""
    send_line(process, message(method, **params))


def send_line(process: Server, line: str) -> None:
    """Send any text."""
    assert process.stdin
    process.stdin.write(line)
    process.stdin.flush()


def receive(process: Server) -> Any:
    """Return the next line as JSON."""
    assert process.stdout
    return json.loads(process.stdout.readline())


def ask(process: Server, method: str, **params: Any) -> Any:
    """Send a request and return the next line as JSON."""
    send(process, method, **params)
    return receive(process)


def call(process: Server, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool that must not fail; return its structured result."""
    result = ask(process, "tools/call", name=tool, arguments=arguments)["result"]
    assert not result.get("isError"), result
    return result["structuredContent"]
