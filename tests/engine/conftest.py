"""Engines of the tests: real processes with a fake sampler and a made-up checkpoint."""

import json
import os
import threading
from pathlib import Path

import pytest

from lingshu_model.wire import ArmRequest, Catalogue, Intervention
from lingshu_model.wire.catalogue import FORMAT, pin
from lingshu_tools.engine import Engine

HERE = Path(__file__).parent
CONTEXT = {"cell_line": "THP-1", "stimulus": "IFN-gamma"}
PANEL = ["STAT1", "JAK2", "IFNGR1", "PSMB9", "ACTB"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """A catalogue with one checkpoint, `toy`."""
    root = tmp_path / "checkpoints"
    (root / "toy").mkdir(parents=True)
    knockout = {"kind": "knockout", "target": "STAT1"}
    seen = [
        {"context": CONTEXT, "interventions": [], "n_cells": 9},
        {"context": CONTEXT, "interventions": [knockout], "n_cells": 5},
    ]
    config = {"format": FORMAT, "contexts": [{"context": CONTEXT}], "seen": seen}
    genes = [{"symbol": g, "ensembl": None, "aliases": [], "previous": []} for g in PANEL]
    (root / "toy" / "config.json").write_text(json.dumps(config))
    (root / "toy" / "panel.json").write_text(json.dumps({"genes": genes}))
    pin(root / "toy")
    return Catalogue([root])


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

    def client(self, principal: str = "local", *more: str, **environ: str) -> Engine:
        engine = Engine(
            self.home,
            principal=principal,
            arguments=(*self.arguments, *more),
            environ=self.environ | environ,
        )
        self.clients.append(engine)
        return engine

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

    def close(self) -> None:
        for path in self.gate.glob("hold-*"):
            path.unlink()
        if self.clients:
            pid = info.pid if (info := self.clients[0].info()) else None
            self.clients[0].shutdown()
            if pid:
                until_gone(pid)
        for engine in self.clients:
            engine.close()


def until_gone(pid: int) -> None:
    """Return when the process is gone; whoever started it must reap it."""
    pause = threading.Event()
    for _ in range(2000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        pause.wait(0.01)
    pytest.fail(f"process {pid} is still there after 20 s")


@pytest.fixture
def lab(tmp_path: Path, catalogue: Catalogue):
    lab = Lab(tmp_path / "home", catalogue)
    yield lab
    lab.close()
