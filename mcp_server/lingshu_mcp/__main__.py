"""`python -m lingshu_mcp`: serve over stdio until stdin closes, or over loopback HTTP.

Over stdio, stdout carries JSON-RPC only. Imports wait until Ctrl-C ends the process quietly: the
SDK's takes a second or more.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lingshu_mcp.wire import claim
from lingshu_model.system.redaction import protect_streams
from lingshu_tools.system import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

    from lingshu_mcp.calls import Calls
    from lingshu_tools.app import App


@click.command(name="lingshu-mcp")
@click.option("--home", type=click.Path(path_type=Path), help="Where ledger and objects live.")
@click.option("--http", metavar="HOST:PORT", help="Serve over HTTP on a loopback address instead.")
@click.option("--no-token", is_flag=True, help="Let every user of this machine in over HTTP.")
@click.option(
    "--tools",
    type=click.Choice(["all", "core"]),
    default="all",
    help="All tools, or six for small models.",
)
@click.option(
    "--max-calls",
    type=click.IntRange(1),
    envvar="LINGSHU_MAX_CALLS",
    help="Calls that may wait at a time.",
)
def main(
    home: Path | None,
    http: str | None,
    no_token: bool,  # noqa: FBT001 - click's
    tools: str,
    max_calls: int | None,
) -> None:
    """Serve the tools to an MCP client: over stdio, or over HTTP with --http."""
    interrupts.end_at_once()

    def make() -> "tuple[App, Calls]":
        from lingshu_mcp.calls import MAX_WAITING, Calls
        from lingshu_tools.app import App

        return App(home, door="mcp"), Calls(max_waiting=max_calls or MAX_WAITING)

    core = tools == "core"
    if http is None:
        status = _stdio(make, no_token=no_token, core=core)
    else:
        status = _http(*make(), http, no_token=no_token, core=core)
    # A thread that is still at work must not outlive the client: experiments are rows, and the
    # engine goes on.
    os._exit(status)


def _stdio(make: "Callable[[], tuple[App, Calls]]", *, no_token: bool, core: bool) -> int:
    if no_token:
        message = "--no-token is for --http; over stdio there is no token"
        raise click.UsageError(message)
    # Before the imports: a library that prints while it is imported must not reach the client.
    wire = claim()
    if wire is None:
        click.echo("lingshu-mcp: stdin or stdout is closed; an MCP client opens both", err=True)
        return 2

    # After `claim`, and without what answers calls: `initialize` must not wait for that.
    from lingshu_mcp.back import Back
    from lingshu_mcp.server import assemble
    from lingshu_mcp.stdio import serve_stdio

    def parts() -> "tuple[Callable[[], App], Calls]":
        app, calls = make()
        return (lambda: app), calls

    back = Back(parts)
    return serve_stdio(assemble(back, core=core), back, wire)


def _http(app: "App", calls: "Calls", address: str, *, no_token: bool, core: bool) -> int:
    from lingshu_mcp.http import Address, serve_http
    from lingshu_tools.errors import LingshuError

    try:
        return serve_http(app, calls, Address.parse(address), with_tokens=not no_token, core=core)
    except LingshuError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    with protect_streams():
        main()
