"""anthropic: the transformation that strict tools need."""

import json
import sys

from anthropic import transform_schema

for tool in json.load(sys.stdin):
    known, error = 0, ""
    try:
        strict = transform_schema(tool["input_schema"])
        known = len(strict["properties"])
        assert strict["additionalProperties"] is False, strict.keys()
    except Exception as problem:  # noqa: BLE001 - what a library raises is the answer
        error = f"{type(problem).__name__}: {problem}"[:300]
    print(json.dumps({"tool": tool["name"], "arguments": known, "error": error}))
