"""Builders for ledger tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lingshu_tools.ledger import Ledger, NewExperiment

WORKER = Path(__file__).with_name("worker.py")


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
