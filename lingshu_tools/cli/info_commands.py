"""`lingshu tools` and `lingshu doctor`: what there is, and what state it is in.

Starts nothing, and changes nothing but the modes of a home that is open to other users.
"""

import json
import os
import platform
import shutil
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lingshu_tools.calls.definitions import anthropic_tool, full_tool, openai_tool
from lingshu_tools.cli.common import common, echo_json, open_app, settings
from lingshu_tools.cli.engine_commands import engine_state
from lingshu_tools.system.interpreter import interpreter

if TYPE_CHECKING:
    from lingshu_tools.app import App
    from lingshu_tools.calls.registry import ToolSpec

# Characters of a line of a tool's page.
_WIDTH = 100
# The longest wait for a locked database.
_LEDGER_S = 5.0
PACKAGES = ("lingshu-tools", "numpy", "pydantic", "sqlalchemy", "httpx", "mcp", "torch")


FORMATS: dict[str, "Callable[[ToolSpec], dict[str, Any]]"] = {
    "openai": openai_tool,
    "anthropic": anthropic_tool,
    "json": full_tool,
}


@click.command()
@click.argument("name", required=False)
@click.option("--format", "form", type=click.Choice(list(FORMATS)), help="Print definitions.")
@common
def tools(name: str | None, form: str | None) -> None:
    """List the tools, or print their definitions for an agent framework.

    With NAME that tool alone: what it is for, its arguments and the fields of its result.
    """
    from lingshu_tools.calls.dispatcher import find_tool
    from lingshu_tools.calls.registry import registry

    as_definition = FORMATS[form or "json"]
    if name is not None:
        spec = find_tool(name)
        if form or settings().as_json:
            echo_json(as_definition(spec))
        else:
            click.echo(tool_page(spec))
        return
    specs = registry().values()
    if form or settings().as_json:
        echo_json([as_definition(spec) for spec in specs])
        return
    width = max(len(spec.name) for spec in specs)
    for spec in specs:
        click.echo(f"{click.style(spec.name.ljust(width), bold=True)}  {first_sentence(spec)}")


def tool_page(spec: "ToolSpec") -> str:
    """Return what a person reads of one tool: description, arguments, fields of the result."""
    fields = spec.output_schema["properties"]
    lines = [
        f"{click.style(spec.name, bold=True)}  {spec.title}",
        "",
        *textwrap.wrap(" ".join(spec.description.split()), _WIDTH),
        "",
        click.style("Arguments", bold=True),
        *(_argument_lines(spec.input_schema) or ["  none"]),
        "",
        click.style("Result", bold=True),
        *textwrap.wrap(", ".join(fields), _WIDTH, initial_indent="  ", subsequent_indent="  "),
        "",
        f"Call it: lingshu call {spec.name} JSON",
        f"Whole schemas: lingshu tools {spec.name} --json",
    ]
    return "\n".join(lines)


def _argument_lines(schema: Mapping[str, Any], indent: str = "  ") -> list[str]:
    """Return each argument with its type, its default and what it is; parts of objects below."""
    lines: list[str] = []
    for name, node in schema.get("properties", {}).items():
        items = node.get("items", {})
        what = [_type_of(node), "required" if name in schema.get("required", ()) else ""]
        what += [f"default {json.dumps(node['default'])}" if "default" in node else ""]
        limits = (("minimum", "at least"), ("maximum", "at most"))
        what += [f"{word} {node[key]:g}" for key, word in limits if key in node]
        head = f"{indent}{click.style(name, bold=True)} ({', '.join(w for w in what if w)})"
        text = f"{head}  {node.get('description', '')}".rstrip()
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent=f"{indent}    ")
        # Objects are nested once, in lists or as they are.
        lines += _argument_lines(items or node, f"{indent}    ")
    return lines


def _type_of(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return " | ".join(map(str, node["enum"]))
    inner = node.get("items", {})
    return f"list of {_type_of(inner)}" if inner else str(node["type"])


def first_sentence(spec: "ToolSpec") -> str:
    """Return the first sentence of a tool's description, cut to a line."""
    sentence = " ".join(spec.description.split()).split(". ")[0].rstrip(".")
    return textwrap.shorten(sentence, 100, placeholder=" …")


@click.command()
@click.option(
    "--fix/--no-fix",
    default=True,
    help="Close the home to other users (folders 0700, files 0600), or only say what is open.",
)
@common
def doctor(*, fix: bool) -> None:
    """Show versions, disk space, the ledger, the engine and its numerics; close an open home."""
    state = _examine(open_app(), fix=fix)
    if settings().as_json:
        echo_json(state)
        return
    for name, value in state.items():
        lines = value.items() if isinstance(value, dict) else [("", value)]
        click.echo(click.style(name, bold=True))
        for key, item in lines:
            for part in item if isinstance(item, list) else [item]:
                click.echo(f"  {key + ': ' if key else ''}{part}")


def _examine(app: "App", *, fix: bool) -> dict[str, Any]:
    state = engine_state(app.engine.info())
    profile: dict[str, Any] = (state["engine"] or {}).get("profile", {})
    return {
        "status": "succeeded",
        "versions": {**_versions(), "python": platform.python_version(), "sqlite": _sqlite()},
        "machine": {"system": platform.platform(), "interpreter": interpreter()},
        "home": str(app.home),
        "access": _access(app.home, fix=fix),
        "free space": _free(app.home),
        "ledger": _ledger(app),
        "checkpoints": _checkpoints(app),
        "engine": {key: value for key, value in (state["engine"] or {}).items() if key != "profile"}
        or "not running; the first experiment starts one",
        "numerics profile": profile or "known once the engine runs",
    }


def _versions() -> dict[str, str]:
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _sqlite() -> str:
    import sqlite3

    return sqlite3.sqlite_version


def _free(home: Path) -> str:
    # The home may not exist yet: the disk is that of its nearest folder.
    there = next(each for each in (home, *home.parents) if each.is_dir())
    return f"{shutil.disk_usage(there).free / 1e9:.1f} GB"


def _access(home: Path, *, fix: bool) -> dict[str, Any]:
    from lingshu_tools.system.home_modes import check_access, shortened

    access = check_access(home, fix=fix)
    state: dict[str, Any] = {"state": access.summary, "locks": _locks(home)}
    if access.changed:
        state["closed"] = shortened(access.changed)
    if access.problems:
        state["problem"] = shortened(access.problems)
    return state


def _locks(home: Path) -> str:
    from lingshu_model.system.file_locks import kind_of_locks

    return kind_of_locks(home) if home.is_dir() else "known once there is a home"


def _ledger(app: "App") -> dict[str, Any]:
    from lingshu_tools.errors import LingshuError
    from lingshu_tools.system.deadline import time_limit

    url = os.environ.get("LINGSHU_LEDGER")
    try:
        # Who calls a doctor may have a database that is locked.
        with time_limit(_LEDGER_S):
            return _named_ledger(url) if url else _home_ledger(app)
    except LingshuError as error:
        return {"problem": str(error)}


def _home_ledger(app: "App") -> dict[str, Any]:
    from lingshu_tools.ledger import Ledger
    from lingshu_tools.ledger.migrations import HEAD
    from lingshu_tools.ledger.sqlite import journal_for

    database = app.home / "experiments.db"
    try:
        journal = journal_for(database)
    except OSError as error:
        return {"database": str(database), "unreadable": str(error)}
    said = {"database": str(database), "journal": f"{journal.mode}: {journal.reason}"}
    if not database.is_file():
        return {**said, "head": "none yet; the first experiment makes the file"}
    # Read-only: looking must neither create nor migrate anything.
    ledger = Ledger.open_read_only(database)
    old = "" if ledger.schema == HEAD else f"; `lingshu ledger migrate` brings it to {HEAD}"
    return {**said, "schema": ledger.schema + old, "head": str(ledger.head())}


def _named_ledger(url: str) -> dict[str, Any]:
    from lingshu_tools.ledger.backend import backend_of
    from lingshu_tools.ledger.chain import head_of
    from lingshu_tools.ledger.database import Database

    database = Database.open_read_only(backend_of(url, writable=False))
    with database.read() as connection:
        head = head_of(connection)
    return {"database": database.name, "schema": database.revision, "head": str(head)}


def _checkpoints(app: "App") -> dict[str, str] | str:
    """Return the state of every checkpoint, or why their folders cannot be read."""
    from lingshu_model.contracts import CheckpointError

    try:
        return {name: _intact(app, name) for name in app.catalogue.names()}
    except CheckpointError as error:
        return str(error)


def _intact(app: "App", name: str) -> str:
    from lingshu_model.contracts import CheckpointError

    try:
        checkpoint = app.catalogue.load(name)
        # Every file that the digest covers is hashed, weights too.
        for file in checkpoint.pinned:
            checkpoint.verify_file(file)
    except CheckpointError as error:
        return f"damaged: {error}"
    return f"intact, {checkpoint.digest}"
