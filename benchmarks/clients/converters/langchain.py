"""langchain-mcp-adapters, then the strict form that LangChain sends to OpenAI."""

import json
import sys

from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool
from mcp.types import Tool

CONNECTION = {"transport": "stdio", "command": "true", "args": []}
for tool in json.load(sys.stdin):
    known, error = 0, ""
    try:
        listed = Tool(
            name=tool["name"], description=tool["description"], inputSchema=tool["input_schema"]
        )
        adapted = convert_mcp_tool_to_langchain_tool(None, listed, connection=CONNECTION)
        function = convert_to_openai_tool(adapted, strict=True)["function"]
        known = len(function["parameters"]["properties"])
    except Exception as problem:  # noqa: BLE001 - what a library raises is the answer
        error = f"{type(problem).__name__}: {problem}"[:300]
    print(json.dumps({"tool": tool["name"], "arguments": known, "error": error}))
