"""What an audit finds after somebody was at the files."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from lingshu_tools.errors import LedgerError, TamperError
from lingshu_tools.ledger import Head, Ledger, NewExperiment, NewOutcome, verify

New = Callable[..., NewExperiment]


@pytest.fixture
def built(ledger: Ledger, new: New) -> list[str]:
    """Three sealed experiments in the ledger."""
    experiments = ledger.begin_many([new(seed=s) for s in range(3)])
    for experiment in experiments:
        with ledger.attempt(experiment.id) as attempt:
            outcome = NewOutcome(
                kind="succeeded",
                result={"score": experiment.seed},
                artifacts={"cells": b"cells %d" % experiment.seed},
            )
            ledger.seal(attempt, outcome)
    return [e.id for e in experiments]


def tamper(ledger: Ledger, *statements: str) -> None:
    """Do what a person with the sqlite3 shell could do."""
    connection = sqlite3.connect(ledger.database)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    saved = triggers.fetchall()
    for name, _ in saved:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    for _, sql in saved:
        connection.execute(sql)
    connection.commit()
    connection.close()


def problems(ledger: Ledger, *anchors: Head) -> list[str]:
    return [str(p) for p in ledger.verify(anchors=anchors).problems]


def test_an_untouched_ledger_has_no_problems(ledger: Ledger, built: list[str]) -> None:
    steps: list[tuple[int, int]] = []
    report = ledger.verify(lambda finished, total: steps.append((finished, total)))
    assert report.ok
    assert (report.rows, report.objects) == (ledger.head().seq, 3)
    assert steps[-1] == (report.rows + 3, report.rows + 3)
    assert steps == sorted(steps)


def test_processes_find_what_one_process_finds(
    ledger: Ledger, home: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(ledger, "UPDATE experiment SET door = 'cli' WHERE seq IN (2, 4)")
    next((home / "objects").glob("*/*")).unlink()
    alone = ledger.verify()
    monkeypatch.setattr(verify, "ALONE", 1)
    monkeypatch.setattr(verify, "BATCH", 3)
    monkeypatch.setattr(verify, "_cores", lambda: 2)
    steps: list[int] = []
    assert ledger.verify(lambda finished, _: steps.append(finished)) == alone
    assert len(alone.problems) == 3
    assert len(steps) > 3
    monkeypatch.setattr("lingshu_tools.system.interpreter.sys.executable", "/bin/true")
    with pytest.raises(LedgerError, match="ended early"):
        ledger.verify()


def test_a_row_that_cannot_be_read_is_named_and_the_others_are_checked(
    ledger: Ledger, built: list[str]
) -> None:
    tamper(
        ledger,
        "UPDATE experiment SET principal = CAST(x'ff' AS TEXT) WHERE seq = 3",
        "UPDATE outcome SET seconds = 9e999 WHERE seq = 8",
        "UPDATE outcome SET artifacts = '{' WHERE seq = 11",
    )
    result = [p for p in ledger.verify().problems if p.seq]
    assert [p.seq for p in result] == [3, 8, 11]
    assert "cannot be read" in str(result[0])


def test_a_trigger_of_somebody_else_is_named(ledger: Ledger, built: list[str]) -> None:
    connection = sqlite3.connect(ledger.database)
    connection.execute("CREATE TRIGGER mine AFTER INSERT ON chain BEGIN SELECT 1; END")
    connection.close()
    (problem,) = problems(ledger)
    assert "trigger mine is none of the ledger's" in problem


def test_batches_join_without_a_seam(
    ledger: Ledger, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1, 2, 5):
        monkeypatch.setattr(verify, "BATCH", size)
        assert ledger.verify().ok


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("UPDATE experiment SET seed = 99 WHERE seed = 1", "experiment row hashes to"),
        ("UPDATE outcome SET result = '{\"score\":9}' WHERE seq = 8", "outcome row hashes to"),
        ("UPDATE outcome SET seconds = 0.5 WHERE seq = 8", "outcome row hashes to"),
        ("UPDATE chain SET row_hash = 'sha256:0' WHERE seq = 3", "the chain breaks here"),
        ("UPDATE chain SET hash = 'sha256:0' WHERE seq = 3", "the chain breaks here"),
        ("UPDATE chain SET kind = 'screen' WHERE seq = 3", "row that is not in the chain"),
        ("DELETE FROM outcome WHERE seq = 8", "outcome row is missing"),
        ("DELETE FROM chain WHERE seq = 3", "is missing from the chain"),
        (
            "INSERT INTO screen VALUES (99, 'scr_x', '{}', 'd', 'p', 't')",
            "screen row that is not in the chain",
        ),
        (
            "INSERT INTO screen VALUES (3, 'scr_x', '{}', 'd', 'p', 't')",
            "screen row that is not in the chain",
        ),
        (
            "UPDATE experiment SET seq = -seq WHERE seq IN (2, 3);"
            "UPDATE experiment SET seq = 5 + seq WHERE seq < 0",
            "experiment row hashes to",
        ),
        (
            "UPDATE chain SET seq = -seq WHERE seq IN (2, 3);"
            "UPDATE chain SET seq = 5 + seq WHERE seq < 0",
            "the chain breaks here",
        ),
        (
            "UPDATE chain SET seq = -seq WHERE seq > 3;"
            "UPDATE chain SET seq = 1 - seq WHERE seq < 0;"
            "INSERT INTO chain VALUES (4, 'screen', 'd', 'd')",
            "the chain breaks here",
        ),
        ("INSERT INTO chain VALUES (0, 'screen', 'd', 'd')", "chain row that is not in the chain"),
        ("INSERT INTO chain VALUES (1 << 60, 'screen', 'd', 'd')", "is missing from the chain"),
        ("UPDATE outcome SET seconds = 9e999 WHERE seq = 8", "outcome row hashes to nothing"),
        ("DROP TRIGGER experiment_no_update", "experiment_no_update is missing"),
        (
            "CREATE TRIGGER more AFTER INSERT ON screen BEGIN SELECT 1; END",
            "trigger more is none of the ledger's",
        ),
    ],
)
def test_a_change_by_raw_sql_is_named(
    change: str, finding: str, ledger: Ledger, built: list[str]
) -> None:
    if "TRIGGER" in change:
        connection = sqlite3.connect(ledger.database)
        connection.execute(change)
        connection.close()
    else:
        tamper(ledger, *change.split(";"))
    result = problems(ledger)
    assert [p for p in result if finding in p], result


def test_the_first_bad_row_comes_first(ledger: Ledger, built: list[str]) -> None:
    tamper(ledger, "UPDATE experiment SET door = 'cli' WHERE seq IN (2, 4)")
    report = ledger.verify()
    assert [p.seq for p in report.problems] == [2, 4]


def test_a_changed_row_is_not_served(ledger: Ledger, built: list[str]) -> None:
    tamper(
        ledger,
        "UPDATE experiment SET seed = 99 WHERE seed = 1",
        "UPDATE outcome SET result = '{}'",
    )
    with pytest.raises(TamperError, match="experiment row 3 hashes to"):
        ledger.experiment(built[1])
    with pytest.raises(TamperError, match="outcome row"):
        ledger.outcome(built[0])
    tamper(ledger, "UPDATE experiment SET request = '{' WHERE seed = 1")
    with pytest.raises(TamperError, match="experiment row 3 hashes to"):
        ledger.find()


def test_a_tail_cut_off_shows_against_an_earlier_head(
    ledger: Ledger, home: Path, built: list[str]
) -> None:
    head = ledger.head()
    tamper(
        ledger,
        "PRAGMA foreign_keys = OFF",
        *(f"DELETE FROM {t} WHERE seq > {head.seq - 2}" for t in ("outcome", "artifact", "chain")),
        f"UPDATE standing SET status = 'open' WHERE seq = {ledger.experiment(built[2]).seq}",
    )
    assert problems(ledger) == []
    (problem,) = ledger.verify(anchors=[head]).problems
    assert problem.seq == head.seq
    assert "cut off" in str(problem)
    # The head noted at an opening is a witness too.
    (home / "heads.txt").write_text(f"{head}\n12:sha2")
    assert len(problems(ledger)) == 1


def test_a_rewritten_history_shows_against_an_earlier_head(
    ledger: Ledger, built: list[str]
) -> None:
    head = ledger.head()
    (problem,) = ledger.verify(anchors=[Head(head.seq, "sha256:" + "0" * 64)]).problems
    assert "history rewritten" in str(problem)


def test_openings_are_noted_once(ledger: Ledger, home: Path, new: New) -> None:
    Ledger.open(home).begin(new())
    Ledger.open(home)
    Ledger.open(home)
    heads = (home / "heads.txt").read_text().splitlines()
    assert [h.split(":")[0] for h in heads] == ["1", "2"]


def test_a_flipped_or_missing_object_is_named(ledger: Ledger, home: Path, built: list[str]) -> None:
    first, second, *_ = sorted((home / "objects").glob("*/*"))
    data = bytearray(first.read_bytes())
    data[0] ^= 1
    first.write_bytes(data)
    second.unlink()
    result = problems(ledger)
    assert len(result) == 2
    assert [p for p in result if str(first) in p and "damaged" in p]
    assert [p for p in result if second.name in p and "is not in" in p]
