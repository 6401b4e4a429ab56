"""Anything, in any order: what a ledger says is what a dict would say.

The model knows each experiment by its status, its outcome and what was asked of it; a crash drops
whatever the process held, as the kernel would.
"""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from sqlalchemy.exc import OperationalError

from lingshu_tools.errors import BusyError, CancelledError, InputError, LedgerError, SealedError
from lingshu_tools.ledger import Attempt, Head, Ledger, NewExperiment, NewOutcome, sealing

KEYS = st.one_of(st.none(), st.sampled_from(["a", "b"]))
RESULTS = st.fixed_dictionaries({"score": st.floats(-1e9, 1e9), "by": st.text(max_size=5)})
BLOBS = st.dictionaries(st.sampled_from(["cells", "effects"]), st.binary(max_size=20))


def request(seed: int, key: str | None = None, parent: str | None = None) -> NewExperiment:
    return NewExperiment(
        tool="perturb_cells",
        request={"seed": seed},
        checkpoint="tiny",
        checkpoint_digest="sha256:" + "1" * 64,
        panel_digest="sha256:" + "2" * 64,
        seed=seed,
        client_key=key,
        parent=parent,
    )


@dataclass
class Known:
    """What the model holds of one experiment; `waiting` is an outcome in the spool."""

    seed: int
    status: str = "queued"
    outcome: NewOutcome | None = None
    waiting: NewOutcome | None = None
    to_stop: bool = False
    verdicts: list[str] = field(default_factory=list)

    def arrive(self) -> None:
        """The ledger looks at the spool."""
        if self.waiting and self.outcome is None:
            self.seal(self.waiting)
        self.waiting = None

    def seal(self, outcome: NewOutcome) -> None:
        self.outcome, self.status = outcome, outcome.kind


class LedgerMachine(RuleBasedStateMachine):
    experiments = Bundle("experiments")
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.model: dict[str, Known] = {}
        self.keys: dict[str, str] = {}
        self.heads: list[Head] = []
        self.working: dict[str, Attempt] = {}

    def teardown(self) -> None:
        for attempt in self.working.values():
            attempt.close()
        shutil.rmtree(self.home)

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger.open(self.home)

    @rule(target=experiments, seed=st.integers(0, 3), key=KEYS)
    def begin(self, seed: int, key: str | None) -> Any:
        known = self.keys.get(key or "")
        if known and self.model[known].seed != seed:
            with pytest.raises(InputError, match="already stands for"):
                self.ledger.begin(request(seed, key))
            return multiple()
        created = self.ledger.begin(request(seed, key))
        if known:
            assert created.id == known
            return multiple()
        assert created.id not in self.model
        self.model[created.id] = Known(seed)
        if key:
            self.keys[key] = created.id
        return created.id

    @rule(target=experiments, parent=experiments, n=st.integers(0, 3))
    def begin_together(self, parent: str, n: int) -> Any:
        created = self.ledger.begin_many([request(seed, parent=parent) for seed in range(n)])
        self.model |= {item.id: Known(item.seed) for item in created}
        return multiple(*(item.id for item in created))

    @rule(target=attempts, experiment=experiments)
    def attempt(self, experiment: str) -> Any:
        known = self.model[experiment]
        if known.status == "running":
            with pytest.raises(BusyError):
                self.ledger.attempt(experiment)
            return multiple()
        known.arrive()
        if known.outcome:
            with pytest.raises(SealedError):
                self.ledger.attempt(experiment)
            return multiple()
        if known.to_stop:
            with pytest.raises(CancelledError):
                self.ledger.attempt(experiment)
            known.seal(NewOutcome(kind="cancelled"))
            return multiple()
        self.working[experiment] = self.ledger.attempt(experiment)
        known.status = "running"
        return experiment

    def _ends(self, experiment: str, outcome: NewOutcome) -> None:
        # A crash may have ended it before.
        if attempt := self.working.pop(experiment, None):
            self.ledger.seal(attempt, outcome)
            self.model[experiment].seal(outcome)

    @rule(experiment=consumes(attempts), result=RESULTS, artifacts=BLOBS)
    def finish(self, experiment: str, result: dict[str, Any], artifacts: dict[str, bytes]) -> None:
        outcome = NewOutcome(kind="succeeded", result=result, artifacts=artifacts)
        self._ends(experiment, outcome)

    @rule(experiment=consumes(attempts), error=st.text(max_size=9))
    def fail(self, experiment: str, error: str) -> None:
        self._ends(experiment, NewOutcome(kind="failed", error=error))

    @rule(experiment=consumes(attempts), result=RESULTS)
    def finish_on_a_full_disk(self, experiment: str, result: dict[str, Any]) -> None:
        if attempt := self.working.pop(experiment, None):
            outcome = NewOutcome(kind="succeeded", result=result)
            full = OperationalError("INSERT", {}, Exception("database or disk is full"))
            with (
                patch.object(sealing, "seal", side_effect=full),
                pytest.raises(LedgerError, match="safe in"),
            ):
                self.ledger.seal(attempt, outcome)
            known = self.model[experiment]
            known.waiting, known.status = outcome, "interrupted"

    @rule(experiment=consumes(attempts))
    def give_up(self, experiment: str) -> None:
        if attempt := self.working.pop(experiment, None):
            attempt.close()
            self.model[experiment].status = "interrupted"

    @rule(experiment=experiments)
    def cancel(self, experiment: str) -> None:
        known = self.model[experiment]
        if known.status != "running":
            known.arrive()
        known.to_stop |= known.outcome is None
        if known.outcome is None and known.status != "running":
            known.seal(NewOutcome(kind="cancelled"))
        assert self.ledger.cancel(experiment) == known.status

    @rule()
    def crash(self) -> None:
        """The process dies: its locks are freed by the kernel, and their files stay."""
        for experiment, attempt in self.working.items():
            attempt._lock._handle.close()
            self.model[experiment].status = "interrupted"
        self.working.clear()
        self.reopen()

    @rule()
    def reopen(self) -> None:
        """Another server opens the ledger, whether or not the first is still there."""
        self.heads.append(self.ledger.head())
        self.ledger = Ledger.open(self.home)
        for known in self.model.values():
            if known.status != "running":
                known.arrive()

    @rule()
    def recover(self) -> None:
        """Whatever was interrupted is found and finished."""
        result = {i.experiment.id for i in self.ledger.find(status="interrupted").items}
        assert result == {e for e, known in self.model.items() if known.status == "interrupted"}
        for experiment in sorted(result):
            self.attempt(experiment)
            self._ends(experiment, NewOutcome(kind="succeeded", result={"again": True}))

    @rule(experiment=experiments, verdict=st.sampled_from(["exact", "different"]))
    def replay_verdict(self, experiment: str, verdict: Any) -> None:
        self.ledger.record_verification(experiment, verdict, replay_id=experiment)
        self.model[experiment].verdicts.append(verdict)

    @rule()
    def verify(self) -> None:
        report = self.ledger.verify(anchors=self.heads)
        waiting = {e for e, known in self.model.items() if known.waiting}
        assert len(report.problems) == len(waiting)
        assert all(any(e in p.what for e in waiting) for p in report.problems)

    @precondition(lambda self: hasattr(self, "ledger"))
    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        page = self.ledger.find(limit=500)
        assert {i.experiment.id: i.status for i in page.items} == {
            e: known.status for e, known in self.model.items()
        }

    @rule(experiment=experiments)
    def inspect(self, experiment: str) -> None:
        known, result = self.model[experiment], self.ledger.outcome(experiment)
        assert self.ledger.experiment(experiment).seed == known.seed
        assert [v.verdict for v in self.ledger.verifications(experiment)] == known.verdicts
        assert self.ledger.cancel_requested(experiment) == known.to_stop
        assert (result is None) == (known.outcome is None)
        if result and known.outcome:
            wanted = known.outcome
            assert (result.kind, result.result, result.error) == (
                wanted.kind, wanted.result, wanted.error)  # fmt: skip
            stored = {role: self.ledger.get_object(d) for role, d in result.artifacts.items()}
            assert stored == dict(wanted.artifacts)


CALM = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    print_blob=True,
)


class TestStates(LedgerMachine.TestCase):
    settings = settings(CALM, max_examples=8, stateful_step_count=20)


@pytest.mark.slow
class TestManyStates(LedgerMachine.TestCase):
    settings = settings(CALM, max_examples=100, stateful_step_count=50)
