"""A good call of every tool, for the tests of all tools. A new tool adds its own here."""

from typing import Any

FILE = "cells.h5ad"
"""A user's file; the tools that read it need it in an allowed folder."""
OF_FILES = ("score_cells", "complete_cells")
KNOCK_OUT = [{"kind": "knockout", "target": "STAT1"}]


def tool_calls(
    experiment_id: str,
    wait_s: float = 0,
    *,
    second_id: str = "exp_second",
    screen_id: str = "scr_x",
) -> dict[str, dict[str, Any]]:
    """Return arguments by tool, in the order of the registry, for `make_checkpoint`'s checkpoint.

    Args:
        experiment_id: of a perturb_cells experiment; a plot needs one that succeeded.
        wait_s: for the tools that wait.
        second_id: of another experiment of the same kind, which also succeeded.
        screen_id: of a screen that has run.
    """
    wait = {"wait_s": wait_s}
    experiment = {"id": experiment_id}
    screen = {
        "objective": {"lower": ["PSMB9"]},
        "candidates": ["STAT1", "JAK2"],
        "n_cells": 8,
    }
    return {
        "describe_model": {},
        "find_genes": {"names": ["STAT1"]},
        "sample_cells": {"n_cells": 8, **wait},
        "perturb_cells": {"interventions": KNOCK_OUT, "n_cells": 8, **wait},
        "score_cells": {"cells": FILE, "n_cells": 8, **wait},
        "complete_cells": {"cells": FILE, "n_cells": 8, **wait},
        "plan_screen": screen,
        "run_screen": {**screen, **wait},
        "propose_batch": {"screen_id": screen_id, **wait},
        "record_measurements": {
            "screen_id": screen_id,
            "values": [{"perturbation": "STAT1 knockout", "value": 0.5}],
            "units": "z_score",
        },
        "get_experiment": experiment,
        "list_experiments": {},
        "compare_experiments": {"ids": [experiment_id, second_id]},
        "plot_experiment": {**experiment, **wait},
        "export_experiment": {**experiment, **wait},
        "replay_experiment": {**experiment, **wait},
        "cancel_experiment": experiment,
    }
