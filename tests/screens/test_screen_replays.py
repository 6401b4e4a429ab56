"""A screen is replayed by its id: a verdict for each finished experiment, and the worst of them."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made_screens import PANEL, HaltingEngine, make_checkpoint, open_app, run

from lingshu_model.contracts import Cells, EngineInfo
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.cli import main
from lingshu_tools.errors import InputError
from lingshu_tools.execution import replay_screens


class OtherEngine(FakeEngine):
    """An engine with another numerics profile, whose cells of `changed` targets are others."""

    def __init__(self, *changed: str, device: str = "other") -> None:
        super().__init__(PANEL)
        self.altered, self.device = set(changed), device

    def cells(self, job_id: str) -> Cells:
        cells = super().cells(job_id)
        if self.altered & {i.target for i in self.arms[job_id].interventions}:
            return Cells(cells.counts[:, ::-1].copy(), cells.measured, cells.origin)
        return cells


def replay(app: App, name: str, **more: Any) -> Any:
    """Return the replay of a screen when nothing of it is under way any more."""
    result = call(app, "replay_experiment", {"id": name, "wait_s": 45} | more)
    while result.status == "running":
        result = call(app, "replay_experiment", {"id": name, "wait_s": 45} | more)
    return result


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "checkpoints")
    return tmp_path / "home"


@pytest.fixture
def app(home: Path) -> Iterator[App]:
    opened = open_app(home, FakeEngine(PANEL))
    yield opened
    opened.close()


@pytest.fixture
def done(app: App) -> str:
    return run(app).screen_id


def test_every_finished_experiment_has_its_verdict_and_the_screen_the_worst(app: App, done: str):
    result = replay(app, done)
    assert (result.status, result.verdict, result.verdicts) == ("succeeded", "exact", {"exact": 5})
    assert (result.screen_id, result.replay_of, result.experiment_id) == (done, done, None)
    assert {item.replay_of for item in result.replays} == {e.id for e in app.ledger.children(done)}
    for item in result.replays:
        (written,) = app.ledger.verifications(item.replay_of)
        assert (written.verdict, written.replay_id) == ("exact", item.experiment_id)
    assert result.progress.done == result.progress.total == 5 * 2 * 48
    assert result.next_step is None


def test_the_worst_verdict_comes_first(home: Path, done: str):
    app = open_app(home, OtherEngine("T02"))
    result = replay(app, done)
    assert (result.verdict, result.verdicts) == ("different", {"same_kind": 4, "different": 1})
    assert [item.verdict for item in result.replays] == ["different"] + ["same_kind"] * 4
    assert result.replays[0].perturbation == "T02 knockout"
    assert "artifacts" in result.differs[result.replays[0].replay_of]
    app.close()


def test_a_replay_goes_on_where_it_was(home: Path, done: str):
    halted = open_app(home, HaltingEngine(done=2))
    first = call(halted, "replay_experiment", {"id": done, "wait_s": 0})
    assert first.status == "running"
    assert first.next_step.startswith(f'replay_experiment(id="{done}", wait_s=4)')
    children = halted.ledger.children_of([e.id for e in halted.ledger.children(done)])
    assert len(children) == 5
    assert halted.runner.wait([e.id for e in children][:2], 45)
    halted.close()

    app = open_app(home, FakeEngine(PANEL))
    result = replay(app, done)
    assert (result.verdict, result.verdicts) == ("exact", {"exact": 5})
    again = replay(app, done)
    assert again.replays == result.replays
    assert len(app.ledger.children_of([e.id for e in app.ledger.children(done)])) == 5
    app.close()


def test_verdicts_under_another_profile_are_not_todays(home: Path, done: str, app: App):
    assert replay(app, done).verdicts == {"exact": 5}
    other = open_app(home, OtherEngine())
    assert replay(other, done).verdicts == {"same_kind": 5}
    assert len(app.ledger.children_of([e.id for e in app.ledger.children(done)])) == 10
    other.close()


def test_without_a_running_engine_one_replay_is_begun_which_starts_it(home: Path, done: str):
    class Sleeping(FakeEngine):
        """Says nothing of itself until it was asked for cells."""

        def info(self, checkpoint: str | None = None) -> EngineInfo | None:
            return super().info() if self.arms else None

    app = open_app(home, FakeEngine(PANEL))
    assert replay(app, done).verdicts == {"exact": 5}
    app.close()
    app = open_app(home, Sleeping(PANEL))
    result = replay(app, done)
    assert (result.verdict, result.verdicts) == ("exact", {"exact": 5})
    assert len(app.ledger.children_of([e.id for e in app.ledger.children(done)])) == 6
    app.close()


def test_what_failed_is_begun_again_when_called_again(home: Path, done: str):
    class Broken(FakeEngine):
        def wait(self, job_id: str, wait_s: float):
            view = super().wait(job_id, wait_s)
            if [i.target for i in self.arms[job_id].interventions] == ["T02"]:
                return view.model_copy(update={"state": "failed", "error": "not enough memory"})
            return view

    app = open_app(home, Broken(PANEL))
    result = replay(app, done)
    assert (result.status, result.verdict, result.verdicts) == ("failed", None, {"exact": 4})
    assert any("T02" in caveat for caveat in result.caveats)
    assert result.next_step.startswith(f'replay_experiment(id="{done}"')
    app.close()
    mended = open_app(home, FakeEngine(PANEL))
    assert replay(mended, done).verdicts == {"exact": 5}
    mended.close()


def test_only_what_is_finished_is_replayed_and_the_rest_is_said(home: Path):
    halted = open_app(home, HaltingEngine(done=3))
    screen_id = run(halted, wait_s=0).screen_id
    with pytest.raises(InputError, match="run_screen"):
        call(halted, "replay_experiment", {"id": run(halted, seed=1, wait_s=0).screen_id})
    ids = [e.id for e in halted.ledger.children(screen_id)]
    assert halted.runner.wait(ids[:3], 45)
    call(halted, "cancel_experiment", {"id": screen_id})
    halted.runner.wait(ids, 45)
    halted.close()
    app = open_app(home, FakeEngine(PANEL))
    result = replay(app, screen_id)
    assert result.verdicts == {"exact": 3}
    assert any("3 finished of 5" in caveat for caveat in result.caveats)
    app.close()


def test_cancelling_a_screen_stops_its_replays(home: Path, done: str):
    app = open_app(home, HaltingEngine(done=0))
    call(app, "replay_experiment", {"id": done, "wait_s": 0})
    stopped = call(app, "cancel_experiment", {"id": done})
    replays = [e.id for e in app.ledger.children_of([e.id for e in app.ledger.children(done)])]
    app.runner.wait(replays, 45)
    assert set(app.ledger.statuses(replays).values()) == {"cancelled"}
    assert stopped.kept == 5
    shown = call(app, "get_experiment", {"id": done})
    assert shown.status == "succeeded"
    app.close()


def test_a_long_list_is_cut_to_the_worst(app: App, done: str):
    result = replay(app, done, limit=2)
    assert len(result.replays) == 2
    assert (result.truncated.shown, result.truncated.total) == (2, 5)
    assert "limit=5" in result.truncated.how_to_get_more


def test_a_screen_of_the_reference_ledger_is_replayed_too(
    app: App, home: Path, done: str, monkeypatch: pytest.MonkeyPatch
):
    place = home.parent / "reference.db"
    with closing(sqlite3.connect(app.ledger.database)) as database:
        database.execute("VACUUM INTO ?", (str(place),))
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(place))
    another = open_app(home.parent / "another", FakeEngine(PANEL))
    result = replay(another, done)
    assert (result.verdict, result.verdicts) == ("exact", {"exact": 5})
    assert result.verification_written is False
    assert replay(another, done).replays == result.replays
    another.close()


def test_the_command_line_replays_a_screen_and_names_each(
    app: App, done: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lingshu_tools.cli.replay_command.open_app", lambda: app)
    messages = CliRunner().invoke(main, ["replay", done])
    assert messages.exit_code == 0, messages.output
    assert all(e.id in messages.output for e in app.ledger.children(done))
    assert "5 exact" in messages.output
    result = json.loads(CliRunner().invoke(main, ["replay", done, "--json"]).output)
    assert result["verdicts"] == {"exact": 5}


def test_the_command_line_says_the_verdict_of_a_replay_that_it_waited_for(
    app: App, done: str, monkeypatch: pytest.MonkeyPatch
):
    first = app.ledger.children(done)[0].id

    def without_waiting(app: App, tool: str, arguments: dict[str, Any]) -> Any:
        # As beside an engine that starts: the first call ends before the replay does.
        wait = {"wait_s": 0} if tool == "replay_experiment" else {}
        return call(app, tool, arguments | wait)

    monkeypatch.setattr("lingshu_tools.cli.replay_command.open_app", lambda: app)
    monkeypatch.setattr("lingshu_tools.calls.dispatcher.call", without_waiting)
    messages = CliRunner().invoke(main, ["replay", first])
    assert messages.exit_code == 0, messages.output
    assert f"Replay of {first} from its row, computed anew: exact" in messages.output


def test_the_disk_that_replays_need_is_summed_over_their_sizes(
    app: App, done: str, monkeypatch: pytest.MonkeyPatch
):
    finished = replay_screens._finished
    sizes = iter([16, 32, 64, 128, 256])

    def rounds(*arguments: Any) -> Any:
        return [
            (replace(e, request={**e.request, "n_cells": next(sizes)}), outcome)
            for e, outcome in finished(*arguments)
        ]

    needed: list[int] = []

    def require(*_: Any, stored_cells: int) -> None:
        needed.append(stored_cells)

    monkeypatch.setattr(
        app.engine, "info", lambda *_: EngineInfo.model_construct(profile_digest="p")
    )
    monkeypatch.setattr(replay_screens, "_finished", rounds)
    monkeypatch.setattr(replay_screens, "require_free_space", require)
    assert len(replay_screens.begin_replays(app, app.ledger, done)) == 5
    # Control and perturbed cells of each.
    assert needed == [2 * (16 + 32 + 64 + 128 + 256)]
