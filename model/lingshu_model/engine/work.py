"""What the engine computes: an arm under one numerics profile, the jobs that want it, its tiles."""

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from lingshu_model.contracts import ArmRequest, JobView, Origin
from lingshu_model.contracts.messages import JobState


# Compared and hashed by identity: the scheduler keys by works, whose fields change.
@dataclass(eq=False)
class Work:
    """One arm being computed; `stop` is set when nobody wants it any more."""

    serial: int
    key: str
    arm: ArmRequest
    tile: int
    waiting: deque[int]
    profile_digest: str = ""
    jobs: "list[Job]" = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    state: JobState = "queued"
    done: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def origin(self) -> Origin:
        """What its cells answer."""
        return Origin(self.arm.digest, self.profile_digest)

    @property
    def live(self) -> bool:
        """Whether it may still give cells."""
        return self.state in ("queued", "running")

    @property
    def tiles(self) -> range:
        """The tiles that hold its cells."""
        first, end = self.arm.first_cell, self.arm.first_cell + self.arm.n_cells
        return range(first // self.tile, (end - 1) // self.tile + 1)

    def rows(self, tile_index: int) -> slice:
        """Return which rows of a tile are asked for."""
        start = tile_index * self.tile
        end = self.arm.first_cell + self.arm.n_cells
        return slice(max(self.arm.first_cell - start, 0), min(end - start, self.tile))

    def cells_of(self, tile_index: int) -> int:
        """Return how many cells of a tile are asked for."""
        rows = self.rows(tile_index)
        return rows.stop - rows.start


@dataclass(eq=False)
class Job:
    """One principal's wish for a work; `ended` is done when there is nothing left to wait for.

    Attributes:
        experiments: the experiments that wait for it, each with its group (see `TileScheduler`).
    """

    id: str
    principal: str
    work: Work
    fresh: str = ""
    experiments: dict[str, str] = field(default_factory=dict[str, str])
    cancelled: bool = False
    ended: Future[None] = field(default_factory=Future[None])

    def view(self) -> JobView:
        """Return its state."""
        work = self.work
        state = "cancelled" if self.cancelled else work.state
        return JobView(
            job_id=self.id,
            request=work.arm.digest,
            fresh=self.fresh,
            state=state,
            done=work.done,
            total=work.arm.n_cells,
            error=work.error,
            # Added up over tiles, so with several workers it is more than the time that passed.
            seconds=None if state in ("queued", "running") else work.seconds,
            profile_digest=work.profile_digest,
        )


@dataclass(frozen=True)
class Task:
    """One tile to compute."""

    work: Work
    tile_index: int
