"""Another program holds a lock: every wait ends, says who holds it, and nothing is lost."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lingshu_tools.errors import LedgerError, LockedError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome, blockers, sqlite
from lingshu_tools.ledger.migrate import migrate
from lingshu_tools.system.deadline import time_limit

New = Callable[..., NewExperiment]
LOCKER = Path(__file__).with_name("locker.py")
LIMIT_S = 0.4
LATE_S = 8.0  # a machine may be slow; a wait without a limit takes 30 s or more
Hold = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def hold(home: Path) -> Iterator[Hold]:
    """Lock the ledger of `home` in another process; its input is closed to let go."""
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", str(LOCKER), how, str(home / "experiments.db")]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("lock\n")
        process.stdin.flush()
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        release(process)


def release(process: subprocess.Popen[str]) -> None:
    process.communicate()


@pytest.fixture(params=["truncate", "wal"])
def either(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger with each journal."""

    def journal(_: Path) -> sqlite.Journal:
        return sqlite.Journal(request.param, "asked for by a test")

    monkeypatch.setattr(sqlite, "journal_for", journal)
    return Ledger.open(home)


def refused(work: Callable[[], object], process: subprocess.Popen[str] | None) -> str:
    """Return what is said by work that ends in time because of a lock that `process` holds."""
    started = time.monotonic()
    with time_limit(LIMIT_S), pytest.raises(LockedError) as error:
        work()
    assert time.monotonic() - started < LIMIT_S + LATE_S
    if process is not None and sys.platform == "linux":
        assert f"process {process.pid} (python" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("how", ["exclusive", "writer"])
def test_a_write_ends_in_time_and_names_who_writes(
    either: Ledger, hold: Hold, new: New, how: str
) -> None:
    process = hold(how)
    said = refused(lambda: either.begin(new()), process)
    assert "nothing was recorded" in said
    assert "backup or a database browser" in said
    release(process)
    assert either.find().items == ()
    assert either.begin(new()).seed == 7
    assert either.verify().ok


def test_a_commit_that_waits_for_a_reader_ends_in_time_and_names_it(
    ledger: Ledger, hold: Hold, new: New
) -> None:
    process = hold("reader")
    assert "nothing was recorded" in refused(lambda: ledger.begin(new()), process)
    # The one that waited holds nothing any more: others read.
    assert ledger.find().items == ()
    release(process)
    assert ledger.begin(new()).seed == 7


def test_a_reader_does_not_stop_a_writer_with_a_write_ahead_log(
    home: Path, hold: Hold, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "journal_for", lambda _: sqlite.Journal("wal", "a test"))
    ledger = Ledger.open(home)
    hold("reader")
    assert ledger.begin(new()).seed == 7


def test_a_read_ends_in_time_under_an_exclusive_lock(ledger: Ledger, hold: Hold) -> None:
    process = hold("exclusive")
    assert "nothing was read" in refused(ledger.head, process)


def test_opening_reads_beside_a_writer_and_ends_in_time_under_an_exclusive_lock(
    ledger: Ledger, home: Path, hold: Hold
) -> None:
    with time_limit(LIMIT_S):
        writer = hold("writer")
        assert Ledger.open(home).find().items == ()
    release(writer)
    process = hold("exclusive")
    refused(lambda: Ledger.open(home), process)
    refused(lambda: Ledger.open_read_only(ledger.database), process)


def test_an_open_ledger_needs_no_guard_and_a_new_one_waits_for_it_in_time(
    home: Path, hold: Hold
) -> None:
    home.mkdir()
    process = hold("guard")
    said = refused(lambda: Ledger.open(home), process)
    assert "experiments.db.open" in said
    release(process)
    ledger = Ledger.open(home)
    process = hold("guard")
    assert Ledger.open(home).head() == ledger.head()
    refused(lambda: migrate(ledger.database), process)


def test_a_waiting_writer_lets_readers_in(ledger: Ledger, hold: Hold, new: New) -> None:
    # Its commit keeps new readers out while it waits for the old one, so it waits in turns.
    process = hold("reader")
    begun: list[object] = []
    thread = threading.Thread(target=lambda: begun.append(ledger.begin(new())))
    thread.start()
    try:
        while not is_kept_out(ledger):
            assert thread.is_alive()
        with time_limit(LATE_S):
            ledger.head()
    finally:
        release(process)
        thread.join(60)
    assert len(begun) == 1


def is_kept_out(ledger: Ledger) -> bool:
    try:
        with time_limit(LIMIT_S / 4):
            ledger.head()
    except LockedError:
        return True
    return False


def test_without_a_call_s_limit_a_writer_waits_until_the_lock_goes(
    ledger: Ledger, hold: Hold, new: New
) -> None:
    process = hold("exclusive")
    timer = threading.Timer(1.0, release, [process])
    timer.start()
    assert ledger.begin(new()).seed == 7
    timer.join()


def test_an_outcome_that_a_locked_database_does_not_take_is_recorded_later(
    ledger: Ledger, home: Path, hold: Hold, new: New
) -> None:
    first, second = ledger.begin(new()), ledger.begin(new(seed=8))
    attempts = [ledger.attempt(each.id) for each in (first, second)]
    process = hold("writer")
    for attempt in attempts:
        refused(lambda a=attempt: ledger.seal(a, NewOutcome(kind="failed", error="no")), process)
    # Nobody computes again what waits: not by another attempt, nor by opening the ledger.
    assert "nothing was recorded" in refused(lambda: ledger.attempt(first.id), process)
    other = Ledger.open(home)
    assert other.status(first.id) == "interrupted"
    release(process)
    with pytest.raises(LedgerError, match="is sealed"):
        ledger.attempt(first.id)
    assert ledger.status(second.id) == "interrupted"
    assert Ledger.open(home).status(second.id) == "failed"


def test_what_waits_in_the_spool_makes_opening_wait_once(
    ledger: Ledger, home: Path, hold: Hold, new: New
) -> None:
    for seed in range(4):
        attempt = ledger.attempt(ledger.begin(new(seed=seed)).id)
        ledger._spool.put(
            attempt.experiment_id, ledger._ending(attempt, NewOutcome(kind="cancelled"))
        )
        attempt.close()
    hold("writer")
    started = time.monotonic()
    assert len(Ledger.open(home).spooled()) == 4
    assert time.monotonic() - started < 1.0 + LATE_S


def test_nobody_is_named_where_the_kernel_does_not_tell(
    ledger: Ledger, hold: Hold, new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockers, "LIST", tmp_path / "none")
    hold("writer")
    assert "is locked by another program" in refused(lambda: ledger.begin(new()), None)


def test_our_own_locks_are_not_named(ledger: Ledger, tmp_path: Path) -> None:
    connection = sqlite3.connect(ledger.database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    assert blockers.blockers(ledger.database, tmp_path / "missing") == ""
    connection.close()


# PostgreSQL

served = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
LOCKS = {
    "the ledger's turn": "SELECT pg_advisory_xact_lock("
    "hashtextextended('ledger ' || current_schema(), 0))",
    "a table": "LOCK TABLE chain IN ACCESS EXCLUSIVE MODE",
}


@served
@pytest.mark.parametrize("lock", LOCKS)
def test_a_locked_server_is_waited_for_in_time_and_its_holder_named(
    database: str, ledger: Ledger, home: Path, new: New, lock: str
) -> None:
    with ledger._database.backend._engine().begin() as other:  # type: ignore[attr-defined]
        pid = other.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        other.exec_driver_sql("SET application_name = 'a backup'")
        other.exec_driver_sql(LOCKS[lock])
        said = refused(lambda: ledger.begin(new()), None)
        assert f"locked by server process {pid} (a backup)" in said
        if lock == "a table":
            refused(ledger.head, None)
            refused(lambda: Ledger.open(home), None)
        else:
            assert Ledger.open(home).head() == ledger.head()
    assert ledger.begin(new()).seed == 7


@served
def test_a_statement_ends_with_its_call(database: str, ledger: Ledger) -> None:
    def sleep() -> None:
        with ledger.read() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(30)")

    refused(sleep, None)


@served
def test_a_server_that_cannot_be_asked_names_nobody(
    database: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lingshu_tools.ledger.postgres._BLOCKERS", "SELECT 1 FROM nothing")
    assert ledger._database.backend.blockers() == ""
