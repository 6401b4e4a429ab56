"""What travels between a client and the engine: requests, job views, and the numerics profile.

An *arm* is one batch of cells: a context, a set of interventions (none = control), a seed and a
range of cell indices. A paired experiment is two arms with one seed.

Every HTTP message names the protocol, and every request a call, which its answer repeats: a client
can so tell the answer to its request from any other. Job views repeat the digest of the arm too.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from lingshu_model.contracts.canonical import digest_json
from lingshu_model.contracts.streams import mixed

TrainedKind = Literal["knockout", "crispri", "crispra", "cytokine", "drug"]
"""Kinds of intervention that training data may have."""
Kind = Literal[TrainedKind, "sham"]
"""The same and null labels."""
OWN_RNA: Mapping[str, int] = {"knockout": -1, "crispri": -1, "crispra": 1}
"""Kinds that act on a gene, and the sign of the change that its own RNA is expected to show."""
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
PROTOCOL = 2
"""Version of what is exchanged here; client and engine must have the same."""
PROTOCOL_HEADER = "X-Lingshu-Protocol"
VERSION_HEADER = "X-Lingshu-Version"
CALL_HEADER = "X-Lingshu-Call"
"""A random text of the client's, repeated in the headers of the answer."""
MAX_CELLS = 100_000
# The ledger keeps seeds in signed 64-bit integers of SQLite.
MAX_SEED = 2**63 - 1
# Contexts that one score compares: each costs a pass of the network per draw.
MAX_AGAINST = 64
# Fields added after the first digests were stored; empty in plain arms of sampled cells.
_LATER = ("cells", "effect", "complete", "against", "mixture")
MAX_PARTS = 4096
"""Contexts of a mixed population."""


class Wire(BaseModel):
    """A frozen value that refuses unknown fields and non-finite numbers."""

    # Validators are built at the first use: most processes use few of the messages.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Intervention(Wire):
    """One thing done to a cell."""

    kind: Kind
    target: str = Field(min_length=1, max_length=64)
    dose: float | None = Field(default=None, gt=0)

    @property
    def sort_key(self) -> tuple[str, str, float]:
        """What interventions of a set are ordered by, since their order never matters."""
        return (self.target, self.kind, self.dose or 0.0)


class MixturePart(Wire):
    """A context of a mixed population, and its weight: its training cells."""

    context: dict[str, str]
    weight: Annotated[int, Field(ge=1, le=2**40)]


class ArmRequest(Wire):
    """Cells `first_cell` to `first_cell + n_cells - 1` of one condition, asked of the engine.

    With `cells` they come from a user's stored cells of that digest
    (`lingshu_model.contracts.user_cells`): as they are, moved by the stored `effect`, with hidden
    genes drawn (`complete`), or scored under each of the contexts `against`.

    With `mixture` the cells are of several contexts, which share the fields in `context`: the part
    of each cell is drawn by weight, from the stream of (seed, cell).
    """

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
    cells: Annotated[str, Field(max_length=80)] = ""
    effect: Annotated[str, Field(max_length=80)] = ""
    complete: bool = False
    against: Annotated[tuple[dict[str, str], ...], Field(max_length=MAX_AGAINST)] = ()
    mixture: Annotated[tuple[MixturePart, ...], Field(max_length=MAX_PARTS)] = ()

    @field_validator("interventions")
    @classmethod
    def _sorted(cls, value: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
        # A set: the same interventions in any order are one request with one digest.
        return tuple(sorted(value, key=lambda i: i.sort_key))

    @property
    def contexts(self) -> tuple[dict[str, str], ...]:
        """The contexts of its cells: those of its mixture, else its own."""
        return tuple(part.context for part in self.mixture) or (self.context,)

    def within(self, context: dict[str, str]) -> "ArmRequest":
        """Return the same arm with all cells of one context."""
        return self.model_copy(update={"context": context, "mixture": ()})

    def context_numbers(self, first: int, n: int) -> NDArray[np.int64]:
        """Return which of `contexts` the cells `first` to `first + n - 1` have, int64 [n]."""
        if not self.mixture:
            return np.zeros(n, np.int64)
        weights = [part.weight for part in self.mixture]
        return mixed(self.seed, np.arange(first, first + n), weights)

    @property
    def digest(self) -> str:
        """The request digest: equal requests have equal digests and get the same cells."""
        # What only some arms have is left out elsewhere: digests of others stay.
        unused = {name for name in _LATER if not getattr(self, name)}
        return digest_json(self.model_dump(mode="json", exclude=unused))


class JobRequest(Wire):
    """What a client submits: an arm, and what its cells do not depend on.

    Attributes:
        arm: the arm.
        fresh: names one recomputation of the arm, which takes nothing from any other; empty: none.
        roots: folders, as absolute paths, in which the client finds checkpoints; an engine looks
            there too, if the client is of its own machine.
        allow_unfit: whether cells are wanted of a condition that failed its fitness check.
    """

    arm: ArmRequest
    roots: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    fresh: Annotated[str, Field(max_length=200)] = ""
    allow_unfit: bool = False


class JobView(Wire):
    """Where an arm stands in the engine. `done` and `total` count cells."""

    job_id: str
    request: str
    """`ArmRequest.digest` of the arm."""
    fresh: str = ""
    """The recomputation's name; empty for none."""
    state: JobState
    done: int
    total: int
    error: str | None = None
    seconds: float | None = None
    """Compute time; None until the arm has ended, 0.0 when it came from disk."""
    profile_digest: str | None = None
    """Of the numerics profile it is computed under; None where no engine knows the job."""
    profile: dict[str, Any] | None = None
    """That profile; None until the job has succeeded."""
    version: str = ""
    """The engine's package version."""


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

    protocol: int = 1
    """Of the exchange; engines before the first numbered one do not say."""
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
