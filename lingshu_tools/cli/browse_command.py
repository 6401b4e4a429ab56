"""`lingshu browse`: the lab page in a browser."""

import click

from lingshu_tools.cli.common import become, with_home


@click.command()
@click.argument("name", metavar="[ID]", required=False)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    show_default=True,
    help="Port on 127.0.0.1; 0: any free one.",
)
@click.option(
    "--idle-minutes",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="End after this time without use.",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@with_home
def browse(
    name: str | None,
    port: int,
    idle_minutes: float,
    opens: bool,  # noqa: FBT001 - click's
) -> None:
    """Show screens, effects, cells and provenance in a browser.

    Prints a URL on 127.0.0.1 that admits its reader. Ends after a time without use, or at Ctrl-C.
    """
    arguments = [name] if name else []
    arguments += ["--port", str(port), "--idle-minutes", str(idle_minutes)]
    arguments += ["--open"] if opens else []
    become("lingshu_mcp.lab_page.serving", arguments, extra="mcp")
