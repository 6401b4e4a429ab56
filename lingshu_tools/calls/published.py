"""The tools as clients list them, read from a file that is made of the registry.

Listing tools is the first that a client does, and needs nothing but this file: the registry imports
NumPy and SQLAlchemy, which wait until the first call. `python -m lingshu_tools.calls.published`
writes the file anew; a test compares it with the registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("published_tools.json")


@dataclass(frozen=True)
class PublishedTool:
    """One tool as it is listed.

    Attributes:
        output_schema: among all tools; what they have in common is in the first.
        core_output_schema: among the core tools; None for a tool that is not one of them.
    """

    name: str
    title: str
    description: str
    read_only: bool
    destructive: bool
    idempotent: bool
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    core_output_schema: Mapping[str, Any] | None


def published_tools() -> list[PublishedTool]:
    """Return all tools in their order, as the file has them."""
    return [PublishedTool(**tool) for tool in json.loads(FILE.read_text("utf-8"))]


def from_registry() -> list[PublishedTool]:
    """Return the same as the registry has them."""
    from lingshu_tools.calls.registry import CORE, published_outputs, registry

    specs = list(registry().values())
    outputs = published_outputs(specs)
    # Among the core tools the first that has a common field is another.
    core = published_outputs([spec for spec in specs if spec.name in CORE], views=False)
    return [
        PublishedTool(
            name=spec.name,
            title=spec.title,
            description=spec.description,
            read_only=spec.read_only,
            destructive=spec.destructive,
            idempotent=spec.idempotent,
            input_schema=spec.input_schema,
            output_schema=outputs[spec.name],
            core_output_schema=core.get(spec.name),
        )
        for spec in specs
    ]


def as_text(tools: Sequence[PublishedTool]) -> str:
    """Return the text of the file: one line for each field, so that changes can be reviewed."""
    # Not ASCII alone: the file is read by people too.
    return json.dumps([asdict(tool) for tool in tools], ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(from_registry()), "utf-8")
