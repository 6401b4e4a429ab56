"""What the tools need of an engine: the client `engine.Engine` has it, and so have fakes."""

from collections.abc import Sequence
from typing import Protocol

from lingshu_model.wire import ArmRequest, Cells, EngineInfo, JobView, QueuedJob, Requester


class CellSource(Protocol):
    """A source of cells; `engine.Engine` and `testing.FakeEngine` are two."""

    def ensure(self) -> EngineInfo:
        """Return the engine's info, started if need be."""
        ...

    def info(self, checkpoint: str | None = None) -> EngineInfo | None:
        """Return the engine's info, or None if none runs."""
        ...

    def submit(
        self, arm: ArmRequest, *, fresh: str | None = None, requester: Requester | None = None
    ) -> JobView:
        """Return the job that computes `arm`; anew, once for each name `fresh`."""
        ...

    def wait(self, job_id: str, wait_s: float) -> JobView:
        """Return the job after at most `wait_s` seconds."""
        ...

    def cells(self, job_id: str) -> Cells:
        """Return the cells of a job that succeeded, with their origin."""
        ...

    def cancel(self, job_id: str) -> JobView:
        """Return the job after cancelling it."""
        ...

    def withdraw(self, experiments: Sequence[str]) -> int:
        """Return how many jobs ended because these experiments want nothing any more."""
        ...

    def unfinished(self, principal: str | None = None) -> list[QueuedJob]:
        """Return a principal's queued and running jobs."""
        ...
