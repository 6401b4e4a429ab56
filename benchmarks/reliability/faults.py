"""Ten minutes of faults: eight clients on one home, and everything around them going wrong.

Afterwards the home is held against what is right (`truth`) and against what its clients were
answered.
"""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from benchmarks.reliability import truth
from benchmarks.reliability.checkpoints import Versions
from benchmarks.reliability.client import CHECKPOINT, WORKERS, Place
from benchmarks.reliability.disks import disk
from benchmarks.reliability.injector import Injector
from benchmarks.reliability.reports import quantiles
from lingshu_tools.app import App
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.system.interpreter import DEVNULL, Process, start

CLIENTS = (
    ("f", "fork"), ("l", "lab"), ("s1", "stdio"), ("s2", "stdio"), ("h1", "http"), ("h2", "http"),
)  # fmt: skip
"""Names and kinds; `fork` is three workers, so they are eight."""
GRACE_S = 3.0
"""Seconds that a call may take beyond its `wait_s`."""
_STARTING_S = 300.0
_ENDING_S = 120.0


def faults(minutes: float, *, folder: Path, seed: int) -> dict[str, Any]:
    """Return what so many minutes of faults did, and what was found afterwards."""
    place = Place(folder)
    for path in (place.pids, place.calls):
        path.mkdir()
    versions = Versions(folder, CHECKPOINT)
    environ = {
        **os.environ,
        "LINGSHU_CHECKPOINTS": str(versions.place),
        "LINGSHU_HOME": str(place.home),
        "LINGSHU_REFERENCE_LEDGER": str(folder / "none.db"),
    }
    os.environ.update({name: environ[name] for name in ("LINGSHU_REFERENCE_LEDGER",)})
    with disk(folder / "disk") as small:
        place.home.mkdir(mode=0o700)
        injector = Injector(place, versions, small, seed)
        with closing(Engine(place.home, environ=environ)) as engine:
            engine.ensure()
        with clients(place, environ, seed):
            _until_all_call(place)
            injector.run(60 * minutes)
            (folder / "stop").touch()
        click.echo("the faults are over; now everything is computed again", err=True)
        calls = read_calls(place)
        result = judged(place, versions, calls, environ)
        result |= {"disk": small.how}
    summary = {
        "minutes": minutes,
        "seed": seed,
        "cores": len(os.sched_getaffinity(0)),
        "clients": dict(Counter(item["kind"] for item in {c["client"]: c for c in calls}.values())),
        "faults": dict(sorted(injector.counts.items())),
        **counted(calls),
        **result,
    }
    # No path of this machine in what is published.
    return json.loads(json.dumps(summary).replace(str(folder), "FOLDER"))


def _until_all_call(place: Place) -> None:
    """Return when every client has made a call, for before that no fault would meet one."""
    end = time.monotonic() + _STARTING_S
    names = len(CLIENTS) - 1 + WORKERS
    while len([*place.calls.iterdir()]) < names and time.monotonic() < end:
        time.sleep(0.2)


@contextmanager
def clients(place: Place, environ: Mapping[str, str], seed: int) -> Iterator[None]:
    """Run the clients and the HTTP server, and start those again that are killed."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=_keep, args=(place, environ, seed, name, kind))
        for name, kind in CLIENTS
    ]
    threads.append(threading.Thread(target=_serve, args=(place, environ, stop)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        (place.folder / "stop").touch()
        for thread in threads[:-1]:
            thread.join()
        stop.set()
        threads[-1].join()


def _keep(place: Place, environ: Mapping[str, str], seed: int, name: str, kind: str) -> None:
    generation = 0
    while not place.stopping():
        generation += 1
        line = ["-m", "benchmarks.reliability.client", str(place.folder), name, kind]
        with (place.folder / f"{name}.log").open("ab") as log:
            child = start(
                [*line, str(seed + generation)], environ=environ, stdin=DEVNULL, stdout=log,
                stderr=log, detached=True,
            )  # fmt: skip
        _wait(child, place)


def _wait(child: Process[bytes], place: Place) -> None:
    """Wait for a client; one that does not end when it should is killed with its workers."""
    while child.poll() is None and not place.stopping():
        time.sleep(0.2)
    try:
        child.wait(_ENDING_S)
    except Exception:  # noqa: BLE001 - it hangs, which its calls show
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _serve(place: Place, environ: Mapping[str, str], stop: threading.Event) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = place.home / "http-token"
    while not stop.is_set():
        with (place.folder / "http.log").open("ab") as log:
            line = ["-m", "lingshu_mcp", "--home", str(place.home), "--http", f"127.0.0.1:{port}"]
            server = start(line, environ=environ, stdin=DEVNULL, stdout=log, stderr=log)
        place.note("server-http", server.pid)
        while server.poll() is None and not stop.is_set():
            headers = {}
            with suppress(OSError):
                headers = {"Authorization": f"Bearer {token.read_text().split()[-1]}"}
            where = {"url": f"http://127.0.0.1:{port}/mcp", "headers": headers}
            temporary = place.http.with_suffix(".new")
            temporary.write_text(json.dumps(where))
            temporary.replace(place.http)
            time.sleep(0.2)
        with suppress(ProcessLookupError):
            server.terminate()
        server.wait()


def read_calls(place: Place) -> list[dict[str, Any]]:
    """Return every call that was answered, or lost, in the order in which they were begun."""
    lines = [line for path in place.calls.iterdir() for line in path.read_text().splitlines()]
    calls: list[dict[str, Any]] = []
    for line in lines:
        with suppress(ValueError):  # its writer was killed in the middle
            calls.append(json.loads(line))
    return sorted(calls, key=lambda item: item["at"])


def counted(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many calls came out how, and how long they took beyond their `wait_s`."""
    over = {id(item): item["seconds"] - item["wait_s"] for item in calls}
    # A call whose server was killed has no answer to be late.
    answered = [item for item in calls if item["outcome"] != "lost"]
    late = sorted(
        (item for item in answered if over[id(item)] > GRACE_S), key=lambda o: -over[id(o)]
    )
    errors = Counter(item["text"].split("exp_")[0][:120] for item in calls if item["text"])
    kinds = sorted({item["kind"] for item in calls})
    return {
        "calls": len(calls),
        "outcomes": dict(Counter(item["outcome"] for item in calls).most_common()),
        "statuses": dict(Counter(o["status"] for o in calls if o["outcome"] == "ok").most_common()),
        "seconds_beyond_wait_s": {
            kind: quantiles([over[id(item)] for item in answered if item["kind"] == kind])
            for kind in kinds
        },
        "late": len(late),
        "latest": [
            {
                **{k: item[k] for k in ("kind", "tool", "wait_s", "outcome", "status", "text")},
                "beyond_s": round(over[id(item)], 2),
            }
            for item in late[:10]
        ],
        "texts": dict(errors.most_common(20)),
    }


def judged(
    place: Place, versions: Versions, calls: Sequence[Mapping[str, Any]], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the home holds when everything has come to rest."""
    endless = truth.unfinished(place.home, versions, environ)
    with closing(App(place.home)) as app:
        report = app.ledger.verify(anchors=truth.heads_of(calls))
        statuses = {
            status: sum(1 for _ in truth.every(app.ledger, status))
            for status in ("succeeded", "failed", "cancelled", "queued", "running", "interrupted")
        }
        failed = [app.ledger.outcome(e.id) for e in truth.every(app.ledger, "failed")]
        return {
            "experiments": {status: n for status, n in statuses.items() if n},
            "failures": sorted({str(o.error)[:200] for o in failed if o}),
            "never_ended": endless,
            "ledger_problems": [str(problem) for problem in report.problems],
            "lost": truth.lost(app.ledger, calls),
            **truth.differing(app.ledger, place.folder, versions, environ),
        }


def broken(summary: Mapping[str, Any]) -> list[str]:
    """Return which promises were broken."""
    findings = ("late", "never_ended", "ledger_problems", "lost", "different")
    return [name for name in (*findings, "of_no_known_checkpoint") if summary[name]]
