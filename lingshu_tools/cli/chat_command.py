"""`lingshu chat`: a lab assistant on the terminal, with a model of your choice."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from lingshu_tools.cli.common import common, echo_json, settings

if TYPE_CHECKING:
    from lingshu_tools.chat import Assistant, Endpoint

KEY_VARIABLE = "LINGSHU_CHAT_API_KEY"


@click.command()
@click.argument("question", nargs=-1)
@click.option(
    "--endpoint",
    envvar="LINGSHU_CHAT_ENDPOINT",
    metavar="URL",
    help="OpenAI-compatible, such as http://127.0.0.1:8080/v1; no other host is contacted.",
)
@click.option(
    "--model", envvar="LINGSHU_CHAT_MODEL", metavar="NAME", help="As the endpoint has it."
)
@click.option(
    "--key-env",
    default=KEY_VARIABLE,
    show_default=True,
    metavar="VARIABLE",
    help="The environment variable that holds the key.",
)
@click.option(
    "--tools",
    type=click.Choice(["all", "core"]),
    default="all",
    show_default=True,
    help="All tools, or six for small models.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1, 3600),
    default=120,
    show_default=True,
    help="Seconds without a byte after which a request is given up.",
)
@click.option("--no-save", is_flag=True, help="Keep no transcript.")
@common
def chat(
    question: tuple[str, ...],
    *,
    endpoint: str | None,
    model: str | None,
    key_env: str,
    tools: str,
    timeout: float,
    no_save: bool,
) -> None:
    """Talk to a model that runs experiments with the tools.

    QUESTION is answered once; without it, a conversation ends with Ctrl-D. Every experiment is a
    row of the ledger, and the transcript in the home's `chats` folder names the ledger's head.
    """
    from lingshu_tools.chat import AgentApp, Assistant, Endpoint, Toolbox, Transcript
    from lingshu_tools.chat.terminal import Terminal
    from lingshu_tools.errors import EndpointError

    if not endpoint or not model:
        missing = "--endpoint URL" if not endpoint else "--model NAME"
        message = f"{missing} is needed: there is no default, and no other host is contacted"
        raise click.UsageError(message)
    key = os.environ.get(key_env)
    # Named on purpose, so its absence is a mistake; the default may be unset for a local server.
    if key_env != KEY_VARIABLE and not key:
        message = f"the environment has no {key_env}"
        raise click.UsageError(message)
    # With --json standard output has the object alone, so nothing of the chat is shown.
    terminal = Terminal(secret=key, quiet=settings().as_json)
    place = Endpoint.parse(endpoint, model, key, timeout_s=timeout, pause=_pausing(terminal))
    app = AgentApp(settings().home, door="cli")
    transcript = Transcript(None) if no_save else Transcript.in_home(app.home)
    assistant = Assistant(
        Toolbox(app, tools="core" if tools == "core" else None), place, terminal, transcript
    )
    try:
        if question:
            _once(assistant, " ".join(question), transcript.path)
        else:
            _talk(assistant, place)
    except EndpointError:
        # The transcript says how far the chat came.
        if transcript.path:
            terminal.note(f"transcript: {transcript.path}")
        raise
    finally:
        assistant.close()
    terminal.note(_sum(assistant, transcript.path))


def _once(assistant: Assistant, question: str, saved: Any) -> None:
    if not settings().as_json:
        assistant.ask(question)
        return
    answer = assistant.ask(question)
    cost = {"cells": assistant.cost.cells, "computing_s": round(assistant.cost.computing_s, 3)}
    values = {"status": "succeeded", "answer": answer, "cost": cost, "tokens": assistant.tokens}
    echo_json({**values, "transcript": str(saved) if saved else None})


def _talk(assistant: Assistant, endpoint: Endpoint) -> None:
    from lingshu_tools.errors import EndpointError

    if settings().as_json:
        message = "--json needs a QUESTION"
        raise click.UsageError(message)
    if sys.stdin.isatty():
        click.echo(f"{endpoint.model} at {endpoint.host}; Ctrl-D ends the chat", err=True)
    while True:
        try:
            question = _line()
        except EOFError:
            return
        if not question:
            continue
        try:
            assistant.ask(question)
        except EndpointError as error:
            # From a pipe nobody can ask again: the command fails.
            if not sys.stdin.isatty():
                raise
            click.echo(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            click.echo("\n[stopped; experiments that were begun go on]", err=True)


def _line() -> str:
    """Return the next line of standard input.

    Raises:
        EOFError: there is none.
    """
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    # Not input(), whose prompt goes to standard output, where the replies are.
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


def _pausing(terminal: Any) -> Any:
    import time

    def pause(seconds: float, reason: str) -> None:
        terminal.note(f"{reason}; sending it again in {seconds:.0f} s")
        time.sleep(seconds)

    return pause


def _sum(assistant: Assistant, saved: Any) -> str:
    tokens = f", {assistant.tokens:,} tokens" if assistant.tokens else ""
    where = f"; transcript: {saved}" if saved else ""
    return f"tools: {assistant.cost}{tokens}{where}"
