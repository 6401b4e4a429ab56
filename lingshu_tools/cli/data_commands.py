"""`lingshu data` and `lingshu roots`: a user's data, and the folders whose files tools may read."""

from pathlib import Path

import click

from lingshu_tools.cli.common import (
    PASS_ON,
    Shell,
    become,
    common,
    echo_json,
    open_app,
    settings,
)


@click.group()
def data() -> None:
    """Look at data before training on it."""


@data.command("inspect", context_settings=PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def inspect(arguments: tuple[str, ...]) -> None:
    """Show what an h5ad file holds and what is wrong with it (see `data inspect --help`)."""
    # `--json` before the command was taken by the root; it is passed on.
    as_json = ("--json",) if settings().as_json and "--json" not in arguments else ()
    become("lingshu_model.train.inspect", (*arguments, *as_json), extra="data")


@click.group(cls=Shell, invoke_without_command=True)
@common
@click.pass_context
def roots(ctx: click.Context) -> None:
    """List the folders whose h5ad files tools may read; add or remove one."""
    if ctx.invoked_subcommand is None:
        _list()


@roots.command("list")
@common
def list_roots() -> None:
    """List the allowed folders."""
    _list()


@roots.command()
@click.argument("folder", type=click.Path(path_type=Path))
@common
def add(folder: Path) -> None:
    """Let tools read the h5ad files of FOLDER and all below it, for agents and people alike."""
    from lingshu_tools.user_cells import Roots

    real = Roots(open_app().home).add(folder)
    if settings().as_json:
        echo_json({"status": "succeeded", "added": str(real)})
    else:
        click.echo(f"{real} is allowed: h5ad files in it can be given to tools as `cells`")


@roots.command()
@click.argument("folder", type=click.Path(path_type=Path))
@common
def remove(folder: Path) -> None:
    """Let tools read FOLDER no longer; experiments on its files keep their rows and cells."""
    from lingshu_tools.user_cells import Roots

    listed = Roots(open_app().home).remove(folder)
    if settings().as_json:
        echo_json({"status": "succeeded", "removed": str(listed)})
    else:
        click.echo(f"{listed} is no longer allowed")


def _list() -> None:
    from lingshu_tools.user_cells import Roots

    folders = [str(each) for each in Roots(open_app().home).listed()]
    if settings().as_json:
        echo_json(folders)
    else:
        click.echo("\n".join(folders) or "no folder is allowed; `lingshu roots add DIR` adds one")
