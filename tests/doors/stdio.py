"""The real server as clients start it, spoken to in JSON-RPC lines."""

import json
import os
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


@contextmanager
def server(home: Path) -> Generator[Server]:
    """A server process of `home`, greeted by nobody yet; killed at the end."""
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


def greet(process: Server) -> str:
    """Shake hands; return the server's name."""
    name = ask(process, "initialize", **HELLO)["result"]["serverInfo"]["name"]
    send(process, "notifications/initialized")
    return name


def send(process: Server, method: str, **params: Any) -> None:
    """Send a request or a notification without waiting for an answer."""
    assert process.stdin
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    if method.startswith("notifications/"):
        del message["id"]
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def ask(process: Server, method: str, **params: Any) -> Any:
    """Send a request and return the next line as JSON."""
    assert process.stdout
    send(process, method, **params)
    return json.loads(process.stdout.readline())


def call(process: Server, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool that must not fail; return its structured result."""
    result = ask(process, "tools/call", name=tool, arguments=arguments)["result"]
    assert not result.get("isError"), result
    return result["structuredContent"]
