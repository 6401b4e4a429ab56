"""Experiments and screens whose checkpoint is not here, as the ledger alone can show them.

A row keeps the strongest genes of its outcome with their names. What needs the checkpoint (support,
held-out evidence, the other genes) is left out, and a caveat says which digest is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lingshu_tools.errors import MissingCheckpointError
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.designs import context_label
from lingshu_tools.ledger import Ledger, Screen
from lingshu_tools.report.effect_view import MONTE_CARLO, UNITS, kept_gene
from lingshu_tools.report.experiment_views import Recorded
from lingshu_tools.report.kept_rows import kept_rows
from lingshu_tools.report.result_parts import GeneMean

_INSTALL = "Install the checkpoint that the caveat names; then ask again."


def experiment_fields(
    record: Recorded,
    missing: MissingCheckpointError,
    *,
    limit: int,
    offset: int,
    genes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the fields of a result that a row and its outcome give; `genes` alone if named."""
    row, outcome = record.experiment, record.outcome
    # From the columns of the row alone: the design needs the checkpoint.
    where = f"{row.perturbation or 'control'} in {row.context or 'no context'}"
    status = outcome.kind if outcome else record.ledger.status(row.id)
    fields: dict[str, Any] = {
        "status": status,
        "summary": f"{where}: {status}. {outcome.error or ''}".rstrip() if outcome else "",
        "experiment_id": row.id,
        "ledger_head": str(record.ledger.head()),
        "perturbation": row.perturbation,
        "context": dict(row.request.get("context") or {}),
        "n_cells": row.request.get("n_cells"),
        "caveats": [str(missing)],
        "next_step": _INSTALL,
    }
    if outcome is None:
        fields["summary"] = f"{where}: {status}; it cannot go on without its checkpoint."
    if record.succeeded:
        fields |= _genes(record, where, limit, offset, genes)
        # What is missing comes first: all that follows is less than was asked for.
        fields["caveats"] = [str(missing), *fields["caveats"]]
    return fields


def screen_fields(
    ledger: Ledger, screen: Screen, missing: MissingCheckpointError
) -> dict[str, Any]:
    """Return the fields of a result that a screen's rows give: how many are in which state."""
    # One of each position: those that were begun again count, what they stand for does not.
    children = candidates_of(ledger, screen.id)
    counts = Counter(str(ledger.status(child.id)) for child in children)
    states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    complete = counts["succeeded"] == len(children)
    return {
        "status": "succeeded" if complete else "interrupted",
        "summary": f"{len(children)} experiments: {states or 'none begun'}. They are ranked with "
        "their checkpoint, which is not here.",
        "screen_id": screen.id,
        "ledger_head": str(ledger.head()),
        "caveats": [str(missing)],
        "next_step": _INSTALL,
    }


def _genes(
    record: Recorded, where: str, limit: int, offset: int, genes: Sequence[str] | None
) -> dict[str, Any]:
    name, tool = record.experiment.id, record.experiment.tool
    if tool == "score_cells":
        # A score has no genes, and its numbers need no panel.
        best = min(record.result["contexts"], key=lambda row: row["bits"] or 0.0)
        return {
            "summary": f"{where}: best fits {context_label(best['context'])}; as cells of the "
            f"first context they are {record.result['verdict']}.",
            "caveats": [],
        }
    # Kept genes of sampled and completed cells are means, those of a perturbation changes.
    means = tool in ("sample_cells", "complete_cells")
    page = kept_rows(
        record.result,
        name,
        limit=limit,
        offset=offset,
        genes=genes,
        total=None if means else record.result["measured_genes"],
        rest=_INSTALL,
    )
    kept = record.result["kept"]
    form = ".2f" if means else "+.2f"
    top = ", ".join(f"{row['gene']} {row['value']:{form}}" for row in kept[:3])
    if means:
        return {
            "summary": f"{where}: highest genes (log1p_cp10k) {top}.",
            "units": {"mean": "log1p_cp10k"},
            "caveats": page.caveats,
            "genes": [
                GeneMean(gene=row["gene"], mean=row["value"], training_mean=None)
                for row in page.rows
            ],
            "truncated": page.truncated,
        }
    return {
        "summary": f"{where}: strongest changes (log1p_cp10k) {top}. What they are worth is in the "
        "evidence of their checkpoint, which is not here.",
        "units": UNITS,
        "caveats": [*page.caveats, MONTE_CARLO],
        "genes": [kept_gene(row, int(record.result["n_cells"])) for row in page.rows],
        "truncated": page.truncated,
    }
