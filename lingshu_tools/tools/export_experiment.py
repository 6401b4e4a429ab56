"""export_experiment: an experiment or a screen as a file that other software reads or runs.

h5ad and csv are written by a child process, which goes on when the call returns before it is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lingshu_model.contracts import decode_cells
from lingshu_model.system.durable import write_durably
from lingshu_tools.calls.registry import Arguments, ToolSpec
from lingshu_tools.calls.results import Result, call_text
from lingshu_tools.calls.waiting import Pending
from lingshu_tools.children import Answer, State, Task, Work
from lingshu_tools.children.task import Kind
from lingshu_tools.errors import InputError
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.lookup import is_screen, locate_screen
from lingshu_tools.ledger import Experiment, digest_bytes
from lingshu_tools.ledger.home import output_file
from lingshu_tools.report.experiment_views import Shown, envelope, shown
from lingshu_tools.report.gene_tables import EFFECT_UNITS, SAMPLE_UNITS
from lingshu_tools.report.replay_scripts import script
from lingshu_tools.tools.common import AnyId, WaitS
from lingshu_tools.tools.unfinished_files import created_at_of, unfinished

if TYPE_CHECKING:
    from lingshu_tools.app import App

FORMAT = "lingshu-export-1"
CELL_ROLES = ("control", "perturbed", "cells")
COLUMNS = (
    "arm",
    "experiment_id",
    "seed",
    "first_cell",
    "perturbation",
    "targets",
    "kinds",
)
"""Columns of `obs` that every file has, beside those of the context."""
MAX_CELLS = 500_000
NUMBERS = {"sample_cells": "cells", "complete_cells": "cells", "score_cells": "scores"}
"""Artifact of the numbers of an experiment, by tool; `effects` of others."""
SIMULATED = (
    "simulated by a model, not measured; X holds UMI counts, 0 where var['measured'] is false"
)

OF_USER_CELLS = (
    "control: a user's cells as they were measured; perturbed: simulated from them by a model; X "
    "holds UMI counts, 0 where var['measured'] is false"
)


class ExportExperiment(Arguments):
    """Arguments of export_experiment."""

    id: AnyId
    format: Literal["h5ad", "csv", "script"] = Field(
        default="h5ad",
        description="h5ad: AnnData, raw counts; csv: one row per gene; script: Python that "
        "reproduces it and compares",
    )
    wait_s: WaitS = 4


class ExportResult(Result):
    """Where the file is and what is in it."""

    path: str | None = Field(default=None, description="null until it is written, as the rest")
    digest: str | None = Field(default=None, description="sha256 of the file")
    bytes: int | None = None
    n_obs: int | None = Field(default=None, description="Cells of an h5ad")
    n_vars: int | None = Field(default=None, description="Genes of an h5ad")
    rows: int | None = Field(default=None, description="Rows of a csv, experiments of a script")


def export_experiment(
    app: App, arguments: ExportExperiment
) -> ExportResult | Pending[ExportResult]:
    """Return a file made of an experiment, or of all finished ones of a screen, or the wait."""
    if arguments.format == "script":
        return ExportResult(**_subject(app, arguments.id) | _script(app, arguments))
    request = f"{arguments.id} {arguments.format}"
    kind: Kind = "export" if arguments.format == "h5ad" else "table"
    # A child that works at the same request is joined, before the ledger is read again.
    work = app.children.join(kind, request)
    if work is None:
        records = _finished(app, arguments.id, arguments.format)
        job = (_h5ad if kind == "export" else _csv)(app, arguments.id, records)
        # Kept with the answer, which a later call reads, perhaps of another process.
        facts = {
            "caveats": _missing(app, arguments.id, records),
            "tool": records[0].experiment.tool,
            "cells_too": _cells_too(arguments.id, records),
            "cells": "simulated cells" if records[0].design.cells is None else "cells",
        }
        task = Task(kind, request, job, folder=app.home / "exports", facts=facts)
        work = app.children.begin(task)
    return created_at_of(
        work, arguments.id, arguments.wait_s, lambda: _result(app, arguments, work)
    )


def _result(app: App, arguments: ExportExperiment, work: Answer | Work) -> ExportResult:
    fields = _written(arguments, app.children.result(work))
    # Later fields win: those of the file replace the state of the experiment.
    return ExportResult(**_subject(app, arguments.id) | fields)


def _subject(app: App, name: str) -> dict[str, Any]:
    """Return the fields that do not depend on the file."""
    if is_screen(name):
        return {"screen_id": name, "ledger_head": str(app.ledger.head())}
    return envelope(app, shown(app, name))


def _written(request: ExportExperiment, written: Answer | State) -> dict[str, Any]:
    """Return the fields that say where the file is, or how far it is."""
    if not isinstance(written, Answer):
        arguments = request.model_dump(exclude={"wait_s"})
        what = f"The {request.format} file of {request.id}"
        return unfinished("export_experiment", what, written, arguments)
    # A child of this kind writes exactly one file.
    ((suffix, path),) = written.paths.items()
    words = _h5ad_words if suffix == "h5ad" else _csv_words
    return {
        "status": "succeeded",
        "caveats": written.facts["caveats"],
        **words(request.id, str(path), written),
        "path": str(path),
        "digest": written.digests[suffix],
        "bytes": written.files[suffix][1],
        **written.details,
    }


def _h5ad(app: App, name: str, records: Sequence[Shown]) -> dict[str, Any]:
    return {
        "name": f"{name}.h5ad",
        "arms": _arms(records),
        "var": _var(records[0]),
        "uns": {"lingshu": json.dumps(_provenance(app, name, records), sort_keys=True)},
    }


def _h5ad_words(name: str, path: str, written: Answer) -> dict[str, Any]:
    kind = written.facts.get("cells", "simulated cells")
    cells = f"{written.details['n_obs']} {kind} × {written.details['n_vars']} genes"
    return {
        "summary": f"{cells} of {name} written to {path}",
        "units": {"X": "count (UMI)"},
        "next_step": f"anndata.read_h5ad({json.dumps(path)}); provenance is in "
        'uns["lingshu"], as JSON',
    }


def _csv(app: App, name: str, records: Sequence[Shown]) -> dict[str, Any]:
    return {"name": f"{name}.csv", "parts": [_part(app, record) for record in records]}


def _part(app: App, record: Shown) -> dict[str, Any]:
    file, digest = _file(record, NUMBERS.get(record.experiment.tool, "effects"))
    return {
        "id": record.experiment.id,
        "tool": record.experiment.tool,
        "request": dict(record.experiment.request),
        # The child process has no catalogue: it reads the folder.
        "checkpoint": str(record.design.checkpoint.path.absolute()),
        "home": str(app.home.absolute()),
        "file": str(file.absolute()),
        "digest": digest,
    }


def _csv_words(name: str, path: str, written: Answer) -> dict[str, Any]:
    samples = written.facts["tool"] in ("sample_cells", "complete_cells")
    return {
        "summary": f"{written.details['rows']:,} rows, one per gene and experiment, of {name} "
        f"written to {path}; simulated, not measured",
        "units": SAMPLE_UNITS if samples else EFFECT_UNITS,
        "next_step": written.facts.get("cells_too"),
    }


def _cells_too(name: str, records: Sequence[Shown]) -> str:
    """Return how to get the cells of what is written as numbers."""
    tool = records[0].experiment.tool
    if tool == "score_cells":
        return call_text("get_experiment", id=name)
    roles = ("cells",) if tool in NUMBERS else ("control", "perturbed")
    # A step that is named must be possible.
    fits = sum(record.design.total_cells for record in records) <= MAX_CELLS
    if fits and all(record.stored(*roles) for record in records):
        h5ad = call_text("export_experiment", id=name, format="h5ad")
        return f"{h5ad} writes the cells themselves, with their whole provenance."
    return f"{call_text('export_experiment', id=name, format='script')} writes a script for them."


def _script(app: App, arguments: ExportExperiment) -> dict[str, Any]:
    records = _finished(app, arguments.id, arguments.format)
    # Written here, not by a child: it is text of some kilobytes.
    path = output_file(app.home, "exports", f"{arguments.id}.py")
    text = script(records).encode()
    write_durably(path, text)
    return {
        "status": "succeeded",
        "summary": f"a Python script that runs {arguments.id} again and compares the cells bit for "
        f"bit, written to {path}",
        "caveats": _missing(app, arguments.id, records),
        "next_step": f"`python -P {quote(str(path))} {quote(str(path.with_suffix('')))}` computes "
        "everything anew, in a home of its own; it exits with 1 where anything differs.",
        "path": str(path),
        "digest": digest_bytes(text),
        "bytes": len(text),
        "rows": len(records),
    }


def _finished(app: App, name: str, form: str) -> list[Shown]:
    ids = [name]
    if is_screen(name):
        ledger, screen = locate_screen(app, name)
        ids = [child.id for child in candidates_of(ledger, screen.id)]
    records = [record for record in (shown(app, i) for i in ids) if record.succeeded]
    if not records:
        message = f"{name} has no finished experiment to export; get_experiment shows its state"
        raise InputError(message)
    if form == "h5ad" and records[0].experiment.tool == "score_cells":
        message = (
            f"{name} has scores and no cells: format='csv' writes the scores of each cell, and the "
            "cells are those of your file"
        )
        raise InputError(message)
    cells = sum(record.design.total_cells for record in records)
    if form == "h5ad" and cells > MAX_CELLS:
        message = (
            f"{name} holds {cells:,} cells; up to {MAX_CELLS:,} fit in one file. Export its "
            "experiments one by one."
        )
        raise InputError(message)
    return records


def _arms(records: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return the distinct arms, the control of a screen once, each with the file of its cells."""
    arms: dict[str, dict[str, Any]] = {}
    for record in records:
        artifacts = record.outcome.artifacts if record.outcome else {}
        # By digest: all candidates of a screen name the same control cells.
        for role in (r for r in CELL_ROLES if r in artifacts and artifacts[r] not in arms):
            file, digest = _file(record, role)
            blob = {"blob": str(file.absolute()), "digest": digest}
            arms[digest] = blob | {"obs": _obs(record, role), **_obs_of_parts(record, role)}
    return list(arms.values())


def _file(record: Shown, role: str) -> tuple[Path, str]:
    file = record.artifact_file(role)
    if file is None:
        message = (
            f"the {role} of {record.experiment.id} are not stored here; "
            f'replay_experiment(id="{record.experiment.id}") makes them again'
        )
        raise InputError(message)
    return file


def _obs(record: Shown, role: str) -> dict[str, Any]:
    design = record.design
    # Cells of the control arm have had no intervention.
    given = () if role == "control" else design.interventions
    values = (
        role,
        record.experiment.id,
        design.seed,
        design.first_cell,
        design.label if given else "control",
        "+".join(i.target for i in given),
        "+".join(i.kind for i in given),
    )
    return dict(zip(COLUMNS, values, strict=True)) | _columns(design.context)


def _columns(context: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of a context's fields."""
    # A field of a context may have the name of a column.
    return {f"context_{name}" if name in COLUMNS else name: v for name, v in context.items()}


def _obs_of_parts(record: Shown, role: str) -> dict[str, Any]:
    """Return the columns of each part of a mixture, and which part each cell is of."""
    design = record.design
    if design.mixture is None:
        return {}
    numbers = design.arms[role].context_numbers(design.first_cell, design.n_cells)
    parts = [_columns(part.context) for part in design.mixture.parts]
    return {"parts": parts, "part_of_cell": numbers.tolist()}


def _var(record: Shown) -> dict[str, list[Any]]:
    entries = record.design.checkpoint.panel_entries
    drawn: dict[str, list[Any]] = {}
    if given := record.artifact("given"):
        measured = decode_cells(given).measured
        drawn = {"in_file": ["yes" if m else "no" for m in measured.tolist()]}
    return {
        **drawn,
        "symbol": [e["symbol"] for e in entries],
        "ensembl": [e.get("ensembl") or "" for e in entries],
    }


def _provenance(app: App, name: str, records: Sequence[Shown]) -> dict[str, Any]:
    checkpoint = records[0].design.checkpoint
    tiers = sorted({record.design.support.tier for record in records})
    measured: Mapping[str, Any] = checkpoint.evidence.get("tiers") or {}
    return {
        "format": FORMAT,
        "id": name,
        "note": SIMULATED if records[0].design.cells is None else OF_USER_CELLS,
        "checkpoint": {
            "name": checkpoint.name,
            "digest": checkpoint.digest,
            "panel_digest": checkpoint.panel_digest,
        },
        "screen": dict(locate_screen(app, name)[1].plan) if is_screen(name) else None,
        "experiments": [_row(record) for record in records],
        "evidence": {t: (measured.get(t) or {}).get("headline") for t in tiers},
        "ledger_head": str(records[0].ledger.head()),
    }


def _row(record: Shown) -> dict[str, Any]:
    row: Experiment = record.experiment
    outcome = record.outcome
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
            for v in record.ledger.verifications(row.id)
        ],
        "support": record.design.support.tier,
        "artifacts": dict(outcome.artifacts) if outcome else {},
        "environment_digest": digest,
        "environment": record.ledger.environment(digest) if digest else None,
    }


def _missing(app: App, name: str, records: Sequence[Shown]) -> list[str]:
    if not is_screen(name):
        return []
    plan = locate_screen(app, name)[1].plan
    # The experiments of a race are batches: a candidate has several, or none.
    if "race" in plan:
        return [f"A race: {len(records)} batches, each of some cells of one candidate."]
    total = len(plan["candidates"])
    return (
        []
        if len(records) == total
        else [f"Only the {len(records)} finished of {total} candidates."]
    )


SPEC = ToolSpec(
    name="export_experiment",
    title="Export cells, numbers or a script",
    description=(
        "Write an experiment, or all finished ones of a screen, to a file; its path and sha256 "
        "come back. h5ad: simulated cells with counts, obs, var and provenance. csv: a row per "
        "gene with effect, intervals and errors. script: Python that runs it again and compares "
        "bit for bit. Use it for analysis elsewhere. Not for a look at genes: get_experiment. "
        "Units: counts in UMI, effects in log1p_cp10k. Cost: seconds to minutes. Limits: 500,000 "
        "cells in one h5ad; after wait_s the same call returns the file."
    ),
    arguments=ExportExperiment,
    result=ExportResult,
    run=export_experiment,
    read_only=False,
    in_child=True,
)
