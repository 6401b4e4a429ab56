"""Homes on file systems that lack locks, sockets or modes, with real processes."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lingshu_tools.ledger import Ledger

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")

# An experiment from its row to its outcome, with the cells of a real engine process.
SCRIPT = """
import json, os, sys
from pathlib import Path
from lingshu_tools.engine_client.client import Engine
from lingshu_tools.errors import LingshuError
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome
from lingshu_model.contracts import ArmRequest
from lingshu_model.system.endpoints import read_endpoint
home, arm, arguments = Path(sys.argv[1]), sys.argv[2], tuple(json.loads(sys.argv[3]))
try:
    ledger = Ledger.open(home)
    asked = NewExperiment(
        tool="t", request={}, seed=1, checkpoint="c", checkpoint_digest="d", panel_digest="p"
    )
    experiment = ledger.begin(asked)
    with ledger.attempt(experiment.id) as attempt, Engine(home, arguments=arguments) as engine:
        assert ledger.status(experiment.id) == "running"
        job = engine.submit(ArmRequest.model_validate_json(arm)).job_id
        state = engine.wait(job, 45).state
        cells = len(engine.cells(job).counts)
        place = str(read_endpoint(engine.places))
        ledger.seal(attempt, NewOutcome(kind="succeeded", artifacts={"cells": b"cells"}))
        engine.shutdown()
    status = ledger.status(experiment.id)
    print(json.dumps({"state": state, "cells": cells, "place": place, "status": status}))
except LingshuError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes calls of the C library fail below a folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: a file system that lacks something cannot be imitated")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = str(HERE / "shim.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"the shim does not compile here: {built.stderr[:200]}")
    return library


def experiment(lab, shim: Path, temporary: Path, **lacking: int) -> dict[str, str]:
    """Return how an experiment ended in a home whose calls fail with these numbers."""
    environ = lab.environ | {
        "LD_PRELOAD": str(shim),
        "SHIM_DIR": str(lab.home),
        "TMPDIR": str(temporary),
        **{f"SHIM_{name.upper()}": str(number) for name, number in lacking.items()},
    }
    environ.pop("XDG_RUNTIME_DIR", None)
    line = [sys.executable, "-c", SCRIPT, str(lab.home), lab.arm().model_dump_json()]
    ended = subprocess.run(
        [*line, json.dumps(lab.arguments)], env=environ, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("t")


SUCCEEDED = {"state": "succeeded", "cells": 20, "status": "succeeded"}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(errno.ENOLCK, id="ENOLCK", marks=slow),
        pytest.param(errno.ENOSYS, id="ENOSYS", marks=slow),
        pytest.param(errno.EAGAIN, id="EAGAIN"),
    ],
)
def test_a_home_without_flock_works(lab, shim: Path, temporary: Path, number: int):
    ended = experiment(lab, shim, temporary, flock=number)
    assert ended.items() >= SUCCEEDED.items(), ended
    assert Path(ended["place"]).parent == lab.home / "engines"


@slow
def test_a_home_without_sockets_has_its_engine_elsewhere(lab, shim: Path, temporary: Path):
    ended = experiment(lab, shim, temporary, bind=errno.EPERM)
    assert ended.items() >= SUCCEEDED.items(), ended
    assert Path(ended["place"]).parent == temporary / f"lingshu-{os.geteuid()}"


@slow
def test_a_home_without_modes_works(lab, shim: Path, temporary: Path):
    ended = experiment(lab, shim, temporary, chmod=errno.EPERM)
    assert ended.items() >= SUCCEEDED.items(), ended


def test_a_home_that_lacks_all_of_these_works(lab, shim: Path, temporary: Path):
    lab.home.chmod(0o755)
    (lab.home / "engines").mkdir(mode=0o755)
    lacking = {"flock": errno.ENOLCK, "bind": errno.EPERM, "chmod": errno.EPERM}
    ended = experiment(lab, shim, temporary, **lacking)
    assert ended.items() >= SUCCEEDED.items(), ended


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(errno.ENOLCK, id="ENOLCK"),
        pytest.param(errno.ENOSYS, id="ENOSYS", marks=slow),
        pytest.param(errno.EOPNOTSUPP, id="EOPNOTSUPP", marks=slow),
    ],
)
@pytest.mark.parametrize("there", [False, pytest.param(True, marks=slow)], ids=["new", "old"])
def test_a_home_in_which_a_database_cannot_lock_says_what_to_set(
    lab, shim: Path, temporary: Path, number: int, there: bool
):
    if there:  # it was moved here
        Ledger.open(lab.home)
    ended = experiment(lab, shim, temporary, flock=number, fcntl=number)
    assert "no locks that a database can use" in ended["error"]
    assert ended["error"].endswith("set LINGSHU_HOME to a folder on a local disk")
