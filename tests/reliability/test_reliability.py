"""The benchmarks of reliability: they run, and they would see what they look for."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.reliability.__main__ import main
from benchmarks.reliability.checkpoints import Versions
from benchmarks.reliability.doors import judged
from benchmarks.reliability.faults import broken, counted
from benchmarks.reliability.latency import slow
from benchmarks.reliability.truth import cells_of, heads_of, lost
from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine, make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call

WELL = {
    "outcomes": {}, "late": 0, "never_ended": [], "ledger_problems": [], "lost": [],
    "different": [], "of_no_known_checkpoint": [],
}  # fmt: skip


def a_call(**changed: object) -> dict[str, object]:
    created = {"at": 1.0, "client": "l", "kind": "lab", "tool": "sample_cells", "wait_s": 2.0,
            "seconds": 1.0, "outcome": "ok", "status": "succeeded", "id": None, "head": None,
            "text": ""}  # fmt: skip
    return created | changed


def test_a_call_counts_as_late_only_beyond_its_wait_and_if_it_was_answered():
    calls = [
        a_call(),
        a_call(seconds=4.9),
        a_call(seconds=5.1, tool="describe_model"),
        a_call(seconds=60, outcome="lost", status=None, text="the server is gone"),
        a_call(seconds=32, outcome="hung", status=None),
    ]
    result = counted(calls)
    assert result["late"] == 2
    assert [item["tool"] for item in result["latest"]] == ["sample_cells", "describe_model"]
    assert result["outcomes"] == {"ok": 3, "lost": 1, "hung": 1}
    assert result["seconds_beyond_wait_s"]["lab"]["max_s"] == 30


@pytest.mark.parametrize("promise", ["late", "never_ended", "lost", "different"])
def test_every_broken_promise_is_named(promise: str):
    assert broken(WELL) == []
    assert broken(WELL | {promise: ["exp_1"]}) == [promise]


def test_a_call_that_is_too_slow_is_named():
    calls = {"describe_model": {"p99_s": 2.1, "goal_p99_s": 2.0}}
    assert slow({"calls": calls}) == ["describe_model"]


@pytest.fixture
def app(tmp_path: Path) -> App:
    checkpoint = make_checkpoint(tmp_path / "checkpoints")
    engine, catalogue = FakeEngine(checkpoint.panel), Catalogue([tmp_path / "checkpoints"])
    return App(tmp_path / "home", engine=engine, catalogue=catalogue)


def test_what_was_acknowledged_and_is_not_in_the_ledger_is_found(app: App):
    created = call(app, "sample_cells", {"n_cells": 4, "wait_s": 45})
    name, head = created.experiment_id, created.ledger_head
    good = [a_call(id=name, head=head), a_call(id="scr_x", status="running")]
    assert lost(app.ledger, good) == []
    assert app.ledger.verify(anchors=heads_of(good)).ok
    assert len(lost(app.ledger, [a_call(id="exp_gone")])) == 1
    (text,) = lost(app.ledger, [a_call(id=name, status="cancelled")])
    assert "acknowledged as cancelled, and the ledger has succeeded" in text
    assert not app.ledger.verify(anchors=heads_of([a_call(head="9:sha256:" + "0" * 64)])).ok
    assert cells_of(app.ledger, name).keys() == {"cells"}


def test_the_two_versions_of_a_checkpoint_differ_and_are_whole(tmp_path: Path):
    versions = Versions(tmp_path, "both")
    digests = versions.digests()
    assert len({*digests.values()}) == 2
    for version in ("second", "first"):
        versions.put(version)
        loaded = Catalogue([versions.place]).load("both")
        assert loaded.digest == digests[version]
        for name in loaded.pinned:
            loaded.verify_file(name)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("server busy: 1000 calls in flight", "busy"),
        ("the engine (pid 1) has not answered for 3 s", "timed out"),
        ("experiments.db is locked by process 1 (python); waited 2.8 s", "timed out"),
        ("plot was killed: it took 600 s", "failed"),
        ("no checkpoint 'x'", "refused"),
    ],
)
def test_texts_of_errors_are_told_apart(text: str, outcome: str):
    assert judged(text, otherwise="refused") == outcome


@pytest.mark.slow
def test_a_minute_of_faults_breaks_no_promise(tmp_path: Path):
    out = tmp_path / "faults.json"
    line = ["faults", "--minutes", "1", "--folder", str(tmp_path / "f"), "--out", str(out)]
    ran = CliRunner().invoke(main, line)
    summary = json.loads(out.read_text())
    assert ran.exit_code == 0, summary["broken"]
    assert summary["computed_again"] == summary["experiments"]["succeeded"] > 0
    assert str(tmp_path) not in out.read_text()


@pytest.mark.slow
def test_cold_starts_succeed_and_go_on_where_they_were(tmp_path: Path):
    line = ["cold-start", "--folder", str(tmp_path / "f"), "--results", str(tmp_path / "lines")]
    for starts in ("1", "2"):
        ran = CliRunner().invoke(main, [*line, "--starts", starts])
        assert ran.exit_code == 0, ran.output
    assert len((tmp_path / "lines").read_text().splitlines()) == 2


@pytest.mark.slow
def test_short_calls_are_answered_beside_those_that_wait(tmp_path: Path):
    line = ["latency", "--waiting", "50", "--rounds", "3", "--folder", str(tmp_path / "f")]
    ran = CliRunner().invoke(main, line)
    assert "sample_cells" in ran.output
    assert ran.exit_code == 0, ran.output
