"""One client of the fault benchmark: calls tools at random, and writes down what came of each call.

    python -m benchmarks.reliability.client PLACE NAME KIND SEED

Kinds: `lab` (a process), `fork` (three workers forked from one that has used its Lab), `stdio` (a
server of its own), `http`. It ends when the file `stop` appears in the place.
"""

import json
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.doors import Answer, Door, HttpDoor, LabDoor, StdioDoor
from lingshu_tools import Lab

CHECKPOINT = "thp1-faults"
TARGETS = ("STAT1", "JAK2", "CD86", "SMAD4", "IRF1", "ATF2", "IFNGR1", "STAT2")
WORKERS = 3
LINE = 300
"""Characters of an error that are kept."""
_READY_S = 1.0
_PAUSE_S = 0.3
"""A client that was refused does not ask again at once."""


@dataclass(frozen=True)
class Place:
    """The folder of a run, in which its processes find each other."""

    folder: Path

    @property
    def home(self) -> Path:
        """The home that all share."""
        return self.folder / "disk" / "home"

    @property
    def pids(self) -> Path:
        """A file for each process that may be killed, named by what it is."""
        return self.folder / "pids"

    @property
    def calls(self) -> Path:
        """A file of JSON lines for each client: its calls."""
        return self.folder / "calls"

    @property
    def http(self) -> Path:
        """Where the HTTP server is and what it wants to be shown, as JSON."""
        return self.folder / "http.json"

    def stopping(self) -> bool:
        """Return whether the clients are to end."""
        return (self.folder / "stop").exists()

    def note(self, name: str, pid: int) -> None:
        """Let others know of a process."""
        (self.pids / name).write_text(str(pid))


@dataclass
class Client:
    """Calls tools until it is told to stop; remembers the ids of its own experiments."""

    place: Place
    name: str
    kind: str
    door: Door
    rng: random.Random
    unfinished: list[str] = field(default_factory=list[str])
    finished: list[str] = field(default_factory=list[str])

    def run(self) -> None:
        """Call until the file `stop` appears."""
        acts: list[Callable[[], None]] = [
            *[self.perturb] * 8, *[self.sample] * 4, *[self.follow] * 6, *[self.inspect] * 2,
            self.cancel, self.storm, self.screen, self.plot, self.export,
        ]  # fmt: skip
        while not self.place.stopping():
            if self._is_ready():
                self.rng.choice(acts)()

    def perturb(self) -> None:
        """Begin an experiment, and wait for it for a while."""
        targets = self.rng.sample(TARGETS, self.rng.choice((1, 1, 2)))
        finished = [{"kind": "knockout", "target": target} for target in targets]
        self._begin("perturb_cells", {"interventions": finished})

    def sample(self) -> None:
        """Begin an experiment without a perturbation."""
        self._begin("sample_cells", {})

    def follow(self) -> None:
        """Ask after an experiment that was not finished."""
        if self.unfinished:
            name = self.rng.choice(self.unfinished)
            self._remember(self._call("get_experiment", {"id": name, "wait_s": self._wait()}))

    def inspect(self) -> None:
        """Ask for what needs no cells."""
        tool = self.rng.choice(("describe_model", "list_experiments", "find_genes"))
        given: dict[str, Any] = {"names": ["STAT1"], "checkpoint": CHECKPOINT}
        self._call(tool, given if tool == "find_genes" else {})

    def cancel(self) -> None:
        """Cancel an experiment that was not finished."""
        if self.unfinished:
            self._call("cancel_experiment", {"id": self.rng.choice(self.unfinished)})

    def storm(self) -> None:
        """Begin several experiments and cancel all of them at once."""
        names = [self._begin("sample_cells", {}, wait_s=0.0) for _ in range(6)]
        for name in filter(None, names):
            self._call("cancel_experiment", {"id": name})

    def screen(self) -> None:
        """Run a small screen, and cancel it now and then."""
        given = {
            "checkpoint": CHECKPOINT,
            "objective": {"lower": ["PSMB9"]},
            "candidates": self.rng.sample(TARGETS, 3),
            "n_cells": 16,
            "seed": self.rng.randrange(1 << 20),
            "wait_s": self._wait(),
        }
        answer = self._call("run_screen", given)
        if answer.fields.get("screen_id") and self.rng.random() < 0.3:
            self._call("cancel_experiment", {"id": answer.fields["screen_id"]})

    def plot(self) -> None:
        """Draw a finished experiment."""
        if self.finished:
            request = {"id": self.rng.choice(self.finished), "wait_s": self._wait()}
            self._call("plot_experiment", request)

    def export(self) -> None:
        """Export a finished experiment."""
        if self.finished:
            form = self.rng.choice(("h5ad", "csv", "script"))
            request = {"id": self.rng.choice(self.finished), "format": form, "wait_s": self._wait()}
            self._call("export_experiment", request)

    def _begin(self, tool: str, more: Mapping[str, Any], wait_s: float | None = None) -> str | None:
        given = {
            "checkpoint": CHECKPOINT,
            "n_cells": self.rng.choice((8, 16, 32)),
            "seed": self.rng.randrange(1 << 20),
            "wait_s": self._wait() if wait_s is None else wait_s,
            **more,
        }
        answer = self._call(tool, given)
        self._remember(answer)
        return answer.fields.get("experiment_id")

    def _remember(self, answer: Answer) -> None:
        name, status = answer.fields.get("experiment_id"), answer.fields.get("status")
        if name and status in ("queued", "running", "interrupted"):
            self.unfinished = [*self.unfinished, name][-40:]
        elif name:
            self.unfinished = [other for other in self.unfinished if other != name]
            if status == "succeeded" and "perturbation" in answer.fields:
                self.finished = [*self.finished, name][-10:]

    def _call(self, tool: str, arguments: Mapping[str, Any]) -> Answer:
        begin, at = time.monotonic(), time.time()
        answer = self.door.call(tool, arguments)
        line = {
            "at": at,
            "client": self.name,
            "kind": self.kind,
            "tool": tool,
            "wait_s": arguments.get("wait_s", 0.0),
            "seconds": time.monotonic() - begin,
            "outcome": answer.outcome,
            "status": answer.fields.get("status"),
            "id": answer.fields.get("experiment_id") or answer.fields.get("screen_id"),
            "head": answer.fields.get("ledger_head"),
            "text": answer.text[:LINE],
        }
        with (self.place.calls / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if answer.outcome != "ok":
            time.sleep(_PAUSE_S)
        return answer

    def _wait(self) -> float:
        return round(self.rng.choice((0.0, self.rng.uniform(0, 6))), 2)

    def _is_ready(self) -> bool:
        """Connect again after a server was killed; no call's time includes it."""
        try:
            getattr(self.door, "ready", lambda: None)()
        except Exception:  # noqa: BLE001 - the next server is not there yet
            getattr(self.door, "close", lambda: None)()
            time.sleep(_READY_S)
            return False
        return True


def door_of(kind: str, place: Place, name: str) -> Door:
    """Return a way to call of a kind."""
    if kind == "lab":
        return LabDoor(Lab(place.home))
    if kind == "stdio":
        return StdioDoor(place.home, lambda pid: place.note(f"server-{name}", pid))
    return HttpDoor(
        lambda: json.loads(place.http.read_text())["url"],
        lambda: json.loads(place.http.read_text())["headers"],
    )


def forks(place: Place, name: str, seed: int) -> None:
    """Use a Lab, fork workers that go on with it, and fork others for those that are killed."""
    lab = Lab(place.home)
    LabDoor(lab).call("sample_cells", {"checkpoint": CHECKPOINT, "n_cells": 8, "wait_s": 45})
    alive: dict[int, int] = {}
    generation = 0
    while not place.stopping():
        for number in set(range(WORKERS)) - set(alive.values()):
            generation += 1
            with warnings.catch_warnings():
                # Python 3.12 warns of threads beside a fork; whether they do harm is the question.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if not pid:
                work(place, f"{name}-{number}", "fork", LabDoor(lab), seed + 1000 * generation)
                os._exit(0)
            alive[pid] = number
            place.note(f"worker-{name}-{number}", pid)
        ended, _ = os.waitpid(-1, os.WNOHANG)
        alive.pop(ended, None)
        time.sleep(0.2)
    for pid in alive:
        os.waitpid(pid, 0)


def work(place: Place, name: str, kind: str, door: Door, seed: int) -> None:
    """Be one client until told to stop."""
    Client(place, name, kind, door, random.Random(f"{seed} {name}")).run()


def main() -> None:
    """Be the client that the arguments describe."""
    place, name, kind, seed = Place(Path(sys.argv[1])), sys.argv[2], sys.argv[3], int(sys.argv[4])
    if kind == "fork":
        forks(place, name, seed)
    else:
        if kind == "lab":
            place.note(f"worker-{name}", os.getpid())
        work(place, name, kind, door_of(kind, place, name), seed)
    # Threads that wait for experiments must not keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
