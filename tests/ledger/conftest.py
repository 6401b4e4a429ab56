"""Builders for ledger tests."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lingshu_tools.ledger import Ledger, NewExperiment

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server's database, on a Unix socket, for as long as the tests run."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not programs or find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL: install Debian's `postgresql` and lingshu-tools[postgres]")
    # Not under TMPDIR: a socket's path is short, and another user must get there.
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
        folder = Path(name)
        user = _not_root(folder)
        data, log = folder / "data", folder / "log"
        run = partial(subprocess.run, check=True, capture_output=True, user=user, cwd="/")
        run([programs[-1] / "initdb", "-U", "tests", "-A", "trust", "-E", "UTF8", "-D", data])
        options = f"-c listen_addresses= -c fsync=off -k {folder}"
        control = [programs[-1] / "pg_ctl", "-w", "-D", data]
        run([*control, "-l", log, "-o", options, "-t", "120", "start"])
        try:
            yield f"postgresql+psycopg://tests@/postgres?host={folder}"
        finally:
            run([*control, "-m", "immediate", "stop"])


def _not_root(folder: Path) -> str | None:
    """PostgreSQL refuses to run as root: give the folder to its own user then."""
    if os.getuid():
        return None
    try:
        shutil.chown(folder, "postgres")
    except LookupError:
        pytest.skip("root may not run PostgreSQL, and there is no user called postgres")
    return "postgres"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests of files to SQLite."""
    items[:] = [
        item
        for item in items
        if item.get_closest_marker("of_files") is None or "[postgresql" not in item.name
    ]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kind of database that can hold a ledger, as what `Ledger.open` takes by default."""
    if request.param == "postgresql":
        import psycopg

        url = request.getfixturevalue("postgres")
        name = f"t{secrets.token_hex(8)}"
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type]
        monkeypatch.setenv("LINGSHU_LEDGER", f"{url}&options=-csearch_path%3D{name}")
    return request.param


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def ledger(home: Path) -> Ledger:
    return Ledger.open(home)


@pytest.fixture
def new() -> Callable[..., NewExperiment]:
    """A valid request, with whatever is given changed."""

    def build(**changes: Any) -> NewExperiment:
        values: dict[str, Any] = {
            "tool": "perturb_cells",
            "request": {"n_cells": 8, "interventions": [{"kind": "knockout", "target": "STAT1"}]},
            "checkpoint": "tiny",
            "checkpoint_digest": "sha256:" + "1" * 64,
            "panel_digest": "sha256:" + "2" * 64,
            "seed": 7,
        }
        return NewExperiment(**(values | changes))

    return build


@pytest.fixture
def worker() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `worker.py` with these arguments in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
