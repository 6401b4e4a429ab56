"""A home, a ledger and a checkpoint of an earlier version: verified, migrated, read, replayed."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from left_homes import ARCHIVES, Left

from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.archive import export_ledger, import_ledger
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.cli import main
from lingshu_tools.cli.lab_book import page
from lingshu_tools.errors import LingshuError, MissingCheckpointError
from lingshu_tools.execution.replay_many import replay_many
from lingshu_tools.experiments.replays import verdict_of
from lingshu_tools.ledger import Ledger, sqlite
from lingshu_tools.ledger.migrate import migrate
from lingshu_tools.ledger.migrations import HEAD

STATES = {"succeeded": 5, "failed": 2, "cancelled": 1, "interrupted": 1, "queued": 1}
TOOLS = ("sample_cells", "perturb_cells")


def rows(database: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        chain = connection.execute("SELECT * FROM chain ORDER BY seq").fetchall()
        return chain + connection.execute("SELECT * FROM outcome ORDER BY seq").fetchall()


def ids(ledger: Ledger, **wanted: Any) -> list[str]:
    return [item.experiment.id for item in ledger.find(limit=100, **wanted).items]


def test_there_is_a_fixture() -> None:
    assert "made-by-3ffc7fb" in [path.stem for path in ARCHIVES]
    assert all(path.stat().st_size < 1_500_000 for path in ARCHIVES)


def test_it_is_verified_and_what_waited_in_its_spool_is_recorded(left: Left) -> None:
    untouched = Ledger.open_read_only(left.database)
    (problem,) = untouched.verify().problems
    assert "waits in the spool" in str(problem)
    before = rows(left.database)
    ledger = Ledger.open(left.home)
    assert ledger.verify().problems == ()
    counts = {state: len(ids(ledger, status=state)) for state in STATES}
    assert counts == STATES
    assert rows(left.database)[: len(before) - STATES["failed"]] != []
    assert set(before) < set(rows(left.database))
    assert list((left.home / "spool").iterdir()) == []


def test_it_is_migrated_after_a_copy_was_made(left: Left) -> None:
    before = rows(left.database)
    finished = migrate(left.database)
    assert finished.after == HEAD
    assert rows(left.database) == before
    if finished.before != HEAD:
        assert finished.backup is not None
        assert rows(finished.backup) == before
        assert Ledger.open_read_only(finished.backup).schema == finished.before
    assert finished.restored == ()
    assert Ledger.open(left.home).verify().ok


@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_it_works_with_either_journal(
    left: Left, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(left.database)) as connection:
        (mode,) = connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
    assert mode == journal
    assert Ledger.open_read_only(left.database).head().seq > 20
    monkeypatch.setattr(sqlite, "journal_for", lambda _: sqlite.Journal(journal, "a test"))  # type: ignore[arg-type]
    ledger = Ledger.open(left.home)
    assert ledger.verify().ok
    assert migrate(left.database).after == HEAD
    ledger.tag(ids(ledger)[0], ["later"])
    assert Ledger.open(left.home).verify().ok


def test_every_tool_reads_it(app: App) -> None:
    listed = call(app, "list_experiments", {"tag": "pilot"})
    assert len(listed.experiments) == 2
    for name in ids(app.ledger):
        if app.ledger.outcome(name) is None:
            continue
        for detail in ("summary", "effects", "provenance"):
            result = call(app, "get_experiment", {"id": name, "detail": detail})
            assert result.status == app.ledger.status(name), result.summary
        assert name in page(app, name)
    (screen,) = app.ledger.find_screens()
    shown = call(app, "get_experiment", {"id": screen.id})
    assert [row["perturbation"] for row in shown.ranking] == ["G1 knockout", "G5 knockout"]
    assert app.ledger.measurements(screen.id)[0].payload == {"G1": -1.25, "G5": 0.5}


def test_its_archive_is_a_ledger(app: App, tmp_path: Path) -> None:
    left = export_ledger(app.ledger, tmp_path / "a.zip")
    arrived = Ledger.open(import_ledger(left.path, tmp_path / "new").home)
    assert arrived.verify(anchors=[app.ledger.head()]).ok


# The real engine, which takes seconds to start: one test, for each machine.


def test_its_experiments_are_replayed_and_its_unfinished_ones_go_on(app: App, left: Left) -> None:
    verdicts = {name: replayed(app, name) for name in ids(app.ledger, status="succeeded")}
    assert len(verdicts) == STATES["succeeded"]
    assert set(verdicts.values()) <= {"exact", "same_kind", "equivalent"}, verdicts
    # `exact` needs the numerics profile of the machine that made the fixture.
    sys.stdout.write(f"replayed: {', '.join(sorted(verdicts.values()))}\n")
    for status in ("queued", "interrupted"):
        for name in ids(app.ledger, status=status):
            assert finished(app, "get_experiment", id=name).status == "succeeded"
    assert app.ledger.verify().ok
    stop = ["--home", str(left.home), "engine", "stop"]
    subprocess.run([sys.executable, "-P", "-m", "lingshu_tools.cli", *stop], check=True)


def finished(app: App, tool: str, **arguments: Any) -> Any:
    result = call(app, tool, arguments | {"wait_s": 45})
    for _ in range(4):
        if result.status not in ("running", "queued"):
            break
        result = call(app, "get_experiment", {"id": result.experiment_id, "wait_s": 45})
    return result


def replayed(app: App, name: str) -> str:
    replay = finished(app, "replay_experiment", id=name).experiment_id
    result = verdict_of(app, app.ledger.experiment(replay))
    assert result is not None, app.ledger.outcome(replay)
    # Exact where the profile is that of the fixture; where it is another, `differs` names it.
    same = not any(key.startswith("profile") for key in result.differs.get("environment", {}))
    assert (result.verdict == "exact") == same, result
    return result.verdict


# Without the checkpoint


def digest_of(app: App) -> str:
    return app.ledger.find(limit=1).items[0].experiment.checkpoint_digest


def test_without_its_checkpoint_it_is_read_as_far_as_the_ledger_goes(bare: App) -> None:
    digest = digest_of(bare)
    assert len(call(bare, "list_experiments", {"limit": 100}).experiments) == sum(STATES.values())
    for name in ids(bare.ledger):
        row, status = bare.ledger.experiment(name), bare.ledger.status(name)
        summary = call(bare, "get_experiment", {"id": name})
        assert (summary.status, summary.experiment_id) == (status, name)
        assert digest in summary.caveats[0]
        assert "LINGSHU_CHECKPOINTS" in summary.caveats[0]
        kept = call(bare, "get_experiment", {"id": name, "detail": "provenance"}).provenance
        assert kept.request == row.request
        shown = page(bare, name)
        assert digest in " ".join(shown.split())
        if status == "succeeded":
            genes = [gene.gene for gene in summary.genes]
            assert len(genes) == 5
            wanted = call(bare, "get_experiment", {"id": name, "genes": genes[1:2]})
            assert [gene.gene for gene in wanted.genes] == genes[1:2]
            pages = call(bare, "get_experiment", {"id": name, "detail": "effects", "offset": 1})
            assert pages.genes[0].gene == genes[1]
            assert genes[0] in shown
    (screen,) = bare.ledger.find_screens()
    whole = call(bare, "get_experiment", {"id": screen.id})
    assert (whole.status, whole.screen_id) == ("succeeded", screen.id)
    assert "2 succeeded" in whole.summary
    assert digest in whole.caveats[0]
    assert screen.id in page(bare, screen.id)
    assert bare.ledger.verify().ok


@pytest.mark.parametrize(
    ("tool", "more"),
    [("replay_experiment", {}), ("plot_experiment", {}), ("export_experiment", {})],
)
def test_what_needs_the_checkpoint_names_its_digest_and_how_to_get_it(
    bare: App, tool: str, more: dict[str, Any]
) -> None:
    for name in (ids(bare.ledger, status="succeeded")[0], bare.ledger.find_screens()[0].id):
        if tool == "replay_experiment" and name.startswith("scr_"):
            continue
        with pytest.raises(LingshuError, match=r"is not here: .*LINGSHU_CHECKPOINTS") as error:
            call(bare, tool, {"id": name, **more})
        assert isinstance(error.value, MissingCheckpointError)
        assert digest_of(bare) in str(error.value)


def test_without_its_checkpoint_the_whole_ledger_is_exported(bare: App, tmp_path: Path) -> None:
    assert export_ledger(bare.ledger, tmp_path / "a.zip").metadata.objects.count == 9


def test_a_replay_says_which_checkpoint_it_needs(bare: App) -> None:
    digest, names = digest_of(bare), ids(bare.ledger, status="succeeded")
    for line in (["replay", names[0]], ["ledger", "show", names[0]]):
        shown = CliRunner().invoke(main, ["--home", str(bare.home), *line])
        words = " ".join(shown.output.split())
        assert digest in words
        assert "LINGSHU_CHECKPOINTS" in words
    bare.engine = FakeEngine([])  # type: ignore[assignment]
    tally = replay_many(bare, bare.ledger, names)
    assert set(tally.failed) == set(names)
    assert all(digest in why for why in tally.failed.values())
