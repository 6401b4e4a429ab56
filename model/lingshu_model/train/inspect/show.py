"""An inspection on a terminal, or as JSON, and the options that say what a file holds."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from lingshu_model.contracts.messages import TrainedKind
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.understanding import Understanding

F = TypeVar("F", bound=Callable[..., Any])
_MOST_PROBLEMS = 8


def data_options(command: F) -> F:
    """Add the options that say what a file holds; `options_from` reads them."""
    # click lists the option that was added last first.
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--perturbation",
        metavar="COLUMN",
        help="obs column: what was done to a cell; `none`: nothing was done to any.",
    ),
    click.option(
        "--control", multiple=True, metavar="NAME", help="Name of control cells; repeatable."
    ),
    click.option(
        "--context",
        multiple=True,
        metavar="COLUMN|FIELD=VALUE",
        help="What a cell is: an obs column, or a value of all cells; may be repeated.",
    ),
    click.option("--kind", type=click.Choice(get_args(TrainedKind)), help="What was done."),
    click.option("--replicate", metavar="COLUMN", help="obs column: replicate, donor or batch."),
    click.option("--dose", metavar="COLUMN", help="obs column: dose of a perturbed cell."),
    click.option("--time", metavar="COLUMN", help="obs column: time; it becomes a context field."),
    click.option("--counts", metavar="MATRIX", help="Raw counts: X, layers/NAME or raw/X."),
    click.option("--gene-names", metavar="COLUMN", help="var column: names of genes."),
    click.option("--separator", metavar="TEXT", help='Between targets; "" = no combinations.'),
)


def options_from(values: dict[str, Any]) -> Options:
    """Return the options of a command line, taken out of its parameters."""
    known = {name: values.pop(name) for name in Options.__dataclass_fields__}
    return Options(**known)


def shown(understanding: Understanding) -> str:
    """Return an inspection as text: what was understood, then what a person should know."""
    lines = understanding.lines()
    # sorted is stable: what keeps the file from training first, then in the order of inspection.
    problems = sorted(understanding.problems, key=lambda p: not p.fatal)
    if problems:
        lines.append("")
    lines += [f"{'problem' if p.fatal else 'note'}: {p}" for p in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"and {len(problems) - _MOST_PROBLEMS} more: --json has all")
    return "\n".join(lines)


def as_json(value: dict[str, Any]) -> str:
    """Return one JSON object: indented for a person, on one line for a pipe."""
    return json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False)


def next_command(path: Path, understanding: Understanding, options: Options | None = None) -> str:
    """Return the command that trains on what was understood.

    Args:
        path: of the file.
        understanding: what it holds.
        options: what its user said of it; they are repeated where nothing was understood.
    """
    u, given = understanding, options or Options()
    # A path that begins with a hyphen would be read as an option.
    file = f"./{path}" if str(path).startswith("-") else str(path)
    words = ["lingshu", "train", file]
    # Said, so that no column is taken for one.
    unperturbed = "none" if u.conditions and not u.controls else None
    words += _pair("--perturbation", u.perturbation or unperturbed or given.perturbation)
    # Every one: a control that is not named would be trained as a perturbation.
    for control in u.controls or given.control:
        words += ["--control", control]
    fields = [
        value[4:] if value == f"obs:{name}" else f"{name}={value}"
        for name, value in u.context.items()
    ]
    for field in fields or given.context:
        words += ["--context", field]
    # `X` is looked at first, so that it needs no word unless the user said it.
    counts = given.counts if u.counts == "X" else u.counts or given.counts
    # "" says that no label is a combination; another separator was understood or given.
    separator = u.separator if u.separator is not None else given.separator
    single = {
        "--kind": u.kind.name if u.kind else given.kind,
        "--replicate": u.replicate or given.replicate,
        "--dose": u.dose or given.dose,
        "--time": u.time or given.time,
        "--counts": counts,
        "--gene-names": u.gene_column or given.gene_names,
        "--separator": separator,
    }
    for option, value in single.items():
        words += _pair(option, value)
    return " ".join(map(_quoted, words))


def _pair(option: str, value: str | None) -> list[str]:
    return [] if value is None else [option, value]


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)


def fail(message: str, *, to_json: bool, prefix: str) -> Sequence[str]:
    """End the command with an error: as JSON on stdout, or as text."""
    if to_json:
        click.echo(as_json({"status": "error", "summary": message}))
        sys.exit(1)
    sys.exit(f"{prefix}: {message}")
