"""`lingshu data`: a user's own data looked at before training."""

import click

from lingshu_tools.cli.common import PASS_ON, become, settings


@click.group()
def data() -> None:
    """Look at data before training on it."""


@data.command("inspect", context_settings=PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def inspect(arguments: tuple[str, ...]) -> None:
    """Show what an h5ad file holds and what is wrong with it (see `data inspect --help`)."""
    as_json = ("--json",) if settings().as_json and "--json" not in arguments else ()
    become("lingshu_model.train.inspect", (*arguments, *as_json), extra="data")
