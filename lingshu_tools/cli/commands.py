"""The command line: the same tools and dispatcher as every other door.

Commands import what they need when they run. Torch and MCP live in processes of their own, which
`train`, `evaluate`, `engine run`, `serve` and `demo` become.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from lingshu_tools.cli.chat_command import chat
from lingshu_tools.cli.common import (
    PASS_ON,
    Shell,
    become,
    common,
    echo_json,
    open_app,
    progress_bar,
    settings,
    with_home,
)
from lingshu_tools.cli.data_commands import data, roots
from lingshu_tools.cli.engine_commands import engine
from lingshu_tools.cli.info_commands import doctor, tools
from lingshu_tools.cli.install_command import install
from lingshu_tools.cli.ledger_commands import ledger
from lingshu_tools.cli.models_commands import models
from lingshu_tools.cli.replay_command import replay
from lingshu_tools.cli.screen_command import screen
from lingshu_tools.cli.serve_commands import browse, serve


@click.group(cls=Shell, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lingshu-tools")
@common
def main() -> None:
    """Run and audit experiments on a virtual cell."""


@main.command("call")
@click.argument("tool")
@click.argument("arguments", default="{}", metavar="JSON")
@common
@click.pass_context
def call_tool(ctx: click.Context, tool: str, arguments: str) -> None:
    """Print what an agent would get from TOOL: one JSON object.

    JSON may be `-` to read standard input, or `@FILE`. Exits with 1 on an error.
    """
    from lingshu_tools.calls.concise import is_detailed, structured
    from lingshu_tools.calls.dispatcher import call, error_result
    from lingshu_tools.calls.progress import reporting
    from lingshu_tools.errors import LingshuError

    try:
        # Inside the try: a text that is no JSON is an error of the call, printed as one.
        given = read_json(arguments)
        with progress_bar(tool) as sink, reporting(sink):
            result = call(open_app(), tool, given)
        value = structured(result, tool, given, detailed=is_detailed(given))
    except LingshuError as error:
        value = error_result(error).model_dump(mode="json")
    echo_json(value)
    ctx.exit(1 if value["status"] in ("error", "failed") else 0)


def read_json(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`, on standard input (`-`) or in a file (`@FILE`).

    Raises:
        InputError: unreadable, no JSON, or no object.
    """
    from lingshu_tools.errors import InputError, quoted

    try:
        value: Any = json.loads(_json_bytes(text))
    except (OSError, ValueError, RecursionError) as error:
        message = f"cannot read the arguments {text[:80]!r} as JSON: {error}"
        raise InputError(message) from error
    if not isinstance(value, dict):
        message = f"the arguments are {quoted(value)}; a JSON object is needed, such as '{{}}'"
        raise InputError(message)
    return value


def _json_bytes(text: str) -> bytes:
    # JSON is UTF-8, whatever the locale says of arguments and of standard input.
    if text == "-":
        if sys.stdin is None:
            message = "standard input is closed"
            raise OSError(message)
        return sys.stdin.buffer.read()
    # fsencode: the bytes of the argument as the shell passed them.
    return Path(text[1:]).read_bytes() if text[:1] == "@" else os.fsencode(text)


def _passes_on(name: str, module: str, extra: str, text: str) -> None:
    @main.command(name, context_settings=PASS_ON, add_help_option=False, help=text)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def _(arguments: tuple[str, ...]) -> None:
        from lingshu_model.system.launcher import RANK_VARIABLES, ranks_in

        # One process, whatever launcher's variables are around, unless several are asked for.
        alone = ranks_in(arguments) is None
        become(module, arguments, extra=extra, without=RANK_VARIABLES if alone else ())


_passes_on("train", "lingshu_model.train", "model", "Train a checkpoint (see `train --help`).")
_passes_on("evaluate", "lingshu_model.evaluate", "model", "Measure a checkpoint on held-out cells.")
_passes_on(
    "calibrate",
    "lingshu_model.finishing.calibrate",
    "model",
    "Judge a checkpoint's intervals by held-out cells again.",
)


@main.command()
@click.option("--record", type=click.Path(path_type=Path), help="Write the ledger to this file.")
@with_home
def demo(record: Path | None) -> None:
    """Ask a real question through the real server, and replay the answer."""
    # A demonstration must not write into the ledger of a person's work.
    if settings().home is None:
        settings().home = Path("demo-home").absolute()
    become("lingshu_mcp.demo", ["--record", str(record)] if record else [], extra="mcp")


for command in (
    browse,
    chat,
    data,
    doctor,
    engine,
    install,
    ledger,
    models,
    replay,
    roots,
    screen,
    serve,
    tools,
):
    main.add_command(command)
