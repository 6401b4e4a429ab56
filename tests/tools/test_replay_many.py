"""Many replays: a run that was ended goes on where it was, and its verdicts are all counted."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lingshu_model.contracts import Cells, EngineInfo
from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import EngineError
from lingshu_tools.execution import replay_many as many
from lingshu_tools.execution.replay_many import finished, replay_many, sample
from lingshu_tools.experiments.replays import begin_replay
from lingshu_tools.ledger import Ledger


class Counting(FakeEngine):
    """Counts what is computed anew; on another `device`, or wrong for one seed."""

    wrong_seed = -1
    gone = False

    def __init__(self, panel: list[str]) -> None:
        super().__init__(panel)
        self.fresh: set[str] = set()

    def ensure(self) -> EngineInfo:
        if self.gone:
            raise EngineError("no engine can be started")
        return self.info()

    def submit(self, arm, *, fresh=None, requester=None):
        if self.gone:
            raise EngineError("the engine is gone")
        self.fresh |= {fresh} if fresh else set()
        return super().submit(arm)

    def cells(self, job_id: str) -> Cells:
        cells = super().cells(job_id)
        if self._arm(job_id).seed == self.wrong_seed:
            return Cells(cells.counts + 1, cells.measured, cells.origin)
        return cells


@pytest.fixture
def engine(checkpoint) -> Counting:
    return Counting(checkpoint.panel)


@pytest.fixture
def done(app) -> list[str]:
    """Three knock-outs and a sample, newest first as they are listed."""
    for seed in range(3):
        item = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8}
        call(app, "perturb_cells", item | {"seed": seed, "wait_s": 30})
    call(app, "sample_cells", {"n_cells": 8, "wait_s": 30})
    return finished(app.ledger)


def test_all_that_succeeded_are_replayed_and_replays_are_not(app: App, engine, done):
    assert len(done) == 4
    steps: list[tuple[int, int]] = []
    tally = replay_many(app, app.ledger, done, lambda *step: steps.append(step))
    assert tally.counts == {"exact": 4}
    assert (tally.now, tally.failed, tally.ok) == (4, {}, True)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(engine.fresh) == 4
    assert finished(app.ledger) == done
    assert [len(app.ledger.verifications(name)) for name in done] == [1, 1, 1, 1]


def test_what_has_a_verdict_on_this_profile_is_not_replayed_again(app: App, engine, done):
    replay_many(app, app.ledger, done[:3])
    engine.fresh.clear()
    tally = replay_many(app, app.ledger, done)
    assert (tally.counts, tally.now) == ({"exact": 4}, 1)
    assert len(engine.fresh) == 1


def test_on_another_profile_all_are_due_again(app: App, engine, done):
    replay_many(app, app.ledger, done)
    engine.device = "other"
    tally = replay_many(app, app.ledger, done)
    assert (tally.counts, tally.now) == ({"same_kind": 4}, 4)


def test_a_replay_that_was_begun_is_finished_instead_of_another(app: App, done):
    begun = begin_replay(app, app.ledger, app.ledger.experiment(done[0]))
    assert replay_many(app, app.ledger, done).now == 4
    assert [e.id for e in app.ledger.children(done[0])] == [begun.id]


def test_a_verdict_that_was_not_written_down_any_more_is(app: App, engine, done, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("lingshu_tools.execution.runner.record_verdict", lambda *_: None)
        replay_many(app, app.ledger, done)
    assert app.ledger.verifications(done[0]) == []
    engine.fresh.clear()
    tally = replay_many(app, app.ledger, done)
    assert (tally.counts, tally.now) == ({"exact": 4}, 0)
    assert engine.fresh == set()
    assert [v.verdict for v in app.ledger.verifications(done[0])] == ["exact"]


def test_one_that_differs_is_told_from_the_others(app: App, engine, done):
    engine.wrong_seed = 1
    tally = replay_many(app, app.ledger, done)
    wrong = [name for name, verdict in tally.verdicts.items() if verdict == "different"]
    assert [app.ledger.experiment(name).seed for name in wrong] == [1]
    assert not tally.ok


def test_what_cannot_be_replayed_does_not_stop_the_others(app: App, open_app, engine, done):
    for checkpoint in app.catalogue.names():
        place = app.catalogue.load(checkpoint).path
    shutil.rmtree(place)
    make_checkpoint(place.parent, contexts=[{"cell_line": "K562"}])
    again = open_app(engine)
    call(again, "sample_cells", {"n_cells": 8, "wait_s": 30})
    tally = replay_many(again, again.ledger, finished(again.ledger))
    assert tally.counts == {"exact": 1}
    assert set(tally.failed) == set(done)
    assert "LINGSHU_CHECKPOINTS" in tally.failed[done[0]]
    assert not tally.ok


def test_a_replay_that_is_cancelled_gives_no_verdict_and_the_next_run_tries_again(
    app: App, done, monkeypatch: pytest.MonkeyPatch
):
    def cancelled(*requested):
        begun = begin_replay(*requested)
        app.ledger.cancel(begun.id)
        return begun

    with monkeypatch.context() as patched:
        patched.setattr(many, "begin_replay", cancelled)
        tally = replay_many(app, app.ledger, done[:1])
    assert tally.failed == {done[0]: "its replay was cancelled"}
    assert replay_many(app, app.ledger, done[:1]).counts == {"exact": 1}


def test_without_an_engine_the_run_ends_at_once(app: App, engine, done):
    engine.gone = True
    with pytest.raises(EngineError, match="no engine"):
        replay_many(app, app.ledger, done)


def test_an_engine_that_goes_ends_the_run_and_the_next_goes_on(
    app: App, engine, done, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(many, "AT_ONCE", 1)

    def lose(finished: int, _: int) -> None:
        engine.gone = finished == 1

    with pytest.raises(EngineError, match="no engine"):
        replay_many(app, app.ledger, done, lose)
    engine.gone = False
    tally = replay_many(app, app.ledger, done)
    assert (tally.counts, tally.now) == ({"exact": 4}, 3)


def test_a_ledger_that_is_only_read_is_replayed_in_this_home(
    app: App, engine, open_app, done, tmp_path: Path
):
    place = tmp_path / "reference" / "experiments.db"
    place.parent.mkdir()
    with closing(sqlite3.connect(app.ledger.database)) as database:
        database.execute("VACUUM INTO ?", (str(place),))
    shipped = Ledger.open_read_only(place)
    other = open_app(engine, home="another")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LINGSHU_REFERENCE_LEDGER", str(place))
        first = replay_many(other, shipped, done[:2])
        second = replay_many(other, shipped, done)
    assert (first.counts, first.now) == ({"exact": 2}, 2)
    assert (second.counts, second.now) == ({"exact": 4}, 2)
    assert shipped.verifications(done[0]) == []


def test_what_another_ledger_says_of_its_replays_is_not_taken_over(
    app: App, engine, open_app, done, tmp_path: Path
):
    assert replay_many(app, app.ledger, done).now == 4
    place = tmp_path / "theirs" / "experiments.db"
    place.parent.mkdir()
    with closing(sqlite3.connect(app.ledger.database)) as database:
        database.execute("VACUUM INTO ?", (str(place),))
    theirs = Ledger.open_read_only(place)
    assert theirs.verifications(done[0])
    other = open_app(engine, home="another")
    first = replay_many(other, theirs, done)
    assert (first.counts, first.now, first.failed) == ({"exact": 4}, 4, {})
    assert replay_many(other, theirs, done).now == 0
    # Without that file beside, a replay is an experiment like any other.
    later = open_app(engine, home="another")
    replays = [item.experiment.id for item in later.ledger.find(limit=10).items]
    assert len(replays) == 4
    assert {call(later, "get_experiment", {"id": name}).status for name in replays} == {"succeeded"}


def test_a_sample_is_the_same_each_time_and_never_empty():
    ids = [f"exp_{n}" for n in range(1000)]
    chosen = sample(ids, 0.01)
    assert len(set(chosen)) == 10
    assert sample(ids[::-1], 0.01) == chosen
    assert set(sample(ids, 0.02)) > set(chosen)
    assert len(sample(ids[:3], 0.001)) == 1
    assert sample([], 0.5) == []
