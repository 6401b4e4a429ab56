"""export_experiment: an experiment or a screen as a file that other software reads or runs.

An h5ad is written by a child process. Knows nothing of how the cells were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lingshu_model.wire.durable import write_durably
from lingshu_tools.children import run_child
from lingshu_tools.errors import InputError
from lingshu_tools.gene_tables import EFFECT_UNITS, SAMPLE_UNITS, effect_rows, sample_rows
from lingshu_tools.ledger import Experiment, digest_file
from lingshu_tools.registry import Arguments, ToolSpec
from lingshu_tools.results import Result
from lingshu_tools.scripts import script
from lingshu_tools.tables import write_csv
from lingshu_tools.tools.common import AnyId
from lingshu_tools.tools.run_screen import locate_screen
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
    format: Literal["h5ad", "csv", "script"] = Field(
        default="h5ad",
        description="h5ad: AnnData, raw counts; csv: one row per gene; script: Python that "
        "reproduces it and compares",
    )


class ExportResult(Result):
    """Where the file is and what is in it."""

    path: str
    digest: str = Field(description="sha256 of the file")
    bytes: int
    n_obs: int | None = Field(default=None, description="Cells of an h5ad")
    n_vars: int | None = Field(default=None, description="Genes of an h5ad")
    rows: int | None = Field(default=None, description="Rows of a csv, experiments of a script")


def export_experiment(app: App, asked: ExportExperiment) -> ExportResult:
    """Return a file made of an experiment, or of all finished ones of a screen."""
    ones = _finished(app, asked.id, asked.format)
    folder = app.home / "exports"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{asked.id}.{_SUFFIX.get(asked.format, asked.format)}"
    written, said = _WRITERS[asked.format](app, asked.id, ones, out)
    fields = envelope(app, ones[0]) | {
        "status": "succeeded",
        "caveats": _missing(app, asked.id, ones),
        **said,
    }
    if asked.id.startswith("scr_"):
        fields |= {"experiment_id": None, "screen_id": asked.id, "support": None, "evidence": None}
    whole: dict[str, Any] = {"digest": digest_file(out), "bytes": out.stat().st_size, **written}
    return ExportResult(**fields, path=str(out), **whole)


def _h5ad(app: App, name: str, ones: Sequence[Shown], out: Path) -> _Written:
    job = {
        "arms": _arms(ones),
        "var": _var(ones[0]),
        "uns": {"lingshu": json.dumps(_provenance(app, name, ones), sort_keys=True)},
        "out": str(out),
    }
    written = run_child("export", job)
    cells = f"{written['n_obs']} simulated cells × {written['n_vars']} genes"
    return written, {
        "summary": f"{cells} of {name} written to {out}",
        "units": {"X": "count (UMI)"},
        "next_step": f'anndata.read_h5ad("{out}"); provenance is in uns["lingshu"], as JSON',
    }


def _csv(_: App, name: str, ones: Sequence[Shown], out: Path) -> _Written:
    samples = ones[0].experiment.tool == "sample_cells"
    role, rows_of = ("cells", sample_rows) if samples else ("effects", effect_rows)
    rows = write_csv(out, (row for one in ones for row in rows_of(one, _file(one, role))))
    return {"rows": rows}, {
        "summary": f"{rows:,} rows, one per gene and experiment, of {name} written to {out}; "
        "simulated, not measured",
        "units": SAMPLE_UNITS if samples else EFFECT_UNITS,
        "next_step": 'format="h5ad" writes the cells themselves, with their whole provenance.',
    }


def _script(_: App, name: str, ones: Sequence[Shown], out: Path) -> _Written:
    write_durably(out, script(ones).encode())
    return {"rows": len(ones)}, {
        "summary": f"a Python script that runs {name} again and compares the cells bit for bit, "
        f"written to {out}",
        "next_step": f"python -P {out} NEW_FOLDER computes everything anew; it exits with 1 where "
        "anything differs.",
    }


_Written = tuple[dict[str, Any], dict[str, Any]]
_WRITERS = {"h5ad": _h5ad, "csv": _csv, "script": _script}
_SUFFIX = {"script": "py"}


def _finished(app: App, name: str, form: str) -> list[Shown]:
    ids = [name]
    if name.startswith("scr_"):
        ledger, screen = locate_screen(app, name)
        ids = [child.id for child in ledger.children(screen.id)]
    ones = [one for one in (shown(app, i) for i in ids) if one.succeeded]
    if not ones:
        message = f"{name} has no finished experiment to export; get_experiment shows its state"
        raise InputError(message)
    cells = sum(one.design.total_cells for one in ones)
    if form == "h5ad" and cells > MAX_CELLS:
        message = (
            f"{name} holds {cells:,} cells; up to {MAX_CELLS:,} fit in one file. Export its "
            "experiments one by one."
        )
        raise InputError(message)
    return ones


def _arms(ones: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return the distinct arms, the control of a screen once, each with the file of its cells."""
    arms: dict[str, dict[str, Any]] = {}
    for one in ones:
        artifacts = one.outcome.artifacts if one.outcome else {}
        for role in (r for r in CELL_ROLES if r in artifacts and artifacts[r] not in arms):
            arms[artifacts[role]] = {"blob": str(_file(one, role)), "obs": _obs(one, role)}
    return list(arms.values())


def _file(one: Shown, role: str) -> Path:
    file = one.artifact_file(role)
    if file is None:
        message = (
            f"the {role} of {one.experiment.id} are not stored here; "
            f'replay_experiment(id="{one.experiment.id}") makes them again'
        )
        raise InputError(message)
    return file


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
        "screen": dict(locate_screen(app, name)[1].plan) if name.startswith("scr_") else None,
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
        "ledger_row": row.seq,
        "created_at": row.created_at,
        "principal": row.principal,
        "door": row.door,
        "parent": row.parent,
        "sealed_at": outcome.created_at if outcome else None,
        "seconds": outcome.seconds if outcome else None,
        "replays": [
            {"replay": v.replay_id, "verdict": v.verdict, "at": v.created_at}
            for v in one.ledger.verifications(row.id)
        ],
        "support": one.design.support.tier,
        "artifacts": dict(outcome.artifacts) if outcome else {},
        "environment_digest": digest,
        "environment": one.ledger.environment(digest) if digest else None,
    }


def _missing(app: App, name: str, ones: Sequence[Shown]) -> list[str]:
    if not name.startswith("scr_"):
        return []
    total = len(locate_screen(app, name)[1].plan["candidates"])
    return [] if len(ones) == total else [f"Only the {len(ones)} finished of {total} candidates."]


SPEC = ToolSpec(
    name="export_experiment",
    title="Export cells, numbers or a script",
    description=(
        "Write an experiment (exp_…) or all finished experiments of a screen (scr_…) to a file and "
        "return its path and sha256. h5ad: the simulated cells (a screen's shared control once); X "
        "holds raw integer UMI counts (sparse), obs arm, cell_index, seed, perturbation and "
        "context, var symbol, ensembl and measured, uns['lingshu'] the full provenance as JSON. "
        "csv: one row per gene with effect, intervals, prediction error and sham_q, for "
        "spreadsheets. script: a Python program that runs it again and compares bit for bit. "
        "Nothing is simulated. Use it when the numbers of get_experiment are not enough."
    ),
    arguments=ExportExperiment,
    result=ExportResult,
    run=export_experiment,
    read_only=False,
)
