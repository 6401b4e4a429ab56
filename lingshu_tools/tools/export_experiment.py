"""export_experiment: the cells of an experiment or a screen as a file other software reads.

The file is written by a child process. Knows nothing of how the cells were made.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lingshu_tools.children import run_child
from lingshu_tools.errors import InputError
from lingshu_tools.ledger import Experiment
from lingshu_tools.registry import Arguments, ToolSpec
from lingshu_tools.results import Result
from lingshu_tools.tools.common import AnyId
from lingshu_tools.views import Shown, envelope, shown

if TYPE_CHECKING:
    from lingshu_tools.app import App

FORMAT = "lingshu-export-1"
CELL_ROLES = ("control", "perturbed", "cells")
MAX_CELLS = 500_000
MADE = "simulated by a model, not measured; X holds UMI counts, 0 where var['measured'] is false"


class ExportExperiment(Arguments):
    """Arguments of export_experiment."""

    id: AnyId
    format: Literal["h5ad"] = Field(default="h5ad", description="h5ad: AnnData, raw counts")


class ExportResult(Result):
    """Where the file is and what is in it."""

    path: str
    digest: str = Field(description="sha256 of the file")
    bytes: int
    n_obs: int
    n_vars: int


def export_experiment(app: App, asked: ExportExperiment) -> ExportResult:
    """Return a file with the cells of an experiment, or of all finished ones of a screen."""
    ones = _finished(app, asked.id)
    folder = app.home / "exports"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{asked.id}.{asked.format}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".arms-") as blobs:
        job = {
            "arms": _arms(ones, Path(blobs)),
            "var": _var(ones[0]),
            "uns": {"lingshu": json.dumps(_provenance(app, asked.id, ones), sort_keys=True)},
            "out": str(out),
        }
        written = run_child("export", job)
    cells = f"{written['n_obs']} simulated cells × {written['n_vars']} genes"
    fields = envelope(app, ones[0]) | {
        "status": "succeeded",
        "summary": f"{cells} of {asked.id} written to {out}",
        "units": {"X": "count (UMI)"},
        "caveats": _missing(app, asked.id, ones),
        "next_step": f'anndata.read_h5ad("{out}"); provenance is in uns["lingshu"], as JSON',
    }
    if asked.id.startswith("scr_"):
        fields |= {"experiment_id": None, "screen_id": asked.id, "support": None, "evidence": None}
    return ExportResult(**fields, path=str(out), **written)


def _finished(app: App, name: str) -> list[Shown]:
    ids = [name]
    if name.startswith("scr_"):
        ids = [child.id for child in app.ledger.children(app.ledger.screen(name).id)]
    ones = [one for one in (shown(app, i) for i in ids) if one.succeeded]
    if not ones:
        message = f"{name} has no finished experiment to export; get_experiment shows its state"
        raise InputError(message)
    cells = sum(one.design.total_cells for one in ones)
    if cells > MAX_CELLS:
        message = (
            f"{name} holds {cells:,} cells; up to {MAX_CELLS:,} fit in one file. Export its "
            "experiments one by one."
        )
        raise InputError(message)
    return ones


def _arms(ones: Sequence[Shown], folder: Path) -> list[dict[str, Any]]:
    """Return the distinct arms, the control of a screen once, with their blobs in `folder`."""
    arms: dict[str, dict[str, Any]] = {}
    for one in ones:
        artifacts = one.outcome.artifacts if one.outcome else {}
        for role in (r for r in CELL_ROLES if r in artifacts and artifacts[r] not in arms):
            blob = one.artifact(role)
            if blob is None:
                message = (
                    f"the {role} cells of {one.experiment.id} are not stored here; "
                    f'replay_experiment(id="{one.experiment.id}") makes them again'
                )
                raise InputError(message)
            path = folder / f"{len(arms)}.safetensors"
            path.write_bytes(blob)
            arms[artifacts[role]] = {"blob": str(path), "obs": _obs(one, role)}
    return list(arms.values())


def _obs(one: Shown, role: str) -> dict[str, Any]:
    design = one.design
    given = () if role == "control" else design.interventions
    own = {
        "arm": role,
        "experiment_id": one.experiment.id,
        "seed": design.seed,
        "first_cell": design.first_cell,
        "perturbation": design.label if given else "control",
        "targets": "+".join(i.target for i in given),
        "kinds": "+".join(i.kind for i in given),
    }
    context = {f"context_{k}" if k in own else k: v for k, v in design.context.items()}
    return own | context


def _var(one: Shown) -> dict[str, list[Any]]:
    entries = one.design.checkpoint.panel_entries
    return {
        "symbol": [e["symbol"] for e in entries],
        "ensembl": [e.get("ensembl") or "" for e in entries],
    }


def _provenance(app: App, name: str, ones: Sequence[Shown]) -> dict[str, Any]:
    checkpoint = ones[0].design.checkpoint
    tiers = sorted({one.design.support.tier for one in ones})
    measured: Mapping[str, Any] = checkpoint.evidence.get("tiers") or {}
    return {
        "format": FORMAT,
        "id": name,
        "note": MADE,
        "checkpoint": {
            "name": checkpoint.name,
            "digest": checkpoint.digest,
            "panel_digest": checkpoint.panel_digest,
        },
        "screen": dict(app.ledger.screen(name).plan) if name.startswith("scr_") else None,
        "experiments": [_row(one) for one in ones],
        "evidence": {t: (measured.get(t) or {}).get("headline") for t in tiers},
        "ledger_head": str(ones[0].ledger.head()),
    }


def _row(one: Shown) -> dict[str, Any]:
    row: Experiment = one.experiment
    outcome = one.outcome
    digest = outcome.environment_digest if outcome else None
    return {
        "id": row.id,
        "tool": row.tool,
        "request": dict(row.request),
        "request_digest": row.request_digest,
        "created_at": row.created_at,
        "principal": row.principal,
        "door": row.door,
        "support": one.design.support.tier,
        "artifacts": dict(outcome.artifacts) if outcome else {},
        "environment_digest": digest,
        "environment": one.ledger.environment(digest) if digest else None,
    }


def _missing(app: App, name: str, ones: Sequence[Shown]) -> list[str]:
    if not name.startswith("scr_"):
        return []
    total = len(app.ledger.screen(name).plan["candidates"])
    return [] if len(ones) == total else [f"Only the {len(ones)} finished of {total} candidates."]


SPEC = ToolSpec(
    name="export_experiment",
    title="Export cells",
    description=(
        "Write the simulated cells of an experiment (exp_…) or of all finished experiments of a "
        "screen (scr_…, its shared control once) to an AnnData file (.h5ad) and return its path "
        "and sha256. X holds raw integer UMI counts (sparse); obs has arm, cell_index, seed, "
        "perturbation and context; var has symbol, ensembl and measured; uns['lingshu'] is the "
        "full provenance as JSON. Nothing is simulated. Use it when the numbers of get_experiment "
        "are not enough."
    ),
    arguments=ExportExperiment,
    result=ExportResult,
    run=export_experiment,
    read_only=False,
)
