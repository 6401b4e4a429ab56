"""Tables of an evidence file: Markdown to read, CSV to work with."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lingshu_model.evaluate.compare import MAGNITUDE
from lingshu_model.evaluate.figures import kind_of
from lingshu_model.evaluate.metrics.agreement import PEARSON
from lingshu_model.evaluate.rows import MODEL

TITLES = {
    "seen": "conditions trained on",
    "seen_elsewhere": "perturbations trained on in other contexts",
    "combination_of_seen": "combinations whose parts were trained on",
    "unseen": "targets never trained on",
}
Figure = Mapping[str, Any]
"""A row of the table of figures, by column."""


def markdown(evidence: Mapping[str, Any]) -> str:
    """Return the tables of an evidence file as Markdown.

    A cell is a value with its 95 % interval and what the model's says against it: win, tie or loss.
    """
    sections: dict[str, list[Figure]] = {}
    for figure in figures_of(evidence):
        sections.setdefault(_title(figure), []).append(figure)
    parts = [f"### {title}\n\n{pivot(group)}" for title, group in sections.items()]
    for tier, each in evidence["tiers"].items():
        if each:
            parts.append(f"### Each of the {TITLES[tier]}\n\n{per_perturbation(each)}")
    return "\n\n".join(parts) + "\n"


def as_csv(evidence: Mapping[str, Any]) -> str:
    """Return the table of figures as CSV; several values in one cell stand apart by semicolons."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(evidence["figures"]["columns"])
    for row in evidence["figures"]["rows"]:
        writer.writerow([";".join(map(str, v)) if isinstance(v, list) else v for v in row])
    return text.getvalue()


def figures_of(evidence: Mapping[str, Any]) -> list[Figure]:
    """Return the rows of the table of figures, by column."""
    columns = evidence["figures"]["columns"]
    return [dict(zip(columns, row, strict=True)) for row in evidence["figures"]["rows"]]


def _title(figure: Figure) -> str:
    # The ratio of lengths is worked out of contrasts, whose tier a figure carries.
    kind = "contrasts" if figure["metric"] == MAGNITUDE else kind_of(figure["metric"])
    if kind == "pools":
        return f"Distributions: {figure['set']}"
    if kind == "copies":
        return f"Copies of training cells: {figure['population']}, {figure['fold']}"
    units = f"{figure['n_units']} of {figure['population']}"
    return f"Changes, {TITLES[figure['tier']]}: {figure['set']} ({units})"


def pivot(group: Sequence[Figure]) -> str:
    """Return figures as a table of predictors and metrics; the longer side runs down the page."""
    cells: dict[str, dict[str, str]] = {}
    for figure in group:
        cells.setdefault(figure["predictor"], {})[figure["metric"]] = cell(figure)
    metrics = [*dict.fromkeys(metric for each in cells.values() for metric in each)]
    # Few columns fit a page; the number of rows is free.
    if len(metrics) > len(cells):
        lines = [[m, *(each.get(m, "") for each in cells.values())] for m in metrics]
        return table(["metric", *cells], lines)
    lines = [[name, *(each.get(m, "") for m in metrics)] for name, each in cells.items()]
    return table(["predictor", *metrics], lines)


def cell(figure: Figure) -> str:
    """Return a figure in words: value, interval, verdict, and the seeds of the model's Pearson."""
    text = shown(figure["value"], [figure["low"], figure["high"]])
    seeds = figure["by_seed"]
    if figure["predictor"] == MODEL and figure["metric"] == PEARSON and len(seeds) > 1:
        text += f" (seeds {', '.join(map(number, seeds))})"
    return f"{text} {figure['verdict']}" if figure["verdict"] else text


def per_perturbation(tier: Mapping[str, Any]) -> str:
    """Return one line per perturbation, the best predicted first."""
    rows: Mapping[str, Mapping[str, Any]] = tier["per_perturbation"]

    def worse(name: str) -> float:
        return -((rows[name]["model"] or {}).get("value") or 0.0)

    lines: list[list[str]] = []
    for name in sorted(rows, key=worse):
        row = rows[name]
        best = row["best_simple"]
        simple = f"{_value(best)} ({best['predictor']})" if best else ""
        others = map(number, (row["noise_ceiling"], row["magnitude_ratio"]))
        lines.append([name, _value(row["model"]), simple, *others, str(row["n_test_cells"])])
    header = ["perturbation", PEARSON, "best simple predictor", "noise ceiling", MAGNITUDE, "cells"]
    return table(header, lines)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None) -> str:
    """Return a number to three digits, to four near 1 and above; `n/a` where undefined."""
    # NaN alone differs from itself; JSON has None in its place.
    if value is None or value != value:
        return "n/a"
    return f"{value:.4g}" if abs(value) > 0.99 else f"{value:.3g}"


def shown(value: float | None, interval: Sequence[float | None]) -> str:
    """Return a value with its interval, where it has one."""
    low, high = interval
    span = "" if low is None or low != low else f" [{number(low)}, {number(high)}]"
    return number(value) + span


def _value(value: Mapping[str, Any] | None) -> str:
    return shown(value["value"], value["interval"]) if value else ""
