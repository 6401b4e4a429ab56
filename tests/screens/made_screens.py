"""A made checkpoint with 25 knock-outs, engines that stop or fail, and a screen of it."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lingshu_model.contracts import Catalogue, Intervention
from lingshu_model.contracts.catalogue import FORMAT, pin
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call

CONTEXT = {"cell_line": "THP-1", "stimulus": "IFN-gamma"}
TARGETS = [f"T{i:02d}" for i in range(25)]
PANEL = [*TARGETS, *(f"G{i:02d}" for i in range(35))]


def make_evidence(beats: bool = True) -> dict:
    rng = np.random.Generator(np.random.Philox(7))
    figure = {"value": 0.61, "interval": [0.5, 0.7]}
    return {
        "format": "lingshu-evidence-1",
        "tiers": {
            "seen": {
                "n_perturbations": 25,
                "headline": {
                    "metric": "pearson_of_change",
                    "set": "twelve strongest",
                    "model": figure if beats else {"value": 0.2, "interval": [0.1, 0.3]},
                    "baselines": {"mean_shift": {"value": 0.31, "interval": [0.2, 0.4]}},
                    "verdict": "win against mean_shift",
                    "beats_trivial_baseline": beats,
                },
                "residuals": {
                    "genes": PANEL,
                    "perturbations": TARGETS,
                    "values": rng.normal(0, 0.2, (25, len(PANEL))).tolist(),
                },
            }
        },
        "sham": {
            "n": 16,
            "n_cells": 256,
            "steps": 8,
            "genes": PANEL,
            "changes": rng.normal(0, 0.02, (16, len(PANEL))).tolist(),
        },
    }


def make_checkpoint(folder: Path, evidence: dict | None = None) -> Path:
    """Write a checkpoint without weights and return its folder."""
    path = folder / "made"
    path.mkdir(parents=True)
    seen = [{"context": CONTEXT, "interventions": [], "n_cells": 900}]
    for kind, names in (("knockout", TARGETS), ("sham", ["sham-00", "sham-01"])):
        for name in names:
            item = Intervention(kind=kind, target=name).model_dump(mode="json")
            seen.append({"context": CONTEXT, "interventions": [item], "n_cells": 120})
    config = {
        "format": FORMAT,
        "contexts": [{"context": CONTEXT, "n_cells": 900}],
        "seen": seen,
        "sampler": {"steps": 8, "guidance": 0.0},
    }
    genes = [
        {"symbol": s, "ensembl": f"ENSG{i:011d}", "aliases": [f"old{s}"], "previous": []}
        for i, s in enumerate(PANEL)
    ]
    texts = {
        "config.json": config,
        "panel.json": {"genes": genes},
        "evidence.json": make_evidence() if evidence is None else evidence,
    }
    for name, value in texts.items():
        (path / name).write_text(json.dumps(value), "utf-8")
    rows = (len(seen), len(PANEL))
    save_file(
        {
            "mean_count": np.ones(rows),
            "mean_log1p_cp10k": np.ones(rows),
            "library_quantiles": np.ones((rows[0], 5)),
            "zero_rate": np.zeros(rows[0]),
        },
        path / "reference.safetensors",
    )
    pin(path)
    return path


def open_app(home: Path, engine: FakeEngine, principal: str = "local") -> App:
    """An app on `home` with the made checkpoint beside it."""
    catalogue = Catalogue([home.parent / "checkpoints"])
    return App(home, engine=engine, catalogue=catalogue, principal=principal)


SMALL = {
    "objective": {"lower": ["G01", "G02", "T03"]},
    "candidates": TARGETS[:5],
    "n_cells": 48,
}


def run(app: App, **arguments):
    """The screen when it has ended, however slow the machine."""
    request = {**SMALL, "wait_s": 45, **arguments}
    result = call(app, "run_screen", request)
    while result.status in ("queued", "running") and request["wait_s"]:
        result = call(app, "run_screen", request)
    return result


class HaltingEngine(FakeEngine):
    """Makes cells of the first `done` perturbed arms; the rest stay queued."""

    def __init__(self, done: int) -> None:
        super().__init__(PANEL)
        self.allowed, self.done = done, set[str]()

    def wait(self, job_id: str, wait_s: float):
        arm = self.arms[job_id]
        if arm.interventions and len(self.done) < self.allowed:
            self.done.add(job_id)
        if not arm.interventions or job_id in self.done:
            return super().wait(job_id, wait_s)
        view = super().wait(job_id, wait_s)
        return view.model_copy(update={"state": "queued", "done": 0, "seconds": None})


class FailingEngine(FakeEngine):
    """Fails every arm of the targets in `failing`; remembers which targets were submitted."""

    def __init__(self, *failing: str) -> None:
        super().__init__(PANEL)
        self.failing, self.submitted = set(failing), list[str]()

    def submit(self, arm, **more):
        self.submitted += [i.target for i in arm.interventions]
        return super().submit(arm, **more)

    def wait(self, job_id: str, wait_s: float):
        view = super().wait(job_id, wait_s)
        if self.failing & {i.target for i in self.arms[job_id].interventions}:
            return view.model_copy(update={"state": "failed", "error": "not enough memory"})
        return view
