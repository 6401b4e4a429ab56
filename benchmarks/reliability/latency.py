"""How long short calls take while hundreds wait and the engine has a long job.

One MCP server over stdio. Hundreds of `get_experiment` calls wait for an experiment of 100,000
cells, and are asked again as they come back. Beside them, one after the other: `describe_model`,
`cancel_experiment` and a `sample_cells` of 16 cells.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import click
from tqdm import tqdm

from benchmarks.reliability.doors import HELLO, tool_call
from benchmarks.reliability.reports import quantiles
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.system.interpreter import PIPE, start

CHECKPOINT = "thp1-crispr"
LONG_CELLS = 100_000
SHORT_CELLS = 16
LIMITS_S = {"describe_model": 2.0, "cancel_experiment": 2.0, "sample_cells": 8.0}
"""The 99th percentile that each is to stay below, in seconds."""
_WAIT_S = 45
_PATIENCE_S = 300.0


class Server:
    """One MCP server, asked many things at a time."""

    def __init__(self, home: Path, environ: Mapping[str, str]) -> None:
        line = ["-m", "lingshu_mcp", "--home", str(home)]
        self._process = start(line, environ=environ, stdin=PIPE, stdout=PIPE)
        self._lock = threading.Lock()
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        self._number = 0
        threading.Thread(target=self._read, daemon=True).start()
        self.ask("initialize", HELLO).result(_PATIENCE_S)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """Return the answer to come: the result's fields, or `{"error": text}`."""
        return self.ask("tools/call", tool_call(tool, arguments))

    def ask(self, method: str, params: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """Return the answer to come of any request."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            self._number += 1
            number = self._number
            self._pending[number] = future
        self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return future

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()

    def _send(self, message: Mapping[str, Any]) -> None:
        pipe = cast("Any", self._process.stdin)
        with self._lock:
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()

    def _read(self) -> None:
        for line in cast("Any", self._process.stdout):
            message = json.loads(line)
            with self._lock:
                future = self._pending.pop(message.get("id"), None)
            if future:
                future.set_result(_fields(message))


def _fields(message: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in message:
        return {"error": str(message["error"].get("message"))}
    result = message["result"]
    if result.get("isError"):
        return {"error": " ".join(block.get("text", "") for block in result["content"])}
    return result.get("structuredContent") or {}


class Crowd:
    """Calls that wait for one experiment, each asked again when it comes back."""

    def __init__(self, server: Server, experiment_id: str, count: int) -> None:
        self._server, self._id = server, experiment_id
        self.answers = Counter[str]()
        self._open = True
        for _ in range(count):
            self._ask()

    def leave(self) -> None:
        """Ask no more."""
        self._open = False

    def _ask(self) -> None:
        waiting = self._server.call("get_experiment", {"id": self._id, "wait_s": _WAIT_S})
        waiting.add_done_callback(self._answered)

    def _answered(self, future: Future[dict[str, Any]]) -> None:
        fields = future.result()
        self.answers[str(fields.get("error") or fields["status"])[:100]] += 1
        if self._open:
            # Not from the reading thread: what was refused at once would be asked for ever.
            threading.Timer(0.5, self._ask).start()


def latency(*, waiting: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return how long each short call took, `rounds` of each, beside so many that wait."""
    home = folder / "home"
    environ = {**os.environ, "LINGSHU_REFERENCE_LEDGER": str(folder / "none.db")}
    with closing(Engine(home)) as engine, closing(Server(home, environ)) as server:
        engine.ensure()
        _until_done(server, server.call("sample_cells", _sample(SHORT_CELLS, seed=0)))
        long = server.call("sample_cells", _sample(LONG_CELLS, seed=1)).result(_PATIENCE_S)
        crowd = Crowd(server, long["experiment_id"], waiting)
        seconds: dict[str, list[float]] = {tool: [] for tool in LIMITS_S}
        answers: dict[str, Counter[str]] = {tool: Counter[str]() for tool in LIMITS_S}
        for number in tqdm(range(rounds)):
            given = _round(server, number)
            for tool, arguments in given.items():
                begin = time.monotonic()
                fields = _until_done(server, server.call(tool, arguments))
                seconds[tool].append(time.monotonic() - begin)
                answers[tool][str(fields.get("error") or fields["status"])[:100]] += 1
        request = {"id": long["experiment_id"]}
        end = server.call("get_experiment", request).result(_PATIENCE_S)
        crowd.leave()
        server.call("cancel_experiment", request).result(_PATIENCE_S)
        engine.shutdown()
    return {
        "waiting": waiting,
        "waiting_answers": dict(crowd.answers.most_common(5)),
        "long_job": {"status": end.get("status"), "progress": end.get("progress")},
        "cores": len(os.sched_getaffinity(0)),
        "calls": {
            tool: {**quantiles(seconds[tool]), "goal_p99_s": limit, "answers": dict(answers[tool])}
            for tool, limit in LIMITS_S.items()
        },
    }


def _until_done(server: Server, future: Future[dict[str, Any]]) -> dict[str, Any]:
    """Return an answer that is final, after asking again for as long as it is not."""
    fields = future.result(_PATIENCE_S)
    while fields.get("status") in ("queued", "running"):
        request = {"id": fields["experiment_id"], "wait_s": _WAIT_S}
        fields = server.call("get_experiment", request).result(_PATIENCE_S)
    return fields


def _round(server: Server, number: int) -> dict[str, dict[str, Any]]:
    """Return the calls of one round, and begin what one of them is to cancel."""
    doomed = server.call("sample_cells", _sample(LONG_CELLS, seed=1000 + number))
    name = doomed.result(_PATIENCE_S)["experiment_id"]
    return {
        "describe_model": {},
        "cancel_experiment": {"id": name},
        "sample_cells": {**_sample(SHORT_CELLS, seed=5000 + number), "wait_s": _WAIT_S},
    }


def _sample(n_cells: int, *, seed: int) -> dict[str, Any]:
    return {"checkpoint": CHECKPOINT, "n_cells": n_cells, "seed": seed, "wait_s": 0}


def slow(summary: Mapping[str, Any]) -> list[str]:
    """Return the calls that missed their goal."""
    calls = summary["calls"]
    return [tool for tool, created in calls.items() if created["p99_s"] > created["goal_p99_s"]]


def rows(summary: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return a row for each call: how many, p50, p99, the longest and the goal, in seconds."""
    keys = ("n", "p50_s", "p99_s", "max_s", "goal_p99_s")
    return [(tool, *(created[key] for key in keys)) for tool, created in summary["calls"].items()]


def warn(summary: Mapping[str, Any]) -> None:
    """Say on stderr if the long job was over before the calls were."""
    if summary["long_job"]["status"] not in ("queued", "running"):
        click.echo("the long job ended early: the figures are too good", err=True)
