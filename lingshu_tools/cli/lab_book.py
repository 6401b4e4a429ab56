"""An experiment or a screen as a page of a lab book: asked, came out, evidence, made on, record.

Begins nothing and waits for nothing. Text that came from outside is shown without characters that
could steer a terminal.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lingshu_model.contracts import CheckpointError
from lingshu_tools.calls.results import EvidenceView, Result
from lingshu_tools.errors import InputError, MissingCheckpointError
from lingshu_tools.execution.screens import candidates_of
from lingshu_tools.experiments.designs import context_label, replaces
from lingshu_tools.experiments.lookup import is_screen, locate, locate_screen
from lingshu_tools.experiments.replays import replayed, verdict_of
from lingshu_tools.ledger import Experiment, Ledger, Outcome, Screen
from lingshu_tools.planner import shown_of_record
from lingshu_tools.report.experiment_views import shown
from lingshu_tools.report.ranking_rows import ranking_table
from lingshu_tools.report.row_view import screen_fields
from lingshu_tools.system.plain_text import plain
from lingshu_tools.tools.complete_cells import show_completed
from lingshu_tools.tools.perturb_cells import PerturbResult, gene_table, show_effect
from lingshu_tools.tools.run_screen import ScreenResult, screen_shown
from lingshu_tools.tools.sample_cells import SampleResult, sample_table, show_sample
from lingshu_tools.tools.score_cells import show_score

if TYPE_CHECKING:
    from lingshu_tools.app import App

WIDTH = 96
ROWS = 10
Section = tuple[str, list[str]]


def page(app: App, name: str) -> str:
    """Return the page of an experiment (exp_…) or a screen (scr_…), as plain text.

    Raises:
        NotFoundError: there is none of that id here or in the reference ledger.
    """
    lines = _screen_page(app, name) if is_screen(name) else _experiment_page(app, name)
    # At the end, over the whole page: any part may come from a ledger of somebody else.
    return plain("\n".join(lines))


def _experiment_page(app: App, name: str) -> list[str]:
    ledger, row = locate(app, name)
    outcome = ledger.outcome(row.id)
    # The views of the tools, so that a page and an answer never differ.
    result = _result(app, row)
    return _laid_out(
        f"{row.id}  {row.tool}  {ledger.status(row.id)}",
        [
            ("asked", _call_lines(row, ledger.tags([row.id]).get(row.id, []))),
            ("came out", _came_out(result, outcome)),
            ("evidence", _evidence(result) if isinstance(result, Result) else []),
            ("made on", _environment_lines(ledger, outcome)),
            ("replays", [*_verdict(app, ledger, row), *_replays(ledger, row)]),
            ("record", _record(ledger, row, outcome)),
        ],
    )


def _result(app: App, row: Experiment) -> Result | str:
    """Return the result as tools show it, or why it cannot be shown with its checkpoint's eyes."""
    try:
        record = shown(app, row.id)
    except (InputError, CheckpointError) as error:
        return str(error)
    if row.tool == "sample_cells":
        return show_sample(app, record, limit=ROWS)
    if row.tool == "score_cells":
        return show_score(app, record)
    if row.tool == "complete_cells":
        return show_completed(app, record, limit=ROWS)
    return show_effect(app, record, limit=ROWS)


def _call_lines(row: Experiment, tags: Sequence[str]) -> list[str]:
    request = row.request
    who = f"{row.principal}, through {row.door}"
    # A parent may be what this replays, or what it stands in place of.
    origin = replayed(row)
    return _pairs(
        {
            "what": row.perturbation or "control",
            "in": row.context,
            "cells": _cells(request),
            "sampling": _chosen(request, ("seed", "steps", "guidance", "clamp")),
            "checkpoint": row.checkpoint,
            "by": who,
            "when": row.created_at,
            "tags": ", ".join(tags) or None,
            "replay of": origin,
            "in place of": replaces(row),
            # A parent is a screen, a replayed or a replaced experiment; the last two have lines of
            # their own.
            "part of": row.parent if row.parent not in (origin, replaces(row)) else None,
        }
    )


def _cells(request: Mapping[str, Any]) -> str:
    first = int(request.get("first_cell", 0))
    count = request.get("n_cells")
    return f"{count} an arm" + (f", from cell {first}" if first else "")


def _chosen(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in names if name in values)


def _came_out(result: Result | str, outcome: Outcome | None) -> list[str]:
    if isinstance(result, str):
        # What the row itself keeps, where the checkpoint is not here.
        kept = ((outcome and outcome.result) or {}).get("kept", [])[:ROWS]
        return [*_wrapped(result), *(f"{row['gene']}  {row['value']:+.3g}" for row in kept)]
    lines = _wrapped(result.summary)
    if isinstance(result, PerturbResult):
        if size := result.magnitude:
            null = (
                ""
                if size.sham_q95 is None
                else f"; 95 % of null labels are below {size.sham_q95:.3g}"
            )
            lines += ["", f"magnitude {size.value:.3g} (log1p_cp10k, L2 over genes){null}"]
        lines += [f"target {record.gene}: {record.note}" for record in result.target_check]
        lines += _table(gene_table(result.genes)) if result.genes else []
    if isinstance(result, SampleResult) and result.genes:
        lines += _table(sample_table(result))
    return lines


def _evidence(result: Result) -> list[str]:
    support, evidence = result.support, result.evidence
    lines = [f"support: {support.tier}; {support.note}"] if support else []
    if figure := result.held_out:
        span = f"  [{figure.interval[0]:.2f}, {figure.interval[1]:.2f}]" if figure.interval else ""
        value = "undefined" if figure.value is None else f"{figure.value:.2f}{span}"
        lines.append(
            f"held out, {figure.level} ({figure.of}): {figure.metric.replace('_', ' ')} {value}"
        )
    lines += _figures(evidence) if evidence else ["no held-out figure for this support tier"]
    return [*lines, *(line for caveat in result.caveats for line in _wrapped(caveat, "! "))]


def _figures(evidence: EvidenceView) -> list[str]:
    figures = {"this checkpoint": evidence.model, **evidence.baselines}
    return [
        f"held out: {evidence.metric.replace('_', ' ')} over {evidence.set}",
        *_pairs(
            {
                name.replace("_", " "): "undefined"
                if record.value is None
                else f"{record.value:.2f}"
                + (
                    f"  [{record.interval[0]:.2f}, {record.interval[1]:.2f}]"
                    if record.interval
                    else ""
                )
                for name, record in figures.items()
            }
        ),
        f"verdict: {evidence.verdict}",
    ]


def _environment_lines(ledger: Ledger, outcome: Outcome | None) -> list[str]:
    if outcome is None or outcome.environment_digest is None:
        return []
    took = None if outcome.seconds is None else f"{outcome.seconds:.3g} s"
    # Nested fields of the environment by their path, in the order of their names.
    leaves = dict(_leaves(ledger.environment(outcome.environment_digest)))
    return _pairs({"took": took, **leaves})


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for key, inner in sorted(value.items()):
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{path}{key}.")
        elif inner is not None:
            yield f"{path}{key}", inner if isinstance(inner, str) else json.dumps(inner)


def _verdict(app: App, ledger: Ledger, row: Experiment) -> list[str]:
    # Outcomes of replays are looked up in this home's ledger, where all of its replays are.
    verdict = verdict_of(app, row) if replayed(row) and not ledger.read_only else None
    return [f"{verdict.verdict}, this one, of {replayed(row)}"] if verdict else []


def _replays(ledger: Ledger, row: Experiment) -> list[str]:
    return [
        f"{record.verdict}  {record.created_at}  {record.replay_id or 'no experiment of its own'}"
        + (f"  differs in {', '.join(record.differs)}" if record.differs else "")
        for record in ledger.verifications(row.id)
    ]


def _record(ledger: Ledger, row: Experiment, outcome: Outcome | None) -> list[str]:
    artifacts = outcome.artifacts if outcome else {}
    here = {
        role: digest + ("" if ledger.has_object(digest) else "  (not stored here)")
        for role, digest in sorted(artifacts.items())
    }
    return _pairs(
        {
            "request": row.request_digest,
            "checkpoint": row.checkpoint_digest,
            "panel": row.panel_digest,
            "environment": outcome.environment_digest if outcome else None,
            **here,
            "row": f"{row.seq}" + (f", sealed by row {outcome.seq}" if outcome else ""),
            "head": str(ledger.head()),
            "ledger": ledger.name,
        }
    )


def _screen_page(app: App, name: str) -> list[str]:
    ledger, screen = locate_screen(app, name)
    plan = screen.plan
    result = _screen_result(app, ledger, screen)
    objective = shown_of_record(plan["objective"])
    aims = (f"{verb} {', '.join(genes)}" for verb, genes in objective.items() if genes)
    arguments = {
        "objective": "; ".join(aims),
        "candidates": str(len(plan["candidates"])),
        "in": context_label(plan["context"]),
        "cells": _cells(plan),
        "sampling": _chosen(plan, ("seed", "steps", "guidance")),
        "checkpoint": plan["checkpoint"],
        "by": screen.principal,
        "when": screen.created_at,
    }
    kept = {
        "plan": screen.digest,
        "checkpoint": plan["checkpoint_digest"],
        "row": str(screen.seq),
        "head": str(ledger.head()),
        "ledger": ledger.name,
    }
    ranked = result.ranking if isinstance(result, ScreenResult) else []
    ranking = _table(ranking_table(ranked)) if ranked else []
    sections = [
        ("asked", _pairs(arguments)),
        ("came out", [*_wrapped(result.summary), *ranking]),
        ("evidence", _evidence(result)),
        (
            "experiments",
            [f"{child.id}  {child.perturbation}" for child in candidates_of(ledger, name)],
        ),
        ("record", _pairs(kept)),
    ]
    return _laid_out(f"{name}  screen  {result.status}", sections)


def _screen_result(app: App, ledger: Ledger, screen: Screen) -> Result:
    try:
        return screen_shown(app, screen.id, top=ROWS)
    except MissingCheckpointError as error:
        return Result(**screen_fields(ledger, screen, error))


def _laid_out(title: str, sections: Sequence[Section]) -> list[str]:
    page = [title, "═" * len(title)]
    for name, lines in sections:
        if lines:
            page += ["", name.upper(), *(f"  {line}".rstrip() for line in lines)]
    return page


def _pairs(values: Mapping[str, str | None]) -> list[str]:
    filled = {name: value for name, value in values.items() if value}
    width = max(map(len, filled), default=0)
    return [f"{name:<{width}}  {value}" for name, value in filled.items()]


def _wrapped(text: str, mark: str = "") -> list[str]:
    wrap = textwrap.TextWrapper(WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))
    return [line for part in text.splitlines() for line in wrap.wrap(part)]


def _table(text: str) -> list[str]:
    rows = [line.split("\t") for line in text.splitlines()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["", *("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)]
