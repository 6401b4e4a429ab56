"""Requests, and a small ledger with something in every table."""

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.ledger import Ledger, NewExperiment, NewOutcome

KNOCKOUT = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8, "wait_s": 45}


def request(**changes: object) -> NewExperiment:
    values: dict = {
        "tool": "perturb_cells",
        "request": {"n_cells": 8},
        "checkpoint": "tiny",
        "checkpoint_digest": "sha256:" + "1" * 64,
        "panel_digest": "sha256:" + "2" * 64,
        "seed": 7,
    }
    return NewExperiment(**(values | changes))


def fill(ledger: Ledger) -> str:
    """Put a row into every table; return the id of the experiment that succeeded."""
    screen = ledger.record_screen({"objective": {"lower": ["STAT1"]}})
    ledger.record_measurements(screen.id, {"STAT1": 0.5})
    finished = ledger.begin(request(parent=screen.id, position=0, perturbation="STAT1 knockout"))
    with ledger.attempt(finished.id) as attempt:
        environment = {"profile": {"device": "cpu", "threads": 2}}
        blobs = {"cells": b"some cells", "zeros": bytes(3_000_000)}
        ending = NewOutcome(kind="succeeded", environment=environment, artifacts=blobs)
        ledger.seal(attempt, ending)
    failed = ledger.begin(request(principal="a group/of two"))
    with ledger.attempt(failed.id) as attempt:
        ledger.seal(attempt, NewOutcome(kind="failed", error="not enough memory"))
    ledger.cancel(ledger.begin(request(seed=8)).id)
    ledger.record_verification(finished.id, "exact")
    ledger.tag(finished.id, ["pilot"])
    return finished.id


def finished(app: App, tool: str, arguments: dict):
    """The result when it has ended, however slow the machine."""
    result = call(app, tool, arguments)
    while result.status in ("queued", "running"):
        result = call(app, "get_experiment", {"id": result.experiment_id, "wait_s": 45})
    return result
