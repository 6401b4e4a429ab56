"""Nothing of a training run stays behind, however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lingshu_model.train.scratch import PREFIXES, remove_abandoned, scratch

WORKER = """
import signal, sys, time
from pathlib import Path
from lingshu_model.train.scratch import end_by_signals, scratch
# Under nohup the tests, and so this process, would ignore it, as a training then should.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
end_by_signals()
with scratch(Path(sys.argv[1]), ".cells-") as place:
    (place / "cells").write_text("a copy of the cells")
    print("at work", flush=True)
    # A signal just before signal.pause() would be handled after it only.
    while True:
        time.sleep(0.05)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process at work in a scratch folder of `tmp_path`."""
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=environ, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_a_signal_ends_leaves_nothing(
    worker: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    worker.send_signal(number)
    assert worker.wait(30) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_by_the_next(
    worker: subprocess.Popen[str], tmp_path: Path
) -> None:
    (other,) = (path for path in tmp_path.iterdir() if path.is_dir())
    remove_abandoned(tmp_path)
    assert other.is_dir()  # somebody works there
    worker.kill()
    worker.wait()
    assert other.is_dir()
    with scratch(tmp_path, ".partial-") as place:
        assert not other.exists()
        assert place.is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_error_leaves_nothing(tmp_path: Path, prefix: str) -> None:
    def write() -> None:
        with scratch(tmp_path, prefix) as place:
            (place / "half").touch()
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write()
    assert list(tmp_path.iterdir()) == []
