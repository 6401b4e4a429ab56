"""The findings of issue 16: the calls, the answers of that day and the answers now."""

import json
from pathlib import Path
from typing import Any

from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call, error_result
from lingshu_tools.errors import LingshuError

ANSWERS = ("finding", "call", "before", "after", "tokens")


def knockout(*targets: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of knock-outs in the THP-1 checkpoint."""
    interventions = [{"kind": "knockout", "target": t} for t in targets]
    return {"checkpoint": "thp1-crispr", "interventions": interventions, "n_cells": 256,
            "wait_s": 45, **more}  # fmt: skip


def interferon(cell_type: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of interferon-beta in a cell type of `pbmc`."""
    return {"checkpoint": "pbmc", "context": {"cell_type": cell_type, "dataset": "kang2018"},
            "interventions": [{"kind": "cytokine", "target": "IFN-beta"}], "n_cells": 64,
            "wait_s": 45, **more}  # fmt: skip


SCREEN = {"checkpoint": "thp1-crispr", "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]},
          "candidates": ["all_seen"], "n_cells": 256, "wait_s": 45, "top": 8}  # fmt: skip
CALLS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("evidence of the question", "perturb_cells", knockout("CD86"),
     "quotes the twelve strongest's .56; CD86's is -.06"),
    ("evidence of the question", "perturb_cells", knockout("SPI1"),
     "quotes .56; SPI1's is .11 on 14 cells; called genes have a slope of .17 +- .25"),
    ("evidence of the question", "perturb_cells", knockout("MYC"), "quotes .56; MYC's is .14"),
    ("evidence of the question", "perturb_cells", interferon("B cell"), "quotes .54; own .50"),
    ("evidence of the question", "perturb_cells", interferon("natural killer cell"),
     "quotes .54; own .38"),
    ("false discovery rates", "run_screen", SCREEN,
     "FDR 7.4e-12 from a t-tail fitted to 16 null labels; ten hits, of which STAT2 and SMAD4 do "
     "not replicate; errors +-.26 to .28 for all"),
    ("null labels", "perturb_cells",
     {**knockout(n_cells=16), "interventions": [{"kind": "sham", "target": "sham-00"}]},
     "exceeds 16 of 16 null labels in 16 of 16 trials at 16 and 32 cells"),
    ("error of carried effects", "perturb_cells", interferon("CD4 T cell", genes=["MX1", "ISG15"]),
     "a single residual: MX1 +-.0002"),
    ("dose", "perturb_cells",
     {**knockout(), "interventions": [{"kind": "knockout", "target": "STAT1", "dose": 0.1}]},
     "accepted, ignored and reported: STAT1 knockout 0.1"),
    ("one pathway", "perturb_cells", knockout("IFNGR1", "IFNGR2"),
     "called synergy: IFNGR1 .98, IFNGR2 .96, both 2.28, FDR 1e-11"),
    ("small panels", "perturb_cells", knockout("STAT1", genes=["KPNB1", "STAT1", "PSMB9"]),
     "STAT1 loss raises KPNB1 (raw log2 ratio .05)"),
)  # fmt: skip


def answer_rows(home: Path) -> list[tuple[Any, ...]]:
    """Return a line of `ANSWERS` for each call; `after` is what an agent gets."""
    app = App(home)
    rows: list[tuple[Any, ...]] = []
    for finding, tool, arguments, before in CALLS:
        try:
            result = call(app, tool, arguments)
            while result.status in ("running", "queued"):
                result = call(app, "get_experiment", {"id": _name(result), "wait_s": 45})
            value = structured(result, tool, arguments, detailed=False)
        except LingshuError as error:
            value = error_result(error).model_dump(mode="json", exclude_none=True)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        said = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        rows.append((finding, f"{tool} {said}", before, text, round(len(text) / 4)))
    app.close()
    return rows


def _name(result: Any) -> str:
    return getattr(result, "screen_id", None) or result.experiment_id
