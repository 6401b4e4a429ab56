"""What travels between a client and the engine: requests, job views, and the numerics profile.

An *arm* is one batch of cells: a context, a set of interventions (none = control), a seed and a
range of cell indices. A paired experiment is two arms with one seed. Knows nothing of ledgers,
tools or torch.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lingshu_model.wire.canonical import digest_json

Kind = Literal["knockout", "crispri", "crispra", "cytokine", "drug", "sham"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
MAX_CELLS = 100_000
MAX_SEED = 2**63 - 1


class Wire(BaseModel):
    """A frozen value that refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Intervention(Wire):
    """One thing done to a cell."""

    kind: Kind
    target: str = Field(min_length=1, max_length=64)
    dose: float | None = Field(default=None, gt=0)

    @property
    def sort_key(self) -> tuple[str, str, float]:
        """What interventions of a set are ordered by, since their order never matters."""
        return (self.target, self.kind, self.dose or 0.0)


class ArmRequest(Wire):
    """Cells `first_cell` to `first_cell + n_cells - 1` of one condition, asked of the engine."""

    checkpoint: str
    checkpoint_digest: str
    context: dict[str, str]
    interventions: tuple[Intervention, ...] = ()
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    first_cell: Annotated[int, Field(ge=0, le=2**40)] = 0
    n_cells: Annotated[int, Field(ge=1, le=MAX_CELLS)]
    steps: Annotated[int, Field(ge=1, le=256)]
    guidance: Annotated[float, Field(ge=0, le=10)] = 0.0
    clamp: dict[str, int] = Field(default_factory=dict)

    @field_validator("interventions")
    @classmethod
    def _sorted(cls, value: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
        return tuple(sorted(value, key=lambda i: i.sort_key))

    @property
    def digest(self) -> str:
        """The request digest: equal requests have equal digests and get the same cells."""
        return digest_json(self.model_dump(mode="json"))


class JobView(Wire):
    """Where an arm stands in the engine. `done` and `total` count cells."""

    job_id: str
    state: JobState
    done: int
    total: int
    error: str | None = None
    seconds: float | None = None
    """Compute time; None until the arm has ended, 0.0 when it came from disk."""


class Requester(Wire):
    """On whose behalf an arm is submitted.

    `experiment` may withdraw all that it asked for in one call. `group` names the arms that the
    engine's scheduler treats as one: those of an experiment, or of a screen. Empty: this arm alone.
    """

    principal: str = "local"
    experiment: str = ""
    group: str = ""


class QueuedJob(Wire):
    """An unfinished job, as the engine lists it, with the experiments that wait for it."""

    job: JobView
    principal: str
    experiments: tuple[str, ...]


class EngineInfo(Wire):
    """What an engine says of itself.

    `profile` is the numerics profile: device, dtype, threads, tile, ranks are in it where they can
    change a bit; `ranks` stands beside it because it cannot.
    """

    version: str
    pid: int
    ranks: int
    profile: dict[str, Any]
    profile_digest: str
    checkpoints: dict[str, str]
    """Name to checkpoint digest."""
    queued: int
    running: int
    idle_exit_s: float
