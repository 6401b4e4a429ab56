"""What a ledger does when something around it is wrong: a disk, a lock, a file, a server."""

import errno
import fcntl
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from lingshu_tools.errors import InputError, LedgerError
from lingshu_tools.ledger import (
    Ledger,
    NewExperiment,
    NewOutcome,
    checking,
    database,
    sealing,
    search,
    sqlite,
    verify,
)
from lingshu_tools.ledger.backend import backend_of
from lingshu_tools.ledger.liveness import FileLocks
from lingshu_tools.ledger.search import Search
from lingshu_tools.system.deadline import time_limit

New = Callable[..., NewExperiment]


def seeds(ledger: Ledger, **wanted: Any) -> list[int]:
    return [item.experiment.seed for item in ledger.find(**wanted).items]


def sealed(ledger: Ledger, new: New, **changes: Any) -> str:
    experiment = ledger.begin(new(**changes))
    with ledger.attempt(experiment.id) as attempt:
        outcome = NewOutcome(
            kind="succeeded", environment={"cpu": "x"}, artifacts={"cells": b"cells"}
        )
        ledger.seal(attempt, outcome)
    return experiment.id


def raw(ledger: Ledger, *statements: str) -> None:
    """What a person with the sqlite3 shell could do."""
    with closing(sqlite3.connect(ledger.database)) as connection:
        for name in [
            n for (n,) in connection.execute("SELECT name FROM sqlite_master") if "_no_" in n
        ]:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


# Disks


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file where the folder should be")
    with pytest.raises(LedgerError, match=r"cannot be made: .* is not a folder"):
        FileLocks(tmp_path / "locks").acquire("exp_a")


def test_a_disk_without_flock_is_locked_by_files_that_name_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    locks = FileLocks(tmp_path / "locks")
    lock = locks.acquire("exp_a")
    assert lock
    assert locks.acquire("exp_a") is None
    assert locks.held(["exp_a", "exp_b"]) == locks.held_in(select()) == {"exp_a"}
    lock.release()
    assert list((tmp_path / "locks").iterdir()) == []
    monkeypatch.setattr("os.link", refuse_links)
    with pytest.raises(LedgerError, match="set LINGSHU_HOME to a folder on a local disk"):
        locks.acquire("exp_a")


def refuse_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_lock_file_that_was_replaced_meanwhile_is_not_mistaken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole, request = tmp_path / "exp_a.lock", fcntl.flock, []

    def late(handle: Any, how: int) -> None:
        if not request:
            # Who held it before has just given it up, and somebody else begins.
            path.unlink()
            path.touch()
        request.append(how)
        whole(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    locks = FileLocks(tmp_path)
    lock = locks.acquire("exp_a")
    assert len(request) == 2
    assert locks.held(["exp_a"])
    assert lock
    lock.release()
    assert not locks.held(["exp_a"])


def test_a_head_that_cannot_be_noted_is_told(
    ledger: Ledger, home: Path, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.begin(new())
    whole = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return (
            refuse()
            if path.name == "heads.txt" and "a" in mode
            else whole(path, mode, *rest, **more)
        )

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(LedgerError, match=r"heads\.txt could not be written"):
        Ledger.open(home)


def test_an_outcome_that_nothing_takes_is_told_and_not_acknowledged(
    ledger: Ledger, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = ledger.begin(new())
    with ledger.attempt(experiment.id) as attempt:
        monkeypatch.setattr("lingshu_tools.ledger.spool.write_durably", refuse)
        monkeypatch.setattr(
            ledger._database, "write", lambda _: (_ for _ in ()).throw(LedgerError("full"))
        )
        with pytest.raises(LedgerError, match="could not even be kept"):
            ledger.seal(attempt, NewOutcome(kind="failed", error="no"))
    monkeypatch.undo()
    assert ledger.status(experiment.id) == "interrupted"


def test_an_object_that_cannot_be_read_is_told(ledger: Ledger) -> None:
    path = ledger.objects.path(ledger.put_object(b"bytes"))
    path.unlink()
    path.mkdir()
    with pytest.raises(LedgerError, match="cannot be read"):
        ledger.get_object("sha256:" + path.parent.name + path.name)


# The file, and others at it


@pytest.mark.usefixtures("database")
def test_a_writer_that_stays_locked_out_gives_up_and_says_that_nothing_was_recorded(
    ledger: Ledger, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    clock = [0.0]

    def busy(_: Exception) -> bool:
        tries.append(1)
        clock.append(clock[-1] + 12)
        return True

    def locked(_: Connection) -> None:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    monkeypatch.setattr(database.time, "sleep", lambda _: None)
    monkeypatch.setattr(database.time, "monotonic", lambda: clock[-1])
    monkeypatch.setattr(ledger._database.backend, "is_busy", busy)
    with pytest.raises(LedgerError, match="nothing was recorded"):
        ledger._database.write(locked)
    assert len(tries) > 2
    assert ledger.begin(new()).seq > 0


def test_a_write_ahead_log_is_waited_for_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Locked:
        def execute(self, statement: str) -> None:
            said.append(statement)
            if len(said) != 3:
                raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(sqlite.time, "sleep", lambda _: None)
    sqlite._set(Locked(), "journal_mode", "wal")  # type: ignore[arg-type]
    assert len(said) == 3
    with time_limit(0.1), pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite._set(Locked(), "journal_mode", "wal")  # type: ignore[arg-type]
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite._set(Locked(), "synchronous", 2)  # type: ignore[arg-type]


def test_a_ledger_of_another_format_is_refused(ledger: Ledger, home: Path) -> None:
    raw(ledger, "UPDATE ledger SET format = 'lingshu-ledger-9'")
    with pytest.raises(LedgerError, match=r"'lingshu-ledger-9'.*use a newer"):
        Ledger.open(home)


def test_a_database_of_something_else_is_no_ledger(home: Path) -> None:
    home.mkdir()
    with closing(sqlite3.connect(home / "experiments.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")
    before = (home / "experiments.db").read_bytes()
    with pytest.raises(LedgerError, match="it is not a ledger"):
        Ledger.open(home)
    assert (home / "experiments.db").read_bytes() == before


def test_a_read_only_ledger_says_so_when_it_is_written(ledger: Ledger, new: New) -> None:
    shipped = Ledger.open_read_only(ledger.database)
    with pytest.raises(LedgerError, match="opened read-only"):
        shipped.begin(new())


def test_a_copy_without_objects_is_judged_by_its_rows(
    ledger: Ledger, new: New, tmp_path: Path
) -> None:
    sealed(ledger, new)
    copy = tmp_path / "alone" / "experiments.db"
    copy.parent.mkdir()
    shutil.copy(ledger.database, copy)
    report = Ledger.open_read_only(copy).verify()
    assert (report.ok, report.objects) == (True, None)


def test_what_sqlite_itself_finds_is_reported(ledger: Ledger, new: New) -> None:
    sealed(ledger, new)
    raw(ledger, "DROP INDEX ix_outcome_kind_seq", "PRAGMA writable_schema = 1")
    with closing(sqlite3.connect(ledger.database)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute("CREATE INDEX partial_index ON outcome (kind) WHERE kind = 'failed'")
        connection.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX partial_index ON outcome (kind)'"
            " WHERE name = 'partial_index'"
        )
        connection.commit()
    result = [str(problem) for problem in ledger.verify().problems]
    assert [what for what in result if "integrity check says" in what]


@pytest.mark.usefixtures("database")
def test_a_ledger_that_cannot_be_asked_is_reported_not_raised(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> Iterator[Any]:
        raise OperationalError("PRAGMA", {}, Exception("disk I/O error"))

    monkeypatch.setattr(ledger._database.backend, "flaws", gone)
    (problem,) = ledger.verify().problems
    assert "cannot be read: disk I/O error" in str(problem)
    monkeypatch.setattr(verify, "head_of", gone)
    (problem,) = ledger.verify().problems
    assert "cannot be read: disk I/O error" in str(problem)


def test_only_so_many_problems_are_looked_for(
    ledger: Ledger, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        sealed(ledger, new, seed=seed)
    raw(ledger, "UPDATE experiment SET principal = CAST(x'ff' AS TEXT)")
    monkeypatch.setattr(checking, "MAX_PROBLEMS", 1)
    monkeypatch.setattr(verify, "MAX_PROBLEMS", 1)
    (problem,) = ledger.verify().problems
    assert "cannot be read" in str(problem)


def test_an_outcome_whose_artifact_has_no_row_is_named(ledger: Ledger, new: New) -> None:
    sealed(ledger, new)
    raw(ledger, "PRAGMA foreign_keys = OFF", "DELETE FROM artifact")
    result = [str(problem) for problem in ledger.verify().problems]
    assert [what for what in result if "its cells sha256:" in what and "no artifact row" in what]


def test_an_artifact_of_an_earlier_outcome_is_found_again(ledger: Ledger, new: New) -> None:
    names = [sealed(ledger, new, seed=seed) for seed in range(2)]
    outcomes = [ledger.outcome(name) for name in names]
    assert len({o.environment_digest for o in outcomes if o}) == 1
    assert len({o.artifacts["cells"] for o in outcomes if o}) == 1
    assert ledger.verify().objects == 1


def test_processes_of_an_audit_are_ended_when_it_is(
    ledger: Ledger, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(ledger, new)
    started: list[Any] = []
    start = verify._start

    def noted(place: Any) -> Any:
        started.append(start(place))
        return started[-1]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "_start", noted)
    monkeypatch.setattr(verify, "ALONE", 1)
    monkeypatch.setattr(verify, "_cores", lambda: 2)
    assert ledger.verify().ok
    assert [process.returncode for process in started] == [0, 0]
    with pytest.raises(KeyboardInterrupt):
        ledger.verify(stop)
    assert all(process.returncode is not None for process in started)


# Searching


@pytest.mark.usefixtures("database")
def test_a_status_that_locks_decide_is_looked_for_batch_after_batch(
    ledger: Ledger, new: New
) -> None:
    created = ledger.begin_many([new(seed=seed) for seed in range(7)])
    for experiment in created[2:]:
        ledger.attempt(experiment.id).close()
    with ExitStack() as at_work:
        for experiment in created[4:]:
            at_work.enter_context(ledger.attempt(experiment.id))
        assert seeds(ledger, status="queued") == [1, 0]
        # The newest three are somebody's.
        assert seeds(ledger, status="interrupted", limit=1) == [3]
        assert seeds(ledger, status="running", limit=2) == [6, 5]


def test_an_index_grows_and_is_read_a_batch_at_a_time(
    ledger: Ledger, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_BATCH", 2)
    created = [
        new(seed=seed, tool="sample_cells" if seed else "perturb_cells") for seed in range(7)
    ]
    ledger.begin_many(created)
    index = Search(ledger.database, ledger.read, writable=True)
    assert index.update(patience_s=0) is False
    assert 0 < index.mark() < ledger.head().seq
    assert index.update(patience_s=600) is True
    assert index.mark() == ledger.head().seq
    assert seeds(ledger, text="stat1") == [6, 5, 4, 3, 2, 1, 0]
    assert seeds(ledger, text="stat1", tool="perturb_cells") == [0]


def test_an_index_that_somebody_is_at_is_left_to_them(ledger: Ledger, new: New) -> None:
    ledger.begin(new(seed=3))
    index = Search(ledger.database, ledger.read, writable=True)
    assert index.update() is True
    with closing(sqlite3.connect(index.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert index.update() is False
        assert seeds(ledger, text="stat1") == [3]
    assert Search(ledger.database, ledger.read, writable=False).update() is False


# Screens and odds


@pytest.mark.usefixtures("database")
def test_screens_are_found_by_their_plan(ledger: Ledger) -> None:
    first, second = ledger.record_screen({"a": 1}), ledger.record_screen({"a": 2})
    assert [s.id for s in ledger.find_screens()] == [second.id, first.id]
    assert [s.id for s in ledger.find_screens(digest=first.digest)] == [first.id]


def test_code_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(sealing, "version", missing)
    assert sealing._version() == "not installed"


# Servers


@pytest.fixture
def served(postgres: str, request: pytest.FixtureRequest, home: Path) -> Ledger:
    request.getfixturevalue("monkeypatch").setenv("LINGSHU_LEDGER", "")
    import psycopg

    with psycopg.connect(postgres.replace("+psycopg", "")) as connection:
        connection.execute("DROP SCHEMA IF EXISTS adversity CASCADE; CREATE SCHEMA adversity")
    return Ledger.open(home, url=f"{postgres}&options=-csearch_path%3Dadversity")


def on_server(ledger: Ledger, statement: str) -> None:
    import psycopg

    url = ledger._database.backend.address.replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


def test_a_ledger_on_a_server_is_no_file(served: Ledger) -> None:
    with pytest.raises(InputError, match="is no file"):
        _ = served.database
    assert not served.is_at(Path("experiments.db"))


def test_what_somebody_did_to_a_server_s_triggers_is_named(served: Ledger, new: New) -> None:
    sealed(served, new)
    assert served.verify().ok
    on_server(served, "DROP TRIGGER experiment_insert_only ON experiment")
    on_server(
        served,
        "CREATE TRIGGER mine BEFORE INSERT ON screen FOR EACH STATEMENT"
        " EXECUTE FUNCTION ledger_insert_only()",
    )
    on_server(served, "CREATE TABLE theirs (x integer)")
    on_server(
        served,
        "CREATE TRIGGER theirs BEFORE INSERT ON theirs FOR EACH STATEMENT"
        " EXECUTE FUNCTION ledger_insert_only()",
    )
    result = sorted(str(problem) for problem in served.verify().problems)
    assert [what.split(":")[0] for what in result] == [
        "trigger experiment_insert_only is missing",
        "trigger mine is none of the ledger's",
    ]


def test_a_server_that_is_away_is_named_without_its_password(home: Path) -> None:
    backend = backend_of("postgresql+psycopg://me:secret@/nowhere?host=/nonexistent")
    with pytest.raises(LedgerError, match="cannot be asked who is alive") as error:
        backend.locks(home).held(["exp_a"])
    assert "secret" not in str(error.value)


def test_without_its_driver_a_server_is_answered_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr("lingshu_tools.ledger.postgres.create_engine", missing)
    with pytest.raises(LedgerError, match=r"install lingshu-tools\[postgres\]"):
        backend_of("postgresql+psycopg://me@/db").reader()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"synchronous_commit": "off"}, "kept synchronous_commit='off'"),
        ({"server_encoding": "SQL_ASCII"}, "encoding is SQL_ASCII"),
    ],
)
def test_a_server_that_is_set_otherwise_is_not_used(answers: dict[str, str], said: str) -> None:
    from lingshu_tools.ledger import postgres

    truth = {**postgres._SETTINGS, "server_encoding": "UTF8"} | answers

    class Cursor:
        def __enter__(self) -> "Cursor":
            return self

        def __exit__(self, *_: object) -> None: ...

        def execute(self, statement: str) -> Any:
            return SimpleNamespace(fetchone=lambda: (truth[statement.split()[1]],))

    connection = SimpleNamespace(cursor=Cursor, commit=lambda: None)
    with pytest.raises((LedgerError, InputError), match=said):
        postgres._prepare(connection, None)


def test_a_url_that_names_no_ledger_is_refused_without_being_repeated() -> None:
    with pytest.raises(InputError, match="a ledger is in an SQLite file"):
        backend_of("mysql://me@/db")
    with pytest.raises(InputError, match="no URL") as error:
        backend_of("postgresql:/me:secret")
    assert "secret" not in str(error.value)
