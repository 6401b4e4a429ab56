"""The numbers of figures for a page that draws them: columns, labels with units, intervals.

They are those that `plot_experiment` draws, so a page and a picture show the same. Values are JSON:
floats with five significant digits, None where a value is missing.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lingshu_model.contracts import Intervention
from lingshu_tools.analysis.certainty import LEAST_LFSR
from lingshu_tools.calls.results import finite
from lingshu_tools.children import Answer
from lingshu_tools.errors import InputError, quoted
from lingshu_tools.experiments.designs import context_label, label_of
from lingshu_tools.experiments.lookup import is_screen, locate_screen
from lingshu_tools.ledger import Measurement
from lingshu_tools.planner import plan_of
from lingshu_tools.planner.plate import CONTROL, SHAPES
from lingshu_tools.report.comparison import Comparison
from lingshu_tools.report.comparison_views import compared_view, gene_views
from lingshu_tools.tools.compare_experiments import compared_sides
from lingshu_tools.tools.plan_screen import in_words
from lingshu_tools.tools.plot_experiment import (
    PLOTS,
    PlotExperiment,
    drawing,
    picture_task,
    ranking_picture,
)
from lingshu_tools.tools.propose_batch import PROPOSAL

if TYPE_CHECKING:
    from lingshu_tools.app import App

Figure = dict[str, Any]
MOST_GENES = 2_000
"""Genes of a comparison: those whose difference is most certain."""
MOST_CANDIDATES = 2_000


def figure(app: App, name: str, kind: str, other: str | None = None) -> Figure:
    """Return the numbers of a figure.

    Args:
        app: where the experiment or the screen is.
        name: its id.
        kind: one of `FIGURES`.
        other: of a comparison, the experiment that is compared with the first.

    Raises:
        InputError: no such kind or id, or there is nothing to draw yet.
    """
    if kind not in FIGURES:
        message = f"kind={quoted(kind)} is no figure; there are {', '.join(FIGURES)}"
        raise InputError(message)
    if is_screen(name) != (kind in ("ranking", "plate")):
        message = f"{kind} does not fit {quoted(name)}: ranking and plate are of a screen, scr_…"
        raise InputError(message)
    if (other is not None) != (kind == "comparison"):
        message = "comparison needs the id of a second experiment, and no other kind takes one"
        raise InputError(message)
    return {"id": name, **FIGURES[kind](app, name, other)}


def _volcano(app: App, name: str, _: str | None) -> Figure:
    # The very job of the picture, with columns that its CSV has beside it.
    job, numbers, facts = PLOTS["volcano"].draw(app, PlotExperiment(id=name, kind="volcano"))
    columns = ("change", "control_mean", "perturbed_mean", "sham_q", "lfsr")
    rest: Figure = {column: [row[column] for row in numbers] for column in columns}
    return job | rest | {"caveats": facts["caveats"]}


def _embedding(app: App, name: str, _: str | None) -> Figure:
    """Return the cells of both arms; `status` alone while a child process computes them."""
    arguments = PlotExperiment(id=name, kind="embedding")
    task = picture_task(app, arguments)
    state = app.children.result(drawing(app, arguments))
    if not isinstance(state, Answer):
        return {"kind": "embedding", "status": state}
    if "means" not in state.details:
        # An answer of a version that kept the picture alone.
        app.children.forget(task)
        return {"kind": "embedding", "status": "queued"}
    with state.paths["csv"].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Scores on the first two components, and each arm's mean with half its interval.
    arms = {
        arm: {
            "x": [finite(float(row["pc1"])) for row in rows if row["arm"] == arm],
            "y": [finite(float(row["pc2"])) for row in rows if row["arm"] == arm],
            "mean": [finite(v) for v in mean["at"]],
            "half": [finite(v) for v in mean["half"]],
        }
        for arm, mean in state.details["means"].items()
    }
    shown = {key: task.job[key] for key in ("kind", "title", "subtitle", "footnote")}
    axes = dict(zip(("xlabel", "ylabel"), state.details["axes"], strict=True))
    return shown | axes | {"arms": arms, "status": "succeeded", "caveats": task.facts["caveats"]}


def _ranking(app: App, name: str, _: str | None) -> Figure:
    job, _numbers, facts = ranking_picture(app, name, MOST_CANDIDATES)
    return job | {"caveats": facts["caveats"]}


def _comparison(app: App, name: str, other: str | None) -> Figure:
    comparison = Comparison(compared_sides(app, [name, other or ""]))
    order = comparison.order("different")
    chosen = order[:MOST_GENES]
    views = gene_views(comparison, chosen)
    changes: Any = comparison.changes
    sides = [compared_view(comparison, place).model_dump(mode="json") for place in (0, 1)]
    contexts = [side["context"] for side in sides]
    labels = [side["perturbation"] for side in sides]
    # The context is in a label only where it tells the two apart.
    if contexts[0] != contexts[1]:
        labels = [f"{a} in {b}" for a, b in zip(labels, contexts, strict=True)]
    unit = "Δ ln(1 + counts per 10,000)"
    return {
        "kind": "comparison",
        "title": f"Predicted, not measured: {labels[1]} against {labels[0]}",
        "subtitle": f"{len(order)} genes of both panels"
        + (f", the {len(chosen)} most certain shown" if len(chosen) < len(order) else ""),
        "footnote": "Coloured: the sign of the difference is supported (lfsr ≤ 0.05).",
        "sides": sides,
        "xlabel": f"{labels[0]}, {unit}",
        "ylabel": f"{labels[1]}, {unit}",
        "gene": [view.gene for view in views],
        "x": [finite(float(v)) for v in changes[0, chosen]],
        "y": [finite(float(v)) for v in changes[1, chosen]],
        "difference": [view.difference for view in views],
        "interval": [view.interval for view in views],
        "mc_interval": [view.mc_interval for view in views],
        "lfsr": [view.lfsr for view in views],
        # +1 or -1: the sign of a difference whose sign is supported; 0: it is not.
        "called": [
            int(np.sign(view.difference or 0)) if comparison.different[gene] else 0
            for gene, view in zip(chosen, views, strict=True)
        ],
        "least_lfsr": LEAST_LFSR,
    }


def _plate(app: App, name: str, _: str | None) -> Figure:
    """Return the plates of the newest proposal; `proposal_id` is None where there is none."""
    ledger, screen = locate_screen(app, name)
    plan = plan_of(app, screen.plan)
    proposals = [m for m in ledger.measurements(screen.id) if m.payload.get("kind") == PROPOSAL]
    if not proposals:
        return {"kind": "plate", "proposal_id": None, "wells": []}
    # Rows of a screen come oldest first.
    newest: Measurement = proposals[-1]
    payload = newest.payload
    picks = {_label(pick): pick for pick in payload["picks"]}
    request = payload["request"]
    n_controls = sum(label == CONTROL for _plate_no, _name, label, _replicate in payload["wells"])
    return {
        "kind": "plate",
        "proposal_id": newest.id,
        "title": f"Proposed plate: what would {in_words(plan)}?",
        "subtitle": f"{context_label(plan.control.context)} · {plan.control.checkpoint.name} · "
        f"{len(picks)} perturbations × {request['replicates']}, {n_controls} controls",
        "footnote": f"Chosen from predictions, not measured.  {newest.id}",
        "shape": list(SHAPES[int(request["plate"])]),
        "control": CONTROL,
        "unit": "log1p_cp10k",
        "wells": [_well(well, picks) for well in payload["wells"]],
    }


def _label(pick: Mapping[str, Any]) -> str:
    return label_of(Intervention.model_validate(each) for each in pick["interventions"])


def _well(well: list[Any], picks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    plate, name, label, replicate = well
    pick = picks.get(label, {})
    return {
        "plate": plate,
        "well": name,
        # "B07": row 1, column 6.
        "row": ord(name[0]) - ord("A"),
        "column": int(name[1:]) - 1,
        "label": label,
        "replicate": replicate,
        "direction": pick.get("direction", ""),
        "score": pick.get("score"),
    }


FIGURES: dict[str, Callable[[App, str, str | None], Figure]] = {
    "volcano": _volcano,
    "embedding": _embedding,
    "comparison": _comparison,
    "ranking": _ranking,
    "plate": _plate,
}
