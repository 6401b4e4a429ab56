"""The jobs of heat maps, violins, embeddings and interactions, for the child that draws.

Each function returns what is drawn, the numbers behind it (empty where the child reads them from
cells) and what the result says of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lingshu_tools.analysis.certainty import LEAST_LFSR, SUPPORTED
from lingshu_tools.calls.results import call_text, finite
from lingshu_tools.calls.waiting import next_wait_s
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import Design, context_label
from lingshu_tools.experiments.findings import strongest, unpack_effect
from lingshu_tools.experiments.gene_names import resolve_genes
from lingshu_tools.experiments.stored_effects import parts_of, stored_effect
from lingshu_tools.planner import Plan, Ranked
from lingshu_tools.planner.ranking import HIT_FDR, null_labels
from lingshu_tools.report.evidence import design_sentence
from lingshu_tools.report.experiment_views import Shown, shown
from lingshu_tools.tools.plan_screen import in_words
from lingshu_tools.tools.run_screen import ranking_of

if TYPE_CHECKING:
    from lingshu_tools.app import App

Picture = tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]
"""What is drawn, the numbers behind it, and what the result says of it."""
Floats = NDArray[np.float64]
CHANGE_LABEL = "change, Δ ln(1 + counts per 10,000)"
LEVEL_LABEL = "expression, ln(1 + counts per 10,000)"
# Candidates and genes of a heat map.
HEAT_ROWS, HEAT_GENES = 30, 30
MOST_CELLS = 1000
"""Cells of each arm that are drawn: the first ones."""
# Genes of a picture by default, and at most.
VIOLINS, MOST_VIOLINS = 6, 12
NORMAL_95 = 1.959964


def heatmap(app: App, name: str, top: int | None, genes: Sequence[str] | None) -> Picture:
    """Return a heat map of a screen: its candidates by rank, the genes that they change most."""
    plan, ranking = ranking_of(app, name)
    ranked = [row for row in ranking.rows if row.value is not None][: top or HEAT_ROWS]
    if not ranked:
        run = call_text("run_screen", screen_id=name, wait_s=next_wait_s())
        message = f"{name} has no ranked candidate yet; {run} goes on with it"
        raise InputError(message)
    # Each [genes]; stacked to [candidates, genes].
    tables = [_effect_table(app, row) for row in ranked]
    changes = np.stack([table[0] for table in tables])
    columns = _columns(plan, changes, genes)
    called = np.stack([table[1] for table in tables])
    names = [plan.control.checkpoint.panel[i] for i in columns]
    job: dict[str, Any] = {
        "kind": "heatmap",
        "title": f"Predicted, not measured: candidates to {in_words(plan)}",
        "subtitle": f"{context_label(plan.control.context)} · {plan.control.checkpoint.name} · "
        f"best {len(ranked)} of {len(plan.candidates)} candidates · "
        f"{plan.control.n_cells} paired simulated cells each",
        "footnote": f"{'' if genes else 'Genes of largest change, targets left out.  '}{name}",
        "rows": [row.design.label for row in ranked],
        "genes": names,
        "values": [[finite(v) for v in row] for row in changes[:, columns]],
        "called": called[:, columns].tolist(),
        "called_by": _called_by(plan),
        "zlabel": CHANGE_LABEL,
        "null_limit": _null_limit(plan, columns),
    }
    numbers = [
        _heat_number(ranked[r], names[c], tables[r], int(i))
        for r in range(len(ranked))
        for c, i in enumerate(columns)
    ]
    return job, numbers, {"summary": f"Heat map of {len(ranked)} candidates", "caveats": []}


_Table = tuple[Floats, NDArray[np.bool_], dict[str, Floats]]
"""Changes, whether their sign is called, and by which figures, each [genes]."""


def _effect_table(app: App, row: Ranked) -> _Table:
    record = shown(app, row.experiment_id)
    blob = record.artifact("effects")
    if blob is None:
        message = (
            f"the effect of {row.experiment_id} is not stored here; "
            f'replay_experiment(id="{row.experiment_id}") makes it again'
        )
        raise InputError(message)
    effect = unpack_effect(blob)
    # Columns of the CSV beside the change.
    figures = {"change_se": effect.change_se} if effect.change_se is not None else {}
    stored = stored_effect(row.design)
    # By the posterior where there is one; else by rank among null labels.
    if stored is not None:
        lfsr = np.maximum(stored.posterior.lfsr, LEAST_LFSR)
        figures |= {"lfsr": lfsr, "effect_mean": stored.posterior.mean}
        figures |= {"effect_sd": stored.posterior.sd}
        return effect.change, lfsr <= SUPPORTED, figures
    null, _ = null_labels(row.design)
    if null is None:
        return effect.change, np.zeros(len(effect.change), bool), figures
    q = null.gene_q(effect)
    return effect.change, q <= HIT_FDR, figures | {"sham_q": q}


def _columns(plan: Plan, changes: Floats, genes: Sequence[str] | None) -> list[int]:
    panel = plan.control.checkpoint.panel
    if genes:
        return [panel.index(gene) for gene in resolve_genes(plan.control.checkpoint, genes)]
    targets = {i.target for design in plan.designs for i in design.interventions}
    # Over the candidates, [genes]: a column is shown if any of them moves it.
    largest = np.nanmax(np.abs(np.nan_to_num(changes)), axis=0)
    return [i for i in strongest(largest) if panel[i] not in targets][:HEAT_GENES]


def _null_limit(plan: Plan, columns: Sequence[int]) -> float | None:
    """Return half the 95 % range of null labels over these genes; None without null labels."""
    if stored_effect(plan.designs[0]) is not None:
        return None
    null, _ = null_labels(plan.control)
    return None if null is None else finite(np.nanquantile(np.abs(null.changes[:, columns]), 0.95))


def _called_by(plan: Plan) -> str:
    if stored_effect(plan.designs[0]) is not None:
        return f"sign supported (lfsr ≤ {SUPPORTED:g})"
    if null_labels(plan.control)[0] is None:
        return "no null labels: no sign is tested"
    return "unlike null labels (FDR ≤ 5 %); dashed: their 95 % range"


def _heat_number(row: Ranked, gene: str, table: _Table, i: int) -> dict[str, Any]:
    figures = {name: finite(values[i]) for name, values in table[2].items()}
    return {
        "perturbation": row.design.label,
        "experiment_id": row.experiment_id,
        "gene": gene,
        "change": finite(table[0][i]),
        "called": bool(table[1][i]),
        **figures,
    }


def violin(app: App, name: str, top: int | None, genes: Sequence[str] | None) -> Picture:
    """Return violins of named genes, or of those that change most."""
    record = _of_cells(app, name, "violin")
    design = record.design
    panel = list(design.checkpoint.panel)
    changes = unpack_effect(record.artifact("effects") or b"").change
    limit = min(top or VIOLINS, MOST_VIOLINS)
    chosen = resolve_genes(design.checkpoint, genes) if genes else []
    if len(chosen) > MOST_VIOLINS:
        message = f"genes has {len(chosen)} genes; a picture of violins shows 1 to {MOST_VIOLINS}"
        raise InputError(message)
    # Panel positions.
    columns = [panel.index(g) for g in chosen] or strongest(changes)[:limit]
    unmeasured = [panel[i] for i in columns if not np.isfinite(changes[i])]
    if unmeasured:
        message = f"{', '.join(unmeasured)}: not measured in this context; leave them out of genes"
        raise InputError(message)
    job = _cells_job(record, "violin") | {
        "genes": [panel[i] for i in columns],
        "columns": columns,
        "ylabel": LEVEL_LABEL,
    }
    return job, [], {"summary": f"Violins of {record.design.label}", "caveats": []}


def embedding(app: App, name: str, top: int | None, genes: Sequence[str] | None) -> Picture:
    """Return an embedding of control and perturbed cells."""
    unused("embedding", top=top, genes=genes)
    record = _of_cells(app, name, "embedding")
    targets = {i.target for i in record.design.interventions}
    # A target's loss could separate the arms along an axis of its own.
    left_out = [i for i, gene in enumerate(record.design.checkpoint.panel) if gene in targets]
    job = _cells_job(record, "embedding") | {"left_out": left_out}
    if left_out:
        job["footnote"] = f"Targets' own genes left out.  {job['footnote']}"
    return job, [], {"summary": f"Cells of {record.design.label}", "caveats": []}


def _cells_job(record: Shown, kind: str) -> dict[str, Any]:
    arms: dict[str, dict[str, str]] = {}
    for arm in ("control", "perturbed"):
        file = record.artifact_file(arm)
        if file is None:
            message = (
                f"the cells of {record.experiment.id} are not stored here; "
                f'replay_experiment(id="{record.experiment.id}") makes them again'
            )
            raise InputError(message)
        # The child reads the file and checks its digest itself.
        arms[arm] = {"blob": str(file[0].absolute()), "digest": file[1]}
    design = record.design
    return {
        "kind": kind,
        "title": f"Predicted, not measured: cells under {design.label}",
        "subtitle": f"{context_label(design.context)} · {design.checkpoint.name} · "
        f"{design.n_cells} paired simulated cells"
        + (f", first {MOST_CELLS} drawn" if design.n_cells > MOST_CELLS else ""),
        "footnote": f"{design_sentence(design)}  {record.experiment.id}",
        "arms": arms,
        "most_cells": MOST_CELLS,
    }


def interaction(app: App, name: str, top: int | None, genes: Sequence[str] | None) -> Picture:
    """Return the stored effect of a combination against the sum of its parts' effects."""
    unused("interaction", genes=genes)
    design = shown(app, name).design
    stored = stored_effect(design)
    parts = parts_of(design, stored)
    if stored is None or parts is None:
        message = (
            f"{name} ({design.label}) has no interaction to plot; it needs an experiment of two or "
            "more perturbations, of a checkpoint that stores the effect of each"
        )
        raise InputError(message)
    # [genes], log1p_cp10k: what no interaction at all would give.
    total = parts.means.sum(axis=0)
    # Variances of the combination and of its parts add up, as if independent.
    half = NORMAL_95 * np.sqrt(stored.posterior.sd**2 + _parts_variance(design))
    # Interaction: the combination less the sum of its parts.
    beyond = stored.posterior.mean - total
    # Without cells of the combination its effect is a rule: no sign is called.
    called = np.where(np.abs(beyond) > half, np.sign(beyond), 0) if parts.measured else 0 * beyond
    order = strongest(beyond)
    panel = design.checkpoint.panel
    note = (
        "95 % intervals from posterior errors of the combination and its parts."
        if parts.measured
        else "Not trained on: the combination is a rule of saturation, and shows no synergy."
    )
    numbers = [
        {
            "gene": panel[i],
            "sum_of_parts": finite(total[i]),
            "combination": finite(stored.posterior.mean[i]),
            "saturating": finite(parts.saturating[i]),
            "interaction": finite(beyond[i]),
            "interval_low": finite(beyond[i] - half[i]),
            "interval_high": finite(beyond[i] + half[i]),
            "called": int(called[i]),
        }
        for i in order
    ]
    named = [row["gene"] for row in numbers if row["called"]][: top or 20]
    job = {
        "kind": "interaction",
        "title": f"Predicted, not measured: {design.label} beyond its parts",
        "subtitle": f"{context_label(design.context)} · {design.checkpoint.name} · stored effects",
        "footnote": f"{note}  {name}",
        "genes": [panel[i] for i in order],
        "x": [float(total[i]) for i in order],
        "y": [float(stored.posterior.mean[i]) for i in order],
        "half": [float(half[i]) for i in order],
        "called": [int(called[i]) for i in order],
        "labels": named,
        "target": [i.target for i in design.interventions],
        "xlabel": "sum of the parts, Δ ln(1 + counts per 10,000)",
        "ylabel": "combination, Δ ln(1 + counts per 10,000)",
    }
    caveats = [] if parts.measured else [note]
    return job, numbers, {"summary": f"Interaction of {design.label}", "caveats": caveats}


def _parts_variance(design: Design) -> Floats:
    """Return the summed posterior variance of the parts' effects, [genes]."""
    alone = [replace(design, interventions=(each,)) for each in design.interventions]
    stored = [effect for part in alone if (effect := stored_effect(part)) is not None]
    return np.sum([effect.posterior.sd**2 for effect in stored], axis=0)


def _of_cells(app: App, name: str, kind: str) -> Shown:
    record = shown(app, name)
    if not record.succeeded or record.artifact_file("effects") is None:
        message = (
            f"{name} ({record.design.tool}) has no stored cells to plot; a picture of kind {kind} "
            "needs a perturb_cells experiment that succeeded. get_experiment shows its state."
        )
        raise InputError(message)
    return record


def unused(kind: str, **given: Any) -> None:
    """Refuse arguments that have no meaning for a kind of picture.

    Raises:
        InputError: one of them is given.
    """
    names = [name for name, value in given.items() if value is not None]
    if names:
        message = f"{', '.join(names)} has no meaning for kind={kind!r}; leave it out"
        raise InputError(message)
