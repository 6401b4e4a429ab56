"""`python -m lingshu_mcp`: serve over stdio until stdin closes, or over loopback HTTP.

Over stdio, stdout carries JSON-RPC only. Imports wait until Ctrl-C ends the process quietly:
the SDK's takes a second or more.
"""

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lingshu_model.redaction import protect_streams
from lingshu_tools import interrupts

if TYPE_CHECKING:
    from mcp.server.transport_security import TransportSecuritySettings


@click.command(name="lingshu-mcp")
@click.option("--home", type=click.Path(path_type=Path), help="Where ledger and objects live.")
@click.option("--http", metavar="HOST:PORT", help="Serve over HTTP on a loopback address instead.")
def main(home: Path | None, http: str | None) -> None:
    """Serve the tools to an MCP client: over stdio, or over HTTP with --http."""
    interrupts.end_at_once()
    from lingshu_mcp.calls import Calls
    from lingshu_mcp.server import build_server
    from lingshu_mcp.stdio import serve_stdio
    from lingshu_tools.app import App

    calls = Calls()
    server = build_server(App(home, door="mcp"), calls)
    if http is None:
        status = serve_stdio(server, calls)
        # A thread that is still at work must not outlive the client: experiments are rows, and the
        # engine goes on.
        os._exit(status)
    host, port = loopback(http)
    server.run("streamable-http", host=host, port=port, transport_security=security(host, port))


def loopback(address: str) -> tuple[str, int]:
    """Return host and port of an address on this machine.

    Raises:
        click.BadParameter: it is not HOST:PORT, or could be reached from elsewhere.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isdigit() and int(port) < 2**16):
        message = f"{address!r} is not HOST:PORT, such as 127.0.0.1:8931"
        raise click.BadParameter(message)
    if host != "localhost" and not _is_loopback(host):
        message = (
            f"{host!r} could be reached from other machines, and this server has no login; "
            "use 127.0.0.1 and a tunnel or proxy that authenticates"
        )
        raise click.BadParameter(message)
    return host, int(port)


def security(host: str, port: int) -> "TransportSecuritySettings":
    """Return settings that refuse foreign Host and Origin headers (DNS rebinding)."""
    from mcp.server.transport_security import TransportSecuritySettings

    names = {host if ":" not in host else f"[{host}]", "127.0.0.1", "localhost"}
    hosts = sorted(f"{name}:{port}" for name in names)
    return TransportSecuritySettings(
        allowed_hosts=hosts, allowed_origins=[f"http://{name}" for name in hosts]
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    with protect_streams():
        main()
