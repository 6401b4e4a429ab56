"""A home with an engine, in a thread or as a real process, with a fake sampler."""

import os
import threading
from pathlib import Path

import pytest
from fake_sampler import FakeSampler

from lingshu_model.contracts import ArmRequest, Catalogue, Intervention
from lingshu_model.engine.http.service import Remote, Service
from lingshu_model.engine.job_queue import JobQueue
from lingshu_model.engine.results import Results
from lingshu_model.engine.run import serve_and_compute
from lingshu_model.engine.samplers import Samplers
from lingshu_model.system.places import EnginePlaces
from lingshu_tools.engine_client.client import Engine

HERE = Path(__file__).parent
CONTEXT = {"cell_line": "THP-1", "stimulus": "IFN-gamma"}


class Lab:
    """A home with an engine, and arms to ask of it."""

    def __init__(self, home: Path, catalogue: Catalogue) -> None:
        self.home, self.catalogue = home, catalogue
        self.gate = home / "gate"
        self.gate.mkdir(parents=True)
        self.arguments = ("--sampler", "fake_sampler:FakeSampler", "--threads", "1")
        path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(HERE)])
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("LINGSHU_")} | {
            "PYTHONPATH": path,
            "LINGSHU_CHECKPOINTS": str(catalogue.roots[0]),
            "FAKE_GATE": str(self.gate),
        }
        self.clients: list[Engine] = []
        self.hosted: list[tuple[Service, threading.Thread]] = []

    def client(self, principal: str = "local", *more: str, **environ: str) -> Engine:
        engine = Engine(
            self.home,
            principal=principal,
            arguments=(*self.arguments, *more),
            environ=self.environ | environ,
        )
        self.clients.append(engine)
        return engine

    def host(
        self, remote: Remote | None = None, idle_exit_s: float = 0.0, workers: int = 1
    ) -> threading.Thread:
        """Run this home's engine in a thread of the test itself."""
        places = EnginePlaces(self.home)
        queue = JobQueue(Results(places.results))
        samplers = Samplers(FakeSampler, dtype="auto", threads=1)
        samplers.catalogue = self.catalogue
        service = Service(queue, samplers, ranks=1, idle_exit_s=idle_exit_s)
        thread = threading.Thread(
            target=serve_and_compute, args=(places, service, queue, samplers, remote, workers)
        )
        thread.start()
        self.hosted.append((service, thread))
        pause = threading.Event()
        while not places.endpoint.exists():
            pause.wait(0.005)
        return thread

    def arm(self, *targets: str, **changes: object) -> ArmRequest:
        fields = {
            "checkpoint": "toy",
            "checkpoint_digest": self.catalogue.load("toy").digest,
            "context": CONTEXT,
            "interventions": [Intervention(kind="knockout", target=t) for t in targets],
            "seed": 1,
            "n_cells": 20,
            "steps": 3,
        }
        return ArmRequest.model_validate(fields | changes)

    def hold(self, seed: int) -> Path:
        """Make tiles of this seed wait until the returned file is removed."""
        path = self.gate / f"hold-{seed}"
        path.touch()
        return path

    def tiles(self) -> list[str]:
        """What was sampled so far, one line per tile: pid, arm digest, tile."""
        log = self.gate / "tiles.log"
        return log.read_text().splitlines() if log.exists() else []

    def until_gone(self, pid: int) -> None:
        """Return when the process is gone; the process that started it must reap it."""
        pause = threading.Event()
        for _ in range(4000):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            pause.wait(0.01)
        pytest.fail(f"process {pid} is still there after 40 s")

    def close(self) -> None:
        for path in self.gate.glob("hold-*"):
            path.unlink()
        for service, thread in self.hosted:
            service.leave()
            thread.join(30)
            assert not thread.is_alive()
        if self.clients and (info := self.clients[0].info()):
            self.clients[0].shutdown()
            self.until_gone(info.pid)
        for engine in self.clients:
            engine.close()
