"""How the demo speaks: numbered steps with their times, and tables that fit a terminal.

Colour and the live line appear on a terminal only.
"""

import json
import sys
import textwrap
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

# Characters of a line; `BAR` is the longest bar.
WIDTH = 96
INDENT = "   "
BAR = 16
Row = Mapping[str, Any]


class Teller:
    """Prints what is asked, what came back and how long it took."""

    def __init__(self) -> None:
        self._step = 0
        self._started = 0.0
        self._live = sys.stdout.isatty()

    def title(self, text: str, note: str) -> None:
        """Print a line that opens or closes the whole."""
        click.echo(f"\n{click.style(text, bold=True)}\n{click.style(note, dim=True)}")

    def say(self, text: str) -> None:
        """Print text under the current step."""
        click.echo(textwrap.indent(text, INDENT))

    def fail(self, text: str) -> None:
        """Print what went wrong."""
        self.say(click.style(wrapped(text), fg="red"))

    def progress(self, text: str) -> None:
        """Show how far the current step is, on a terminal."""
        if self._live:
            waited = self.duration(time.monotonic() - self._started)
            click.echo(f"\r\033[K{INDENT}{text}, {waited}", nl=False)

    @contextmanager
    def step(self, why: str, tool: str, arguments: Mapping[str, Any]) -> Generator[None]:
        """Number and time one step."""
        self._step += 1
        self._started = time.monotonic()
        request = {key: value for key, value in arguments.items() if key != "wait_s"}
        call = f"{tool} {json.dumps(request, ensure_ascii=False)}" if request else tool
        click.echo(f"\n{click.style(f'{self._step}  {why}', bold=True)}")
        click.echo(f"{INDENT}{click.style(call, fg='cyan')}")
        self.progress("waiting")
        yield
        if self._live:
            click.echo("\r\033[K", nl=False)
        took = self.duration(time.monotonic() - self._started)
        click.echo(f"{INDENT}{click.style(took, dim=True)}")

    @staticmethod
    def duration(seconds: float) -> str:
        """Return a time as people write it."""
        if seconds < 60:
            return f"{seconds:.1f} s"
        return f"{int(seconds // 60)} min {seconds % 60:02.0f} s"


def wrapped(text: str) -> str:
    """Return text broken to the width of a page."""
    return "\n".join(textwrap.wrap(text, WIDTH - len(INDENT)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        rest = zip(cells[1:], widths[1:], strict=True)
        return "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in rest)])

    return "\n".join([click.style(line(head), underline=True), *map(line, rows)])


def effect_table(effect: Row, shown: int = 6) -> str:
    """Return the strongest genes of an effect."""
    genes: Sequence[Row] = effect.get("genes", [])[:shown]
    rows = [
        [
            gene["gene"],
            number(gene["log2_fold_change"]),
            interval(gene["mc_interval"]),
            number(gene["control_mean"], ".2f"),
            number(gene["perturbed_mean"], ".2f"),
        ]
        for gene in genes
    ]
    # Units are sentences; what comes before the colon is the unit itself.
    unit = effect["units"].get("control_mean", "log1p_cp10k").partition(":")[0]
    head = ["gene", "log2 fold change", "Monte Carlo 95 %", f"control ({unit})", "perturbed"]
    return table(head, rows)


def ranking_table(screen: Row) -> str:
    """Return the ranking of a screen, one line per candidate, with a bar for the score."""
    ranking: Sequence[Row] = screen["ranking"]
    # All scores 0: any positive length gives empty bars.
    most = max((abs(row["score"] or 0.0) for row in ranking), default=0.0) or 1.0
    rows = [
        [
            f"{place:2d}  {row['perturbation'].removesuffix(' knockout')}",
            bar(row["score"], most),
            number(row["score"]),
            interval(row["mc_interval"]),
            number(row["prediction_error"], ".2f"),
            number(row["fdr"], ".2g"),
            row["support"],
            ", ".join(row["left_out"] or []) or "-",
        ]
        for place, row in enumerate(ranking, 1)
    ]
    unit = screen["units"].get("score", "log1p_cp10k").partition(":")[0]
    head = ["    knock-out", "", "score", "Monte Carlo 95 %", "held-out error", "FDR", "support",
            "left out"]  # fmt: skip
    # A long result is cut to a number of tokens.
    cut = screen.get("truncated")
    shown = f"; {cut['shown']} of {cut['total']} are shown" if cut else ""
    return (
        f"{table(head, rows)}\nscore, its interval and held-out error in {unit}; "
        f"higher is better{shown}"
    )


def bar(value: float | None, most: float) -> str:
    """Return a bar as long as `value` is to `most`; a negative one is hollow."""
    length = round(BAR * abs(value or 0.0) / most)
    return (("█" if (value or 0.0) >= 0 else "░") * length).ljust(BAR)


def number(value: float | None, form: str = "+.2f") -> str:
    """Return a number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def interval(limits: Sequence[float] | None) -> str:
    """Return an interval, or a dash where there is none."""
    return "-" if not limits else f"{limits[0]:+.2f} .. {limits[1]:+.2f}"
