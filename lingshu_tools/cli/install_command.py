"""`lingshu install`: this server in the settings of an MCP client."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from lingshu_tools.cli.common import common, echo_json, settings

# Repeated here, so that --help imports nothing of `install`.
_NAMES = ("claude-code", "claude-desktop", "cursor", "vscode", "codex", "gemini")
# Names that every client takes as a key, and TOML without quotes.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")


@click.command()
@click.argument("client", type=click.Choice(_NAMES))
@click.option("--print", "only_print", is_flag=True, help="Print the entry; write nothing.")
@click.option("--yes", is_flag=True, help="Write without asking first.")
@click.option(
    "--project",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The client's file in a project's folder, not your own settings.",
)
@click.option("--name", default="lingshu", show_default=True, help="Of the server's entry.")
@click.option(
    "--tools",
    type=click.Choice(["all", "core"]),
    default="all",
    show_default=True,
    help="All tools, or six for small models.",
)
@common
def install(
    client: str,
    *,
    only_print: bool,
    yes: bool,
    project: Path | None,
    name: str,
    tools: str,
) -> None:
    """Connect an MCP client: put this server into its settings, or print what to put there.

    Everything else in the file stays, comments too, and a copy of the file is kept beside it.
    `--home` gives the server another home.
    """
    from lingshu_tools.errors import InputError, quoted
    from lingshu_tools.install import SettingsFile, find_client, printed, this_server, with_entry

    if not _NAME.fullmatch(name):
        message = f"--name {quoted(name)}: up to 64 letters, digits and -, a letter first"
        raise InputError(message)
    kind = find_client(client)
    server = this_server(home=settings().home, core=tools == "core")
    snippet = printed(kind, name, server)
    base, path = kind.file(project)
    # The snippet alone on standard output, so that it can be piped.
    if only_print:
        click.echo(snippet, nl=False)
        click.echo(f"for {path}", err=True)
        return
    file = SettingsFile.read(base, path, shared=project is not None)
    try:
        text = with_entry(file.text, kind, name, server)
    except InputError as error:
        message = f"{path} was left as it is: {error}"
        raise InputError(message) from error
    if text == file.text and file.content is not None:
        _report(path, None, f"{path} has this entry already; nothing was written", changed=False)
        return
    _agree(snippet, path, exists=file.content is not None, yes=yes)
    kept = file.replace(text)
    old = f"; the file as it was: {kept}" if kept else ""
    _report(path, kept, f"wrote {path}{old}\nNow {kind.reload}.", changed=True)
    _warn()


def _agree(snippet: str, path: Path, *, exists: bool, yes: bool) -> None:
    if yes:
        return
    from lingshu_tools.errors import InputError

    # Nobody can be asked, and writing into a settings file without consent is no default.
    if settings().as_json or not sys.stdin.isatty():
        message = f"nothing was written: --yes is needed to write {path} without being asked"
        raise InputError(message)
    click.echo(snippet, nl=False, err=True)
    what = f"Put this into {path}? All else in it stays" if exists else f"Write this to {path}?"
    if not click.confirm(what, err=True):
        message = "nothing was written"
        raise click.ClickException(message)


def _report(path: Path, kept: Path | None, text: str, *, changed: bool) -> None:
    if settings().as_json:
        copy = str(kept) if kept else None
        echo_json({"status": "succeeded", "file": str(path), "changed": changed, "copy": copy})
    else:
        click.echo(text)


def _warn() -> None:
    """Say what the client's server will lack."""
    import os
    from importlib.util import find_spec

    if find_spec("torch") is None:
        text = "experiments need torch too: pip install 'lingshu-tools[all]'"
        click.echo(f"note: {text}", err=True)
    if os.environ.get("LINGSHU_LEDGER"):
        text = (
            "LINGSHU_LEDGER may hold a password and was not written: set it where the client runs"
        )
        click.echo(f"note: {text}", err=True)
