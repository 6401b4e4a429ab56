"""`python -m lingshu_mcp.lab_page.serving`: the lab page on a loopback address, for one browser.

The server is that of MCP over HTTP, with one token that is made at the start, is kept in memory
alone and ends with the process. The page gets it from the fragment of the URL, which a browser
sends to nobody.
"""

import hmac
import os
import re
import secrets
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from lingshu_model.system.redaction import protect_streams, remember
from lingshu_tools.system import interrupts

if TYPE_CHECKING:
    from starlette.responses import Response

    from lingshu_mcp.http import Address
    from lingshu_tools.system.access_tokens import Token

IDLE_MINUTES: Final = 30.0
_ID: Final = re.compile(r"(exp|scr)_[a-z0-9]{1,60}")


class PageToken:
    """One token, which the home's owner has for as long as the server runs."""

    def __init__(self) -> None:
        self.value = secrets.token_urlsafe(32)
        remember(self.value)

    def all(self) -> "Sequence[Token]":
        """Return the token."""
        from lingshu_tools.system.access_tokens import OWNER, Token

        return [Token(name=OWNER, digest="", created_at="", max_calls=None, max_cells=None)]

    def find(self, value: str) -> "Token | None":
        """Return the token of this value, or None; the comparison takes constant time."""
        same = hmac.compare_digest(value.encode(), self.value.encode())
        return self.all()[0] if same else None


def page_response() -> "Response":
    """Return the page with its headers."""
    from starlette.responses import HTMLResponse

    from lingshu_mcp.lab_page.document import headers, html

    return HTMLResponse(html(), headers=dict(headers()))


def page_url(address: "Address", token: PageToken, name: str | None) -> str:
    """Return where a browser is to go: token and id are behind the `#`."""
    return f"http://{address.netloc}/#{token.value}{f'/{name}' if name else ''}"


@click.command(name="lingshu browse")
@click.argument("name", metavar="[ID]", required=False)
@click.option("--home", type=click.Path(path_type=Path), help="Where ledger and objects live.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="0: any free one.")
@click.option("--idle-minutes", type=click.FloatRange(0, min_open=True), default=IDLE_MINUTES)
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
def main(
    name: str | None,
    home: Path | None,
    port: int,
    idle_minutes: float,
    opens: bool,  # noqa: FBT001 - click's
) -> None:
    """Serve the lab page until it is idle, or until Ctrl-C."""
    interrupts.end_at_once()
    if name is not None and not _ID.fullmatch(name):
        message = (
            f"{name[:80]!r} is not an id such as exp_… or scr_…: lingshu ledger list shows them"
        )
        raise click.UsageError(message)
    from lingshu_mcp.calls import Calls
    from lingshu_mcp.http.gate import Gate
    from lingshu_mcp.http.run import Address, gate_of, serve_gate
    from lingshu_tools.app import App
    from lingshu_tools.errors import LingshuError

    app, calls, token = App(home, door="mcp"), Calls(), PageToken()
    redirects: list[Path] = []

    def make(address: Address) -> Gate:
        return gate_of(app, calls, token, address, page=page_response)

    def announce(address: Address) -> None:
        url = page_url(address, token, name)
        # The one line in which the token is shown: to who started the server.
        sys.stdout.buffer.write(f"{url}\n".encode())
        sys.stdout.flush()
        minutes = f"{idle_minutes:g} minutes without use"
        click.echo(f"lingshu: Ctrl-C, or {minutes}, ends this page", err=True)
        if opens:
            redirects.append(_open(app.home, url))

    try:
        address = Address("127.0.0.1", port)
        status = serve_gate(make, calls, address, announce, idle_s=60 * idle_minutes)
    except LingshuError as error:
        raise click.ClickException(str(error)) from error
    finally:
        for path in redirects:
            path.unlink(missing_ok=True)
    # As for `lingshu serve`: a thread that is still at work does not outlive the page.
    os._exit(status)


def _open(home: Path, url: str) -> Path:
    """Return a private file that leads a browser to the page.

    The command line of a browser can be read by other users of the machine, so that the token is
    not on it.
    """
    from lingshu_model.system.durable import write_durably
    from lingshu_model.system.private import private_folder

    path = private_folder(home) / "browse.html"
    text = f'<!doctype html><meta http-equiv="refresh" content="0;url={url}"><title>lingshu</title>'
    write_durably(path, text.encode())
    with suppress(webbrowser.Error):
        webbrowser.open(path.absolute().as_uri())
    return path


if __name__ == "__main__":
    with protect_streams():
        main()
