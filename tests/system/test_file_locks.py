"""Locks on files: one holder, a limit to every wait, and a fallback where there is no flock."""

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lingshu_model.system import file_locks
from lingshu_model.system.file_locks import (
    Holder,
    LockTimeoutError,
    NoLocksError,
    boot_id,
    is_held,
    try_lock,
    wait_for_lock,
)
from lingshu_model.system.private import UnsafePathError

# What a process does to have no flock: as a file system refuses it, or as one that is always busy.
WITHOUT = {
    "ENOLCK": "OSError(errno.ENOLCK, 'No locks available')",
    "ENOSYS": "OSError(errno.ENOSYS, 'Function not implemented')",
    "EOPNOTSUPP": "OSError(errno.EOPNOTSUPP, 'Operation not supported')",
    "EAGAIN": "BlockingIOError(errno.EAGAIN, 'Try again')",
}
KINDS = ["flock", *WITHOUT]
Start = Callable[..., subprocess.Popen[str]]
two_kinds = pytest.mark.parametrize("kind", ["flock", "ENOLCK"], indirect=True)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the file system of this test answers flock."""
    monkeypatch.setattr(file_locks, "_flock_works", {})
    if request.param in WITHOUT:
        error = eval(WITHOUT[request.param])

        def refuse(*_: object) -> None:
            raise error

        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


def script(kind: str, body: str) -> str:
    patch = "" if kind == "flock" else f"fcntl.flock = lambda *a: throw({WITHOUT[kind]})"
    return textwrap.dedent("""
        import errno, fcntl, os, sys
        from pathlib import Path
        from lingshu_model.system.file_locks import try_lock, wait_for_lock
        def throw(error):
            raise error
        path = Path(sys.argv[1])
        PATCH
        """).replace("PATCH", patch) + textwrap.dedent(body)


@pytest.fixture
def start(tmp_path: Path):
    """Run a script on the lock `tmp_path / "a.lock"` in a process of its own."""
    processes: list[subprocess.Popen[str]] = []

    def run(kind: str, body: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script(kind, body), str(tmp_path / "a.lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


HOLD = """
    lock = try_lock(path)
    print("held" if lock else "refused", flush=True)
    sys.stdin.readline()
    lock.release()
    print("released", flush=True)
    sys.stdin.readline()
    """


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_has_one_holder_until_it_is_released(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.lock"
    assert not is_held(path)
    lock = wait_for_lock(path, timeout_s=0, remove=True)
    assert is_held(path)
    assert try_lock(path) is None
    lock.release()
    lock.release()
    assert not is_held(path)
    assert list(tmp_path.iterdir()) == []
    with wait_for_lock(path, timeout_s=0):
        assert is_held(path)
    assert not is_held(path)


def test_a_wait_ends_at_its_limit_and_names_the_holder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.lock"
    with wait_for_lock(path, timeout_s=1):
        begin = time.monotonic()
        with pytest.raises(LockTimeoutError, match=f"locked by process {os.getpid()} on"):
            wait_for_lock(path, timeout_s=0.3)
        assert 0.3 <= time.monotonic() - begin < 3


@two_kinds
def test_a_killed_process_holds_nothing(tmp_path: Path, start: Start, kind: str) -> None:
    path = tmp_path / "a.lock"
    process = start(kind, HOLD)
    assert said(process) == "held"
    assert is_held(path)
    assert try_lock(path) is None
    process.kill()
    process.wait()
    assert not is_held(path)
    with wait_for_lock(path, timeout_s=5):
        assert is_held(path)


@two_kinds
def test_a_process_that_waits_gets_the_lock_when_it_is_released(start: Start, kind: str) -> None:
    first = start(kind, HOLD)
    assert said(first) == "held"
    body = "print('waits', flush=True)\nwith wait_for_lock(path, timeout_s=60): print('got it')"
    second = start(kind, body)
    assert said(second) == "waits"
    assert first.stdin is not None
    first.stdin.write("\n")
    first.stdin.flush()
    assert said(first) == "released"
    assert said(second) == "got it"


@two_kinds
@pytest.mark.parametrize("theirs", KINDS[:2])
def test_processes_that_disagree_about_flock_still_exclude_each_other(
    tmp_path: Path, start: Start, kind: str, theirs: str
) -> None:
    process = start(theirs, HOLD)
    assert said(process) == "held"
    assert is_held(tmp_path / "a.lock")
    assert try_lock(tmp_path / "a.lock") is None
    process.kill()
    process.wait()
    wait_for_lock(tmp_path / "a.lock", timeout_s=0).release()


@two_kinds
def test_many_processes_that_die_at_random_count_right(
    tmp_path: Path, start: Start, kind: str
) -> None:
    """Each step adds one to a file; two holders at once, or a lock nobody frees, would show."""
    body = """
        import random
        count = path.with_name("count")
        for step in range(12):
            if (child := os.fork()) == 0:
                lock = wait_for_lock(path, timeout_s=60)
                value = int(count.read_text())
                count.write_text(str(value + 1))
                if random.random() < 0.5:
                    lock.release()
                os._exit(0)  # without a release, half the time
            os.waitpid(child, 0)
        """
    (tmp_path / "count").write_text("0")
    processes = [start(kind, body) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == str(4 * 12)


def test_a_reused_process_id_is_not_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: throw(OSError(errno.ENOLCK, "")))
    me = file_locks._me()
    past = Holder(me.host, me.boot, me.pid, "1", me.namespace)
    before = Holder(me.host, "another-boot", me.pid, me.started, me.namespace)
    for ended in (past, before):
        (tmp_path / "a.lock.pid").write_bytes(ended.text())
        wait_for_lock(tmp_path / "a.lock", timeout_s=0).release()


def test_what_cannot_be_seen_from_here_counts_as_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: throw(OSError(errno.ENOLCK, "")))
    me = file_locks._me()
    machine = Holder("another-host", "another-boot", 1, "1", me.namespace)
    container = Holder("another-host", me.boot, 2**22 + 1, "1", "another-namespace")
    for far in (machine, container):
        (tmp_path / "a.lock.pid").write_bytes(far.text())
        assert try_lock(tmp_path / "a.lock") is None
        with pytest.raises(LockTimeoutError, match=r"on another-host; .* remove .*a\.lock\.pid"):
            wait_for_lock(tmp_path / "a.lock", timeout_s=0)


def test_a_living_claim_that_took_the_place_of_an_ended_one_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: throw(OSError(errno.ENOLCK, "")))
    me = file_locks._me()
    claim = tmp_path / "a.lock.pid"
    claim.write_bytes(Holder(me.host, "another-boot", 1, "1", me.namespace, "e" * 32).text())
    appear = file_locks._appear

    def late(path: Path) -> bool:
        # Between the look at the ended claim and its removal, a rival has removed it and has the
        # lock now.
        if "e" * 12 in path.name:
            claim.write_bytes(me.text())
        return appear(path)

    monkeypatch.setattr(file_locks, "_appear", late)
    assert try_lock(tmp_path / "a.lock") is None
    assert claim.read_bytes() == me.text()


def test_a_claim_that_a_power_cut_emptied_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: throw(OSError(errno.ENOLCK, "")))
    (tmp_path / "a.lock.pid").touch()
    wait_for_lock(tmp_path / "a.lock", timeout_s=0).release()


def test_a_file_system_without_any_lock_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: throw(OSError(errno.ENOLCK, "")))
    monkeypatch.setattr(os, "link", lambda *_: throw(OSError(errno.EPERM, "not permitted")))
    with pytest.raises(NoLocksError, match="set LINGSHU_HOME to a folder on a local disk"):
        try_lock(tmp_path / "a.lock")
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]


def test_a_forked_child_does_not_give_up_its_parents_lock(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.lock"
    lock = wait_for_lock(path, timeout_s=0, remove=True)
    if (child := os.fork()) == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()
    assert try_lock(path) is None
    lock.release()


def test_a_lock_file_is_private_and_never_a_link(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        wait_for_lock(tmp_path / "a.lock", timeout_s=0).release()
    finally:
        os.umask(old)
    assert (tmp_path / "a.lock").stat().st_mode & 0o777 == 0o600
    (tmp_path / "b.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePathError, match=r"b\.lock is a symbolic link"):
        try_lock(tmp_path / "b.lock")
    assert not (tmp_path / "elsewhere").exists()


def test_this_boot_has_a_name_where_the_kernel_gives_one() -> None:
    assert bool(boot_id()) == Path("/proc/sys/kernel/random/boot_id").exists()


def throw(error: Exception) -> None:
    raise error
