"""A process that begins an experiment with an engine that never answers, and says its id."""

import sys
from pathlib import Path
from threading import Event

from conftest import HeldEngine

from lingshu_model.contracts import Catalogue
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call


class Announcing(HeldEngine):
    """Sets `at_work` once somebody waits for a job, which is once an attempt is alive."""

    def __init__(self, panel: list[str]) -> None:
        super().__init__(panel)
        self.at_work = Event()

    def wait(self, job_id: str, wait_s: float):
        if wait_s:
            self.at_work.set()
        return super().wait(job_id, wait_s)


def main() -> None:
    catalogue = Catalogue()
    engine = Announcing(catalogue.load("made").panel)
    app = App(Path(sys.argv[1]), engine=engine, catalogue=catalogue)
    knockout = [{"kind": "knockout", "target": "STAT1"}]
    request = {"interventions": knockout, "n_cells": 8, "wait_s": 0, "checkpoint": "made"}
    begun = call(app, "perturb_cells", request).experiment_id
    engine.at_work.wait()
    sys.stdout.write(f"{begun}\n")
    sys.stdout.flush()
    app.runner.wait([begun or ""], 600)


main()
