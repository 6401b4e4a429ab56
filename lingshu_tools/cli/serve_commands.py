"""`lingshu serve` and `lingshu browse`: the MCP server, its tokens, and the lab page."""

from typing import Any

import click

from lingshu_tools.cli.common import become, common, echo_json, settings, with_home

# Limits of a new token: calls that wait, and cells queued, at a time.
MAX_CALLS = 64
MAX_CELLS = 1_000_000


@click.group(invoke_without_command=True)
@click.option("--http", metavar="HOST:PORT", help="Serve over HTTP on a loopback address.")
@click.option("--no-token", is_flag=True, help="Let every user of this machine in over HTTP.")
@click.option(
    "--tools",
    type=click.Choice(["all", "core"]),
    default="all",
    show_default=True,
    help="All tools, or six for small models.",
)
@click.option("--max-calls", type=click.IntRange(1), help="Calls that may wait at a time.")
@with_home
@click.pass_context
def serve(
    ctx: click.Context,
    http: str | None,
    no_token: bool,  # noqa: FBT001 - click's
    tools: str,
    max_calls: int | None,
) -> None:
    """Serve the tools to an MCP client (stdio; the same as `lingshu-mcp`)."""
    # `serve tokens …` is a group of its own and serves nothing.
    if ctx.invoked_subcommand is not None:
        return
    # Defaults are left to the server, which has them in one place.
    arguments = ["--http", http] if http else []
    arguments += ["--no-token"] if no_token else []
    arguments += ["--tools", tools] if tools != "all" else []
    arguments += ["--max-calls", str(max_calls)] if max_calls else []
    become("lingshu_mcp", arguments, extra="mcp")


@serve.group()
def tokens() -> None:
    """Say who may use the HTTP server; one that runs takes changes in at once."""


@tokens.command()
@click.argument("name")
@click.option(
    "--max-calls",
    type=click.IntRange(1),
    default=MAX_CALLS,
    show_default=True,
    help="Calls in flight at a time.",
)
@click.option(
    "--max-cells",
    type=click.IntRange(1),
    default=MAX_CELLS,
    show_default=True,
    help="Cells queued or at work at a time.",
)
@common
def add(name: str, max_calls: int, max_cells: int) -> None:
    """Print a new token for NAME; it is shown this once and stored nowhere.

    NAME is the principal of the experiments begun with it, which no other token finds.
    """
    # Only its digest is stored, so this is the one time that it can be shown.
    value = _tokens().add(name, max_calls=max_calls, max_cells=max_cells)
    if settings().as_json:
        echo_json({"status": "succeeded", "name": name, "token": value})
    else:
        click.echo(value)
        click.echo(f"the token of {name}; it is not shown again", err=True)


@tokens.command("list")
@common
def list_tokens() -> None:
    """Show the names and limits of all tokens."""
    # The digest of a token is of no use to a reader.
    rows = [token.model_dump(exclude={"digest"}) for token in _tokens().all()]
    if settings().as_json:
        echo_json({"status": "succeeded", "tokens": rows})
        return
    for row in rows:
        limits = ", ".join(
            f"no limit on {unit}" if row[key] is None else f"{row[key]:,} {unit}"
            for key, unit in (("max_calls", "calls"), ("max_cells", "cells"))
        )
        click.echo(f"{row['name']}  since {row['created_at']}  {limits}")
    if not rows:
        click.echo("no tokens; `lingshu serve --http` makes the owner's at its first start")


@tokens.command()
@click.argument("name")
@common
def revoke(name: str) -> None:
    """Take the token of NAME away; its experiments stay."""
    _tokens().revoke(name)
    if settings().as_json:
        echo_json({"status": "succeeded", "name": name})
    else:
        click.echo(f"the token of {name} is refused from now on")


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


def _tokens() -> Any:
    from lingshu_tools.ledger import default_home
    from lingshu_tools.system.access_tokens import AccessTokens

    return AccessTokens(settings().home or default_home())
