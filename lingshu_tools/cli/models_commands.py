"""`lingshu models`: which checkpoints can be used, and those of the user's own."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lingshu_tools.cli.common import Shell, common, echo_json, open_app, settings

if TYPE_CHECKING:
    from lingshu_tools.training import Kept

PACK = ".lingshu"
REAL_CELLS = (
    "it holds real control cells of its training data: pass it on only where the data may be "
    "passed on"
)


@click.group(cls=Shell, invoke_without_command=True)
@common
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the checkpoints that can be used here; add, verify, pack or remove one."""
    if ctx.invoked_subcommand is None:
        _list()


@models.command("list")
@common
def list_models() -> None:
    """List the checkpoints that can be used here."""
    _list()


@models.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--digest", help="Refuse a checkpoint with another digest than its maker's.")
@click.option("--replace", is_flag=True, help="Replace another checkpoint of the same name.")
@common
def add(source: Path, *, digest: str | None, replace: bool) -> None:
    """Make the checkpoint of SOURCE usable here: a training run (runs/NAME), or a pack.

    Every file is held against its digest, and copied into the home.
    """
    from lingshu_tools import training

    # Checked and copied as a whole: a folder that is half a checkpoint is never seen.
    row = _row(training.add(open_app().home, source, digest=digest, replace=replace))
    if settings().as_json:
        echo_json({"status": "succeeded", **row})
        return
    click.echo(f"{row['name']} is added: {row['genes']} genes, {row['digest']}")
    if row["holds_training_cells"]:
        click.echo(f"note: {REAL_CELLS}", err=True)
    click.echo(f'try: lingshu call describe_model \'{{"checkpoint": "{row["name"]}"}}\'')


@models.command()
@click.argument("name")
@common
@click.pass_context
def verify(ctx: click.Context, name: str) -> None:
    """Hold every file of the checkpoint NAME against its digest; exits with 1 if one differs."""
    from lingshu_tools.training import verify as wrong_files

    checkpoint = _find(name)
    wrong = wrong_files(checkpoint)
    if settings().as_json:
        state = "failed" if wrong else "succeeded"
        echo_json({"status": state, "name": name, "digest": checkpoint.digest, "wrong": wrong})
    else:
        click.echo("\n".join(wrong) or f"{name} is intact: {checkpoint.digest}")
    ctx.exit(1 if wrong else 0)


@models.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help=f"The file; NAME{PACK} by default.")
@common
def pack(name: str, out: Path | None) -> None:
    """Write the checkpoint NAME into one file that others can add.

    A checkpoint that holds real cells of its training data says so.
    """
    from lingshu_tools import training

    checkpoint = _find(name)
    # Beside the caller, not in the home: it is meant to be passed on.
    path = training.pack(checkpoint, out or Path(f"{name}{PACK}"))
    # Passing on the pack passes on these cells, so it is said before the path is.
    real = training.holds_training_cells(checkpoint)
    if real:
        click.echo(f"note: {REAL_CELLS}", err=True)
    if settings().as_json:
        row: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size}
        row |= {"digest": checkpoint.digest, "holds_training_cells": real}
        echo_json({"status": "succeeded", "name": name, **row})
        return
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {checkpoint.digest}")
    click.echo(f"to use it elsewhere: lingshu models add {path.name} --digest {checkpoint.digest}")


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def remove(name: str, *, yes: bool) -> None:
    """Remove the checkpoint NAME that was added here.

    Experiments with it keep their rows and cells, and cannot be replayed.
    """
    from lingshu_tools import training

    if not yes:
        # A script must say that it means it.
        if not sys.stdin.isatty():
            message = f"say --yes to remove {name!r}: nobody can be asked here"
            raise click.UsageError(message)
        click.confirm(f"remove {name}? Experiments with it cannot be replayed", abort=True)
    place = training.remove(open_app().home, name)
    if settings().as_json:
        echo_json({"status": "succeeded", "name": name, "removed": str(place)})
    else:
        click.echo(f"{name} is removed")


def _find(name: str) -> Any:
    from lingshu_model.contracts import CheckpointError
    from lingshu_tools.errors import NotFoundError

    try:
        return open_app().catalogue.load(name)
    except CheckpointError as error:
        raise NotFoundError(str(error)) from error


def _list() -> None:
    from lingshu_tools.training import damaged, kept

    app = open_app()
    rows = [_row(each) for each in kept(app.home, app.catalogue)]
    # On standard error: a list that is piped has usable checkpoints alone.
    for name, reason in damaged(app.catalogue).items():
        click.echo(f"{name} cannot be used: {reason}", err=True)
    if settings().as_json:
        echo_json(rows)
        return
    for row in rows:
        # The first six, since a checkpoint may have hundreds.
        contexts = "; ".join(", ".join(context.values()) for context in row["contexts"][:6])
        more = f" and {len(row['contexts']) - 6} more" if len(row["contexts"]) > 6 else ""
        head = click.style(row["name"], bold=True)
        click.echo(f"{head}  {row['origin']}, {row['genes']} genes, {contexts}{more}")
        click.echo(f"  {row['digest']}\n  {row['path']}")
        if row["holds_training_cells"]:
            click.echo("  holds real control cells of its training data")
    if not rows:
        click.echo("no checkpoint found; `lingshu models add` adds one")


def _row(kept_checkpoint: "Kept") -> dict[str, Any]:
    checkpoint = kept_checkpoint.checkpoint
    return {
        "name": checkpoint.name,
        "origin": kept_checkpoint.origin,
        "digest": checkpoint.digest,
        "genes": len(checkpoint.panel),
        "panel_digest": checkpoint.panel_digest,
        "contexts": checkpoint.contexts,
        "measured_on_held_out_cells": bool(checkpoint.evidence),
        "holds_training_cells": kept_checkpoint.holds_training_cells,
        "path": str(checkpoint.path),
    }
