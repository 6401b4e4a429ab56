"""What goes into a ledger and what comes out: frozen values, times as UTC text, digests as text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from lingshu_tools.errors import InputError, quoted

Door = Literal["mcp", "cli", "python"]
OutcomeKind = Literal["succeeded", "failed", "cancelled"]
Status = Literal["queued", "running", "interrupted", "succeeded", "failed", "cancelled"]
Verdict = Literal["exact", "same_kind", "equivalent", "different"]
_HEAD = re.compile(r"[0-9]+:sha256:[0-9a-f]{64}")


@dataclass(frozen=True, order=True)
class Head:
    """The newest row of the chain; with it kept, a reader detects a cut or rewritten tail."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the head that `str(head)` wrote.

        Raises:
            InputError: not of the form `SEQ:sha256:HEX`.
        """
        if not _HEAD.fullmatch(text.strip()):
            message = (
                f"{quoted(text)} is not a ledger head; one looks like 42:sha256:0f3a…, copy it "
                "whole"
            )
            raise InputError(message)
        seq, _, digest = text.strip().partition(":")
        return cls(int(seq), digest)


@dataclass(frozen=True, kw_only=True)
class NewExperiment:
    """An experiment about to be asked for: what `begin` writes down before anything is computed.

    Attributes:
        tool: name of the tool that was called.
        request: the resolved request, JSON values only; its digest identifies what was asked.
        context: the context as one line of text to filter by; None where there is none.
        perturbation: the perturbation as one line of text to filter by; None for none or many.
        parent: the screen it belongs to or the experiment it replays; None for neither.
        position: its place in its screen, from 0; None outside a screen.
        client_key: idempotency key chosen by the client; the same key returns the same experiment.
    """

    tool: str
    request: Mapping[str, Any]
    checkpoint: str
    checkpoint_digest: str
    panel_digest: str
    seed: int
    principal: str = "local"
    door: Door = "python"
    client_key: str | None = None
    parent: str | None = None
    position: int | None = None
    context: str | None = None
    perturbation: str | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment(NewExperiment):
    """An experiment as the ledger holds it."""

    seq: int
    id: str
    request_digest: str
    created_at: str


@dataclass(frozen=True, kw_only=True)
class NewOutcome:
    """How an experiment ended.

    Attributes:
        result: JSON values; None where there is none.
        error: a sentence fit to be shown; None unless failed.
        environment: what it ran on (versions, numerics profile); None when nothing was computed.
        artifacts: role to the artifact's bytes, to pieces of them that can be gone through twice,
            or to the digest `put_object` returned.
        seconds: time it took, as the caller measured it.
    """

    kind: OutcomeKind
    result: Mapping[str, Any] | None = None
    error: str | None = None
    environment: Mapping[str, Any] | None = None
    artifacts: Mapping[str, bytes | Iterable[bytes] | str] = field(
        default_factory=dict[str, bytes | Iterable[bytes] | str]
    )
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The seal of an experiment. `artifacts` is role to digest."""

    seq: int
    experiment_id: str
    attempt_id: str | None
    kind: OutcomeKind
    result: Mapping[str, Any] | None
    error: str | None
    environment_digest: str | None
    artifacts: Mapping[str, str]
    seconds: float | None
    created_at: str


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A plan, as it was recorded before its experiments ran."""

    seq: int
    id: str
    plan: Mapping[str, Any]
    digest: str
    principal: str
    created_at: str


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Wet-lab values recorded for a screen."""

    seq: int
    id: str
    screen_id: str
    payload: Mapping[str, Any]
    digest: str
    principal: str
    created_at: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The verdict of a replay. `replay_id` is the experiment that replayed; None if none was made.

    `differs` names what is not the same: environment keys, artifacts, fields of the result.
    """

    seq: int
    id: str
    experiment_id: str
    replay_id: str | None
    verdict: Verdict
    differs: Mapping[str, Any]
    environment_digest: str | None
    created_at: str


@dataclass(frozen=True)
class Listed:
    """One line of a listing."""

    experiment: Experiment
    status: Status


@dataclass(frozen=True)
class Page:
    """Experiments newest first; `next_before` is the cursor of the next page, None on the last."""

    items: tuple[Listed, ...]
    next_before: str | None


@dataclass(frozen=True)
class Problem:
    """One thing `verify` found. `seq` is None where it is about the file as a whole."""

    seq: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.seq is None else f"row {self.seq}: {self.what}"


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` checked and found, the first bad row first.

    `objects` is None for a file that came without any.
    """

    head: Head
    rows: int
    objects: int | None
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems
