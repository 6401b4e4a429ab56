"""A finished computation outlives a database that cannot be written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from lingshu_tools.errors import LedgerError, SealedError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, sealing

New = Callable[..., NewExperiment]
pytestmark = pytest.mark.usefixtures("database")
OUTCOME = NewOutcome(
    kind="succeeded", result={"score": 1.5}, environment={"cpu": "x"}, artifacts={"cells": b"c"}
)


@pytest.fixture
def spooled(ledger: Ledger, new: New, monkeypatch: pytest.MonkeyPatch) -> str:
    """An experiment whose outcome the database refused."""

    def full(*_: object) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    experiment = ledger.begin(new())
    with monkeypatch.context() as patch:
        patch.setattr(sealing, "seal", full)
        with (
            ledger.attempt(experiment.id) as attempt,
            pytest.raises(LedgerError, match=r"disk is full.*safe in .*spool"),
        ):
            ledger.seal(attempt, OUTCOME)
    return experiment.id


def test_the_next_opening_records_it(ledger: Ledger, home: Path, spooled: str) -> None:
    assert ledger.outcome(spooled) is None
    assert [p for p in ledger.verify().problems if spooled in p.what]
    again = Ledger.open(home)
    outcome = again.outcome(spooled)
    assert outcome is not None
    assert (outcome.kind, outcome.result) == ("succeeded", {"score": 1.5})
    assert again.get_object(outcome.artifacts["cells"]) == b"c"
    assert list((home / "spool").iterdir()) == []
    assert again.verify().ok


def test_the_next_attempt_records_it_instead_of_computing_again(
    ledger: Ledger, spooled: str
) -> None:
    with pytest.raises(SealedError):
        ledger.attempt(spooled)
    assert ledger.status(spooled) == "succeeded"


def test_it_waits_while_somebody_works_on_the_experiment(
    ledger: Ledger, home: Path, spooled: str
) -> None:
    lock = ledger._locks.acquire(spooled)
    assert lock is not None
    assert Ledger.open(home).outcome(spooled) is None
    lock.release()
    assert Ledger.open(home).outcome(spooled) is not None


def test_one_that_comes_too_late_is_dropped(ledger: Ledger, home: Path, spooled: str) -> None:
    kept = (home / "spool" / f"{spooled}.json").read_bytes()
    Ledger.open(home)
    (home / "spool" / f"{spooled}.json").write_bytes(kept)
    head = ledger.head()
    assert Ledger.open(home).head() == head
    assert list((home / "spool").iterdir()) == []


def test_one_that_cannot_be_read_or_placed_is_kept_and_reported(
    ledger: Ledger, home: Path, spooled: str
) -> None:
    path = home / "spool" / f"{spooled}.json"
    text = path.read_text()
    path.write_text(text[:20])
    other = home / "spool" / "exp_elsewhere.json"
    other.write_text(text.replace(spooled, "exp_elsewhere"))
    problems = [p.what for p in Ledger.open(home).verify().problems]
    assert len(problems) == 2
    assert path.exists()
    assert other.exists()
