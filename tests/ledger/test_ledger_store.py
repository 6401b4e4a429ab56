"""Experiments from their first row to their seal."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from lingshu_tools.errors import (
    BusyError,
    CancelledError,
    InputError,
    LedgerError,
    NotFoundError,
    SealedError,
)
from lingshu_tools.ledger import (
    Experiment,
    Head,
    Ledger,
    NewExperiment,
    NewOutcome,
    default_home,
)

New = Callable[..., NewExperiment]
pytestmark = pytest.mark.usefixtures("database")


def finish(ledger: Ledger, experiment_id: str, **outcome: object) -> None:
    with ledger.attempt(experiment_id) as attempt:
        ledger.seal(attempt, NewOutcome(**({"kind": "succeeded"} | outcome)))  # type: ignore[arg-type]


def test_what_was_begun_is_read_back_unchanged_in_another_opening(
    ledger: Ledger, home: Path, new: New
) -> None:
    created = ledger.begin(new(seed=2**63 - 1, context="line=THP-1", perturbation="STAT1:knockout"))
    again = Ledger.open(home).experiment(created.id)
    assert again == created
    assert (again.seed, again.request) == (2**63 - 1, new().request)


def test_status_follows_the_experiment(ledger: Ledger, new: New) -> None:
    experiment = ledger.begin(new())
    seen = [ledger.status(experiment.id)]
    with ledger.attempt(experiment.id):
        seen.append(ledger.status(experiment.id))
    seen.append(ledger.status(experiment.id))
    finish(ledger, experiment.id)
    seen.append(ledger.status(experiment.id))
    assert seen == ["queued", "running", "interrupted", "succeeded"]


def test_an_outcome_is_read_back_with_its_environment_and_artifacts(
    ledger: Ledger, new: New
) -> None:
    experiment = ledger.begin(new())
    shared = ledger.put_object(b"control cells")
    with ledger.attempt(experiment.id) as attempt:
        sealed = ledger.seal(
            attempt,
            NewOutcome(
                kind="succeeded",
                result={"score": -0.25},
                environment={"device": "cpu"},
                artifacts={"control": shared, "perturbed": b"perturbed cells"},
                seconds=2,
            ),
        )
    assert ledger.outcome(experiment.id) == sealed
    assert ledger.get_object(sealed.artifacts["perturbed"]) == b"perturbed cells"
    assert sealed.artifacts["control"] == shared
    assert ledger.environment(sealed.environment_digest or "") == {"device": "cpu"}
    assert (sealed.attempt_id, sealed.seconds) == (attempt.id, 2.0)


def test_an_attempt_that_was_sealed_or_left_cannot_seal(ledger: Ledger, new: New) -> None:
    experiment = ledger.begin(new())
    with ledger.attempt(experiment.id) as left:
        pass
    with pytest.raises(LedgerError, match="is over"):
        ledger.seal(left, NewOutcome(kind="succeeded"))
    with ledger.attempt(experiment.id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="failed", error="no engine"))
        with pytest.raises(LedgerError, match="is over"):
            ledger.seal(attempt, NewOutcome(kind="succeeded"))
    assert ledger.status(experiment.id) == "failed"


def test_a_sealed_experiment_takes_no_attempt(ledger: Ledger, new: New) -> None:
    experiment = ledger.begin(new())
    finish(ledger, experiment.id)
    with pytest.raises(SealedError, match=experiment.id):
        ledger.attempt(experiment.id)


def test_two_attempts_never_live_at_once(ledger: Ledger, home: Path, new: New) -> None:
    experiment = ledger.begin(new())
    with ledger.attempt(experiment.id), pytest.raises(BusyError, match="get_experiment"):
        Ledger.open(home).attempt(experiment.id)
    ledger.attempt(experiment.id).close()


def test_a_client_key_gives_the_same_experiment_again(ledger: Ledger, new: New) -> None:
    first = ledger.begin(new(client_key="call-1"))
    assert ledger.begin(new(client_key="call-1")) == first
    assert ledger.begin(new(client_key="call-1", principal="another")).id != first.id
    with pytest.raises(InputError, match="'call-1' already stands for"):
        ledger.begin(new(client_key="call-1", request={"n_cells": 9}))


def test_experiments_begun_together_are_all_or_none(ledger: Ledger, new: New) -> None:
    head = ledger.head()
    with pytest.raises(NotFoundError):
        ledger.begin_many([new(), new(parent="scr_missing")])
    assert ledger.head() == head
    created = ledger.begin_many([new(seed=s) for s in range(3)])
    assert [e.seq for e in created] == [head.seq + 1, head.seq + 2, head.seq + 3]


def statements(work: Callable[[], object]) -> int:
    """Return how many statements this thread executed, one for many rows counted once."""
    executed: list[str] = []
    thread = threading.get_ident()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        # Threads of earlier tests may still read their own ledgers.
        if threading.get_ident() == thread:
            executed.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return len(executed)


def test_many_experiments_begin_and_stop_in_as_many_statements_as_few(
    ledger: Ledger, new: New
) -> None:
    begun: list[Experiment] = []
    few, many = (
        statements(lambda n=n: begun.extend(ledger.begin_many([new(seed=s) for s in range(n)])))
        for n in (3, 60)
    )
    assert many == few
    ids = [experiment.id for experiment in begun]
    few, many = (statements(lambda some=some: ledger.cancel_many(some)) for some in (ids[:3], ids))
    # Each is looked for in the spool, which is a file; nothing else is done once for each.
    assert many <= few + 3


def test_a_screen_has_its_children_in_order(ledger: Ledger, new: New) -> None:
    screen = ledger.record_screen({"objective": {"raise": ["IRF1"]}}, principal="ann")
    created = ledger.begin_many([new(parent=screen.id, position=p) for p in (2, 0, 1)])
    assert [e.position for e in ledger.children(screen.id)] == [0, 1, 2]
    assert {e.id for e in created} == {e.id for e in ledger.children(screen.id)}
    assert ledger.screen(screen.id) == screen
    assert ledger.find_screens(digest=screen.digest) == [screen]
    assert ledger.find_screens(digest="sha256:none") == []


def test_measurements_and_verifications_are_kept_with_what_they_are_about(
    ledger: Ledger, new: New
) -> None:
    screen = ledger.record_screen({})
    measured = ledger.record_measurements(screen.id, {"STAT1": {"fold_change": 0.4}})
    assert ledger.measurements(screen.id) == [measured]
    original = ledger.begin(new())
    replay = ledger.begin(new(parent=original.id))
    verdict = ledger.record_verification(
        original.id,
        "equivalent",
        differs={"environment": ["dtype"]},
        environment={"dtype": "bfloat16"},
        replay_id=replay.id,
    )
    assert ledger.verifications(original.id) == [verdict]
    assert ledger.environment(verdict.environment_digest or "") == {"dtype": "bfloat16"}
    assert ledger.children(original.id) == [replay]


def test_an_unknown_id_is_answered_with_the_nearest(ledger: Ledger, new: New) -> None:
    experiment = ledger.begin(new())
    wrong = experiment.id[:-1] + ("a" if experiment.id[-1] != "a" else "b")
    with pytest.raises(NotFoundError, match=f"{wrong}.*Did you mean '{experiment.id}'"):
        ledger.experiment(wrong)
    with pytest.raises(NotFoundError, match="no screen 'scr_x'"):
        ledger.record_measurements("scr_x", {})
    with pytest.raises(NotFoundError):
        ledger.status("exp_x")
    with pytest.raises(InputError, match="no environment"):
        ledger.environment("sha256:none")


def test_a_request_that_json_cannot_say_is_refused_before_anything_is_written(
    ledger: Ledger, new: New
) -> None:
    head = ledger.head()
    with pytest.raises(InputError, match=r"\$\.dose"):
        ledger.begin(new(request={"dose": float("nan")}))
    assert ledger.head() == head


def test_cancelling_what_nobody_works_on_seals_it(ledger: Ledger, new: New) -> None:
    queued = ledger.begin(new())
    assert ledger.cancel(queued.id) == "cancelled"
    assert ledger.cancel(queued.id) == "cancelled"
    outcome = ledger.outcome(queued.id)
    assert outcome is not None
    assert outcome.attempt_id is None


def test_cancelling_a_finished_experiment_changes_nothing(ledger: Ledger, new: New) -> None:
    experiment = ledger.begin(new())
    finish(ledger, experiment.id)
    head = ledger.head()
    assert (ledger.cancel(experiment.id), ledger.head()) == ("succeeded", head)


def test_an_experiment_cancelled_under_an_attempt_that_died_is_sealed_by_the_next(
    ledger: Ledger, new: New
) -> None:
    experiment = ledger.begin(new())
    with ledger.attempt(experiment.id) as attempt:
        assert not attempt.cancel_requested()
        assert ledger.cancel(experiment.id) == "running"
        assert attempt.cancel_requested()
    with pytest.raises(CancelledError):
        ledger.attempt(experiment.id)
    assert ledger.status(experiment.id) == "cancelled"


def test_a_head_is_read_back_from_its_text(ledger: Ledger) -> None:
    head = ledger.head()
    assert Head.parse(str(head)) == head
    with pytest.raises(InputError, match="'12' is not a ledger head"):
        Head.parse("12")


@pytest.mark.of_files
def test_a_ledger_in_a_read_only_folder_is_read_and_left_alone(
    ledger: Ledger, home: Path, new: New
) -> None:
    experiment = ledger.begin(new())
    finish(ledger, experiment.id, artifacts={"cells": b"cells"})
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    home.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        reading = Ledger.open_read_only(home / "experiments.db")
        assert reading.read_only
        assert reading.status(experiment.id) == "succeeded"
        assert reading.verify().ok
        with pytest.raises(LedgerError, match="read-only"):
            reading.begin(new())
        with pytest.raises(LedgerError, match="read-only"):
            reading.put_object(b"more")
    finally:
        home.chmod(stat.S_IRWXU)
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before


@pytest.mark.of_files
def test_opening_what_is_no_ledger_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is no file"):
        Ledger.open_read_only(tmp_path / "none.db")
    (tmp_path / "experiments.db").write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger.open(tmp_path)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger.open_read_only(tmp_path / "experiments.db")
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="LINGSHU_HOME"):
        Ledger.open(tmp_path / "file" / "home")


def test_another_database_is_named_by_url(tmp_path: Path, home: Path, new: New) -> None:
    database = tmp_path / "else" / "where.db"
    ledger = Ledger.open(home, url=f"sqlite:///{database}")
    finish(ledger, ledger.begin(new()).id, artifacts={"cells": b"1"})
    assert ledger.database == database
    assert Ledger.open_read_only(database, objects=home / "objects").verify().ok
    for url in ("mysql://host/db", "no url", "sqlite://"):
        with pytest.raises(InputError, match="sqlite:////"):
            Ledger.open(home, url=url)


def test_the_home_follows_the_environment_and_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINGSHU_HOME", "/a/b")
    assert default_home() == Path("/a/b")
    monkeypatch.delenv("LINGSHU_HOME")
    monkeypatch.setenv("HOME", "/users/ann")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_home() == Path("/data/lingshu")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_home() == Path("/users/ann/.local/share/lingshu")
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_home() == Path("/users/ann/Library/Application Support/lingshu")


def test_an_object_is_checked_whenever_it_is_read(ledger: Ledger, home: Path) -> None:
    digest = ledger.put_object(b"cells")
    path = next((home / "objects").glob("*/*"))
    assert ledger.has_object(digest)
    path.write_bytes(b"cellz")
    with pytest.raises(LedgerError, match=f"{path}.*{digest}"):
        ledger.get_object(digest)
    assert ledger.put_object(b"cells") == digest
    assert ledger.get_object(digest) == b"cells"
    path.unlink()
    assert not ledger.has_object(digest)
    with pytest.raises(NotFoundError, match=digest):
        ledger.get_object(digest)
    with pytest.raises(InputError, match=r"'\.\./etc' is not a digest"):
        ledger.get_object("../etc")


def test_a_full_disk_leaves_no_half_object(
    ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LedgerError, match="No space left"):
        ledger.put_object(b"cells")
    assert [p for p in (home / "objects").rglob("*") if p.is_file()] == []


def test_pieces_are_stored_as_their_whole_and_not_twice(ledger: Ledger):
    digest = ledger.put_object([b"ce", b"lls"])
    assert digest == ledger.put_object(b"cells")
    assert ledger.object_file(digest).read_bytes() == b"cells"

    class Changing:
        turn = 0

        def __iter__(self):
            self.turn += 1
            yield b"turn %d" % self.turn

    with pytest.raises(LedgerError, match="changed meanwhile"):
        ledger.put_object(Changing())
    files = [path for path in ledger.objects.root.rglob("*") if path.is_file()]
    assert files == [ledger.object_file(digest)]
