"""Must-show 6 and 1: how long candidates of rules take, and what they cost in memory.

    python -m benchmarks.planning.scale --out benchmarks/results

Closed-form scores of pairs of a made set of single effects of the size of a panel, from 10^2 to
10^6 pairs and for objectives of 3 and 100 genes; a beam for 10^8 pairs; and the dry run of all
genes of the shipped THP-1 panel. Peak memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from math import comb, isqrt
from pathlib import Path

import numpy as np

from lingshu_model.contracts import Intervention
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.planner.beam import best_combinations
from lingshu_tools.planner.closed_form import Singles

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
KEEP = 40


def singles(n: int, genes: int) -> Singles:
    """Effects as screens have them: most near nothing, some strong, in a few directions."""
    rng = np.random.Generator(np.random.Philox(key=[n, genes]))
    directions = rng.normal(0, 1, (6, genes))
    strength = rng.exponential(0.08, n) * (rng.random(n) < 0.2)
    means = strength[:, None] * directions[rng.integers(0, 6, n)]
    interventions = tuple(Intervention(kind="knockout", target=f"G{i:06d}") for i in range(n))
    return Singles(
        interventions, means, np.zeros((n, genes), bool),
        np.ones(genes), means.min(axis=0), means.max(axis=0), 0.25, (), np.arange(n),
    )  # fmt: skip


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(what: str, genes: int, n: int, work) -> dict[str, object]:
    begin = time.perf_counter()
    best = work()
    seconds = time.perf_counter() - begin
    row = {"what": what, "genes": genes, "candidates": n, "seconds": round(seconds, 3),
           "scored": best.n_scored, "exact": best.exact, "peak_mb": round(peak_mb())}  # fmt: skip
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for genes in (3, 100):
        for size in SIZES:
            n = (1 + isqrt(8 * size)) // 2 + 1
            known = singles(n, genes)
            rows.append(
                measured("pairs, all scored", genes, comb(n, 2),
                         lambda k=known: best_combinations(k, 2, KEEP))
            )  # fmt: skip
    known = singles(18_080, 3)
    rows.append(
        measured("pairs of a panel, beam", 3, comb(18_080, 2),
                 lambda: best_combinations(known, 2, KEEP))
    )  # fmt: skip
    some = singles(450, 3)
    rows.append(
        measured("triples, beam", 3, comb(450, 3), lambda: best_combinations(some, 3, KEEP))
    )
    with tempfile.TemporaryDirectory() as folder:
        app = App(Path(folder))
        for candidates in (["all_panel"], ["all_panel", {"pairs_of": "all_panel"}]):
            begin = time.perf_counter()
            plan = call(app, "plan_screen", {
                "checkpoint": "thp1-crispr", "candidates": candidates,
                "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]},
            })  # fmt: skip
            rows.append({
                "what": f"plan_screen {candidates}", "genes": 3, "candidates": plan.n_candidates,
                "seconds": round(time.perf_counter() - begin, 3), "scored": plan.n_candidates,
                "exact": True, "peak_mb": round(peak_mb()),
            })  # fmt: skip
            print(rows[-1], [c for c in plan.caveats if "closed form" in c], flush=True)
        app.close()
    with (arguments.out / "planning-scale.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
