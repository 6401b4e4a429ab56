"""The real server and the real engine, killed in the middle of a screen of real knock-outs."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stdio import Server, call, greet, server

from lingshu_tools.app import App
from lingshu_tools.ledger import Ledger, Outcome

CANDIDATES = ["STAT1", "JAK2", "CD86", "SMAD4", "IRF1", "ATF2"]
LIMIT_S = 600


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    with closing(App(tmp_path)) as app:
        if app.engine.info():
            app.engine.shutdown()


def begin(process: Server, seed: int) -> str:
    """Plan and begin a screen without waiting for it; return its id."""
    greet(process)
    plan = call(
        process,
        "plan_screen",
        checkpoint="thp1-crispr",
        objective={"lower": ["PSMB9", "STAT1"]},
        candidates=CANDIDATES,
        n_cells=512,
        seed=seed,
    )
    call(process, "run_screen", screen_id=plan["screen_id"], wait_s=0)
    return plan["screen_id"]


def go_on(
    process: Server, screen_id: str, until: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Ask for the screen until it is as wanted."""
    end = time.monotonic() + LIMIT_S
    # A fast machine finishes a whole screen within a longer wait.
    given = {"screen_id": screen_id, "wait_s": 0.2, "top": 100}
    while not until(result := call(process, "run_screen", **given)):
        assert time.monotonic() < end, result["summary"]
    return result


def sealed(home: Path, screen_id: str) -> dict[str, Outcome]:
    """The outcomes of a screen's children so far, by experiment."""
    ledger = Ledger.open_read_only(home / "experiments.db")
    outcomes = {c.id: ledger.outcome(c.id) for c in ledger.children(screen_id)}
    return {i: o for i, o in outcomes.items() if o is not None}


def some(observed: dict[str, Any]) -> bool:
    return observed["n_done"] >= 1


def all_done(observed: dict[str, Any]) -> bool:
    return observed["status"] == "succeeded"


@pytest.mark.slow
def test_a_screen_outlives_its_server_and_its_engine(home: Path):
    with server(home) as process:
        first = begin(process, seed=1)
        go_on(process, first, some)
        os.kill(process.pid, signal.SIGKILL)
    before = sealed(home, first)
    assert 1 <= len(before) < len(CANDIDATES)

    with server(home) as process:
        greet(process)
        ranked = go_on(process, first, all_done)["ranking"]
        after = sealed(home, first)
        assert len(ranked) == len(after) == len(CANDIDATES)
        assert {i: after[i] for i in before} == before

    with server(home) as process:
        second = begin(process, seed=2)
        go_on(process, second, some)
        with closing(App(home)) as app:
            engine = app.engine.info()
        assert engine
        os.kill(engine.pid, signal.SIGKILL)
        assert len(go_on(process, second, all_done)["ranking"]) == len(CANDIDATES)
    report = Ledger.open_read_only(home / "experiments.db").verify()
    assert report.ok, report.problems
