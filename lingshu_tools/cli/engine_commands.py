"""`lingshu engine`: the process that holds the checkpoints."""

from typing import TYPE_CHECKING, Any

import click

from lingshu_tools.cli.common import (
    PASS_ON,
    become,
    common,
    echo_json,
    open_app,
    settings,
)

if TYPE_CHECKING:
    from lingshu_model.contracts import EngineInfo


_ENDINGS = {
    "exited": "engine told to exit",
    "killed": "engine killed: it did not answer, or did not exit when told",
    "none": "no engine was running",
}


@click.group()
def engine() -> None:
    """Start, stop, look at or be the engine; tools start it by themselves when they need it."""


@engine.command()
@common
def start() -> None:
    """Start the engine of this home in the background, unless it runs."""
    _tell(open_app().engine.ensure())


@engine.command()
@common
def stop() -> None:
    """End the engine of this home, also a stuck one or one of another version.

    Running arms are taken up again when next asked for.
    """
    ending = open_app().engine.stop()
    if settings().as_json:
        echo_json({"status": "succeeded", "stopped": ending != "none", "ending": ending})
    else:
        click.echo(_ENDINGS[ending])


@engine.command()
@common
def status() -> None:
    """Show the engine of this home; never starts one."""
    _tell(open_app().engine.info())


@engine.command(context_settings=PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Be the engine, in the foreground (see `engine run --help`)."""
    from lingshu_tools.ledger import default_home

    # Given after `run`, it is the engine's option and wins.
    given = any(a == "--home" or a.startswith("--home=") for a in arguments)
    home = () if given else ("--home", str(settings().home or default_home()))
    become("lingshu_model.engine", (*home, *arguments), extra="model")


def _tell(info: "EngineInfo | None") -> None:
    if settings().as_json:
        echo_json({"status": "succeeded", **engine_state(info)})
        return
    if info is None:
        click.echo("no engine is running; the first experiment starts one")
        return
    # Known once a checkpoint is loaded.
    device = info.profile.get("device", "unknown device")
    click.echo(
        f"engine {info.version}, pid {info.pid}, {info.ranks} rank(s) on {device}: "
        f"{info.running} running, {info.queued} queued; exits after {info.idle_exit_s:g} s idle"
    )


def engine_state(info: "EngineInfo | None") -> dict[str, Any]:
    """Return the engine's state as JSON values, whether or not it runs."""
    return {"running": info is not None, "engine": info and info.model_dump(mode="json")}
