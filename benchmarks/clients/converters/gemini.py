"""google-genai: the path through `types.Schema`, and that of JSON schema."""

import json
import sys

from google.genai._mcp_utils import mcp_to_gemini_tools
from mcp.types import Tool

for tool in json.load(sys.stdin):
    known, error = 0, ""
    try:
        listed = Tool(
            name=tool["name"], description=tool["description"], inputSchema=tool["input_schema"]
        )
        (typed,) = mcp_to_gemini_tools([listed])
        (plain,) = mcp_to_gemini_tools([listed], is_agent_platform=True)
        fields = typed.function_declarations[0].parameters.properties or {}
        same = plain.function_declarations[0].parameters_json_schema["properties"]
        known = len(fields) if fields.keys() == same.keys() else -1
    except Exception as problem:  # noqa: BLE001 - what a library raises is the answer
        error = f"{type(problem).__name__}: {problem}"[:300]
    print(json.dumps({"tool": tool["name"], "arguments": known, "error": error}))
