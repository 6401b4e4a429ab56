"""Code blocks of the pages, and what is wrong with them.

Every fenced block has a language: none for commands, `bash` for a script, `python`, `json`, `toml`,
or one of those that show something (`text`, `mermaid`). A command of this project is parsed by the
command line's own parser, a call of a tool by the tool's schema; another program has to be in
`PROGRAMS`.
"""

import ast
import copy
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from docs.builder import commands

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>```+)(?P<language>[^\n]*)\n(?P<body>.*?)^ *(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
SHOWN = ("text", "mermaid")
PROGRAMS = {"cd", "cp", "curl", "docker", "export", "git", "pip", "pipx", "podman", "source"}
PROGRAMS |= {"systemctl", "uv", "uvx"}
"""Programs of others that a page may call."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    body: str

    def __str__(self) -> str:
        return f"{os.path.relpath(self.page, ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return the pages whose blocks are checked."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    return sorted(path for path in found if "_site" not in path.parts)


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page that are code: no directives of the site."""
    text = page.read_text("utf-8")
    for match in FENCE.finditer(text):
        language = match["language"].strip()
        if language.startswith("{") and not language.startswith("{code-cell}"):
            continue
        line = text.count("\n", 0, match.start()) + 1
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        yield Block(page, line, "python" if language.startswith("{") else language, body)


def problems(block: Block) -> Iterator[str]:
    """Yield what is wrong with a block."""
    if block.language == "":
        for line in lines(block.body):
            yield from problems_of_line(line)
    elif block.language == "python":
        try:
            compile(_without_magic(block.body), str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as error:
            yield f"no Python: {error}"
    elif block.language == "json":
        yield from _of_json(block.body)
    elif block.language == "bash":
        syntax = subprocess.run(
            ["bash", "-n"], input=block.body, capture_output=True, text=True, check=False
        )
        if syntax.returncode:
            yield f"no script: {syntax.stderr}"
    elif block.language == "toml":
        try:
            tomllib.loads(block.body)
        except tomllib.TOMLDecodeError as error:
            yield f"no TOML: {error}"
    elif block.language not in SHOWN:
        yield f"no known language: {block.language!r}"


def _without_magic(body: str) -> str:
    # `! command` and front matter of a cell (`:tags: …`) are no Python.
    return re.sub(r"^(!|:)(.*)$", "pass", body, flags=re.MULTILINE)


def lines(body: str) -> list[str]:
    """Return the commands of a shell block; quotes and backslashes may join lines."""
    complete: list[str] = []
    waiting = ""
    for line in body.splitlines():
        waiting = f"{waiting}\n{line}" if waiting else line
        try:
            shlex.split(waiting, comments=True)
        except ValueError:
            continue
        if not waiting.rstrip().endswith("\\"):
            complete.append(waiting)
            waiting = ""
    return [*complete, waiting] if waiting else complete


def problems_of_line(line: str) -> Iterator[str]:
    """Yield what is wrong with one command of a shell block."""
    if line.lstrip().startswith("#"):
        return
    words = shlex.split(line.replace("\\\n", " "), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
        words = words[1:]
    if not words:
        return
    program = Path(words[0]).name
    if program == "accelerate" or (program.startswith("python") and "-m" in words):
        at = words.index("-m")
        yield from _of_module(words[at + 1], words[at + 2 :])
    elif program.startswith("python") and len(words) > 1 and words[1].endswith(".py"):
        yield from [f"no file {words[1]}"] if not (ROOT / words[1]).exists() else []
    elif program == "make":
        known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
        yield from (f"no target {w!r}" for w in words[1:] if "=" not in w and w not in known)
    elif program == "lingshu" or program in commands.PROGRAMS:
        yield from problems_of_command(program, words[1:])
    elif program == "uvx" and "lingshu" in words:
        yield from problems_of_command("lingshu", words[words.index("lingshu") + 1 :])
    elif "/" in words[0] and (ROOT / words[0]).is_file():
        return  # a script of the repository
    elif program not in PROGRAMS:
        yield f"unknown program {program!r} in {line!r}"


def _of_module(module: str, arguments: Sequence[str]) -> Iterator[str]:
    if module in commands.MODULES:
        yield from problems_of_command(
            "lingshu", [*commands.MODULES[module].split()[1:], *arguments]
        )
    elif module in ("sphinx", "pytest"):
        return
    elif find_spec(module) is None:
        yield f"no module {module}"


@cache
def known_commands() -> dict[str, click.Command]:
    """Return every command with its words; those that are passed on are not loaded yet."""
    return dict(commands.listed()) | {name: click.Command(name) for name in commands.PROGRAMS}


def problems_of_command(program: str, words: Sequence[str]) -> Iterator[str]:
    """Yield what the command line would refuse of a command, without running it."""
    path, rest, known = program, list(words), known_commands()
    # Shared options may stand before a command.
    if rest[:1] == ["--home"] and program == "lingshu":
        rest = rest[2:]
    while rest and f"{path} {rest[0]}" in known:
        path, rest = f"{path} {rest[0]}", rest[1:]
    command = commands.real(path, known[path])
    rest = [word for word in rest if word not in ("[…]", "…")]
    if any(word in ("--help", "-h", "--version", "--schema") for word in rest):
        return
    try:
        _parsed(command, path, rest)
    except click.exceptions.ClickException as error:
        yield f"{path} {' '.join(rest)}: {error.format_message()}"
        return
    if path == "lingshu call":
        yield from problems_of_call(*[word for word in rest if not word.startswith("--")][:2])


def _parsed(command: click.Command, path: str, words: list[str]) -> None:
    """Parse arguments as click does, without looking for the files that they name."""
    twin = click.Command(path, params=[_without_files(p) for p in command.params])
    if not any("--home" in parameter.opts for parameter in twin.params):
        twin.params.append(click.Option(["--home"]))
    if isinstance(command, click.Group) and not command.invoke_without_command:
        message = f"{path} needs one of {', '.join(commands.children(command))}"
        raise click.UsageError(message)
    with twin.make_context(path, list(words)):
        pass


def _without_files(parameter: click.Parameter) -> click.Parameter:
    """Return a parameter that takes the same texts, without callbacks and checks of files."""
    bare = copy.copy(parameter)
    bare.callback = None
    if isinstance(bare.type, click.Path):
        bare.type = click.STRING
    return bare


def problems_of_call(tool: str, text: str = "{}") -> Iterator[str]:
    """Yield what a tool would refuse of its arguments, as far as its schema says it."""
    from pydantic import ValidationError

    from lingshu_tools.calls.registry import registry

    if tool == "TOOL":
        return
    if tool not in registry():
        yield f"no tool {tool!r}"
        return
    if text in ("-", "JSON") or text.startswith("@"):
        return
    try:
        registry()[tool].arguments.model_validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        yield f"{tool}: {error}"


def _of_json(body: str) -> Iterator[str]:
    """Yield what is wrong with a JSON block: a specification, a client's entry, or a tool call."""
    try:
        value: Any = json.loads(body)
    except ValueError as error:
        yield f"no JSON: {error}"
        return
    keys = set(value) if isinstance(value, dict) else set()
    if "sources" in keys:
        from lingshu_model.train.spec import TrainingSpec

        try:
            TrainingSpec.model_validate(value)
        except ValueError as error:
            yield f"no specification: {error}"
    elif keys & {"mcpServers", "servers"}:
        for server in [s for name in keys for s in value[name].values()]:
            program = Path(str(server.get("command", ""))).name
            yield from problems_of_command(program, server.get("args", []))
    elif {"tool", "arguments"} <= keys:
        yield from problems_of_call(value["tool"], json.dumps(value["arguments"]))
    else:
        yield f"JSON that is no specification, no client's entry and no call: {sorted(keys)}"
