"""The ledger's one door. SIGNATURES ONLY: the body follows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lingshu_tools.ledger.records import (
    Experiment,
    Head,
    Measurement,
    NewExperiment,
    NewOutcome,
    Outcome,
    Page,
    Screen,
    Status,
    Verdict,
    Verification,
    VerifyReport,
)


class Attempt:
    """Living work on one experiment. `with ledger.attempt(id) as attempt:`; leaving without a seal
    makes the experiment `interrupted`.
    """

    id: str
    experiment_id: str

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def cancel_requested(self) -> bool: ...
    def close(self) -> None: ...


class Ledger:
    database: Path
    read_only: bool

    @classmethod
    def open(cls, home: Path, *, url: str | None = None) -> Self: ...
    @classmethod
    def open_read_only(cls, database: Path, *, objects: Path | None = None) -> Self: ...
    def close(self) -> None: ...
    def head(self) -> Head: ...
    # screens
    def record_screen(self, plan: Mapping[str, Any], *, principal: str = "local") -> Screen: ...
    def screen(self, screen_id: str) -> Screen: ...
    def record_measurements(
        self, screen_id: str, payload: Mapping[str, Any], *, principal: str = "local"
    ) -> Measurement: ...
    def measurements(self, screen_id: str) -> list[Measurement]: ...
    # experiments
    def begin(self, request: NewExperiment) -> Experiment: ...
    def begin_many(self, requests: Sequence[NewExperiment]) -> list[Experiment]: ...
    def attempt(
        self, experiment_id: str
    ) -> Attempt: ...  # errors.BusyError / SealedError / CancelledError
    def seal(self, attempt: Attempt, outcome: NewOutcome) -> Outcome: ...
    def cancel(
        self, experiment_id: str, *, principal: str = "local"
    ) -> Status: ...  # 'running' = the living attempt has been told
    def cancel_requested(self, experiment_id: str) -> bool: ...
    def experiment(self, experiment_id: str) -> Experiment: ...
    def outcome(self, experiment_id: str) -> Outcome | None: ...
    def status(self, experiment_id: str) -> Status: ...
    def children(self, parent_id: str) -> list[Experiment]: ...  # by position, then age
    def find(
        self,
        *,
        tool: str | None = None,
        status: Status | None = None,
        checkpoint: str | None = None,
        context: str | None = None,
        perturbation: str | None = None,
        parent: str | None = None,
        text: str | None = None,
        before: str | None = None,
        limit: int = 20,
    ) -> Page: ...
    def environment(self, digest: str) -> dict[str, Any]: ...
    # replays
    def record_verification(
        self,
        experiment_id: str,
        verdict: Verdict,
        *,
        differs: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        replay_id: str | None = None,
    ) -> Verification: ...
    def verifications(self, experiment_id: str) -> list[Verification]: ...
    # objects
    def put_object(self, data: bytes) -> str: ...
    def get_object(self, digest: str) -> bytes: ...
    def has_object(self, digest: str) -> bool: ...
    # audit
    def verify(
        self, progress: Callable[[int, int], None] | None = None, *, anchors: Iterable[Head] = ()
    ) -> VerifyReport: ...
