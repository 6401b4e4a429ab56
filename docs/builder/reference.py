"""The reference pages as Markdown, made from the code: one function for each page."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import click

from docs.builder.commands import commands

Schema = Mapping[str, Any]
SHARED_OPTIONS = ("--home", "--json", "--help")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, or nothing without rows."""
    lines = ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines]) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _code(value: object) -> str:
    return f"`{value}`" if str(value) else ""


def tools() -> str:
    """Return every tool with its description and arguments, as clients list them."""
    from lingshu_tools.calls.published import published_tools

    return "\n".join(_tool(tool) for tool in published_tools())


def _tool(tool: Any) -> str:
    kind = "Reads only." if tool.read_only else "Writes rows of the ledger."
    schema = tool.input_schema
    required = schema.get("required", ())
    rows = [
        [
            _code(name),
            _type(field),
            "required" if name in required else _default(field),
            field.get("description", ""),
        ]
        for name, field in schema["properties"].items()
    ]
    parts = [f"## {tool.name}\n", f"*{tool.title}.* {tool.description} {kind}\n"]
    parts.append(table(["argument", "type", "default", "meaning"], rows))
    parts.append(f"Result: [fields](results.md#{tool.name}).\n")
    return "\n".join(parts)


def _default(field: Schema) -> str:
    return _code(json.dumps(field["default"])) if field.get("default") is not None else ""


def _type(field: Schema) -> str:
    """Return the type of a field in words, with its choices."""
    if "enum" in field:
        return ", ".join(_code(value) for value in field["enum"])
    if "const" in field:
        return _code(field["const"])
    if "$ref" in field:
        return _code(field["$ref"].rpartition("/")[2])
    several = field.get("anyOf")
    if several:
        return " or ".join(dict.fromkeys(_type(part) for part in several))
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"map to {_type(field['additionalProperties'])}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def results() -> str:
    """Return the fields of every result: those that all have, then those of each tool."""
    from lingshu_tools.calls.registry import registry
    from lingshu_tools.calls.results import Result

    shared = Result.model_json_schema(mode="serialization")
    parts = ["## Every result\n", _fields(shared)]
    seen = set(shared.get("$defs", {}))
    parts += [_part(name, schema) for name, schema in sorted(shared.get("$defs", {}).items())]
    for spec in registry().values():
        schema = spec.output_schema
        fields = {n: f for n, f in schema["properties"].items() if n not in shared["properties"]}
        parts += [f"## {spec.name}\n", _fields({"properties": fields})]
        for name, part in sorted(schema.get("$defs", {}).items()):
            if name not in seen:
                seen.add(name)
                parts.append(_part(name, part))
    return "\n".join([*parts, _units()])


def _part(name: str, schema: Schema) -> str:
    text = re.sub(r"\s+", " ", schema.get("description", ""))
    if "properties" not in schema:
        return f"### {name}\n\n{text} {_type(schema)}\n"
    return f"### {name}\n\n{text}\n\n{_fields(schema)}"


def _fields(schema: Schema) -> str:
    rows = [
        [_code(name), _type(field), field.get("description", "")]
        for name, field in schema["properties"].items()
    ]
    return table(["field", "type", "meaning"], rows) or "No further fields.\n"


def _units() -> str:
    """Return the units of fields, as results give them."""
    from lingshu_tools.report import effect_view, gene_tables
    from lingshu_tools.tools import complete_cells, sample_cells, score_cells

    sources = {
        "perturb_cells": effect_view.UNITS,
        "export_experiment": gene_tables.EFFECT_UNITS,
        "sample_cells": sample_cells.UNITS,
        "score_cells": score_cells.UNITS,
        "complete_cells": complete_cells.UNITS,
    }
    rows = [[t, _code(n), unit] for t, units in sources.items() for n, unit in units.items()]
    return "## Units\n\n" + table(["tool", "field", "unit"], rows)


def command_line() -> str:
    """Return every command with its arguments and options."""
    return "\n".join(_command(path, command) for path, command in commands())


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context)) if path != "lingshu" else "COMMAND …"
    text = re.sub(r"\n[ \t]+", "\n", command.help or "").strip().removesuffix(".") + "."
    options = [
        [", ".join(_code(name) for name in record[0].split(", ")), record[1]]
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        and parameter.opts[0] not in SHARED_OPTIONS
        and (record := parameter.get_help_record(context))
    ]  # fmt: skip
    head = f"## {path}\n\n`{path} {usage}`\n\n{_escaped(text)}\n\n"
    return head + table(["option", "meaning"], [[name, _escaped(t)] for name, t in options])


def _escaped(text: str) -> str:
    return text.replace("*", "\\*").replace("<", "&lt;")


def training() -> str:
    """Return every field of a training specification."""
    from lingshu_model.train import spec

    models = (
        spec.TrainingSpec,
        spec.Source,
        spec.Perturbations,
        spec.Unseen,
        spec.SamplerDefaults,
    )
    return "\n".join(_specification(model) for model in models)


def _specification(model: Any) -> str:
    schema, texts = model.model_json_schema(), _attribute_texts(model)
    required = schema.get("required", ())
    rows = [
        [
            _code(name),
            _type(field),
            "required" if name in required else _default(field),
            texts.get(name, ""),
        ]
        for name, field in schema["properties"].items()
    ]
    text = f"## {model.__name__}\n\n{inspect.getdoc(model)}\n\n"
    return text + table(["field", "type", "default", "meaning"], rows)


def _attribute_texts(model: Any) -> dict[str, str]:
    """Return the string under each field of a class, which Python itself does not keep."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    body = tree.body[0].body  # pyright: ignore
    texts: dict[str, str] = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            texts[ast.unparse(field.target)] = ast.literal_eval(text.value)
    return texts


def ledger() -> str:
    """Return every table of the ledger with its columns."""
    from lingshu_tools.ledger.schema import TABLES, chain

    return "\n".join(_table_of(each) for each in (chain, *TABLES.values()))


def _table_of(each: Any) -> str:
    rows = [
        [_code(c.name), str(c.type).lower(), "yes" if c.nullable else "", c.comment or ""]
        for c in each.columns
    ]
    return f"## {each.name}\n\n" + table(["column", "type", "NULL", "meaning"], rows)


def python() -> str:
    """Return the classes for Python callers, whose docstrings Sphinx reads."""
    return "\n".join(_autodoc())


def _autodoc() -> Iterator[str]:
    for heading, name, members in (
        ("Lab", "lingshu_tools.Lab", "inspect, train"),
        ("Inspection", "lingshu_tools.training.Inspection", "trainable"),
        ("Trained", "lingshu_tools.training.Trained", ""),
        (
            "Toolbox",
            "lingshu_tools.chat.Toolbox",
            "call, result, openai, answer_openai, openai_responses, answer_openai_responses, "
            "anthropic, answer_anthropic, langchain, functions",
        ),
    ):
        directive = f".. autoclass:: {name}\n" + (f"   :members: {members}\n" if members else "")
        yield f"## {heading}\n\n```{{eval-rst}}\n{directive}```\n"
    yield "## Errors\n\n```text\n" + _error_tree() + "\n```\n"


def _error_tree() -> str:
    from lingshu_tools import errors

    return (errors.__doc__ or "").split("\n\n", 1)[1].strip()


PAGES: Mapping[str, Callable[[], str]] = {
    "tools": tools,
    "results": results,
    "command-line": command_line,
    "training": training,
    "ledger": ledger,
    "python": python,
}
"""The generated part of each page in docs/reference."""
