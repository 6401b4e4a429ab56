# ruff: noqa: D102, ARG002 - the methods are those of the engine's client
"""Fakes for tests: an engine without torch, and a checkpoint without weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lingshu_model import __version__
from lingshu_model.contracts import (
    PROTOCOL,
    ArmRequest,
    Catalogue,
    Cells,
    Checkpoint,
    EngineInfo,
    JobView,
    Origin,
    QueuedJob,
    Requester,
    digest_json,
)
from lingshu_model.contracts.catalogue import FORMAT, pin
from lingshu_tools.errors import EngineError


class FakeEngine:
    """Answers immediately with Poisson cells; arms with one seed are paired, cell by cell.

    A knocked-out gene of the panel has count 0.

    Attributes:
        arms: the distinct arms that were submitted, by digest.
        device: the engine's numerics profile.
    """

    device = "fake"

    def __init__(self, panel: Sequence[str], *, changed: int = 12) -> None:
        self.panel, self.changed = list(panel), changed
        self.arms: dict[str, ArmRequest] = {}

    def info(self, checkpoint: str | None = None) -> EngineInfo:
        profile = {"device": self.device}
        digest = digest_json(profile)
        return EngineInfo(protocol=PROTOCOL, version=__version__, pid=1, ranks=1, profile=profile,
                          profile_digest=digest, checkpoints={}, queued=0, running=0,
                          idle_exit_s=0)  # fmt: skip

    def ensure(self) -> EngineInfo:
        return self.info()

    def submit(
        self, arm: ArmRequest, *, fresh: str | None = None, requester: Requester | None = None
    ) -> JobView:
        self.arms[arm.digest] = arm
        return self.wait(arm.digest, 0)

    def wait(self, job_id: str, wait_s: float) -> JobView:
        n, info = self._arm(job_id).n_cells, self.info()
        return JobView(job_id=job_id, request=job_id, state="succeeded", done=n, total=n,
                       seconds=0.0, profile=info.profile, profile_digest=info.profile_digest,
                       version=info.version)  # fmt: skip

    def cancel(self, job_id: str) -> JobView:
        return self.wait(job_id, 0)

    def withdraw(self, experiments: Sequence[str]) -> int:
        return 0

    def unfinished(self, principal: str | None = None) -> list[QueuedJob]:
        return []

    def cells(self, job_id: str) -> Cells:
        arm, genes = self._arm(job_id), len(self.panel)
        # [contexts, genes], then [cells, genes] by the context of each cell.
        rates = np.stack([self._rates(arm, context) for context in arm.contexts])
        rates = rates[arm.context_numbers(arm.first_cell, arm.n_cells)]
        rows = range(arm.first_cell, arm.first_cell + arm.n_cells)
        uniforms = np.stack([_rng(arm.seed, row).random(genes) for row in rows])
        counts, mass = np.zeros(uniforms.shape, np.int32), np.exp(-rates)
        below = mass.copy()
        for k in range(1, 256):
            counts += uniforms > below
            mass = mass * rates / k
            below += mass
        origin = Origin(arm.digest, self.info().profile_digest)
        return Cells(counts, np.ones(genes, bool), origin)

    def _rates(self, arm: ArmRequest, context: dict[str, str]) -> np.ndarray[Any, Any]:
        genes = len(self.panel)
        rates = _rng(_key(context)).gamma(0.5, 4.0, genes)
        for one in arm.interventions:
            rng = _rng(_key([one.kind, one.target]))
            rates[rng.permutation(genes)[: self.changed]] *= np.exp(rng.normal(0, 1, self.changed))
            if one.kind == "knockout" and one.target in self.panel:
                rates[self.panel.index(one.target)] = 0.0
        return rates

    def _arm(self, job_id: str) -> ArmRequest:
        if job_id not in self.arms:
            message = f"the engine does not know job {job_id!r}: submit its arm first"
            raise EngineError(message)
        return self.arms[job_id]


def _key(value: object) -> int:
    return int(digest_json(value)[-16:], 16)


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array((*key, 0)[:2], np.uint64)))


TARGETS = ("IFNGR1", "IFNGR2", "IRF1", "JAK2", "SMAD4", "STAT1")
GENES = (*TARGETS, "CD274", "CD86", "PSMB9", "TAP1", "UBE2L6", *(f"GENE{i}" for i in range(1, 30)))
CONTEXT = {"cell_line": "THP-1", "stimulus": "IFN-gamma"}
N_SHAMS = 16


def make_checkpoint(
    root: Path,
    *,
    name: str = "made",
    contexts: Sequence[dict[str, str]] = (CONTEXT,),
    control_cells: Sequence[int] = (),
    evidence: bool = True,
    beats_baseline: bool = True,
) -> Checkpoint:
    """Return a checkpoint folder without weights, pinned under `root`: knock-outs and shams.

    `control_cells` are those of each context, 1,000 by default. Its evidence covers the `seen`
    tier alone and is made up, as the whole checkpoint is.
    """
    path = root / name
    path.mkdir(parents=True)
    sizes = [*control_cells] or [1000] * len(contexts)
    conditions = [
        {
            "context": context,
            "interventions": one,
            "n_cells": size if not one else size // 5,
            "depth_quantiles": [4.5, 5.0, 5.2, 5.4, 5.9],
        }
        for context, size in zip(contexts, sizes, strict=True)
        for one in _made_interventions()
    ]
    config = {
        "format": FORMAT,
        "contexts": [{"context": c} for c in contexts],
        "seen": conditions,
        "sampler": {"steps": 8, "guidance": 0.0},
    }
    panel = [
        {"symbol": g, "ensembl": f"ENSG{i:011d}", "aliases": [], "previous": []}
        for i, g in enumerate(GENES)
    ]
    panel[GENES.index("CD274")] |= {"aliases": ["PD-L1"], "previous": ["PDCD1LG1"]}
    for file, value in (("config", config), ("panel", {"genes": panel})):
        (path / f"{file}.json").write_text(json.dumps(value), "utf-8")
    if evidence:
        made = _made_evidence(beats=beats_baseline)
        (path / "evidence.json").write_text(json.dumps(made), "utf-8")
    save_file(_made_reference(len(conditions)), path / "reference.safetensors")
    (path / "card.md").write_text("# made\n\nFor tests: no model is behind it.\n", "utf-8")
    pin(path)
    return Catalogue([root]).load(name)


def _made_interventions() -> list[list[dict[str, str]]]:
    kinds = [("knockout", t) for t in TARGETS] + [("sham", f"sham-{i:02d}") for i in range(N_SHAMS)]
    return [[], *([{"kind": kind, "target": target}] for kind, target in kinds)]


def _made_reference(n_conditions: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = _rng(7)
    mean = rng.gamma(0.5, 4.0, (n_conditions, len(GENES)))
    quantiles = np.quantile(rng.gamma(9, 20, (n_conditions, 200)), [0.05, 0.25, 0.5, 0.75, 0.95], 1)
    return {
        "mean_count": mean,
        "mean_log1p_cp10k": np.log1p(mean / mean.sum(1, keepdims=True) * 1e4),
        "library_quantiles": np.ascontiguousarray(quantiles.T),
        "zero_rate": np.full(n_conditions, 0.5),
    }


def _made_evidence(*, beats: bool) -> dict[str, Any]:
    rng = _rng(8)
    model = 0.62 if beats else 0.21
    headline = {
        "metric": "pearson_of_change",
        "set": "twelve strongest",
        "model": {"value": model, "interval": [model - 0.05, model + 0.05]},
        "baselines": {
            "mean_shift": {"value": 0.31, "interval": [0.25, 0.36]},
            "control_mean": {"value": 0.0, "interval": None},
            "replicate_reference": {"value": 0.66, "interval": [0.6, 0.71]},
        },
        "verdict": f"{'win' if beats else 'loss'} against mean_shift",
        "beats_trivial_baseline": beats,
    }
    residuals = rng.normal(0, 0.2, (len(TARGETS), len(GENES)))
    shams = rng.normal(0, 0.05, (N_SHAMS, len(GENES)))
    tier = {
        "n_perturbations": len(TARGETS),
        "headline": headline,
        "residuals": {
            "genes": list(GENES),
            "perturbations": list(TARGETS),
            "values": residuals.tolist(),
        },
    }
    return {
        "format": "lingshu-evidence-1",
        "tiers": {
            "seen": tier,
            "seen_elsewhere": None,
            "combination_of_seen": None,
            "unseen": None,
        },
        "sham": {"n_cells": 600, "steps": 8, "genes": list(GENES), "changes": shams.tolist()},
        "cost": {"seconds_per_cell": 0.01, "machine": "a machine that was made up"},
    }
