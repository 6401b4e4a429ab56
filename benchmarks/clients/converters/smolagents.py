"""smolagents, through mcpadapt."""

import json
import sys

from mcp.types import Tool
from mcpadapt.smolagents_adapter import SmolAgentsAdapter

for tool in json.load(sys.stdin):
    known, error = 0, ""
    try:
        listed = Tool(
            name=tool["name"], description=tool["description"], inputSchema=tool["input_schema"]
        )
        adapted = SmolAgentsAdapter(structured_output=False).adapt(lambda _: None, listed)
        known = len(adapted.inputs)
    except Exception as problem:  # noqa: BLE001 - what a library raises is the answer
        error = f"{type(problem).__name__}: {problem}"[:300]
    print(json.dumps({"tool": tool["name"], "arguments": known, "error": error}))
