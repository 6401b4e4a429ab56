"""LlamaIndex: a pydantic model made of each schema."""

import json
import sys

from llama_index.tools.mcp.tool_spec_mixins import (
    FieldExtractionMixin,
    TypeCreationMixin,
    TypeResolutionMixin,
)


class Models(TypeResolutionMixin, TypeCreationMixin, FieldExtractionMixin):
    """What `McpToolSpec` makes models with."""

    def __init__(self):
        self.properties_cache = {}


for tool in json.load(sys.stdin):
    known, error = 0, ""
    try:
        schema = tool["input_schema"]
        fields = Models()._extract_fields(schema, schema.get("$defs", {}))
        known = len(fields)
    except Exception as problem:  # noqa: BLE001 - what a library raises is the answer
        error = f"{type(problem).__name__}: {problem}"[:300]
    print(json.dumps({"tool": tool["name"], "arguments": known, "error": error}))
