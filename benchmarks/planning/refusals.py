"""Must-show 8: what the planner refuses, what it says, and that nothing is stored.

    python -m benchmarks.planning.refusals --out benchmarks/results

Every case is a call that cannot be what its caller wants. It must raise an error for the caller
that has the words of the case: the value, what is allowed, what to do next. The ledger's head and
the number of its screens and measurements must be what they were. `tests/planner/test_refused.py`
runs the same cases.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingshu_model.contracts import Catalogue
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError

NAN = math.nan
LOWER: dict[str, Any] = {"lower": ["PSMB9", "STAT1", "UBE2L6"]}


@dataclass(frozen=True)
class Case:
    """A call that is refused.

    Attributes:
        kind: of mistake.
        tool: that is called.
        arguments: those that differ from a good call.
        words: that the error must have.
    """

    kind: str
    tool: str
    arguments: Mapping[str, Any]
    words: tuple[str, ...] = field(default=())


def _objective(kind: str, objective: Mapping[str, Any], *words: str) -> Case:
    return Case(kind, "plan_screen", {"objective": objective}, words)


def _plan(kind: str, arguments: Mapping[str, Any], *words: str) -> Case:
    return Case(kind, "plan_screen", arguments, words)


def _values(kind: str, values: list[Any], *words: str, **more: Any) -> Case:
    names = ("perturbation", "value", "replicate")
    rows = [dict(zip(names, row, strict=False)) for row in values]
    return Case(kind, "record_measurements", {"values": rows, **more}, words)


CASES = [
    _objective("empty objective", {}, "no gene", "raise", "like"),
    _objective("empty objective", {"lower": []}, "no gene"),
    _objective("empty objective", {"keep": ["FN1"]}, "no gene", "raise"),
    _objective("empty objective", {"lower": [""]}, "lower"),
    _objective("empty objective", {"magnitude": 0}, "magnitude=0", "-1"),
    _objective("contradiction", {"lower": ["STAT1"], "raise": ["STAT1"]}, "'STAT1'", "once"),
    _objective(
        "contradiction",
        {"raise": ["HALLMARK_INTERFERON_GAMMA_RESPONSE"], "lower": ["PSMB9"]},
        "'PSMB9'",
        "contradict",
    ),
    _objective("contradiction", {"lower": ["PSMB9"], "keep": ["PSMB9"]}, "'PSMB9'", "keep"),
    _objective("contradiction", {"like": ["JAK2"], "unlike": ["JAK2"]}, "JAK2 knockout", "both"),
    _objective("contradiction", LOWER | {"only": ["JAK2"], "avoid": ["JAK2"]}, "contradict"),
    _objective("contradiction", {"lower": ["PSMB9:2", "PSMB9:3"]}, "weights 2 and 3", "once"),
    _objective("no candidate left", LOWER | {"only": ["LYZ"]}, "none of 25", "only"),
    _objective("no candidate left", LOWER | {"only": ["cytokine"]}, "cytokine", "knockout"),
    _objective(
        "no candidate left", LOWER | {"keep": ["FN1"], "keep_within": 0.001}, "none of 25",
        "keep_within=",
    ),
    _objective("no candidate left", {"lower": ["PSMB9"], "keep_within": 0.3}, "in keep"),
    _objective("no direction", {"like": ["CAV1 knockout"]}, "CAV1", "no direction"),
    _objective("no distance", {"toward": "cell_line=THP-1"}, "no distance", "another context"),
    _objective("unknown context", {"toward": "cell_line=K562"}, "K562", "THP-1"),
    _objective("unknown context", {"toward": "K562"}, "K562", "exp_", "cell_type=B cell"),
    _objective("unknown experiment", {"toward": "exp_0000"}, "exp_0000"),
    _objective("unmeasured gene", {"lower": ["ACTB"]}, "'ACTB'", "does not measure"),
    _objective("unmeasured gene", {"lower": ["PSMB9"], "keep": ["CD86"]}, "'CD86'", "not measure"),
    _objective("unmeasured gene set", {"raise": ["HALLMARK_NOTCH_SIGNALING"]}, "none of its"),
    _objective("unknown gene", {"lower": ["STATT1"]}, "'STATT1'", "Did you mean"),
    _objective("unknown gene set", {"raise": ["HALLMARK_INTERFERON_GAMMA"]}, "Did you mean",
               "HALLMARK_INTERFERON_GAMMA_RESPONSE"),
    _objective("unknown perturbation", {"like": ["STAT11 knockout"]}, "STAT11", "Did you mean"),
    _objective("file outside", {"raise": ["/etc/passwd.gmt#X"]}, "allow", "lingshu roots add"),
    _objective("file outside", LOWER | {"avoid": ["/etc/essential.txt"]}, "lingshu roots add"),
    _objective("NaN", {"lower": ["PSMB9:nan"]}, "nan", "above 0"),
    _objective("NaN", {"lower": ["PSMB9:-1"]}, "-1", "above 0"),
    _objective("NaN", LOWER | {"magnitude": NAN}, "magnitude"),
    _objective("NaN", LOWER | {"keep": ["FN1"], "keep_within": NAN}, "keep_within"),
    _objective("NaN", LOWER | {"keep": ["FN1"], "keep_within": -1}, "keep_within"),
    _plan("budget", {"budget": 1}, "budget=1", "Raise budget to 416"),
    _plan("budget", {"budget": 40}, "budget=40", "name 1 candidate"),
    _plan("budget", {"budget": 0}, "budget"),
    _plan("budget", {"budget": 100, "candidates": {"pairs_of": "all_seen"}}, "budget=100", "top_n"),
    _plan("candidates", {"candidates": []}, "0 perturbations", "all_seen"),
    _plan("candidates", {"candidates": ["STAT1 + STAT1"]}, "STAT1"),
    _plan("NaN", {"n_cells": NAN}, "n_cells"),
    _values("unknown perturbation", [("MYB", 0.2)], "'MYB'", "values[0]"),
    _values("unknown perturbation", [("STAT1", 0.2), ("STATT1", 0.1)], "values[1]", "Did you mean"),
    _values("unknown perturbation", [("STAT1 + JAK2", 0.2)], "no candidate of this screen"),
    _values("unknown perturbation", [("STAT1 crispri", 0.2)], "crispri"),
    _values("control alone", [("control", 0.2)], "control wells alone"),
    _values("wrong units", [("STAT1", 0.2)], "units", units="percent"),
    _values("wrong units", [("STAT1", 87.0)], "87", "log1p_cp10k", "percent_of_control"),
    _values("wrong units", [("STAT1", -3.0)], "-3", "between 0", units="percent_of_control"),
    _values("wrong units", [("STAT1", 0.4)], "hit_at", hit_at=80.0),
    _values("duplicates", [("STAT1", 0.2), ("STAT1 knockout", 0.3)], "replicate 1 twice"),
    _values("duplicates", [("STAT1", 0.2, 2), ("STAT1", 0.2, 2)], "replicate 2 twice"),
    _values("duplicates", [("control", 0.2), ("Control", 0.3), ("JAK2", 0)], "'control'", "twice"),
    _values("NaN", [("STAT1", NAN)], "value"),
    _values("NaN", [("STAT1", 0.1), ("JAK2", math.inf)], "value"),
    _values("NaN", [("STAT1", 0.1)], "hit_at", hit_at=NAN),
    _values("empty", [], "values"),
    _values("empty", [("", 0.1)], "perturbation"),
    _values("unknown screen", [("STAT1", 0.1)], "scr_0000", screen_id="scr_0000"),
    _values("unknown gene set", [("STAT1", 0.1)], "known_set", known_set="NOTHING"),
    _values("replicates", [("STAT1", 0.1, 0)], "replicate"),
    Case("unknown screen", "propose_batch", {"screen_id": "scr_0000"}, ("scr_0000",)),
    Case("wells", "propose_batch", {"n_wells": 0}, ("n_wells",)),
    Case("wells", "propose_batch", {"n_wells": 1000}, ("n_wells",)),
    Case("plan without", "run_screen", {"objective": {}, "candidates": ["STAT1"]}, ("neither",)),
    Case("plan twice", "run_screen", {"screen_id": "", "objective": LOWER}, ("candidates",)),
]  # fmt: skip


def arguments_of(case: Case, screen_id: str) -> dict[str, Any]:
    """Return the arguments of a case's call: those of a good one, with its mistake."""
    if case.tool == "plan_screen":
        good: dict[str, Any] = {"objective": LOWER, "candidates": "all_seen"}
        return {"checkpoint": "thp1-crispr", **good, **case.arguments}
    if case.tool == "run_screen":
        return {"checkpoint": "thp1-crispr", **case.arguments}
    units = {"units": "log1p_cp10k"} if case.tool == "record_measurements" else {}
    return {"screen_id": screen_id, **units, **case.arguments}


def stored(app: App, screen_id: str) -> tuple[str, int, int]:
    """Return what a refused call must leave as it is."""
    ledger = app.ledger
    return str(ledger.head()), len(ledger.find_screens()), len(ledger.measurements(screen_id))


def refusal(app: App, case: Case, screen_id: str) -> tuple[str, bool]:
    """Return the error of a case, and whether nothing was stored.

    Raises:
        AssertionError: the call was accepted.
    """
    before = stored(app, screen_id)
    try:
        call(app, case.tool, arguments_of(case, screen_id))
    except InputError as error:
        return str(error), stored(app, screen_id) == before
    raise AssertionError(f"{case.tool} {case.arguments} was accepted")


def good_screen(app: App) -> str:
    """Return the id of a plan that calls of measurements are about."""
    arguments = {"checkpoint": "thp1-crispr", "objective": LOWER, "candidates": "all_seen"}
    return call(app, "plan_screen", arguments).screen_id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        app = App(Path(folder) / "home", engine=FakeEngine(Catalogue().load("thp1-crispr").panel))
        screen_id = good_screen(app)
        for case in CASES:
            said, nothing_stored = refusal(app, case, screen_id)
            teaches = all(word in said for word in case.words)
            first = said.splitlines()[0]
            rows.append({"kind": case.kind, "tool": case.tool, "refused": True, "teaches": teaches,
                         "nothing_stored": nothing_stored, "message": first})  # fmt: skip
            print(case.kind, teaches, nothing_stored, first, flush=True)
        app.close()
    with (arguments.out / "planning-refusals.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    right = sum(row["teaches"] and row["nothing_stored"] for row in rows)
    print(f"{right} of {len(rows)} calls are refused with what is allowed, and store nothing")


if __name__ == "__main__":
    main()
