"""What the server counts, as Prometheus reads it."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping

from lingshu_mcp.calls import Calls
from lingshu_mcp.http.sessions import Sessions
from lingshu_tools.app import App

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_RATE_S = 60.0
Labels = Mapping[str, str]


class Metrics:
    """The counters of one server."""

    def __init__(self, calls: Calls, sessions: Sessions) -> None:
        self._calls, self._sessions = calls, sessions
        self.responses: Counter[int] = Counter()
        self._cells: deque[tuple[float, int]] = deque()

    def note_cells(self, n_cells: int) -> None:
        """Take down how many cells have been made by now, for the rate over the last minute."""
        now = time.monotonic()
        self._cells.append((now, n_cells))
        # Two samples at least, or there is no rate.
        while len(self._cells) > 2 and self._cells[0][0] < now - _RATE_S:
            self._cells.popleft()

    def text(self, apps: Iterable[App]) -> str:
        """Return all of it."""
        return "".join(line + "\n" for line in self._lines(list(apps)))

    def _lines(self, apps: list[App]) -> Iterator[str]:
        counts = self._calls.counts
        yield from _metric(
            "calls_total",
            "counter",
            "Tool calls by outcome.",
            [
                ({"tool": tool, "outcome": outcome}, n)
                for (tool, outcome), n in sorted(counts.calls.items())
            ],
        )
        yield from _metric(
            "call_seconds_total",
            "counter",
            "Seconds that calls took, waiting included.",
            [({"tool": tool}, seconds) for tool, seconds in sorted(counts.seconds.items())],
        )
        in_flight = [({"kind": kind}, counts.in_flight[kind]) for kind in ("waiting", "short")]
        yield from _metric("calls_in_flight", "gauge", "Calls being answered.", in_flight)
        yield from _metric(
            "waits", "gauge", "Calls that wait for experiments.", [({}, len(self._calls.waits))]
        )
        yield from _metric(
            "stuck_threads",
            "gauge",
            "Threads that did not return in time.",
            [({}, self._calls.threads.stuck)],
        )
        yield from _metric(
            "queue_experiments",
            "gauge",
            "Experiments queued or at work in this server.",
            [({}, sum(len(app.runner.active) for app in apps))],
        )
        yield from _metric(
            "queue_cells",
            "gauge",
            "Cells still to be made for them.",
            [({}, sum(app.runner.cells_left() for app in apps))],
        )
        yield from _metric(
            "cells_total",
            "counter",
            "Cells that the engine has made for this server.",
            [({}, sum(app.runner.n_cells_sampled for app in apps))],
        )
        yield from _metric(
            "cells_per_second", "gauge", "Over the last minute.", [({}, round(self._rate(), 3))]
        )
        yield from _metric("sessions", "gauge", "MCP sessions open.", [({}, len(self._sessions))])
        yield from _metric(
            "http_responses_total",
            "counter",
            "HTTP responses by status.",
            [({"status": str(status)}, n) for status, n in sorted(self.responses.items())],
        )

    def _rate(self) -> float:
        if len(self._cells) < 2:
            return 0.0
        (begin, first), (end, last) = self._cells[0], self._cells[-1]
        return max(last - first, 0) / max(end - begin, 1e-9)


def _metric(
    name: str, kind: str, text: str, values: Iterable[tuple[Labels, float]]
) -> Iterator[str]:
    name = f"lingshu_{name}"
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values:
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def _escaped(label: str) -> str:
    # Backslashes first, or those of the other escapes would be doubled.
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
