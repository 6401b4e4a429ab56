"""Must-show 1: a race of THP-1 knock-outs and their pairs against equal shares.

    python -m benchmarks.planning.race --out benchmarks/results

All singles and pairs for "lower PSMB9, STAT1, UBE2L6", five seeds. The reference is a screen of the
60 best by closed form with 1,024 cells each and another seed. A pick is right when its
reference score is no lower than that of the tenth best less the difference of the race. Beside it
stands the closed form without any simulation, and equal shares with as many cells as the race.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.experiments.designs import label_of
from lingshu_tools.planner import make_plan
from lingshu_tools.planner.objectives.requests import Request
from lingshu_tools.planner.proposals import proposal_pool

OBJECTIVE = {"lower": ["PSMB9", "STAT1", "UBE2L6"]}
RULES = ["all_seen", {"pairs_of": "all_seen"}]
N_REFERENCE, REFERENCE_CELLS, REFERENCE_SEED = 60, 1024, 987_654
TOP = 10


def finished(app: App, **arguments: Any):
    """Return the ranking of a screen when it has ended."""
    request = {"checkpoint": "thp1-crispr", "objective": OBJECTIVE, "wait_s": 45, "top": 2000}
    result = call(app, "run_screen", request | arguments)
    while result.status in ("queued", "running"):
        result = call(app, "run_screen", request | arguments)
    return result


def best_by_closed_form(app: App) -> list[str]:
    plan = make_plan(
        app,
        checkpoint="thp1-crispr",
        objective=Request(down=OBJECTIVE["lower"]),
        candidates=RULES,
        top_n=N_REFERENCE // 4,
    )
    pool = proposal_pool(plan, 0)
    assert pool is not None
    return [label_of(c) for c in pool.candidates[:N_REFERENCE]]


def scored(picks: list[str], reference: dict[str, float], difference: float) -> dict[str, Any]:
    ordered = sorted(reference.values(), reverse=True)
    tenth, best = ordered[TOP - 1], ordered[:TOP]
    values = [reference.get(label, float("-inf")) for label in picks]
    return {
        "right": sum(v >= tenth - difference for v in values),
        "regret": round(float(np.mean(best) - np.mean(values)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        app = App(Path(folder), door="python")
        labels = best_by_closed_form(app)
        reference = {
            row.perturbation: row.score
            for row in finished(
                app, candidates=labels, n_cells=REFERENCE_CELLS, seed=REFERENCE_SEED
            ).ranking
        }
        for seed in range(arguments.seeds):
            begin = time.perf_counter()
            raced = finished(app, candidates=RULES, seed=seed)
            seconds = time.perf_counter() - begin
            plan = app.ledger.screen(raced.screen_id).plan
            difference = plan["race"]["difference"]
            cells = sum(c.request["n_cells"] for c in app.ledger.children(raced.screen_id))
            n_even = max(1, cells // len(labels))
            even = finished(app, candidates=labels, n_cells=n_even, seed=seed)
            closed = sorted(raced.ranking, key=lambda r: -r.closed_form)
            for name, picks, n in (
                ("race", [r.perturbation for r in raced.ranking[:TOP]], cells),
                (
                    "equal shares",
                    [r.perturbation for r in even.ranking[:TOP]],
                    n_even * len(labels),
                ),
                ("closed form, no cells", [r.perturbation for r in closed[:TOP]], 0),
            ):
                row = {"seed": seed, "by": name, "picks": TOP, "cells": n,
                       "cells_of_all_in_equal_shares": 325 * 256, "difference": difference,
                       **scored(picks, reference, difference),
                       "seconds": round(seconds, 1) if name == "race" else ""}  # fmt: skip
                rows.append(row)
                print(row, flush=True)
                with (arguments.out / "planning-race.csv").open("w", newline="") as handle:
                    writer = csv.DictWriter(handle, rows[0], lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
        app.close()


if __name__ == "__main__":
    main()
