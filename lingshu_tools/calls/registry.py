"""The registry: every tool once, in a fixed order, for every door.

A tool is a module of `lingshu_tools.tools` holding a `SPEC`. A module is imported when its tool is
first read, not at the import of this one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

from lingshu_tools.calls.results import Result, render
from lingshu_tools.calls.schemas import published_input, published_output
from lingshu_tools.calls.waiting import Pending

if TYPE_CHECKING:
    from lingshu_tools.app import App
    from lingshu_tools.errors import InputError

# Deterministic and static, as clients cache the list; the order is the order of use.
TOOL_NAMES = (
    "describe_model",
    "find_genes",
    "sample_cells",
    "perturb_cells",
    "score_cells",
    "complete_cells",
    "plan_screen",
    "run_screen",
    "propose_batch",
    "record_measurements",
    "get_experiment",
    "list_experiments",
    "compare_experiments",
    "plot_experiment",
    "export_experiment",
    "replay_experiment",
    "cancel_experiment",
)


CORE = (
    "describe_model",
    "find_genes",
    "perturb_cells",
    "run_screen",
    "get_experiment",
    "plot_experiment",
)
"""The tools that are enough for a question and its answer: few enough for a small model."""


class Arguments(BaseModel):
    """Base of every tool's input: unknown fields, `"5"` for 5, and NaN are errors.

    64.0 is an integer, as in JSON Schema. A null stands for an optional field that is left out, and
    so does an empty text, list or object where the default is null: clients fill in every field
    that a schema names.
    """

    # Validators are built at the first use: a server calls few of the tools (2.5 MB, 60 ms).
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _as_in_json_schema(cls, given: Any) -> Any:
        # Left to pydantic, which says what was expected.
        if not isinstance(given, dict):
            return given
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        arguments: dict[str, Any] = {}
        for name, value in given.items():
            field = fields.get(name)
            # Unknown: `extra="forbid"` refuses it with its name.
            if field is None:
                arguments[name] = value
            elif field.is_required() or not _left_out(value, field):
                arguments[name] = _whole(value) if _takes_integers(field) else value
        return arguments


def _left_out(value: Any, field: FieldInfo) -> bool:
    return value is None or (field.default is None and value in ("", [], {}))


def _takes_integers(field: FieldInfo) -> bool:
    return field.annotation is int or int in get_args(field.annotation)


def _whole(value: Any) -> Any:
    """Return the integer that a float stands for, any other value unchanged."""
    # Beyond 2**53 a float is not every integer near it.
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value


@dataclass(frozen=True)
class ToolSpec:
    """One tool, as every door shows it.

    Attributes:
        description: under 120 words, written for a model: what, limits, units, when not to use.
        run: `(app, arguments) -> result`, or what is waited for before there is one; raises
            `LingshuError`.
        text: renders a result for clients that show text.
        simulates: whether it starts an experiment (and so takes `seed`, `wait_s`, `dry_run`).
        in_child: whether its work is done in a child process, which takes seconds to start.
    """

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    result: type[Result]
    run: Callable[[App, Any], Result | Pending[Any]]
    text: Callable[[Any], str] = render
    read_only: bool = True
    destructive: bool = False
    idempotent: bool = True
    simulates: bool = False
    in_child: bool = False

    @property
    def waits(self) -> bool:
        """Whether a call may wait for experiments, up to its `wait_s`."""
        return "wait_s" in self.arguments.model_fields

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the arguments as it is published: see `published_input`."""
        return _published(self.arguments)

    @property
    def argument_schema(self) -> dict[str, Any]:
        """JSON schema of the arguments with every limit, for the texts of errors."""
        return _accepted(self.arguments)

    @property
    def output_schema(self) -> dict[str, Any]:
        """JSON schema of the result, self-contained and without titles; the whole of it.

        What clients list is `published_outputs`.
        """
        return _slim(self.result.model_json_schema(mode="serialization"))


@cache
def _accepted(arguments: type[Arguments]) -> dict[str, Any]:
    return _slim(arguments.model_json_schema())


@cache
def _published(arguments: type[Arguments]) -> dict[str, Any]:
    return published_input(_accepted(arguments))


class Tools(Mapping[str, ToolSpec]):
    """All tools by name, in the order of `TOOL_NAMES`; a tool's module is imported when it is read.

    Together the modules take 5 MB and a seventh of a second, and a server calls few of them.
    """

    def __init__(self) -> None:
        self._specs: dict[str, ToolSpec] = {}

    def __getitem__(self, name: str) -> ToolSpec:
        spec = self._specs.get(name)
        if spec is None:
            if name not in TOOL_NAMES:
                raise KeyError(name)
            # Python holds a lock for each module, so that threads may come together.
            spec = self._specs[name] = import_module(f"lingshu_tools.tools.{name}").SPEC
        return spec

    def __contains__(self, name: object) -> bool:
        # Without the import that the mixin's would do.
        return name in TOOL_NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(TOOL_NAMES)

    def __len__(self) -> int:
        return len(TOOL_NAMES)

    def is_imported(self, name: str) -> bool:
        """Return whether reading a tool takes no time."""
        return name in self._specs

    def ready(self, name: str) -> ToolSpec:
        """Return a tool with the validators of its arguments and its result built."""
        spec = self[name]
        spec.arguments.model_rebuild()
        spec.result.model_rebuild()
        return spec


@cache
def registry() -> Tools:
    """Return the tools by name."""
    return Tools()


def example_call(
    app: App, tool: str, arguments: Mapping[str, Any], error: InputError
) -> str | None:
    """Return a valid call of a tool in this home, for the text of a refused one.

    It is the refused call with what was wrong in it mended, where that can be known.
    """
    example = import_module("lingshu_tools.tools.example_calls").example(app, tool, arguments)
    mended = import_module("lingshu_tools.tools.mended_calls").mended_call
    return mended(app, tool, arguments, error, example) or example


def published_outputs(
    specs: Sequence[ToolSpec], *, views: bool = True
) -> dict[str, dict[str, Any]]:
    """Return the output schemas that are listed for these tools, in their order.

    Without `views` the parts of a result are plain objects.
    """
    # Known from the start, so that no view is spelled out.
    parts = [name for spec in specs for name in spec.output_schema.get("$defs", {})]
    known: set[str] = set() if views else set(parts)
    shared = Result.model_fields
    return {spec.name: published_output(spec.output_schema, shared, known) for spec in specs}


def _slim(schema: Any) -> Any:
    """Drop pydantic's generated titles and join docstring lines: a schema is read by a model."""
    if isinstance(schema, list):
        return [_slim(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    slim: dict[str, Any] = {}
    for key, value in schema.items():
        # Below these, keys are names of fields: a field may be called "title" or "description".
        if key in ("properties", "$defs"):
            slim[key] = {name: _slim(inner) for name, inner in value.items()}
        elif key == "description":
            slim[key] = re.sub(r"\s+", " ", value)
        elif key != "title":
            slim[key] = _slim(value)
    return slim
