"""Ways to call a tool, each with its own way to fail: Python, MCP over stdio, MCP over HTTP.

Every way returns an `Answer` and never raises: what went wrong is what is counted.
"""

import json
import re
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import httpx

from lingshu_tools import Lab
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, LingshuError
from lingshu_tools.system.interpreter import PIPE, Process, start

Outcome = Literal["ok", "refused", "busy", "timed out", "failed", "lost", "hung"]
HUNG_S = 30.0
"""Seconds beyond `wait_s` after which a call is given up; the promise is 3."""
START_S = 120.0
_BUSY = re.compile(r"server busy|calls in flight|too many|over budget|budget", re.IGNORECASE)
_TIMED_OUT = re.compile(
    r"not answer|no answer|has not answered|waited|within \d|in \d+ s|locked|stopped|timed out"
)
_FAILED = re.compile(r"incident|failed in its child|was killed|disk|cannot be|could not", re.I)
_VERSION = "2025-11-25"


@dataclass(frozen=True)
class Answer:
    """What came of a call: `fields` of the result where it is `ok`, else the text of the error."""

    outcome: Outcome
    fields: Mapping[str, Any]
    text: str = ""


class Door(Protocol):
    """A way to call tools."""

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """Return what came of a call."""
        ...


class LabDoor:
    """Calls in this process."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """Return what came of a call."""
        try:
            return Answer("ok", call(self._lab.app, tool, arguments).model_dump(mode="json"))
        except InputError as error:
            return Answer("refused", {}, str(error))
        except LingshuError as error:
            return Answer(judged(str(error), otherwise="failed"), {}, str(error))
        except Exception as error:  # noqa: BLE001 - it is counted
            return Answer("failed", {}, f"{type(error).__name__}: {error}")


class StdioDoor:
    """Calls a server of its own over stdio, and starts another when it was killed."""

    def __init__(self, home: Path, started: Callable[[int], None]) -> None:
        """Prepare; `started` is told the process id of each server."""
        self._home, self._started = home, started
        self._server: Process[bytes] | None = None
        self._buffer = b""
        self._number = 0

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """Return what came of a call."""
        limit = arguments.get("wait_s", 4) + HUNG_S
        try:
            return _tool_answer(self._ask("tools/call", tool_call(tool, arguments), limit))
        except (OSError, EOFError, ValueError) as error:
            self.close()
            return Answer("lost", {}, f"{type(error).__name__}: {error}")
        except TimeoutError as error:
            self.close()
            return Answer("hung", {}, str(error))

    def ready(self) -> None:
        """Start a server unless one runs; no call's time includes it."""
        if self._server is None or self._server.poll() is not None:
            self.close()
            line = ["-m", "lingshu_mcp", "--home", str(self._home)]
            self._server = start(line, stdin=PIPE, stdout=PIPE)
            self._started(self._server.pid)
            self._ask("initialize", HELLO, START_S)
            self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def close(self) -> None:
        """End the server."""
        if self._server:
            self._server.kill()
            self._server.communicate()
        self._server, self._buffer = None, b""

    def _ask(self, method: str, params: Mapping[str, Any], limit_s: float) -> Any:
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        end = time.monotonic() + limit_s
        self._send(request)
        while True:
            message = json.loads(self._line(end))
            if message.get("id") == self._number:
                return message

    def _send(self, message: Mapping[str, Any]) -> None:
        pipe = cast("Any", self._server).stdin
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()

    def _line(self, end: float) -> bytes:
        pipe = cast("Any", self._server).stdout
        while b"\n" not in self._buffer:
            if not select.select([pipe], [], [], max(end - time.monotonic(), 0))[0]:
                message = "no answer, and the server is alive"
                raise TimeoutError(message)
            read = pipe.read1(1 << 20)
            if not read:
                message = "the server is gone"
                raise EOFError(message)
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


class HttpDoor:
    """Calls a server over HTTP; each time that one was replaced, it begins a session anew."""

    def __init__(self, url: Callable[[], str], headers: Callable[[], dict[str, str]]) -> None:
        """Prepare; where the server is and what it wants to be shown are asked each session."""
        self._url, self._headers = url, headers
        self._client: httpx.Client | None = None
        self._number = 0

    def ready(self) -> None:
        """Begin a session unless there is one."""
        if self._client is None:
            accept = {"Accept": "application/json, text/event-stream"}
            self._client = httpx.Client(headers={**accept, **self._headers()}, timeout=START_S)
            response = self._post("initialize", HELLO, START_S)
            if session := response.headers.get("mcp-session-id"):
                self._client.headers["mcp-session-id"] = session
            self._client.headers["mcp-protocol-version"] = _VERSION
            notice = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            self._client.post(self._url(), json=notice)

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        """Return what came of a call."""
        limit = arguments.get("wait_s", 4) + HUNG_S
        try:
            response = self._post("tools/call", tool_call(tool, arguments), limit)
            return _tool_answer(_message(response))
        except httpx.TimeoutException as error:
            self.close()
            return Answer("hung", {}, repr(error))
        except (httpx.HTTPError, ValueError) as error:
            self.close()
            return Answer("lost", {}, repr(error))

    def close(self) -> None:
        """Forget the session."""
        if self._client:
            self._client.close()
        self._client = None

    def _post(self, method: str, params: Mapping[str, Any], limit_s: float) -> httpx.Response:
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        response = cast("httpx.Client", self._client).post(
            self._url(), json=request, timeout=limit_s
        )
        response.raise_for_status()
        return response


HELLO = {
    "protocolVersion": _VERSION,
    "capabilities": {},
    "clientInfo": {"name": "reliability", "version": "0"},
}


def tool_call(tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of `tools/call`."""
    return {"name": tool, "arguments": dict(arguments)}


def judged(text: str, *, otherwise: Outcome) -> Outcome:
    """Return what sort of error a text speaks of."""
    for pattern, outcome in ((_BUSY, "busy"), (_TIMED_OUT, "timed out"), (_FAILED, "failed")):
        if pattern.search(text):
            return cast("Outcome", outcome)
    return otherwise


def _message(response: httpx.Response) -> Any:
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        lines = [
            x[5:] for x in response.text.splitlines() if x.startswith("data:") and x[5:].strip()
        ]
        return json.loads(lines[-1])
    return response.json()


def _tool_answer(message: Mapping[str, Any]) -> Answer:
    if "error" in message:
        text = str(message["error"].get("message"))
        return Answer(judged(text, otherwise="refused"), {}, text)
    result = message["result"]
    if result.get("isError"):
        text = " ".join(block.get("text", "") for block in result["content"])
        return Answer(judged(text, otherwise="refused"), {}, text)
    return Answer("ok", result["structuredContent"])
