"""What the MCP server costs beside the tools: start, a call over stdio, memory.

    python -m benchmarks.overhead                 # 10 starts, 1,000 calls of each kind
    python -m benchmarks.overhead --csv overhead.csv

`start` is from the start of the process to the answer of `tools/list`. A call's overhead is its
round trip less the median time of the same call in a process without a server. Processor time is
the server's, and is the figure to compare where others use the machine.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call

HELLO: Final = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "overhead", "version": "1"},
}
TOOLS: Final[Mapping[str, dict[str, Any]]] = {
    "find_genes": {"names": ["STAT1"], "checkpoint": "thp1-crispr"},
    "list_experiments": {},
}
"""Calls that compute little: what is left is the server's."""
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figure:
    """One measured quantity."""

    name: str
    n: int
    unit: str
    median: float
    p99: float


class Server:
    """A server process, asked one thing at a time."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lingshu_mcp", "--home", str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._number = 0
        self.ask("initialize", HELLO)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def ask(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of a request."""
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params or {}}
        self._send(message)
        return json.loads(cast("IO[bytes]", self.process.stdout).readline())["result"]

    def _send(self, message: Mapping[str, Any]) -> None:
        pipe = cast("IO[bytes]", self.process.stdin)
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()

    @property
    def processor_s(self) -> float:
        """Processor time so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def memory_mb(self) -> float:
        """Resident memory, in 10^6 bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def server() -> Generator[Server]:
    with tempfile.TemporaryDirectory() as home:
        running = Server(Path(home))
        try:
            yield running
        finally:
            running.process.kill()
            running.process.communicate()


def starts(n: int) -> list[Figure]:
    """Return how long cold starts take, and what a server holds afterwards."""
    wall: list[float] = []
    processor: list[float] = []
    memory: list[float] = []
    for _ in range(n):
        begin = time.perf_counter()
        with server() as running:
            running.ask("tools/list")
            wall.append(time.perf_counter() - begin)
            processor.append(running.processor_s)
            memory.append(running.memory_mb)
    return [
        figure("start to tools/list", "s", wall),
        figure("start to tools/list, processor", "s", processor),
        figure("memory after tools/list", "MB", memory),
    ]


def calls(n: int) -> list[Figure]:
    """Return how long requests take, beside the same calls in a process without a server."""
    with server() as running:
        figures = [
            *_requests(running, "ping", n, lambda: running.ask("ping")),
            *_requests(running, "tools/list", n, lambda: running.ask("tools/list")),
        ]
        for tool, arguments in TOOLS.items():
            params = {"name": tool, "arguments": arguments}
            with tempfile.TemporaryDirectory() as home:
                app = App(Path(home), door="python")
                alone = _times(n, lambda: call(app, tool, arguments))  # noqa: B023 - used here
            figures.append(figure(f"{tool}, no server", "ms", alone))
            through = _requests(running, tool, n, lambda: running.ask("tools/call", params))  # noqa: B023 - the same
            figures += through
            median = statistics.median(alone)
            round_trip = through[0]
            figures.append(
                Figure(
                    f"{tool}, overhead",
                    n,
                    "ms",
                    round_trip.median - median,
                    round_trip.p99 - median,
                )
            )
        memory = figure(f"memory after {4 * n} requests", "MB", [running.memory_mb])
    return [*figures, memory]


def _requests(running: Server, name: str, n: int, ask: Callable[[], object]) -> list[Figure]:
    before = running.processor_s
    times = _times(n, ask)
    spent = (running.processor_s - before) / (n + 1) * 1000
    return [
        figure(f"{name}, round trip", "ms", times),
        Figure(f"{name}, server's processor", n, "ms", spent, spent),
    ]


def _times(n: int, act: Callable[[], object]) -> list[float]:
    """Return the milliseconds of each of `n` calls, after one that is not counted."""
    act()
    times: list[float] = []
    for _ in range(n):
        begin = time.perf_counter()
        act()
        times.append((time.perf_counter() - begin) * 1000)
    return times


def figure(name: str, unit: str, values: Sequence[float]) -> Figure:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return Figure(name, len(values), unit, statistics.median(ordered), p99)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    figures = [*starts(arguments.starts), *calls(arguments.calls)]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the begin")
    print("| what | n | median | p99 |\n|---|---|---|---|")
    for f in figures:
        print(f"| {f.name} | {f.n} | {f.median:.3g} {f.unit} | {f.p99:.3g} {f.unit} |")
    if arguments.csv:
        with arguments.csv.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["what", "n", "unit", "median", "p99"])
            for f in figures:
                table.writerow([f.name, f.n, f.unit, f"{f.median:.4g}", f"{f.p99:.4g}"])


if __name__ == "__main__":
    main()
