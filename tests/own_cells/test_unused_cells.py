"""Stored cells that no experiment refers to are unused; those that one refers to are kept."""

import os
from pathlib import Path

import pytest
from user_cells_lab import patiently

from lingshu_model.contracts.user_cells import FOLDER
from lingshu_tools.app import App
from lingshu_tools.user_cells.unused import unused_cells

pytestmark = pytest.mark.usefixtures("open_folder")
HOUR_S = 3600.0


def arguments(file: Path, **more: object) -> dict[str, object]:
    return {"interventions": [{"kind": "knockout", "target": "G3"}], "cells": str(file), **more}


def age(app: App, seconds: float) -> None:
    for path in (app.home / FOLDER).glob("*.*"):
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_the_cells_of_a_dry_run_are_unused_and_those_of_an_experiment_are_not(app: App, file: Path):
    kept = patiently(app, "perturb_cells", arguments(file))
    patiently(app, "perturb_cells", arguments(file, n_cells=20, dry_run=True))
    assert unused_cells(app.ledger, app.home, min_age_s=HOUR_S).paths == ()
    age(app, 2 * HOUR_S)
    unused = unused_cells(app.ledger, app.home, min_age_s=HOUR_S, delete=True)
    # The cells, and the effect that is carried to them, of either call.
    assert (len(unused.paths), unused.deleted, unused.kept) == (2, 2, 2)
    assert not any(path.exists() for path in unused.paths)
    replayed = patiently(app, "replay_experiment", {"id": kept.experiment_id})
    assert replayed.verdict == "exact"
    # An answer that was kept does not hide that its files are gone.
    again = patiently(app, "perturb_cells", arguments(file, n_cells=20))
    assert again.status == "succeeded"


def test_a_home_without_cells_of_users_has_nothing_unused(app: App):
    unused = unused_cells(app.ledger, app.home, min_age_s=HOUR_S, delete=True)
    assert (unused.paths, unused.kept, unused.young) == ((), 0, 0)
