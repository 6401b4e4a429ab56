"""The whole command line: `lingshu`, with the commands that it passes on to other modules."""

import argparse
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import click

# Commands that take any arguments and start a module, which has a separate click command.
PASSED_ON = {
    "lingshu train": "lingshu_model.train.__main__",
    "lingshu evaluate": "lingshu_model.evaluate.__main__",
    "lingshu calibrate": "lingshu_model.finishing.calibrate",
    "lingshu data inspect": "lingshu_model.train.inspect.__main__",
    "lingshu engine run": "lingshu_model.engine.__main__",
}
MODULES = {
    "lingshu_model.train": "lingshu train",
    "lingshu_model.evaluate": "lingshu evaluate",
    "lingshu_model.engine": "lingshu engine run",
}
"""What `python -m MODULE` is called on the command line."""
PROGRAMS = {"lingshu-mcp": "lingshu_mcp.__main__", "lingshu-tools": "lingshu_mcp.__main__"}


def children(command: click.Command) -> dict[str, click.Command]:
    """Return the commands of a group by name; of another command none."""
    if not isinstance(command, click.Group):
        return {}
    context = click.Context(command)
    names = command.list_commands(context)
    return {name: child for name in names if (child := command.get_command(context, name))}


@cache
def real(path: str, command: click.Command | None = None) -> click.Command | None:
    """Return the command that parses the arguments of the command at `path`."""
    name = PASSED_ON.get(path) or PROGRAMS.get(path)
    if name is None:
        return command
    module = import_module(name)
    # The engine reads its options before torch is loaded, with argparse.
    return module.main if isinstance(module.main, click.Command) else _of(module._parser())


def _of(parser: argparse.ArgumentParser) -> click.Command:
    """Return a command with the options of an argparse parser."""
    options = [
        click.Option(
            [*action.option_strings, action.dest],
            required=action.required,
            type=click.Choice(list(action.choices)) if action.choices else None,
            metavar=action.metavar if isinstance(action.metavar, str) else None,
            help=(action.help or "").replace("%%", "%"),
            hidden=action.help == argparse.SUPPRESS,
        )
        for action in parser._actions
        if action.option_strings and action.dest != "help"
    ]
    return click.Command(parser.prog, params=list(options), help=parser.description)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its words, groups before what they hold."""
    for path, command in listed():
        yield path, real(path, command) or command


def listed() -> Iterator[tuple[str, click.Command]]:
    """Yield the same without loading the modules that commands are passed on to."""
    from lingshu_tools.cli import main

    waiting: list[tuple[str, click.Command]] = [("lingshu", main)]
    while waiting:
        path, command = waiting.pop(0)
        yield path, command
        waiting[:0] = [(f"{path} {name}", child) for name, child in children(command).items()]
