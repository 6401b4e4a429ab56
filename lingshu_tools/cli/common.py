"""What every command shares: `--home`, `--json`, errors as text or JSON, progress on a terminal.

Imports click alone, so that `--help` answers at once.
"""

import errno
import json
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from lingshu_tools.system import interrupts
from lingshu_tools.system.interpreter import drop_working_folder, replace_this_process
from lingshu_tools.system.terminal import encoding_for_child, prepare_streams, takes_all

if TYPE_CHECKING:
    from lingshu_tools.app import App
    from lingshu_tools.calls.progress import Sink
    from lingshu_tools.calls.results import Result

F = TypeVar("F", bound=Callable[..., Any])
# For commands whose options another program reads, `--help` among them.
PASS_ON: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}
UNFINISHED = ("queued", "running", "interrupted")
# The longest wait of a call; longer work is followed call by call.
WAIT_S = 45


@dataclass
class Settings:
    """The options shared by all commands, wherever on the line they were given."""

    home: Path | None = None
    as_json: bool = False


def settings() -> Settings:
    """Return the settings of the command line being run."""
    # Of the root: options may stand before and after the name of a command.
    return click.get_current_context().find_root().ensure_object(Settings)


def common(command: F) -> F:
    """Add `--home` and `--json` to a command."""
    for option in (with_home, _JSON):
        command = option(command)
    return command


def _set_home(_: click.Context, __: click.Parameter, value: Path | None) -> None:
    if value is not None:
        settings().home = value.expanduser().absolute()


def _set_json(_: click.Context, __: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's
    if value:
        settings().as_json = True


with_home = click.option(
    "--home",
    type=click.Path(path_type=Path),
    callback=_set_home,
    expose_value=False,
    help="Where ledger, objects and engine live; LINGSHU_HOME by default.",
)
_JSON = click.option(
    "--json", is_flag=True, callback=_set_json, expose_value=False, help="Print one JSON object."
)


@contextmanager
def _short_errors() -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        # click would say "Aborted!" and exit with 1, as after an error.
        click.echo("\ninterrupted; experiments begun before are kept", err=True)
        raise click.exceptions.Exit(interrupts.INTERRUPTED) from error
    except click.ClickException as error:
        from lingshu_tools.errors import bounded

        # click's classes build their text from this attribute when they are shown.
        vars(error)["message"] = bounded(error.message)
        raise
    except OSError as error:
        if error.errno == errno.EPIPE:
            # The reader of a pipe has left; click ends without a word.
            raise
        message = {
            errno.ENAMETOOLONG: "the name of a file or a folder is too long: give a shorter one",
            errno.ENOSPC: f"no space is left to write to ({error}): free some and call again",
        }
        raise click.ClickException(message.get(error.errno or 0, str(error))) from error


@contextmanager
def _checkpoint_errors() -> Generator[None]:
    try:
        yield
    except Exception as error:
        # Imported here: what it needs takes a while to load.
        from lingshu_model.contracts import CheckpointError
        from lingshu_tools.errors import InputError

        if isinstance(error, CheckpointError):
            raise InputError(str(error)) from error
        raise


class Shell(click.Group):
    """A group whose commands may raise the library's errors: shown as text, or as JSON."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program; what it prints has no secrets, and fits the terminal."""
        from lingshu_model.system.redaction import protect_streams

        # Before anything is printed or started: PATH may have the folder of the call in it.
        prepare_streams()
        drop_working_folder()
        with protect_streams():
            return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Return the context of a command line; a mistake in it is shown, and not endless."""
        with _short_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a library error exits with 1."""
        # Imported when a command runs, as --help does not need it.
        from lingshu_tools.errors import LingshuError

        try:
            # The inner makes a damaged checkpoint an InputError; the outer takes what the system or
            # click raises.
            with _short_errors(), _checkpoint_errors():
                return super().invoke(ctx)
        except LingshuError as error:
            if ctx.find_root().ensure_object(Settings).as_json:
                from lingshu_tools.calls.dispatcher import error_result

                echo_json(error_result(error).model_dump(mode="json"))
                ctx.exit(1)
            from lingshu_tools.calls.dispatcher import shown_error

            raise click.ClickException(shown_error(error)) from error


def open_app() -> "App":
    """Return the application of the chosen home; nothing is opened until it is used."""
    from lingshu_tools.app import App

    return App(settings().home, door="cli")


def echo_json(value: Mapping[str, Any] | list[Any]) -> None:
    """Print one JSON value: on one line for a pipe, indented for a person."""
    indent = 2 if sys.stdout.isatty() else None
    ascii_only = not takes_all(sys.stdout)
    click.echo(json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False))


def show(result: "Result", text: str | None = None) -> None:
    """Print a tool's result: structured with `--json`, else its text."""
    if settings().as_json:
        echo_json(result.model_dump(mode="json"))
    else:
        click.echo(result.summary if text is None else text)


def call_and_wait(app: "App", tool: str, arguments: dict[str, Any]) -> "Result":
    """Return the finished result of a tool, showing progress while it is under way."""
    from lingshu_tools.calls.dispatcher import call
    from lingshu_tools.calls.progress import reporting

    with progress_bar(tool) as sink, reporting(sink):
        result = call(app, tool, arguments)
        while result.status in UNFINISHED and result.experiment_id:
            followed = {"id": result.experiment_id, "wait_s": WAIT_S}
            result = call(app, "get_experiment", followed)
    return result


@contextmanager
def progress_bar(label: str, unit: str = "cells") -> Generator["Sink | None"]:
    """Give a sink that draws a bar on a terminal's stderr, or None where there is no terminal."""
    # A bar in a log file is thousands of lines.
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=label, unit=f" {unit}", leave=False, file=sys.stderr) as bar:

        def sink(n_done: int, total: int) -> None:
            bar.total, bar.n = total, n_done
            bar.refresh()

        yield sink


def become(
    module: str,
    arguments: tuple[str, ...] | list[str],
    extra: str,
    without: tuple[str, ...] = (),
) -> NoReturn:
    """Replace this process by `python -m module`, which may load what this package must not.

    The variables `without` are taken out of its environment.

    Raises:
        click.ClickException: a package of the extra is missing; the pip command is given.
    """
    # A package that tells whether the extra is installed.
    needed = {"model": "torch", "mcp": "mcp", "data": "anndata"}[extra]
    if find_spec(needed) is None:
        message = f"this needs {needed!r}: pip install 'lingshu-tools[{extra}]'"
        raise click.ClickException(message)
    home = settings().home
    environ = {name: value for name, value in os.environ.items() if name not in without}
    if home:
        # The new process has its own command line: the home goes by the environment.
        environ["LINGSHU_HOME"] = str(home)
    if encoding := encoding_for_child():
        environ["PYTHONIOENCODING"] = encoding
    # Ctrl-C between here and the new program would end with a traceback of its imports.
    interrupts.hold()
    replace_this_process(["-m", module, *arguments], environ)
