"""What the benchmarks of this folder print: one JSON object, and a short table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np


def quantiles(seconds: Sequence[float]) -> dict[str, float | int | None]:
    """Return how many durations there are, their median, 99th percentile and maximum, in s."""
    if not seconds:
        return {"n": 0, "p50_s": None, "p99_s": None, "max_s": None}
    p50, p99 = np.quantile(seconds, (0.5, 0.99))
    return {
        "n": len(seconds),
        "p50_s": round(float(p50), 3),
        "p99_s": round(float(p99), 3),
        "max_s": round(max(seconds), 3),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    lines = [list(head), ["---"] * len(head), *([str(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(summary: Mapping[str, Any], out: Path | None, *tables: str) -> None:
    """Print the tables, and the summary as JSON to `out` or after them."""
    for each in tables:
        click.echo(each + "\n")
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    if out:
        out.write_text(text + "\n", "utf-8")
    else:
        click.echo(text)
