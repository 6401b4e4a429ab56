"""Certainty of answers: `python -m benchmarks.certainty --help`.

Each step writes its file under --out as soon as it is done (`calibration.SET.json`, `hits.csv`,
`null-labels.csv`, `answers.csv`), so a second run goes on where the first one ended; --again makes
a step anew. Then the tables are written: `calibration.csv`, `strata.csv` and `tables.md`.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.certainty import answers, calibration, screens
from lingshu_model.contracts.evidence_text import rounded

STEPS = (*calibration.SETS, "hits", "null-labels", "answers")


@click.command(context_settings={"show_default": True})
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/certainty"))
@click.option("--home", type=click.Path(path_type=Path), help="Of the tools; default OUT/home.")
@click.option("--step", "steps", multiple=True, type=click.Choice(STEPS), help="Only these.")
@click.option("--again", is_flag=True, help="Even if they are done.")
def main(data: Path, out: Path, home: Path | None, steps: tuple[str, ...], *, again: bool) -> None:
    """Judge every data set, screens and null labels that are not done, then write the tables."""
    out.mkdir(parents=True, exist_ok=True)
    home = (home or out / "home").absolute()
    for step in steps or STEPS:
        _step(step, data, out, home, again=again)
    _tables(out)


def _step(step: str, data: Path, out: Path, home: Path, *, again: bool) -> None:
    is_set = step in calibration.SETS
    file = out / (f"calibration.{step}.json" if is_set else f"{step}.csv")
    if file.exists() and not again:
        return
    if is_set:
        file.write_text(json.dumps(rounded(calibration.judged_set(step, data)), indent=1), "utf-8")
    elif step == "hits":
        _write(file, screens.HITS, screens.hit_rows(data))
    elif step == "null-labels":
        _write(file, screens.NULLS, [*screens.null_rows(home)])
    else:
        _write(file, answers.ANSWERS, answers.answer_rows(home))
    click.echo(f"{file.name}")


def _tables(out: Path) -> None:
    done = [name for name in calibration.SETS if (out / f"calibration.{name}.json").exists()]
    tiers = {n: json.loads((out / f"calibration.{n}.json").read_text("utf-8")) for n in done}
    parts: list[str] = []
    for file, head, rows_of in (
        ("calibration", calibration.CALIBRATION, calibration.calibration_rows),
        ("strata", calibration.STRATA, calibration.strata_rows),
    ):
        rows = [row for name in done for row in rows_of(name, tiers[name])]
        _write(out / f"{file}.csv", head, rows)
        parts.append(_markdown(file, head, rows))
    for name in ("hits", "null-labels"):
        if (out / f"{name}.csv").exists():
            with (out / f"{name}.csv").open(newline="", encoding="utf-8") as handle:
                head, *rows = csv.reader(handle)
            parts.append(_markdown(name, head, rows))
    text = "\n\n".join(parts)
    (out / "tables.md").write_text(f"{text}\n", "utf-8")
    click.echo(text)


def _write(file: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([head, *([_cell(v) for v in row] for row in rows)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(head), ["---"] * len(head), *([_cell(v) for v in row] for row in rows)]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


if __name__ == "__main__":
    main()
