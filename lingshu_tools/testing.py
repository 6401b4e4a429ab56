# ruff: noqa: D102, ARG002 - the methods are those of `engine.CellSource`
"""Fakes for tests: an engine without torch.

Knows nothing of biology: its cells are Poisson counts whose rates come out of digests.
"""

from collections.abc import Sequence

import numpy as np

from lingshu_model.wire import ArmRequest, Cells, EngineInfo, JobView, digest_json
from lingshu_tools.errors import EngineError


class FakeEngine:
    """Answers at once with Poisson cells; arms with one seed are paired, cell by cell.

    `arms` are the distinct arms computed; a knocked-out gene of the panel counts 0.
    """

    def __init__(self, panel: Sequence[str], *, changed: int = 12) -> None:
        self.panel, self.changed = list(panel), changed
        self.arms: dict[str, ArmRequest] = {}

    def info(self, checkpoint: str | None = None) -> EngineInfo:
        profile = {"device": "fake"}
        digest = digest_json(profile)
        return EngineInfo(version="0", pid=1, ranks=1, profile=profile, profile_digest=digest,
                          checkpoints={}, queued=0, running=0, idle_exit_s=0)  # fmt: skip

    def ensure(self) -> EngineInfo:
        return self.info()

    def submit(self, arm: ArmRequest) -> JobView:
        self.arms[arm.digest] = arm
        return self.wait(arm.digest, 0)

    def wait(self, job_id: str, wait_s: float) -> JobView:
        n = self._arm(job_id).n_cells
        return JobView(job_id=job_id, state="succeeded", done=n, total=n, seconds=0.0)

    def cancel(self, job_id: str) -> JobView:
        return self.wait(job_id, 0)

    def cells(self, job_id: str) -> Cells:
        arm, genes = self._arm(job_id), len(self.panel)
        rates = _rng(_key(arm.context)).gamma(0.5, 4.0, genes)
        for one in arm.interventions:
            rng = _rng(_key([one.kind, one.target]))
            rates[rng.permutation(genes)[: self.changed]] *= np.exp(rng.normal(0, 1, self.changed))
            if one.kind == "knockout" and one.target in self.panel:
                rates[self.panel.index(one.target)] = 0.0
        rows = range(arm.first_cell, arm.first_cell + arm.n_cells)
        uniforms = np.stack([_rng(arm.seed, row).random(genes) for row in rows])
        counts, mass = np.zeros(uniforms.shape, np.int32), np.exp(-rates)
        below = mass.copy()
        for k in range(1, 256):
            counts += uniforms > below
            mass = mass * rates / k
            below += mass
        return Cells(counts, np.ones(genes, bool))

    def _arm(self, job_id: str) -> ArmRequest:
        if job_id not in self.arms:
            message = f"the engine does not know job {job_id!r}: submit its arm first"
            raise EngineError(message)
        return self.arms[job_id]


def _key(value: object) -> int:
    return int(digest_json(value)[-16:], 16)


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array((*key, 0)[:2], np.uint64)))
