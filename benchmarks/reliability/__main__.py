"""`python -m benchmarks.reliability cold-start|latency|faults|readers`.

Each command prints a short table and one JSON object, and exits with 1 where a promise was broken.
"""

import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from benchmarks.reliability.reports import report, table

FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), help="Where homes are made; a temporary one else."
)
OUT = click.option("--out", type=click.Path(path_type=Path), help="The file for the JSON object.")
RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="A line for each part; a run that was stopped goes on after them.",
)


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Break what the product stands on, and see what it promises hold."""


@contextmanager
def scratch(folder: Path | None) -> Generator[Path]:
    """Give an empty folder, deleted afterwards unless something was left in it on purpose."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    created = Path(tempfile.mkdtemp(prefix="reliability-", dir=folder))
    yield created
    if any(created.iterdir()):
        click.echo(f"kept in {created}", err=True)
    else:
        shutil.rmtree(created)


@main.command("cold-start")
@click.option("--starts", default=300, help="How many.")
@click.option("--at-once", default=3, help="Side by side.")
@FOLDER
@RESULTS
@OUT
def cold_start(
    starts: int, at_once: int, folder: Path | None, results: Path | None, out: Path | None
) -> None:
    """Start in a new home, so many times: the first call is a perturb_cells."""
    from benchmarks.reliability.cold_start import cold_starts

    with scratch(folder) as created:
        summary = cold_starts(starts, at_once=at_once, folder=created, results=results)
    seconds = summary["seconds"]
    rows = [(n, status, seconds["p50_s"], seconds["p99_s"], seconds["max_s"])
            for status, n in summary["outcomes"].items()]  # fmt: skip
    report(summary, out, table(("starts", "outcome", "p50 s", "p99 s", "max s"), rows))
    sys.exit(1 if summary["failures"] else 0)


@main.command()
@click.option("--minutes", default=10.0, help="Of faults.")
@click.option("--seed", default=0, help="Of the faults and of what the clients ask.")
@FOLDER
@OUT
def faults(minutes: float, seed: int, folder: Path | None, out: Path | None) -> None:
    """Inject faults while eight clients work, then compute all they were given anew."""
    from benchmarks.reliability.faults import broken, faults

    with scratch(folder) as created:
        summary = faults(minutes, folder=created, seed=seed)
        summary["broken"] = broken(summary)
        if not summary["broken"]:
            shutil.rmtree(created)
            created.mkdir()
    rows = [*summary["outcomes"].items()]
    injected = [*summary["faults"].items()]
    beyond = [
        (kind, *(s[key] for key in ("n", "p50_s", "p99_s", "max_s")))
        for kind, s in summary["seconds_beyond_wait_s"].items()
    ]
    report(
        summary,
        out,
        table(("fault", "times"), injected),
        table(("outcome of a call", "calls"), rows),
        table(("client", "calls", "beyond wait_s: p50 s", "p99 s", "max s"), beyond),
    )
    sys.exit(1 if summary["broken"] else 0)


@main.command()
@click.option("--waiting", default=300, help="Calls that wait all the while.")
@click.option("--rounds", default=100, help="Of each short call.")
@FOLDER
@OUT
def latency(waiting: int, rounds: int, folder: Path | None, out: Path | None) -> None:
    """Time short calls beside hundreds that wait and a job of 100,000 cells."""
    from benchmarks.reliability.latency import latency, rows, slow, warn

    with scratch(folder) as created:
        summary = latency(waiting=waiting, rounds=rounds, folder=created)
        summary["slow"] = slow(summary)
        shutil.rmtree(created)
        created.mkdir()
    warn(summary)
    report(summary, out, table(("call", "n", "p50 s", "p99 s", "max s", "goal s"), rows(summary)))
    sys.exit(1 if summary["slow"] else 0)


@main.command()
@FOLDER
@OUT
def readers(folder: Path | None, out: Path | None) -> None:
    """Read an export with old and new releases of anndata, installed for it."""
    from benchmarks.reliability.readers import readers, rows

    with scratch(folder) as created:
        summary = readers(created)
        shutil.rmtree(created)
        created.mkdir()
    report(summary, out, table(("anndata", "cells, genes", "counts"), rows(summary)))
    sys.exit(0 if summary["equal"] else 1)


if __name__ == "__main__":
    main()
